"""`make gpu` itself: its stages on the stand-in, and that one that fails, hangs or dies takes no other with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from networks import NETS
from test_cupy_absent import needs_no_driver

import nnx
from nnx.backends.cupy import driver as cuda_driver
from nnx.benchmark import report
from nnx.benchmark.libraries import Absent
from nnx.benchmark.libraries import jax as jax_player
from nnx.benchmark.libraries import nnx as nnx_player
from nnx.benchmark.networks import Network
from nnx.kernels.cuda import KERNELS, elementwise
from nnx.testing import conformance
from nnx.testing.optimizers import OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_diagnostics  # noqa: E402
import gpu_facts  # noqa: E402
import gpu_kernels  # noqa: E402
import gpu_persistent  # noqa: E402
import gpu_races  # noqa: E402
import gpu_report  # noqa: E402
import gpu_stages  # noqa: E402


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    if cuda_on_cpu.missing():
        pytest.skip(str(cuda_on_cpu.missing()))
    import fake_cupy

    from nnx.backends.cupy.backend import CupyBackend

    fake_cupy.machine.reset()
    backend = CupyBackend(fake_cupy)
    monkeypatch.setattr(nnx, "get_backend", lambda name: backend)
    return backend


def test_stages_on_the_stand_in(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_stages, "TYPES", ("float32",))  # both are proven in test_cuda_kernels.py
    monkeypatch.setattr(gpu_persistent, "NETS", {name: NETS[name] for name in ("relu", "tail of one")})
    saved: list[Any] = []
    assert gpu_stages.probe(saved.append)["kernels"] == len(KERNELS)
    done = gpu_stages.kernels(saved.append)
    over_many_steps = {*OPTIMIZERS}
    assert set(done["kernels"]) == KERNELS.keys() - over_many_steps
    assert max(done["worst"].values()) <= 1
    assert saved


def test_the_tests_that_run_on_a_gpu_are_those_made_for_it(monkeypatch: pytest.MonkeyPatch):
    """Not those that are merely named after it: one of them is for machines without, and starts all of `make gpu`."""
    echoed, names = gpu_stages.echoed, []

    def collected(command: list[str]) -> tuple[int, list[str]]:
        code, lines = echoed([*command, "--collect-only"])
        names.extend(line for line in lines if "::" in line)
        return code, lines

    monkeypatch.setattr(gpu_stages, "echoed", collected)
    gpu_stages.tests(lambda data: None)
    assert len(names) > 40
    assert [name for name in names if "[gpu" not in name and "::test_on_a_gpu_" not in name] == []


def test_all_failures_of_a_stage_are_collected(stand_in: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    def relu(self: Any, x: Any, out: Any = None) -> Any:
        return self.tanh(x, out)

    some = {name: conformance.OPERATIONS[name] for name in ("relu", "sigmoid", "tanh")}
    monkeypatch.setattr(conformance, "OPERATIONS", some)
    monkeypatch.setattr(conformance, "DTYPES", ("float32",))
    monkeypatch.setattr(type(stand_in), "relu", relu)
    monkeypatch.setattr(type(stand_in), "sigmoid", relu)
    saved: list[Any] = []
    with pytest.raises(AssertionError, match=r"3 of 8 failed: relu, float32, sigmoid, float32, all operations$"):
        gpu_stages.conformance(saved.append)
    assert len(saved[-1]["failed"]) == 3
    assert "tanh" in saved[-1]["worst"]
    assert capsys.readouterr().err.count("Traceback") == 3


def test_kernels_on_the_device_meet_the_guards(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    """One that writes beyond its array, by one number, and one that reads where arrays do not begin at 16 bytes."""
    run = gpu_kernels.DeviceRun(stand_in, "float32", shift=1)
    x = run.read(np.linspace(-1, 1, 6, dtype=np.float32))
    y = run.write(5)
    addresses: list[int] = []
    launch = stand_in._launch
    monkeypatch.setattr(
        stand_in,
        "_launch",
        lambda *args, own: (addresses.extend(a.data.ptr for a in args[2:4]), launch(*args, own=own)),
    )
    run(elementwise("relu_forward", 5), x[:5], y, 5)
    run.check_guards("within")
    assert y.tolist() == np.maximum(x[:5], 0).tolist()
    assert [address % 16 for address in addresses] == [4, 4]
    y = run.write(5)
    run(elementwise("relu_forward", 6), x, y, 6)
    with pytest.raises(AssertionError, match="beyond: written outside of an array"):
        run.check_guards("beyond")


def test_steps_that_do_not_repeat_themselves_are_found(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    networks = {name: NETS[name] for name in ("two dropouts", "l1 and l2")}
    monkeypatch.setattr(gpu_checks, "NETS", dict.fromkeys(networks, NETS["tail of one"]))
    repeated = gpu_checks.repeated
    monkeypatch.setattr(gpu_checks, "repeated", lambda found: repeated(found, times=2, steps=3, rows=4))
    found = gpu_stages.repeat(lambda data: None)
    assert {name: way for name, way in found.items() if name != "failed"} == {
        f"{name}, {way}": way
        for name in (*networks, "large")
        for way in gpu_checks.WAYS
        if (name, way) != ("large", "persistent kernel")
    }
    checks = dict(repeated({}, times=2, steps=3, rows=4))
    ends = iter([(b"1", "CUDA graph"), (b"2", "CUDA graph")])
    monkeypatch.setattr(gpu_checks, "ended", lambda *args: next(ends))
    with pytest.raises(AssertionError, match="1 of 2 trainings end with other bits than the first"):
        checks["l1 and l2, CUDA graph"]()


def test_threads_that_predict_at_once_are_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nnx, "get_backend", lambda name: "numpy")
    assert gpu_checks.threads(2, 3)["one model"] == {"wrong": 0, "of": 6}
    predict = nnx.Sequential.predict
    calls = iter(range(100))
    monkeypatch.setattr(nnx.Sequential, "predict", lambda self, x: predict(self, x) + (next(calls) == 7))
    with pytest.raises(AssertionError, match=r"wrong predictions: .*'wrong': 1"):
        gpu_checks.threads(2, 3)


def test_diagnostics_on_the_stand_in(stand_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from fake_cublaslt import Candidate, FakeLt
    from fake_cupy import machine

    machine.cublaslt = FakeLt(candidates=(Candidate(), Candidate()))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("nnx.backends.cupy.matmul.dispatch.SMALL", 0)
    for name, value in (
        ("NETWORKS", ((4, (6, 5, 3)),)),
        ("SIDES", (4,)),
        ("ROUNDS", 1),
        ("SECONDS", 0.0),
        ("REPEATED", 2),
        ("NODES", 3),
    ):
        monkeypatch.setattr(gpu_diagnostics, name, value)
    monkeypatch.setattr(gpu_diagnostics.ceilings, "__defaults__", (1000, 8))
    monkeypatch.setattr(gpu_diagnostics.launches, "__defaults__", (3,))
    found = gpu_stages.diagnostics(lambda data: None)
    assert found["failed"] == {}
    assert found["ceilings"].keys() == {"copy, GB/s", "full, TFLOP/s", "tf32, TFLOP/s", "bf16, TFLOP/s"}
    assert all(time > 0 for time in found["launches in us"].values())
    step = found["nodes of a step of 4 x 6-5-3 in us"]
    assert step["way"] == "CUDA graph"
    assert len([name for name in step if "dense" in name]) == 4
    assert all(time > 0 for name, time in step.items() if name not in ("way", "graph"))
    lt = found["candidates for 4 x 6-5-3 in us"]
    assert len(lt) == 10
    ways = {"nnx", "nnx, called", "cuBLAS, called", "algorithms", "candidate 0", "candidate 1"}
    assert lt["forward, 4 x 5 x 6, epilogue 6"].keys() == ways
    assert lt["to weights, 5 x 3 x 4, epilogue 256"]["cuBLASLt"].endswith("not supported (status 15)")
    assert all(time > 0 for values in lt.values() for time in values.values() if not isinstance(time, str))
    assert machine.cublaslt.complaints == []
    choices = found["choices for 4 x 6-5-3"]
    assert choices["gain"] == pytest.approx(
        choices["the step, with cuBLASLt's first, in us"] / choices["the step, with the fastest, in us"], abs=2e-3
    )
    assert f"timed once and kept in {tmp_path}" in choices["choices"]
    assert all("of cuBLASLt's 2, " in note for name, note in choices.items() if name.startswith("choice "))
    assert len(choices) >= 4 + 1 + 5  # products of two layers; the first passes nothing on to its inputs
    page = "\n".join(gpu_report.TABLES["diagnostics"](found))
    assert "| **products across SMALL in us** | |" in page
    assert "| copy, GB/s | " in page


def test_precisions_and_streams_on_the_stand_in(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    from fake_cublaslt import FakeLt
    from fake_cupy import machine

    machine.cublaslt = FakeLt()
    saved: list[Any] = []
    precision = gpu_checks.precision
    monkeypatch.setattr(gpu_checks, "precision", lambda found: precision(found, (60, 90, 40), 4))
    found = gpu_stages.precision(saved.append)
    assert found["failed"] == {}
    assert found["accuracy"].keys() == {"full", "tf32", "bf16"}
    assert 1e-4 < found["errors"]["tf32"] < 2e-3 < found["errors"]["bf16"] < 8e-3
    assert machine.cublaslt.complaints == []
    assert stand_in.gemm_rule == "auto"
    monkeypatch.setattr(gpu_checks, "ERRORS", {"tf32": 1e-6, "bf16": 0.1})
    monkeypatch.setattr(gpu_checks, "find_spec", lambda name: None)  # a GPU's own Python may lack scikit-learn
    with pytest.raises(AssertionError, match=r"1 of 2 failed: error of tf32"):
        gpu_stages.precision(saved.append)
    assert re.search("a product is off by .*, stated is 1e-06", saved[-1]["failed"]["error of tf32"])
    assert saved[-1]["errors"].keys() == {"tf32", "bf16"}  # the one that fails stops no other
    assert "scikit-learn" in saved[-1]["accuracy"]
    found = gpu_checks.streaming(saved.append, 500, 20, 50, 1)
    assert found["resident"]["note"] is None
    assert "is streamed" in found["streamed"]["note"]
    assert stand_in.streaming is None


def test_the_persistent_kernel_is_timed_beside_graphs(stand_in: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_persistent, "SIZES", ((20, (2, 4, 3)),))
    results = gpu_persistent.sweep(stand_in, 1, 0)
    assert results["20x2-4-3"].keys() == {"multiply_adds", "persistent kernel", "CUDA graph"}
    row = gpu_persistent.markdown(results)[-1]
    assert row.startswith("| 20x2-4-3 | 1,200 | ")
    assert row.count(" us |") == 2
    assert "program" in stand_in.cupy.machine.launched


# ---- whatever breaks, a report comes back ----------------------------------------------------------------------------

BREAKS = {
    "passes": "gpu_process.save(out, 'passed', {'figure': 7})",
    "skips": "gpu_process.save(out, 'skipped', 'no tool')",
    "raises": "print('begun'); raise RuntimeError('the device is ill')",
    "is wrong": "gpu_process.save(out, 'unfinished', {'worst': {'dense': 9.5}}); assert 9.5 <= 1, 'a wrong number'",
    "dies half-way": "gpu_process.save(out, 'unfinished', [1]); os.abort()",
    "hangs": "gpu_process.save(out, 'unfinished', [1, 2]); subprocess.run(['sleep', '600'])",
    "writes half a file": 'out.write_text(\'{"state": "pas\'); os._exit(0)',
}
STATES = {
    "passes": ("passed", {"figure": 7}),
    "skips": ("skipped", "no tool"),
    "raises": ("failed", None),
    "is wrong": ("failed", {"worst": {"dense": 9.5}}),
    "dies half-way": ("failed", [1]),
    "hangs": ("stopped after 2 s", [1, 2]),
    "writes half a file": ("failed", None),
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a run of `make gpu-check` or `gpu-race` whose stages, processes as always, break as they are told."""
    script = tmp_path / "bench" / "gpu.py"
    script.parent.mkdir()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))

    def main(kind: str, how: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any], str, str]:
        branches = "\n".join(f"if name == {name!r}: {BREAKS[way]}" for name, way in how.items())
        script.write_text(
            "import os, pathlib, subprocess, sys, gpu_process\n"
            "name, out = sys.argv[2], pathlib.Path(sys.argv[4])\n"
            f"print('this is', name, flush=True)\n{branches}\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(gpu, "__file__", str(script))
        stages = {name: (None, 2 if way == "hangs" else 600) for name, way in how.items()}
        monkeypatch.setattr(gpu, "KINDS", {kind: stages})
        code = gpu.main([kind, "--results", str(tmp_path / "r"), *arguments])
        files = {path.suffix: path for path in (tmp_path / "r").iterdir()}
        assert files.keys() == {".json", ".md", ".log"}
        page, log = (files[suffix].read_text(encoding="utf-8") for suffix in (".md", ".log"))
        return code, json.loads(files[".json"].read_text(encoding="utf-8")), page, log

    return main


def test_a_failure_in_any_stage_leaves_the_report_of_the_rest(broken: Any):
    """The probe among them, which says what is installed."""
    how = {
        "probe": "raises", "conformance": "is wrong", "kernels": "dies half-way", "repeat": "hangs",
        "threads": "writes half a file", "tests": "skips", "streaming": "passes",
    }  # fmt: skip
    code, data, page, log = broken("check", how)
    assert code == 1
    assert list(data["stages"]) == list(how)
    for name, way in how.items():
        result = data["stages"][name]
        assert (result["state"], result["data"]) == STATES[way]
        assert result["seconds"] < 600
        assert f"| {name} | {STATES[way][0]} |" in page
        assert f"==== {name} ====\nthis is {name}" in log
    assert data["stages"]["kernels"]["exit"] == "SIGABRT"
    for words in (
        "the device is ill",
        "a wrong number",
        "## repeat: stopped after 2 s",
        "largest error 950%",
        "figure: 7",
    ):
        assert words in page
    assert "Traceback" in data["stages"]["probe"]["output"]
    assert "The probe did not pass. What is installed:" in page
    assert data["machine"]["packages"]["numpy"].startswith(np.__version__)
    assert "platform" in data["machine"]


def test_a_process_that_outlives_being_killed_is_left_behind(broken: Any, monkeypatch: pytest.MonkeyPatch):
    """One that waits in the driver; here nobody kills it until the end."""
    left = gpu.gpu_process.left_behind
    with monkeypatch.context() as patched:
        patched.setattr(gpu.gpu_process, "PATIENCE", 0.2)
        patched.setattr(gpu.gpu_process.os, "killpg", lambda group, how: None)
        try:
            _, data, _, _ = broken("race", {"steps": "hangs", "predictions": "passes"})
        finally:
            patched.undo()
            for process in left:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(600)
    assert len(left) == 1
    left.clear()
    assert data["stages"]["steps"]["state"] == "stopped after 2 s, and stuck: it outlived being killed"
    assert data["stages"]["predictions"]["state"] == "passed"


def test_a_fault_in_formatting_loses_no_figures(broken: Any, monkeypatch: pytest.MonkeyPatch):
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("in a table")

    monkeypatch.setitem(gpu_report.TABLES, "steps", fails)
    monkeypatch.setattr(gpu_report, "head", fails)
    code, data, page, _ = broken("race", {"steps": "passes", "predictions": "skips"})
    assert code == 0
    assert data["stages"]["steps"]["data"] == {"figure": 7}
    assert "**steps could not be shown; its figures are in the .json file.**" in page
    assert "ZeroDivisionError: in a table" in page
    assert "| predictions | skipped |" in page


def test_kernels_are_kept_elsewhere_where_their_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new" / "kernels"))
    assert gpu.kernel_cache() == {}
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "kernels"))
    monkeypatch.setattr(gpu.tempfile, "tempdir", str(tmp_path))
    (folder,) = gpu.kernel_cache().values()
    assert Path(folder).parent == tmp_path
    assert Path(folder).is_dir()


