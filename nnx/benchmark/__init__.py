"""Benchmark behind `nnx bench`: the speed of each backend, against the machine's limits and other libraries.

workloads.py defines what is measured, libraries/ has the code of each library, and runner.py measures. Each *player*, a
library in one of its ways to run, has a worker process; its results are validated first, and then it is measured in
rounds that alternate with the others'. report.py holds the results, table.py and page/ show them, and compare.py
compares two reports.
"""
