"""Benchmark behind `nnx bench`: which backend, how fast, how near the limit, against whom.

workloads.py says what is measured, libraries/ by whom, runner.py how: a worker process for each player (a library in
one of its ways to run), validated first, then rounds that alternate. report.py holds what was found, table.py and page/
show it, compare.py tells two apart.
"""
