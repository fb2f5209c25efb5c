"""`make gpu` itself: its stages on the stand-in, and that one that fails, hangs or dies takes no other with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cuda_on_cpu
import pytest

import nnx
from nnx.backends.cuda import driver as cuda_driver
from nnx.benchmark import report
from nnx.kernels.cuda import KERNELS
from nnx.testing import Report

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_persistent  # noqa: E402
import gpu_races  # noqa: E402


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    if cuda_on_cpu.missing():
        pytest.skip(str(cuda_on_cpu.missing()))
    import fake_cupy

    from nnx.backends.cupy import CupyBackend

    fake_cupy.machine.reset()
    backend = CupyBackend(fake_cupy)
    monkeypatch.setattr(nnx, "get_backend", lambda name: backend)
    return backend


def test_stages_on_the_stand_in(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    saved: list[Any] = []
    assert gpu.probe(saved.append)["kernels"] == len(KERNELS)
    # The suite itself runs on the stand-in in test_cupy.py.
    told = Report("cupy", {"dense": 3}, 2, {"dense": 0.25})
    monkeypatch.setattr("nnx.testing.check_backend", {stand_in: told}.__getitem__)
    assert gpu.conformance(saved.append) == {"report": str(told), "worst": {"dense": 0.25}}
    done = gpu.kernels(saved.append)
    over_many_steps = {"sgd", "adagrad", "rmsprop", "adam"}
    assert set(done["kernels"]) == KERNELS.keys() - over_many_steps
    assert max(done["worst"].values()) <= 1
    assert saved


def test_precisions_and_streams_on_the_stand_in(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    from fake_cublaslt import FakeLt
    from fake_cupy import machine

    machine.cublaslt = FakeLt()
    saved: list[Any] = []
    found = gpu_checks.precision(saved.append, (60, 90, 40), 4)
    assert 1e-4 < found["errors"]["tf32"] < 2e-3 < found["errors"]["bf16"] < 8e-3
    assert machine.cublaslt.complaints == []
    assert stand_in.gemm_rule == "auto"
    monkeypatch.setattr(gpu_checks, "ERRORS", {"full": 0.0, "tf32": 1e-6})
    with pytest.raises(RuntimeError, match=r"tf32: a product is off by .*, stated is 1e-06"):
        gpu_checks.precision(saved.append, (60, 90, 40), 1)
    found = gpu_checks.streaming(saved.append, 500, 20, 50, 1)
    assert found["resident"]["note"] is None
    assert "is streamed" in found["streamed"]["note"]
    assert stand_in.streams is None


def test_the_persistent_kernel_is_timed_beside_graphs(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_persistent, "SIZES", ((20, (2, 4, 3)),))
    results = gpu_persistent.sweep(stand_in, 1, 0)
    assert results["20x2-4-3"].keys() == {"multiply_adds", "persistent kernel", "CUDA graph"}
    row = gpu_persistent.markdown(results)[-1]
    assert row.startswith("| 20x2-4-3 | 1,200 | ")
    assert row.count(" us |") == 2
    assert "program" in stand_in.cupy.machine.launched


@pytest.mark.skipif(cuda_driver.ask().status == 0 and cuda_driver.ask().version is not None, reason="a GPU is here")
def test_without_a_gpu_it_says_why_and_writes_nothing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--results", str(tmp_path / "results")],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "nothing ran, and nothing was written. there is no NVIDIA driver" in done.stdout
    assert list(tmp_path.iterdir()) == []


SCRIPTS = {
    "passes": "out.write_text(json.dumps({'state': 'passed', 'data': {'figure': 7}}))",
    "skips": "out.write_text(json.dumps({'state': 'skipped', 'data': 'no tool'}))",
    "raises": "print('begun'); raise RuntimeError('the device is ill')",
    "dies half-way": "out.write_text(json.dumps({'state': 'unfinished', 'data': [1]})); os.abort()",
    "hangs": "out.write_text(json.dumps({'state': 'unfinished', 'data': [1, 2]})); subprocess.run(['sleep', '60'])",
}
STATES = {
    "passes": ("passed", {"figure": 7}),
    "skips": ("skipped", "no tool"),
    "raises": ("failed", None),
    "dies half-way": ("failed", [1]),
    "hangs": ("stopped after 2 s", [1, 2]),
}


@pytest.mark.parametrize("how", SCRIPTS)
def test_a_stage_is_isolated(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "stage.py"
    lines = "import json, os, pathlib, subprocess, sys\nout = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
    script.write_text(lines + SCRIPTS[how], encoding="utf-8")
    monkeypatch.setattr(gpu, "__file__", str(script))
    result = gpu.run("probe", 2 if how == "hangs" else 60)
    assert (result["state"], result["data"]) == STATES[how]
    assert result["seconds"] < 30
    assert how != "raises" or "the device is ill" in result["output"]


def result(state: str, data: Any = None) -> dict[str, Any]:
    return {"state": state, "data": data, "seconds": 1.5, "output": "what it printed"}


def test_the_whole_run_reports_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    figures = {"how": "", "median_us": 10.0, "held_bytes": 5 << 20}
    ours, theirs = {**figures, "how": "CUDA graph"}, {**figures, "median_us": 55.0}
    results = {"nnx cupy": ours, "torch eager, GPU": theirs, "jax jit, GPU": {"refused": "x"}}
    races = {"full": [{"title": "step, 300 x 2-64-3, adam", "results": results}]}
    calls = {"full": [{"title": "predict, 1 x 2-64-3", "results": {"nnx cupy": {**figures, "median_us": 7.0}}}]}
    results = {
        "probe": result("passed", {"info": {"device": "cuda:0 (NVIDIA H200)", "notes": ["full float32"]}}),
        "conformance": result("passed", {"report": "fine", "worst": {"dense": 0.25}}),
        "kernels": result("stopped after 90 s"),
        "persistent": result("passed", {"300x2-64-3": {"multiply_adds": 288000, "persistent kernel": 4.25}}),
        "steps": result("passed", races),
        "precision": result("passed", {"errors": {"tf32": 0.001}}),
        "streaming": result("passed", {"resident": {"seconds_an_epoch": 1.0}}),
        "predictions": result("passed", calls),
        "tests": result("skipped", "pytest not installed"),
        "sanitizer": result("failed", {"memcheck": "ERROR SUMMARY: 1 error"}),
    }
    monkeypatch.setattr(gpu, "run", lambda name, seconds: results[name])
    assert gpu.main(["--results", str(tmp_path)]) == 1
    page = next(tmp_path.glob("nvidia-h200-*.md")).read_text(encoding="utf-8")
    kept = json.loads(next(tmp_path.glob("nvidia-h200-*.json")).read_text(encoding="utf-8"))
    assert kept["stages"] == results
    for words in (
        "# nnx on cuda:0 (NVIDIA H200)", "full float32", "largest error 25% of the tolerated (dense)",
        "| kernels | stopped after 90 s |", "pytest not installed", "10.0 us, 1.00x, 5 MiB, CUDA graph",
        "| 300x2-64-3 | 288,000 | 4.2 us | - |", "55.0 us, 5.50x", "| predict, 1 x 2-64-3 | 7.00 us, 1.00x",
        "errors: {'tf32': 0.001}",
        "## sanitizer: failed", "## kernels: stopped after 90 s", "what it printed",
    ):  # fmt: skip
        assert words in page, page
    assert "conformance" in capsys.readouterr().out
    results.update(kernels=result("passed", {"worst": {}}), sanitizer=result("skipped", "not installed"))
    assert gpu.main(["--results", str(tmp_path)]) == 0


def test_a_broken_gpu_is_told_by_its_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(gpu, "run", lambda name, seconds: {**result("failed"), "output": "Traceback: it burns"})
    monkeypatch.setattr("nnx.backends.available", lambda: {"cupy": True})
    assert gpu.main(["--results", str(tmp_path / "r")]) == 2
    assert "it burns" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()


def test_a_race_saves_its_rows_and_fails_without_a_figure_of_ours(monkeypatch: pytest.MonkeyPatch):
    names = ("numpy", "no such backend")
    players = tuple(replace(gpu_races.PLAYERS[0], name=f"nnx {name}", how=name, device="cpu") for name in names)
    monkeypatch.setattr(gpu_races, "PLAYERS", players)
    monkeypatch.setattr(gpu_races, "METHOD", replace(gpu_races.METHOD, rounds=1, seconds=0.001, chunk=0.001))
    monkeypatch.setattr(report, "_described", lambda player: {"group": "", "device": "cpu", "ours": True, "notes": []})
    workloads = {"full": gpu_races.predictions()["full"][:1]}
    saved: list[Any] = []
    races = gpu_races.race(workloads, saved.append)
    results = races["full"][0]["results"]
    assert results["nnx numpy"]["median_us"] > 0
    assert "no such backend" in results["nnx no such backend"]["refused"]
    assert saved == [races]
    assert gpu_races.markdown(races)[-1].startswith("| predict, 1 x 2-64-3 | ")
    monkeypatch.setattr(gpu_races, "PLAYERS", players[1:])
    with pytest.raises(RuntimeError, match="nnx finished no race"):
        gpu_races.race(workloads, saved.append)


def test_what_is_raced_on_a_gpu():
    steps = gpu_races.steps()
    assert len(steps["full"]) == 4
    assert [workload.title for workload in steps["tf32"]] == [workload.title for workload in steps["full"][2:]]
    assert {workload.rows for workload in gpu_races.predictions()["full"]} == {1, 1024}


def test_names_of_reports():
    assert [gpu.slug(d) for d in ("cuda:0 (NVIDIA H200)", "cuda:1 (A100-SXM4 80GB)", "?")] == [
        "nvidia-h200", "a100-sxm4-80gb", "gpu",
    ]  # fmt: skip
