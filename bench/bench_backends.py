"""The throughput of every backend that works here, and of the book's own NumPy: `make bench`.

The workloads and players are those of `nnx bench`, without other libraries and within one process. Each is checked
against float64 NumPy before it is timed. `make bench ARGS=--all` takes all of them; `ARGS="-k adam"` some.
"""

import pytest

from nnx.benchmark import check
from nnx.benchmark.libraries import Absent
from nnx.benchmark.workloads import every

CALLS = 8  # in a round, at least: what the loop costs is not what a call costs


@pytest.mark.parametrize("workload", [w for w in every() if w.suite != "start"], ids=lambda workload: workload.name)
def test_throughput(benchmark, request, workload, player, throughput):
    if not (workload.quick or request.config.getoption("--all")):
        pytest.skip("--all has it")
    if player.suites and workload.suite not in player.suites:
        pytest.skip(f"{player.name} takes part elsewhere")
    try:
        ready = player.prepare(workload)
    except Absent as reason:
        pytest.skip(str(reason))
    fault = check.fault(workload, ready.results, check.reference(workload))
    assert fault is None, fault
    calls = -(-CALLS // ready.turns) * ready.turns
    benchmark.group = workload.name
    benchmark.extra_info |= {"rows": workload.rows * calls, "runs as": ready.how}
    benchmark(ready.run, calls)
    throughput(workload, benchmark.stats.stats.min / calls)
