"""What `nnx bench` promises: wrong results and other backends' work get no figure, and a slow-down is told from noise.

No time is asserted but that a test's own player sleeps.
"""

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from nnx.backends import available, get_backend
from nnx.backends.numpy import NumpyBackend
from nnx.backends.operations import Operations
from nnx.benchmark import check, profile, quiet, units
from nnx.benchmark.compare import compare
from nnx.benchmark.figures import of_rounds, sum_up
from nnx.benchmark.libraries import GROUPS, PEERS, Absent, Refused, installed, notes, of_backend
from nnx.benchmark.libraries import nnx as ours
from nnx.benchmark.limits import floor_us, higher
from nnx.benchmark.networks import SPIRAL, Network
from nnx.benchmark.operations import OPERATIONS
from nnx.benchmark.processes import Process
from nnx.benchmark.report import SCHEMA, Report, read
from nnx.benchmark.runner import QUICK, Runner
from nnx.benchmark.selection import select
from nnx.benchmark.workloads import SUITES, chosen, every
from nnx.cli import main
from nnx.cli.bench import _compare as main_compare
from nnx.errors import BackendUnavailable, FileFormatError, InputError
from nnx.kernels.cpu.jit import clock

WORKLOADS = {workload.name: workload for workload in every()}
LARGEST = 3e6  # bytes touched and multiply-adds done by workloads that tests run
SMALL = [w for w in every() if w.suite != "start" and w.bytes < LARGEST and w.flops < 50 * LARGEST]
SMALL = [w for w in SMALL if "64 networks" not in w.title]  # which is more of the same
PLAYERS = [player for name in ("numpy", "numba") for player in of_backend(name, 1)]
PLAYERS += [player for player in PEERS if player.name in ("notes", "scikit-learn", "thinc") and installed(player)]
STEP = WORKLOADS["steps: step, 300 x 2-64-3, adam"]
FAST = replace(QUICK, rounds=2, seconds=0.002, chunk=0.001, patience=0.0)


def nnx_bench(*arguments, **options):
    command = [sys.executable, "-m", "nnx", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)


def lines_of(renderable):
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue().splitlines()


# ---- workloads and players -------------------------------------------------------------------------------------------


def test_workloads_have_names_of_their_own_and_every_suite_has_some_quick_or_not():
    assert len(WORKLOADS) == len(every())
    for suite in SUITES:
        assert chosen([suite], quick=False)
    assert {w.suite for w in chosen(list(SUITES), quick=True)} >= {"ops", "softmax", "steps", "inference"}
    assert {w.size for w in every() if w.suite == "ops"} == {"S", "M", "L"}


@pytest.mark.parametrize("player", PLAYERS, ids=lambda player: player.name)
def test_a_player_gives_what_float64_numpy_gives(player, monkeypatch):
    if player.name.startswith("nnx numba") and not available()["numba"]:
        pytest.skip(str(available()["numba"]))
    monkeypatch.setenv("NNX_THREADS", "1")
    took_part = 0
    for workload in SMALL:
        if player.suites and workload.suite not in player.suites:
            continue
        try:
            ready = player.prepare(workload)
        except Absent:
            continue
        assert check.fault(workload, ready.results, check.reference(workload)) is None
        ready.run(ready.turns)
        took_part += 1
    assert took_part >= (1 if player.suites == ("many",) else 5)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_results_that_are_wrong_by_a_thousandth_are_refused(kind):
    workload = next(w for w in every() if w.kind == kind)
    wanted = check.reference(workload)
    right = {name: result.value.astype(np.float32) for name, result in wanted.items()}
    assert check.fault(workload, right, wanted) is None
    for name, value in right.items():
        largest = np.abs(value) == np.abs(value).max()
        for wrong in (np.where(largest, value * 1.001, value), np.where(largest, np.nan, value), value[:-1]):
            assert check.fault(workload, right | {name: wrong}, wanted)
    assert "nothing was written" in check.fault(workload, {}, wanted)


def test_steps_with_another_learning_rate_or_loss_are_refused():
    wanted = check.reference(STEP)
    right = {name: result.value for name, result in wanted.items()}
    assert check.fault(STEP, right, wanted) is None
    start, end = right["start"], right["parameters"]
    assert "strayed" in check.fault(STEP, right | {"parameters": start + 1.05 * (end - start)}, wanted)
    assert "losses" in check.fault(STEP, right | {"losses": right["losses"] * 1.01}, wanted)


def test_predictions_that_are_off_are_refused():
    workload = next(w for w in every() if w.kind == "predict")
    wanted = check.reference(workload)
    assert "off by" in check.fault(workload, {"out": wanted["out"].value + 1e-3}, wanted)


