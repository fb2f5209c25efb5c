"""Which of cuBLASLt's algorithms multiply in graphs: timed by the stand-in's clock, checked, kept in a file."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_cublaslt import Candidate, FakeLt
from fake_cupy import machine
from networks import ALIKE, NETS, numbers, trained

from nnx.backends.cupy.backend import CupyBackend, MultiGpuCupyBackend
from nnx.backends.cupy.matmul import choices as kept_choices
from nnx.backends.cupy.matmul import cublaslt_products, timing, trials
from nnx.backends.cupy.matmul.choices import Choice, Choices
from nnx.backends.cupy.matmul.cublaslt import BIAS_GRADIENT, Plan, alignment
from nnx.backends.cupy.programs import capture
from nnx.errors import InputError

US = 1e-6
PROPOSED = tuple(Candidate(us * US) for us in (5, 3, 1, 2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a backend on the stand-in, whose clock tells given times, as a new process would.

    Its arrays begin where NumPy's do, in each process elsewhere; CuPy's at multiples of 512 bytes.
    """
    monkeypatch.setattr(cublaslt_products, "alignment", lambda address: min(16, alignment(address)))
    monkeypatch.setenv("NNX_GEMM", "blas")
    monkeypatch.setenv("NNX_PERSISTENT", "0")
    monkeypatch.setenv("NNX_TUNE", "auto")

    def make(lt: FakeLt, devices: int = 1, number: int = 0, precision: str | None = None) -> CupyBackend:
        machine.reset(devices=devices)
        machine.cublaslt, machine.clock = lt, 0.0
        kind = CupyBackend if devices == 1 else MultiGpuCupyBackend
        return kind(fake_cupy, number, precision=precision)

    return make


def replayed(backend: CupyBackend, lt: FakeLt, name: str = "tanh") -> set[tuple[int, int]]:
    """Train as NumPy does, in one size of batch; return which algorithms the graph then runs, by epilogue."""
    net = NETS[name]
    model, (x, y) = net.model("float64", backend), net.samples()
    model.steps(x, y, 3)
    lt.taken.clear()
    model.steps(x, y, 3)
    assert (model.eager_reason, model.replay_reason, lt.complaints) == (None, None, [])
    expected = net.model("float64", "numpy")
    expected.steps(x, y, 6)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)
    return set(lt.taken)


