"""The benchmarks' own peers prepare and run: no time is asserted, and no other library is needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import inference  # noqa: E402
import peers  # noqa: E402
from race import CHECKED  # noqa: E402

CASES = [
    *((peers.RACE, case) for case in ("300x2-64-3", "128x64-128-64-10")),
    *((inference.RACE, case) for case in inference.RACE.cases if "10000" not in case),
]


@pytest.mark.parametrize(("race", "case"), CASES, ids=[case for _, case in CASES])
def test_our_peers_prepare_run_and_agree(race, case):
    results = []
    for name in race.ours:
        run = race.peers[name](case, 2)
        results.append(run(CHECKED))
        run(8)
    assert len(results[0]) >= CHECKED
    np.testing.assert_allclose(*results, rtol=race.tolerance, atol=1e-6)


@pytest.mark.parametrize("race", [peers.RACE, inference.RACE], ids=["peers", "inference"])
def test_a_race_between_our_peers_reports(race, tmp_path):
    case = next(iter(race.cases))
    command = [
        sys.executable, race.script, "--peers", *race.ours, f"--{race.option}", case, "--rounds", "1", "--seconds",
        "0.01", "--json", str(tmp_path / "report.json"), "--markdown", str(tmp_path / "report.md"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "nnx numba" in (tmp_path / "report.json").read_text()
    assert race.cases[case] in (tmp_path / "report.md").read_text()