@pytest.mark.parametrize("backend", ["numpy", "notes"])
def test_evaluations_that_are_off_are_refused(backend):
    workload = next(w for w in every() if w.kind == "evaluate")
    wanted = check.reference(workload)
    ready = notes.prepare(workload, "", "cpu") if backend == "notes" else ours.prepare(workload, backend, "cpu")
    assert check.fault(workload, ready.results, wanted) is None
    for off, word in ((0.01, 0), "losses"), ((0, 0.05), "accuracies"):
        assert word in check.fault(workload, {"scores": ready.results["scores"] + off}, wanted)


def test_a_wrong_kernel_gets_no_figure(monkeypatch):
    softmax = NumpyBackend.softmax

    def wrong(self, x, out=None):
        out = softmax(self, x, out)
        out[:, 0] *= 0.999
        return out

    monkeypatch.setattr(NumpyBackend, "softmax", wrong)
    workload = next(w for w in every() if w.kind == "softmax")
    ready = ours.prepare(workload, "numpy", "cpu")
    assert "softmax" in check.fault(workload, ready.results, check.reference(workload))


# ---- what runs is what its name says ---------------------------------------------------------------------------------


def test_another_backend_in_the_place_of_the_one_asked_for_is_refused(monkeypatch):
    numpy = get_backend("numpy")
    monkeypatch.setattr(ours.nnx, "get_backend", lambda name: numpy)
    with pytest.raises(Refused, match="numba was asked for, and numpy came"):
        ours.prepare(STEP, "numba", "cpu")


def test_an_operation_that_is_not_the_backends_own_is_refused():
    class Half(NumpyBackend):
        name = "half"
        softmax = Operations.softmax

    with pytest.raises(Refused, match="half has no softmax of its own"):
        ours.own(Half(), "softmax")
    assert ours.own(NumpyBackend(), "softmax_jacobian") == "xp"  # which is NumPy


def test_a_step_that_is_not_replayed_is_refused(monkeypatch):
    from nnx.errors import NotReplayable

    def refuse(self, recorder):
        raise NotReplayable("of no reason")

    monkeypatch.setattr(NumpyBackend, "compile", refuse)
    with pytest.raises(Refused, match="not replayed on numpy: of no reason"):
        ours.prepare(STEP, "numpy", "cpu")


def test_players_are_those_that_work_here_and_others_say_why():
    players, absent = select(None, None, 2, quick=False)
    names = [player.name for player in players]
    assert names[0] in ("nnx cupy", "nnx numba", "nnx numpy")
    assert "notes" in names
    for name, works in available().items():
        assert works or works.reason in absent[f"nnx {name}"]
    for player in PEERS:
        assert installed(player) or player.group in absent
    assert [p.name for p in select(["numpy"], [], 1, quick=True)[0]] == ["nnx numpy"]
    assert [p.name for p in select(["numpy"], ["notes"], 1, quick=True)[0]] == ["nnx numpy", "notes"]
    with pytest.raises(InputError, match="no 'tensorflow'; known are notes, torch"):
        select(["numpy"], ["tensorflow"], 1, quick=True)
    if not available()["cupy"]:
        with pytest.raises(BackendUnavailable):
            select(["cupy"], None, 1, quick=True)
        assert "nnx cupy" in select(["cupy", "numpy"], [], 1, quick=True)[1]


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def process():
    process = Process(of_backend("numpy", 1)[0], 1)
    yield process
    process.close()


def test_a_players_process_answers_and_outlives_what_goes_wrong(process, tmp_path):
    file = str(tmp_path / "results.npz")
    assert "KeyError" in process.ask(prepare="no such workload", results=file)["refused"]
    assert process.ask(prepare=STEP.name, results=file)["how"] == "one operation after the other"
    with np.load(file) as got:
        assert check.fault(STEP, dict(got), check.reference(STEP)) is None
    assert process.ask(calibrate=0.001)["calls"] >= 1
    process.pause()
    process.go_on()
    times = process.ask(measure=0.01)["times"]
    assert len(times) >= 2
    assert min(times) > 0


