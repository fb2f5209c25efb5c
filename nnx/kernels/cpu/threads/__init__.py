"""Threads: a pool for large operations, a team for short ones, and on which cores they run."""
