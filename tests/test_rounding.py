"""The bounds that tolerances are made of, and the program that computes as other processors would."""

import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import cpus
import numpy as np
import pytest

from nnx.testing.rounding import MARGIN, assert_within, drift, rounding


@pytest.mark.rounding
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_is_within_its_bound_in_every_order(dtype):
    random, worst = np.random.default_rng(0), 0.0
    for terms in (2, 70, 1000):
        x = random.normal(size=terms).astype(dtype)
        exact, size = sum(map(np.longdouble, x)), np.abs(x).astype(np.float64).sum()
        for order in (x, x[::-1], np.sort(x), random.permutation(x)):
            for total in (np.cumsum(order, dtype=dtype)[-1], order.sum(), order @ np.ones_like(x)):
                assert_within(total, np.float64(exact), (rounding(terms, dtype) + rounding(1)) * size)
                worst = max(worst, float(abs(total - exact)) / (rounding(1, dtype) * size))
    assert worst > 1 / 4  # it is a bound that sums come near to, not one that anything passes


def test_rounding_counts():
    assert rounding(0) == 0
    assert rounding(1, "float32") == pytest.approx(2.0**-24, rel=1e-6)
    assert rounding(1) == pytest.approx(2.0**-53, rel=1e-6)
    assert rounding(1000, "float32") > 1000 * 2.0**-24  # of roundings that are rounded themselves


def test_what_is_further_off_than_its_own_bound_is_told():
    assert_within([1.0, np.nan, np.inf, 0.0], [1.5, np.nan, np.inf, 0.0], [0.5, 0, 0, 0])
    assert_within(np.zeros((0, 3)), np.zeros((0, 3)), 0)
    with pytest.raises(AssertionError, match=r"1 of 2 numbers .* number 1 is 2 instead of 1.5, 5 times its bound"):
        assert_within([1.0, 2.0], [1.0, 1.5], [0.1, 0.1])
    for wrong in (np.nan, np.inf):
        with pytest.raises(AssertionError):
            assert_within([wrong], [1.0], 1e300)
    with pytest.raises(AssertionError, match="shape"):
        assert_within([1.0], [[1.0]], 1)


def test_a_drift_is_ten_times_what_was_seen_and_never_nothing():
    wanted, other, third = ([np.array([1.0, 2.0]), x] for x in (np.ones(2), np.ones(2), np.array([1.0, 1.25])))
    assert drift(wanted, other, third) == [MARGIN * 2 * rounding(1), 2.5]


def test_other_processors_are_told_apart_and_a_failure_is_an_exit_code(monkeypatch, capsys):
    def run(command, **options):
        asked.append((command, options["env"]))
        failed = options["env"]["OPENBLAS_CORETYPE"] == "Haswell"
        return SimpleNamespace(returncode=int(failed), stdout=f"what failed\n{1 + failed} told\n")

    asked = []
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cpus, "why_not", {"Nehalem": None, "Haswell": None, "Zen": "it is not to be had"}.get)
    assert cpus.main(["Nehalem", "Zen", "-k", "dense"]) == 0
    assert cpus.main(["Haswell", "Nehalem"]) == 1
    assert cpus.main(["Zen"]) == 0
    assert [env["NUMBA_CPU_NAME"] for _, env in asked[:1]] == ["nehalem"]
    assert {env["NUMBA_CPU_NAME"] for _, env in asked[1:]} == {"haswell", "nehalem"}  # at once
    (first, *others), each = [command for command, _ in asked], ("-m", "rounding")
    assert first[-2:] == ["-k", "dense"]
    assert all(other[-1] != "dense" and set(each) <= set(other) for other in others)
    ignored = [Path(option.partition("=")[2]).name for option in first if option.startswith("--ignore=")]
    assert "test_cli.py" in ignored  # has no such test
    assert not {"test_rounding.py", "test_programs.py", "test_numba_program.py"} & set(ignored)
    out = capsys.readouterr().out
    assert out.count("what failed") == 1
    assert "Zen          left out: it is not to be had" in out
    assert "Haswell      vectors of 32 bytes: 2 told" in out
    assert out.endswith("tested by `make test`\n")


def test_a_processor_whose_instructions_are_not_here_is_left_out(monkeypatch):
    monkeypatch.setattr(cpus, "extensions", lambda: ({"SSE42"}, set()))
    assert cpus.why_not("SkylakeX") == "this machine lacks its instructions"


def test_a_processor_is_left_out_for_what_it_is_and_not_for_a_fault_of_ours(monkeypatch):
    here = [name for name in cpus.CPUS if cpus.why_not(name) is None]
    assert here or platform.machine() not in ("x86_64", "AMD64")
    monkeypatch.setattr(cpus, "TAKEN", "from nnx.kernels.cpu import nothing_of_that_name")
    for name in here[:1]:
        with pytest.raises(RuntimeError, match="nothing_of_that_name"):
            cpus.why_not(name)