def test_a_process_that_ends_or_hangs_is_told(process):
    process.pause()
    assert "no answer within" in process.ask(patience=0.2, measure=1)["refused"]
    assert "its process" in process.ask(measure=1)["refused"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere players are not stopped")
def test_stopped_players_end_with_a_run_that_is_killed(tmp_path):
    script = (
        "import time; from nnx.benchmark.runner import Runner, QUICK; from nnx.benchmark.libraries import of_backend\n"
        "with Runner(of_backend('numpy', 1), QUICK) as runner:\n"
        "    print(runner.processes[0].process.pid, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(run.stdout.readline())
    run.kill()
    run.wait()
    run.stdout.close()
    for _ in range(10_000):
        try:
            if not Path(f"/proc/{child}/cmdline").read_bytes():  # ended, and nobody has asked how
                return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("the player's process is still there")


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_rounds():
    rounds = of_rounds([[2e-6, 1e-6, 3e-6], [4e-6, 4e-6], [1.1e-6, 9e-6, 2e-6], [1.2e-6, 1.2e-6]])
    assert np.allclose(rounds, [[1, 2], [4, 4], [1.1, 2], [1.2, 1.2]])
    found = sum_up([rounds])
    assert found.best_us == pytest.approx(1)
    assert found.median_us == pytest.approx(2)
    assert found.doubt == pytest.approx(0.075)  # a quarter of the bests 1, 1.1, 1.2, 4 is 1.075
    assert (found.low_us, found.high_us) == pytest.approx((1.8, 2.5))
    assert sum_up([[[5.0, 5.0]]]).spread == 0


def test_passes_that_differ_widen_the_spread_and_the_doubt():
    found = sum_up([[[1.0, 1.1], [1.0, 1.1]], [[1.2, 1.3], [1.2, 1.3]]])
    assert (found.low_us, found.high_us) == pytest.approx((1.1, 1.3))
    assert found.median_us == pytest.approx(1.2)
    assert found.doubt == pytest.approx(0.2)


def test_floors():
    limits = {"gflops": 100.0, "bandwidth": [[1e4, 200.0], [1e6, 50.0]], "call_us": 1.0}
    assert floor_us(limits, 1e9, 0, 0) == pytest.approx(1e4)
    assert floor_us(limits, 0, 2e6, 1e4) == pytest.approx(10)
    assert floor_us(limits, 0, 2e6, 1e9) == pytest.approx(40)  # beyond what was measured, as the largest
    assert floor_us(limits, 0, 2e6, 1e5) == pytest.approx(16)  # half-way, in orders of magnitude
    better = {"gflops": 90.0, "bandwidth": [[1e4, 190.0], [1e6, 60.0]], "call_us": 0.5}
    assert higher(limits, better) == {"gflops": 100.0, "bandwidth": [[1e4, 200.0], [1e6, 60.0]], "call_us": 0.5}


def test_multiply_adds_and_bytes_of_a_network():
    network = Network(300, SPIRAL)
    assert network.parameters == 2 * 64 + 64 + 64 * 3 + 3
    assert network.predict_flops() == 2 * 300 * (2 * 64 + 64 * 3)
    assert network.step_flops() == 3 * network.predict_flops() - 2 * 300 * 2 * 64
    assert network.step_bytes() == 4 * (6 * network.parameters + 300 * 2)
    assert network.evaluate_bytes() == 4 * (network.parameters + 300 * 2) + 8 * 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.20 ns", 0.0012),
        ("16.9 us", 16.94),
        ("999 us", 999.4),
        ("1.00 ms", 999.6),
        ("2.21 ms", 2207),
        ("3.00 s", 3e6),
    ],
)
def test_durations(text, value):
    assert units.duration(value) == text


def test_numbers_shares_and_ratios():
    assert [units.count(v) for v in (7, 25_400_000, 1.5e9)] == ["7.00", "25.4 M", "1.50 G"]
    assert [units.share(v) for v in (0.004, 0.5, 1.2)] == ["<1%", "50%", "120%"]
    assert [units.times(v) for v in (1.234, 37.5, 240)] == ["1.23x", "37.5x", "240x"]


def test_the_watch_tells_how_quiet_it_was():
    watch = quiet.Watch()
    watch.wait(0.0)
    report = watch.report()
    assert report["waited_s"] >= 0
    assert report["others"] is None or 0 <= report["others"] <= 1.01


# ---- comparisons -----------------------------------------------------------------------------------------------------


def a_report(random, slower=1.0, machine=1.0, noise=0.02):
    """A run of two players on three workloads, with what others do to it; nnx and the machine slower by some factor."""
    numpy, notes = of_backend("numpy", 1)[0], next(p for p in PEERS if p.name == "notes")
    report = Report([numpy, notes], {}, FAST, quick=True)
    for workload in [w for w in every() if w.suite == "steps"][:3]:
        results = {}
        for player, factor in ((numpy, slower), (notes, 1.0)):
            chunks = 1e-4 * factor * machine * (1 + noise * random.exponential(size=(7, 5)))
            known = {"how": "", "ready_s": 0.1, "calls": 1, "seconds": 0.1}
            results[player.name] = {**known, "passes": [of_rounds(chunks.tolist())]}
        report.add(workload, results)
    return report.data