def lines(folder: Path) -> list[Any]:
    (file,) = folder.glob("nnx-products-*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def places(taken: set[tuple[int, int]]) -> set[int]:
    return {place for _, place in taken}


# ---- the fastest, if it is right -------------------------------------------------------------------------------------


def test_the_fastest_is_taken_and_said(make: Any, folder: Path):
    backend = make(lt := FakeLt(candidates=PROPOSED))
    assert places(replayed(backend, lt)) == {2}
    notes = backend.info().notes
    told = [note for note in notes if "of cuBLASLt's 4, 1.0 us; its first takes 5.0" in note]
    assert len(told) == len(lines(folder)) > 4
    assert all("number 3" in note and "float64 full, aligned to" in note for note in told)
    assert any(f"timed once and kept in {folder}" in note for note in notes)


@pytest.mark.parametrize(
    "flaw", [{"fails": True}, {"state": 15}, {"workspace": (32 << 20) + 1}, {"wrong": True}, {"idle": True}]
)
def test_what_fails_is_too_large_or_wrong_is_not_taken_however_fast(flaw: dict[str, Any], make: Any):
    flawed = Candidate(US / 10, **flaw)
    backend = make(lt := FakeLt(candidates=(Candidate(5 * US), flawed, Candidate(2 * US), flawed)))
    assert len({place for place in places(replayed(backend, lt)) if lt.candidates[place].seconds == 2 * US}) == 1
    assert len(places(set(lt.taken))) == 1


def test_the_first_may_fail_too(make: Any):
    lt = FakeLt(candidates=(Candidate(fails=True), Candidate(3 * US), Candidate(2 * US)))
    assert places(replayed(make(lt), lt)) == {2}
    backend = make(lt)
    assert places(replayed(backend, lt)) == {2}
    assert any("2.0 us; its first failed" in note for note in backend.info().notes)


def test_where_none_works_nnxs_kernel_multiplies(make: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnx.backends.cupy.matmul.dispatch.SMALL", 0)
    backend = make(lt := FakeLt(candidates=(Candidate(fails=True), Candidate(fails=True))))
    backend.gemm_rule = "auto"
    assert replayed(backend, lt) == set()
    assert any("none of cuBLASLt's 2 algorithms works for" in note for note in backend.info().notes)


def test_of_algorithms_that_are_slow_few_are_tried(make: Any):
    slow = Candidate(2 * timing.PATIENCE)
    lt = FakeLt(candidates=(slow, Candidate(US)))
    assert places(replayed(make(lt), lt)) == {0}


def test_timing_that_fails_costs_no_numbers_and_is_said(make: Any, monkeypatch: pytest.MonkeyPatch, folder: Path):
    def fails(*args: Any) -> Any:
        raise MemoryError("no room to time in")

    monkeypatch.setattr(trials, "timed", fails)
    backend = make(lt := FakeLt(candidates=PROPOSED))
    assert places(replayed(backend, lt)) == {0}
    assert any("first algorithm is taken untried (MemoryError: no room" in note for note in backend.info().notes)
    assert lines(folder) == []


def test_a_graph_keeps_no_room_of_algorithms_that_it_does_not_take(make: Any):
    lt = FakeLt(candidates=(Candidate(5 * US, workspace=1 << 20), Candidate(US, workspace=512)))
    net = NETS["tanh"]
    model = net.model("float64", make(lt))
    model.steps(*net.samples(), 3)
    ((_, program),) = model._trainer._staged.values()  # type: ignore[union-attr]
    assert program._graph._scratch._arrays["uint8"].size == 512  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_rounded_products_and_predictions_are_timed_in_graphs_alone(precision: str, make: Any, folder: Path):
    backend = make(lt := FakeLt(candidates=PROPOSED), precision=precision)
    model = NETS["tanh"].model("float32", backend)
    x = NETS["tanh"].samples()[0].astype("float32")
    wanted = model.predict(x)
    assert places(set(lt.taken)) == {0}
    for _ in range(3):
        np.testing.assert_allclose(model.predict(x), wanted, rtol=1e-5, atol=1e-6)
    lt.taken.clear()
    model.predict(x)
    assert places(set(lt.taken)) == {2}
    assert all(f"float32 {precision}" in product for _, product, *_ in lines(folder))
    assert lt.complaints == []


# ---- a bias's gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gradient", "own", "fused"), [(4, 2, True), (4, 1, False), (1, 0.5, True)])
def test_column_sums_are_added_up_where_that_is_faster(gradient: float, own: float, fused: bool, make: Any):
    """In the product, or by nnx's kernel after the fastest plain one, which takes 2 us here."""
    lt = FakeLt(
        candidates=(Candidate(3 * US), Candidate(2 * US)), all_gradients=True,
        gradients=(Candidate(9 * US), Candidate(gradient * US - US / 100)),
    )  # fmt: skip
    for _ in range(2):  # as it is timed, and as it is kept
        backend = make(lt)
        machine.takes = {"column_sums": own * US}
        taken = replayed(backend, lt)
        assert taken >= {(4, 1), (1, 1)}
        assert ((BIAS_GRADIENT, 1) in taken) == fused
        assert places(taken) == {1}
    assert (
        any("a plain product and nnx's column sums of cuBLASLt's 2" in note for note in backend.info().notes) != fused
    )


def test_sums_that_are_wrong_are_not_taken(make: Any):
    lt = FakeLt(all_gradients=True, gradients=(Candidate(9 * US), Candidate(US / 9, wrong=True)))
    backend = make(lt)
    machine.takes = {"column_sums": US}
    assert (BIAS_GRADIENT, 1) not in replayed(backend, lt)


# ---- it stays so -----------------------------------------------------------------------------------------------------


def test_the_next_process_takes_the_same_without_timing(make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    lt = FakeLt(candidates=PROPOSED)
    first = replayed(make(lt), lt)
    kept = lines(folder)
    monkeypatch.setattr(trials, "timed", lambda *args: pytest.fail("timed again"))
    lt.candidates = PROPOSED[::-1]  # on that day the other way round
    backend = make(lt)
    assert replayed(backend, lt) == first
    assert lines(folder) == kept
    assert any("1.0 us; its first takes 5.0" in note for note in backend.info().notes)


@pytest.mark.parametrize("change", ["another cuBLASLt", "another number of proposals", "another driver", "another GPU"])
def test_but_not_for_another_machine(change: str, make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    lt = FakeLt(candidates=PROPOSED)
    replayed(make(lt), lt)
    lt.candidates = PROPOSED[::-1]
    if change == "another cuBLASLt":
        lt.version += 1
    if change == "another number of proposals":
        lt.candidates = (*lt.candidates, Candidate(9 * US))
    if change == "another driver":
        monkeypatch.setattr(fake_cupy.cuda.runtime, "driverGetVersion", lambda: 13020)
    if change == "another GPU":
        properties = fake_cupy.cuda.runtime.getDeviceProperties
        monkeypatch.setattr(
            fake_cupy.cuda.runtime, "getDeviceProperties", lambda number: {**properties(number), "name": b"Other"}
        )
    assert places(replayed(make(lt), lt)) == {1}
    assert len(list(folder.iterdir())) == (1 if change == "another number of proposals" else 2)


def test_an_algorithm_is_known_again_wherever_it_is_named(make: Any):
    lt = FakeLt(candidates=[Candidate(us * US, name=f"it takes {us}") for us in (5, 3, 1, 2)])
    replayed(make(lt), lt)
    lt.candidates = lt.candidates[::-1]
    assert places(replayed(make(lt), lt)) == {1}
    lt.candidates = [replace(one, name=f"other than when {one.name}") for one in lt.candidates]
    backend = make(lt)
    assert places(replayed(backend, lt)) == {2}
    assert any("names other algorithms than when they were timed" in note for note in backend.info().notes)


JUNK = [
    b"\xff\xfe\x00", b"[]", b"null", b"7", b'{"machine": 1}', b'["half a li', b"[" * 100_000,
]  # fmt: skip


def test_a_damaged_file_is_read_as_far_as_it_goes_and_added_to(make: Any, folder: Path):
    lt = FakeLt(candidates=PROPOSED)
    replayed(make(lt), lt)
    (file,) = folder.iterdir()
    some = [line for line in file.read_bytes().splitlines() if line]
    machine_name, product, *_ = json.loads(some[0])
    wrong = [[4, 5, 7, 1e-6, 1e-6], [4, -1, 7, 1e-6, 1e-6], [4, "x", 7, 1, 1], [4, 1, 7, None, 1], [4, 1, None, 1, 1],
             [4, 1, 1, 1]]  # fmt: skip
    junk = [*JUNK, *(json.dumps([machine_name, product, *numbers]).encode() for numbers in wrong)]
    junk.append(json.dumps(["another machine", json.loads(some[1])[1], 4, 3, 7, 1e-6, 1e-6]).encode())
    damaged = [*junk, *some[1:], some[1].replace(b", 4, 2,", b", 4, 3,"), some[1][:30]]
    file.write_bytes(b"\n".join(damaged))
    assert places(replayed(make(lt), lt)) == {2}
    (again,) = file.read_bytes().splitlines()[len(damaged) :]
    assert json.loads(again)[1] == product  # that one alone was timed again
    assert places(replayed(make(lt), lt)) == {2}


def test_a_file_that_lies_is_found_out(make: Any, folder: Path):
    """What it names is checked against the first before it is used."""
    lt = FakeLt(candidates=PROPOSED)
    replayed(make(lt), lt)
    for flaw in ("wrong", "fails"):
        lt.candidates = (Candidate(), Candidate(), Candidate(**{flaw: True}), Candidate())
        backend = make(lt)
        assert places(replayed(backend, lt)) == {0}
        assert any("for the kept one does not work" in note for note in backend.info().notes)
    (file,) = folder.iterdir()
    file.write_text(file.read_text(encoding="utf-8").replace(", 4, 2,", ", 4, 4,"), encoding="utf-8")
    assert places(replayed(make(lt), lt)) == {0}  # no column sums were asked for


@pytest.mark.parametrize("obstacle", ["no folder", "a folder", "full", "in memory", "not read again", "a pipe"])
def test_where_no_choice_can_be_kept_the_first_is_taken(
    obstacle: str, make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else the next process might take another, with other last bits."""
    backend = make(lt := FakeLt(candidates=PROPOSED))
    file = backend.choices().file
    if obstacle == "no folder":
        folder.write_text("a file")
    elif obstacle == "in memory":
        monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
        backend = make(lt)
    elif obstacle == "not read again":
        monkeypatch.setattr(Choices, "_read", lambda self: {})
    else:
        folder.mkdir()
        if obstacle == "a folder":
            file.mkdir()
        elif obstacle == "a pipe":
            os.mkfifo(file)
        else:
            monkeypatch.setattr(kept_choices, "MOST", 10)
            file.write_text("eleven bytes")
    assert places(replayed(backend, lt)) == {0}
    words = {"no folder": "File exists", "a folder": "something else than a file", "full": "more than 10 bytes",
             "in memory": "in memory alone", "not read again": "cannot be read again",
             "a pipe": "something else than a file"}[obstacle]  # fmt: skip
    assert any("because no choice can be kept" in note and words in note for note in backend.info().notes)
    if obstacle == "in memory":
        assert not folder.exists()


def test_of_two_who_time_at_once_the_first_to_write_is_right_for_both(folder: Path):
    made: list[Choice | None] = []
    folder.mkdir()

    def keep(taken: int) -> None:
        made.append(Choices("a machine", folder).keep("a product", 4, Choice(taken, 7, US, US)))

    threads = [threading.Thread(target=keep, args=(taken,)) for taken in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(folder)) == 4
    assert made == [Choices("a machine", folder).get("a product", 4)] * 4


def test_a_forked_child_times_nothing(make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    backend = make(lt := FakeLt(candidates=PROPOSED))
    assert backend.choices().ready()
    me = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: me + 1)
    assert not backend.choices().ready()
    assert places(replayed(backend, lt)) == {0}
    assert lines(folder) == []


def test_each_gpu_has_its_own_choices(make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """And is timed while another is the current one."""
    properties = fake_cupy.cuda.runtime.getDeviceProperties
    monkeypatch.setattr(
        fake_cupy.cuda.runtime,
        "getDeviceProperties",
        lambda number: {**properties(number), "name": f"GPU {number}".encode()},
    )
    lt = FakeLt(candidates=PROPOSED)
    for number in (1, 0):
        backend = make(lt, devices=2, number=number)
        assert places(replayed(backend, lt)) == {1 + number}
        assert (machine.current, machine.used[1 - number]) == (0, 0)
        lt.candidates = PROPOSED[::-1]
    first, second = (set(json.loads(path.read_text().splitlines()[1])[0].split(",")[:1]) for path in folder.iterdir())
    assert first | second == {"GPU 0", "GPU 1"}


# ---- when not --------------------------------------------------------------------------------------------------------


def test_nnx_tune_off_takes_the_first(make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    lt = FakeLt(candidates=PROPOSED)
    replayed(make(lt), lt)
    kept = lines(folder)
    for text, place in ((" OFF", 0), ("Auto", 2)):
        monkeypatch.setenv("NNX_TUNE", text)
        backend = make(lt)
        assert places(replayed(backend, lt)) == {place}
        assert any("that it names first, by NNX_TUNE=off" in note for note in backend.info().notes) == (place == 0)
    assert lines(folder) == kept
    monkeypatch.setenv("NNX_TUNE", "no")
    with pytest.raises(InputError, match="NNX_TUNE='no': expected auto or off"):
        make(lt)


def test_nothing_is_timed_while_a_stream_is_captured(make: Any, monkeypatch: pytest.MonkeyPatch):
    """Both hold the same lock, and a step's capture has all of its products planned before."""
    held: list[str] = []
    timed, begin = trials.timed, capture.CapturedGraph._capture

    def timing_begins(*args: Any) -> Any:
        assert machine.captured is None
        assert timing.TURN._is_owned()  # type: ignore[attr-defined]
        held.append("timed")
        return timed(*args)

    def call_all(work: Any) -> None:
        if machine.captured is not None:
            assert timing.TURN._is_owned()  # type: ignore[attr-defined]
            held.append("captured")
        for method, operands in work:
            method(*operands)

    monkeypatch.setattr(trials, "timed", timing_begins)
    monkeypatch.setattr(capture, "call_all", call_all)
    backend = make(lt := FakeLt(candidates=PROPOSED))
    replayed(backend, lt)
    assert held == [*["timed"] * (len(held) - 1), "captured"]
    assert len(held) > 4
    assert begin is capture.CapturedGraph._capture


def test_a_capture_by_another_thread_is_waited_for(make: Any):
    backend, told = make(lt := FakeLt(candidates=PROPOSED)), threading.Event()
    ends: list[set[int]] = []

    def train() -> None:
        told.set()
        ends.append(places(replayed(backend, lt)))

    thread = threading.Thread(target=train)
    with timing.TURN:
        thread.start()
        told.wait()
        thread.join(0.3)
        assert not ends
    thread.join()
    assert ends == [{2}]


def test_ctrl_c_while_timing_leaves_no_capture_open(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend, run = make(FakeLt(candidates=PROPOSED)), Plan.run

    def interrupt(plan: Plan, *addresses: Any) -> None:
        run(plan, *addresses)
        if machine.captured is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "run", interrupt)
    model = NETS["tanh"].model("float64", backend)
    with pytest.raises(KeyboardInterrupt):
        model.step(*NETS["tanh"].samples())
    assert machine.captured is None
    assert not machine.streams
    monkeypatch.setattr(Plan, "run", run)
    trained(NETS["tanh"], backend, epochs=1)
    assert machine.graphs["launch"] > 0


# ---- what counts as right --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("k", [7, 4000])
def test_another_order_of_the_sum_is_right_and_another_number_is_not(k: int, scale: float):
    machine.reset()
    random = np.random.default_rng(k)
    a, b = random.normal(size=(5, k)).astype("f4") * np.float32(scale), random.normal(size=(k, 3)).astype("f4")
    a[2] = 0
    there = [fake_cupy.asarray(x) for x in (a, b)]
    c = fake_cupy.zeros((5, 3), "float32")
    agrees = timing.Agreement(fake_cupy, [c], timing.bounds(fake_cupy, *there, "full", None, False))
    straight = np.array([[np.cumsum(row * column, dtype="f4")[-1] for column in b.T] for row in a])

    def write(numbers: np.ndarray) -> Any:
        return lambda: c.__setitem__(..., fake_cupy.asarray(numbers))

    assert agrees(write(a @ b))
    assert agrees(write(straight))
    for place in ((0, 0), (2, 1), (4, 2)):
        wrong = straight.copy()
        wrong[place] += np.abs(a[0] * b[:, 0]).max()
        assert not agrees(write(wrong))
    assert not agrees(lambda: None)
    assert not agrees(write(np.full((5, 3), np.nan, "f4")))


def test_nan_and_infinities_are_right_where_the_first_has_them():
    machine.reset()
    a = fake_cupy.asarray(np.array([[np.nan, 1], [np.inf, 1], [1, 2]]))
    b, c = fake_cupy.asarray(np.ones((2, 1))), fake_cupy.zeros((3, 1))
    agrees = timing.Agreement(fake_cupy, [c], timing.bounds(fake_cupy, a, b, "full", None, False))
    for given, right in (([np.nan, np.inf, 3], True), ([np.nan, np.inf, 3 + 1e-15], True), ([0, np.inf, 3], False),
                           ([np.nan, 1, 3], False), ([np.nan, np.inf, np.nan], False)):  # fmt: skip
        assert agrees(lambda n=given: c.__setitem__(..., fake_cupy.asarray(np.array([n]).T))) == right