def test_what_json_does_not_know_is_text():
    ring: list[Any] = []
    ring.append(ring)
    assert json.loads(gpu.gpu_process.as_json({"a": np.float32(2.5), "b": {1, 2}})) == {"a": "2.5", "b": "{1, 2}"}
    assert json.loads(gpu.gpu_process.as_json({"state": "passed", (1, 2): ring})) == {
        "state": "'passed'", "(1, 2)": "[[...]]",
    }  # fmt: skip


def test_a_stage_that_cannot_be_started_is_no_end(broken: Any, monkeypatch: pytest.MonkeyPatch):
    started = gpu.gpu_process.run

    def run(script: Path, name: str, *rest: Any) -> Any:
        if name == "steps":
            raise OSError("no room for another process")
        return started(script, name, *rest)

    monkeypatch.setattr(gpu.gpu_process, "run", run)
    _, data, page, _ = broken("race", {"steps": "passes", "predictions": "passes"})
    assert data["stages"]["steps"]["state"] == "not run: OSError: no room for another process"
    assert data["stages"]["predictions"]["state"] == "passed"
    assert "Traceback" in page


def test_stages_for_which_no_time_is_left_say_so(broken: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "TOTAL", 4)
    code, data, _, _ = broken("check", {"probe": "passes", "tests": "passes"})
    assert code == 1
    assert {result["state"] for result in data["stages"].values()} == {"not run: no time was left"}