def verdicts(old, new):
    return {(change.player, change.verdict) for change in compare(old, new).changes}


@pytest.mark.parametrize("seed", range(20))
def test_a_fifth_slower_is_flagged_and_noise_is_not(seed):
    random = np.random.default_rng(seed)
    old = a_report(random)
    assert verdicts(old, a_report(random)) == {("nnx numpy", "same"), ("notes", "same")}
    assert verdicts(old, a_report(random, slower=1.2)) == {("nnx numpy", "slower"), ("notes", "same")}
    assert verdicts(old, a_report(random, slower=1 / 1.2)) == {("nnx numpy", "faster"), ("notes", "same")}


def test_a_machine_that_became_slower_is_told_from_code_that_did():
    random = np.random.default_rng(0)
    found = compare(a_report(random), a_report(random, machine=1.5))
    assert found.drift == pytest.approx(1.5, rel=0.03)
    assert {change.verdict for change in found.changes} == {"same"}
    assert ("nnx numpy", "slower") in verdicts(a_report(random), a_report(random, slower=1.2, machine=0.7))


def test_what_cannot_be_compared_is_told():
    random = np.random.default_rng(0)
    old, new = a_report(random), a_report(random)
    new["machine"]["cpu"] = new["machine"]["cpu"] | {"model": "another"}
    new["versions"]["numpy"] = "9.9"
    new["workloads"][0]["results"]["nnx numpy"] = {"refused": "wrong: nonsense"}
    found = compare(old, new)
    assert any("another" in warning for warning in found.warnings)
    assert any("9.9" in warning for warning in found.warnings)
    assert found.lost == [(STEP.title, "nnx numpy", "wrong: nonsense")]


# ---- a runner, and the command ---------------------------------------------------------------------------------------


def test_a_race_measures_all_players_of_a_workload_and_refuses_the_wrong_one(monkeypatch):
    players = [of_backend("numpy", 1)[0], next(p for p in PEERS if p.name == "notes")]
    report = Report(players, {}, FAST, quick=True)
    with Runner(players, FAST) as runner:
        row = report.add(STEP, runner.measure(STEP))
        with monkeypatch.context() as patch:
            patch.setattr(check, "fault", lambda *args: "it is planted")
            wrong = runner.measure(STEP)
    assert {name: "median_us" in result for name, result in row["results"].items()} == {
        "nnx numpy": True,
        "notes": True,
    }
    assert row["results"]["nnx numpy"]["x_peer"] is None  # the book's own NumPy is no other library
    assert wrong["notes"]["refused"] == "wrong: it is planted"
    assert "passes" not in wrong["notes"]
    joined = report.add(STEP, {**wrong, "nnx numpy": {**row["results"]["nnx numpy"]}})
    assert joined["results"]["notes"] == {"refused": "wrong: it is planted"}  # in one pass is for all of them
    assert len(joined["results"]["nnx numpy"]["passes"]) == 2


def test_the_command_writes_what_its_schema_says(tmp_path):
    file, page = tmp_path / "out.json", tmp_path / "out.html"
    done = nnx_bench("--backends", "numpy", "--peers", "notes", "--suite", "softmax", "--quick", "--rounds", 2,
                     "--threads", 1, "--json", file, "--html", page)  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    jsonschema.validate(data, json.loads(SCHEMA.read_text()))
    assert {row["suite"] for row in data["workloads"]} == {"softmax"}
    assert "softmax backward, 300 x 3" in done.stdout
    assert "<html" in page.read_text(encoding="utf-8")
    assert str(tmp_path) not in file.read_text()
    assert read(file) == data
    same = nnx_bench("--compare", file, file)
    assert same.returncode == 0, same.stderr
    assert "are the same" in same.stdout
    for result in (result for row in data["workloads"] for result in row["results"].values()):
        result["doubt"] = 0.01  # as on a quiet machine, which this one need not be
    file.write_text(json.dumps(data))
    for row in data["workloads"]:
        row["results"]["nnx numpy"]["best_us"] *= 1.2
    file.with_name("slow.json").write_text(json.dumps(data))
    slow = nnx_bench("--compare", file, file.with_name("slow.json"))
    assert slow.returncode == 1
    assert "+20% slower" in slow.stdout


