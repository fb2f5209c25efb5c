"""The benchmark behind `nnx bench`: which backend, how fast, how near the limit, against whom.

workloads.py says what is measured, players/ who takes part, race.py how: a process for each player, validated first,
then rounds that alternate. report.py holds what was found, table.py and page.py show it, compare.py tells two apart.
"""
