"""Compiled programs: one function does a whole training step or prediction, by interpreting a table of integers."""