@pytest.mark.skipif(not clock.counts(), reason="no cycle counter that programs may read")
@pytest.mark.parametrize("name", ["300 x 2-64-3", "128 x 64-128-64-10"])
def test_a_profile_accounts_for_all_of_a_step_on_each_thread(name):
    found = profile.of_step(WORKLOADS[f"steps: step, {name}, adam"], rounds=3, seconds=0.002)
    assert np.allclose(found.us.sum(axis=1), found.watched)
    products = [n for n, phase in enumerate(found.phases) if phase.endswith("products")]
    assert len(products) == 3  # outputs, gradients of inputs and of weights
    assert np.all(found.us[0, products] > 0)
    assert found.us[0, found.phases.index("loss")] > 0
    assert max(map(len, lines_of(profile.table(found)))) <= 80


def test_a_profile_of_many_threads_shows_the_first_and_the_mean_of_the_others():
    us = np.array([[60.0, 40.0], [30.0, 70.0], [50.0, 50.0]])
    lines = lines_of(profile.table(profile.Profile("a step", "how", 90.0, 100.0, ["sums", "waiting"], us)))
    assert [line.split() for line in lines if "sums" in line] == [
        ["a", "sums", "60.0", "us", "60%", "40.0", "us", "40%"]
    ]
    bars = [line for line in lines if set(line) == {"a", "b"}]
    assert [bar.count("a") / len(bar) for bar in bars] == pytest.approx([0.6, 0.4], abs=1 / profile.WIDTH)
    assert max(map(len, lines)) <= 80


@pytest.mark.skipif(clock.counts(), reason="this processor has one")
def test_a_processor_without_a_counter_of_cycles_is_told():
    with pytest.raises(Refused, match="cycle counter"):
        profile.of_step(STEP, rounds=1, seconds=0.001)


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    file, page = tmp_path / "out.json", tmp_path / "out.html"
    measure, done = Runner.measure, []

    def interrupted(runner, workload):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(workload.title)
        return measure(runner, workload)

    monkeypatch.setattr(Runner, "measure", interrupted)
    arguments = ["bench", "--backends", "numpy", "--peers", "none", "--suite", "softmax", "--quick", "--rounds", "1"]
    assert main([*arguments, "--json", str(file), "--html", str(page)]) == 1
    assert [row["title"] for row in read(file)["workloads"]] == done
    assert done[1] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "speed"], "there is no 'speed'; known are ops, softmax"),
        (["--suite", ""], "an empty argument"),
        (["--backends", ","], "names none"),
        (["--peers", ""], "an empty argument"),
        (["--json", "x", "--html", "./x"], "both x: name two files"),
        (["--peers", "keras"], "there is no 'keras'"),
        (["--backends", "tpu"], "tpu"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "-1"], "--rounds"),
        (["--json", "no/such/folder/out.json"], "there is no folder"),
        (["--html", "."], "this is a folder"),
        (["--compare", "a.json", "b.json"], "a.json"),
        (["--profile", "--html", "x.html"], "--profile has no page"),
        (["--profile", "--suite", "ops"], "no training steps"),
    ],
)
def test_the_command_refuses_what_it_cannot_do_before_it_measures(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Runner, "measure", lambda *all: pytest.fail("it measures"))
    assert main(["bench", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_a_report_in_a_folder_is_called_after_its_suites_and_the_processor(tmp_path):
    from nnx.backends import processor
    from nnx.cli.bench import _named
    from nnx.doctor import simd

    short = processor.short(simd())
    assert _named(tmp_path, ["steps", "start"], False) == tmp_path / f"steps-start-{short}.json"
    assert _named(tmp_path, list(SUITES), False) == tmp_path / f"all-{short}.json"
    assert _named(tmp_path, ["steps"], True) == tmp_path / f"quick-{short}.json"
    assert _named(tmp_path / "own.json", ["steps"], False) == tmp_path / "own.json"
    assert _named(None, ["steps"], False) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "nnx-bench/0"}', '{"format": "nnx-bench/1"}', "\xff"])
def test_what_is_no_report_is_refused(text, tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"x\.json"):
        read(file)


def test_damaged_reports_are_not_compared(tmp_path):
    good = a_report(np.random.default_rng(0))
    (tmp_path / "good.json").write_text(json.dumps(good))
    for damage in ({"workloads": 3}, {"workloads": [{}]}, {"machine": None}, {"versions": []}):
        (tmp_path / "bad.json").write_text(json.dumps(good | damage))
        for pair in (("good.json", "bad.json"), ("bad.json", "good.json")):
            with pytest.raises(FileFormatError, match="damaged"):
                main_compare(*(tmp_path / name for name in pair))


def test_every_group_of_peers_is_in_the_commands_help():
    assert set(GROUPS) == {"notes", "torch", "jax", "thinc", "sklearn"}