def test_each_command_stays_below_nine_minutes():
    """Its last stage's limit, and a process that outlives being killed, then nvidia-smi that does so too."""
    assert gpu.TOTAL + 2 * gpu.gpu_process.PATIENCE + gpu_facts.ASKED < 540
    assert all(0 < most <= gpu.TOTAL for stages in gpu.KINDS.values() for _, most in stages.values())


@pytest.mark.skipif(cuda_driver.ask().status == 0 and cuda_driver.ask().version is not None, reason="a GPU is here")
@needs_no_driver
def test_without_a_gpu_the_report_says_why_and_the_rest_still_runs(tmp_path: Path):
    """The real script in a process of its own, as `make gpu-check` starts it."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "bench" / "gpu.py"), "check", "--only", "probe", "sanitizer", "threads"),
            *("--results", str(tmp_path / "results")),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"CUPY_CACHE_DIR": str(tmp_path / "kernels")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    data = json.loads(next((tmp_path / "results").glob("*-check.json")).read_text(encoding="utf-8"))
    assert "there is no NVIDIA driver" in data["stages"]["probe"]["output"]
    assert data["stages"]["probe"]["data"]["driver"]["library"] == "libcuda.so.1"
    assert list(data["stages"]) == ["probe", "threads", "sanitizer"]
    assert data["stages"]["threads"]["state"] == "failed"
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_the_page_shows_races_and_what_failed(tmp_path: Path):
    figures = {"how": "", "median_us": 10.0, "held_bytes": 5 << 20}
    ours, theirs = {**figures, "how": "CUDA graph"}, {**figures, "median_us": 55.0}
    results = {"nnx cupy": ours, "torch eager, GPU": theirs, "jax jit, GPU": {"refused": "x"}}
    calls = {"full": [{"title": "predict, 1 x 2-64-3", "results": {"nnx cupy": {**figures, "median_us": 7.0}}}]}
    report = gpu_report.Report("race", tmp_path, nnx.__version__)
    for name, state, data in (
        ("probe", "passed", {"info": {"device": "cuda:0 (NVIDIA H200)", "notes": ["full float32"]}}),
        ("steps", "passed", {"full": [{"title": "step, 300 x 2-64-3, adam", "results": results}]}),
        ("predictions", "passed", calls),
        ("persistent", "failed", {"300x2-64-3": {"multiply_adds": 288000, "persistent kernel": 4.25}}),
    ):
        report.add(name, {"state": state, "data": data, "seconds": 1.5, "output": "what it printed"})
    page = report.page.read_text(encoding="utf-8")
    assert not report.passed
    for words in (
        "full float32", "10.0 us, 1.00x, 5 MiB, CUDA graph", "| 300x2-64-3 | 288,000 | 4.2 us | - |",
        "55.0 us, 5.50x", "| predict, 1 x 2-64-3 | 7.00 us, 1.00x", "## persistent: failed", "what it printed",
    ):  # fmt: skip
        assert words in page, page


# ---- races -----------------------------------------------------------------------------------------------------------


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
    assert isinstance(races["full"][0]["clocks"], list)
    monkeypatch.setattr(gpu_races, "PLAYERS", players[1:])
    with pytest.raises(RuntimeError, match="nnx finished no race"):
        gpu_races.race(workloads, saved.append)


def test_a_race_says_what_ran_its_steps(stand_in: Any):
    for persistent, how in ((True, "persistent kernel"), (False, "CUDA graph")):
        stand_in.persistent = persistent
        assert nnx_player._step(Network(20, (2, 4, 3)), stand_in).how == how


def test_clocks_are_noted_while_a_race_runs(monkeypatch: pytest.MonkeyPatch):
    noted = threading.Event()
    monkeypatch.setattr(gpu_races, "clocks", lambda: (noted.set(), {"clocks.sm": "1980 MHz"})[1])
    with gpu_races.sampled(0.001) as seen:
        assert noted.wait(600)
    assert set(seen) == {"1980 MHz"}


def test_what_is_raced_on_a_gpu():
    steps = gpu_races.steps()
    assert len(steps["full"]) == 4
    assert ["128 x 784" in steps["full"][0].title, "8192 x 784" in steps["full"][1].title] == [True, True]
    assert [workload.title for workload in steps["tf32"]] == [steps["full"][i].title for i in (1, 3)]
    assert {workload.rows for workload in gpu_races.predictions()["full"]} == {1, 1024}


def test_names_of_reports():
    assert [gpu_report.slug(d) for d in ("NVIDIA H200", "A100-SXM4 80GB", "?")] == [
        "nvidia-h200", "a100-sxm4-80gb", "gpu",
    ]  # fmt: skip


@pytest.mark.parametrize(("precision", "asked"), [("full", "highest"), ("tf32", "tensorfloat32"), ("bf16", None)])
def test_jax_multiplies_on_a_gpu_as_precisely_as_nnx(
    precision: str, asked: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Left to itself it takes TF32 for float32, and the race would be one of precisions."""
    settings: dict[str, str] = {}
    jax = SimpleNamespace(config=SimpleNamespace(update=settings.__setitem__), devices=lambda platform: ["a GPU"])
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setenv("NNX_PRECISION", precision)
    with pytest.raises(Absent, match="is not measured"):
        jax_player.prepare(SimpleNamespace(kind="nothing"), "jit", "cuda")
    assert settings.get("jax_default_matmul_precision") == asked
    settings.clear()
    with pytest.raises(Absent, match="is not measured here"):
        jax_player.prepare(SimpleNamespace(kind="nothing"), "jit", "cpu")
    assert settings == {"jax_platforms": "cpu"}
