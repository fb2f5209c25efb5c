"""Every backend passes the conformance suite, a model trains on the strictest of them, and the suite finds faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import ALIKE
from strict_backend import DEVICES, StrictBackend, host_out_of_reach

import nnx
from nnx.backends import BackendUnavailable
from nnx.backends.numpy import NumpyBackend
from nnx.backends.operation_table import OPERATIONS, write
from nnx.backends.operations import Operations
from nnx.backends.recorder import Program
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, STEP
from nnx.testing import Report, check_backend, conformance
from nnx.testing.facts import check_arrays, check_info
from nnx.testing.programs import check_recorder


@pytest.fixture(autouse=True, scope="module")
def blas_threads() -> None:
    """BLAS takes as many threads as it does for users."""


# ---- every backend ---------------------------------------------------------------------------------------------------


@pytest.mark.rounding
@pytest.mark.parametrize("name", nnx.backends.names())
def test_every_backend_that_works_here_is_one(name: str):
    try:
        backend = nnx.get_backend(name)
    except BackendUnavailable as unavailable:
        pytest.skip(str(unavailable))
    report = check_backend(backend)
    assert report.operations.keys() == OPERATIONS.keys()
    assert report.cases > 2000
    assert report.replayed > 200 or name != "numpy"  # a backend need not replay a lone operation
    assert str(report).startswith(f"{name}: {len(OPERATIONS)} operations, {report.cases} cases")


@pytest.mark.parametrize("device", DEVICES)
def test_the_default_bodies_need_only_the_standard_and_never_the_host(device: str):
    with host_out_of_reach():
        report = check_backend(StrictBackend(device))
    assert report.operations.keys() == OPERATIONS.keys()
    assert set(StrictBackend(device).info().ops.values()) == {"xp"}


@pytest.mark.parametrize("shape", [5, (3, 7), (300, 64), (0, 4)])
def test_numpys_room_for_results_begins_at_a_cache_line(shape: int | tuple[int, ...]):
    for dtype in ("float32", "float64"):
        room = nnx.get_backend("numpy").empty(shape, dtype)
        assert (room.shape, room.dtype) == (np.empty(shape).shape, np.dtype(dtype))
        assert room.flags.carray
        assert room.ctypes.data % 64 == 0 or not room.size


def test_the_second_device_is_out_of_reach_for_numpy():
    """Or the test above would prove nothing."""
    a = StrictBackend("device1").asarray([1.0, 2.0])
    with pytest.raises(RuntimeError):
        np.asarray(a)
    with pytest.raises(AssertionError, match="the host looked"), host_out_of_reach():
        int(a[0])


def spiral_losses(backend: Any, loss: nnx.Loss, last: list[type[nnx.Layer]], steps: int, **fit: Any) -> np.ndarray:
    x, y = nnx.datasets.spiral(samples=30, classes=3, seed=0)
    layers = [nnx.Dense(2, 16, weight_l2=5e-4, bias_l1=1e-4), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(16, 3)]
    model = nnx.Sequential(*layers, *(kind() for kind in last), backend=backend, dtype="float64", seed=1)
    model.compile(loss=loss, optimizer=nnx.Adam(0.05, decay=1e-3))
    if fit:
        history = model.fit(x, y, verbose=0, **fit)
        scores = model.evaluate(x, y, batch_size=32)
        assert model.eager_reason is None
        return np.array([*history["loss"], *history["accuracy"], scores["loss"], scores["accuracy"]])
    return model.steps(x, y, steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("loss", "last"), [(nnx.CategoricalCrossEntropy(), [nnx.Softmax]), (nnx.SoftmaxCrossEntropy(), [])], ids=str
)
def test_a_model_trains_on_the_strictest_backend_as_on_numpy(device: str, loss: nnx.Loss, last: list[type[nnx.Layer]]):
    wanted = spiral_losses(NumpyBackend(), loss, last, 20)
    with host_out_of_reach():
        got = spiral_losses(StrictBackend(device), loss, last, 20)
    assert wanted[-1] < 0.9 * wanted[0]
    np.testing.assert_allclose(got, wanted, **ALIKE)


def test_a_fit_on_the_second_device_is_that_on_numpy():
    """With batches, a tail, a shuffled order, evaluation."""
    results = [
        spiral_losses(backend, nnx.CategoricalCrossEntropy(), [nnx.Softmax], 0, epochs=3, batch_size=32)
        for backend in (NumpyBackend(), StrictBackend("device1"))
    ]
    np.testing.assert_allclose(results[1], results[0], **ALIKE)


# ---- the suite itself ------------------------------------------------------------------------------------------------


def test_a_new_operation_without_cases_fails_the_suite(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(OPERATIONS, "swish", replace(OPERATIONS["relu"], name="swish"))
    with pytest.raises(AssertionError, match=r"does not cover swish: write cases in nnx/testing/cases"):
        check_backend(NumpyBackend())


def test_what_is_no_backend_is_refused():
    with pytest.raises(AssertionError, match=r"'numpy' is no instance of nnx\.backends\.Backend"):
        check_backend("numpy")  # type: ignore[arg-type]


plain = NumpyBackend()


def never_writes_out(self: Any, x: Any, out: Any = None) -> Any:
    return plain.tanh(x)


def writes_out_and_returns_another(self: Any, x: Any, out: Any = None) -> Any:
    return plain.tanh(x, out=out).copy()


def creeps_to_float64(self: Any, x: Any, out: Any = None) -> Any:
    y = np.tanh(x.astype(np.float64))
    return write(out, y)


def returns_its_operand(self: Any, x: Any, out: Any = None) -> Any:
    return plain.tanh(x, out=x if out is None else out)


def takes_what_it_reads_to_be_contiguous(self: Any, x: Any, out: Any = None) -> Any:
    flat = np.lib.stride_tricks.as_strided(x, x.shape, (x.shape[1] * x.itemsize, x.itemsize))
    return plain.tanh(flat, out=out)


def writes_a_row_too_many(self: Any, x: Any, out: Any = None) -> Any:
    y = plain.tanh(x, out=out)
    if out is not None and isinstance(out.base, np.ndarray) and out.base.shape[0] > out.shape[0]:
        out.base[out.shape[0]] = 0
    return y


def is_imprecise(self: Any, x: Any, out: Any = None) -> Any:
    return write(out, np.tanh(x.astype(np.float16)).astype(x.dtype))


def overflows(self: Any, x: Any, out: Any = None) -> Any:
    e = np.exp(x)
    return write(out, e / e.sum(axis=1, keepdims=True))


def loses_nan(self: Any, x: Any, out: Any = None) -> Any:
    return write(out, np.fmax(x, 0))


def multiplies_by_a_mask(self: Any, y: Any, dy: Any, out: Any = None) -> Any:
    return write(out, (dy * (y > 0)).astype(dy.dtype))


def counts_zero_as_positive(self: Any, y: Any, dy: Any, out: Any = None) -> Any:
    return write(out, np.where(y >= 0, dy, 0).astype(dy.dtype))


def scratches_its_operand(self: Any, y: Any, dy: Any, out: Any = None) -> Any:
    dy *= 1 - y * y
    return write(out, dy.copy())


def forgets_the_mean(self: Any, p: Any, target: Any, out: Any = None) -> Any:
    return write(out, plain.cross_entropy_backward(p, target) * p.dtype.type(len(p)))


def takes_labels_alone(self: Any, p: Any, target: Any, out: Any = None) -> Any:
    target = target if target.ndim == 1 else target.argmax(axis=1)
    return plain.cross_entropy(p, target, out=out)


def adds_the_penalty_to_the_old_one(self: Any, w: Any, dw: Any, l1: float, l2: float, penalty: Any) -> None:
    before = penalty.copy()
    plain.regularize(w, dw, l1, l2, penalty)
    penalty += before


def takes_the_slope_at_zero_as_zero(self: Any, w: Any, dw: Any, l1: float, l2: float, penalty: Any) -> None:
    plain.regularize(w, dw, l1, l2, penalty)
    dw -= (l1 * (w == 0)).astype(dw.dtype)


def always_begins_at_row_0(self: Any, source: Any, order: Any, counters: Any, out: Any) -> Any:
    return plain.gather_rows(source, order, counters * 0, out)


def draws_its_own_words(self: Any, x: Any, rate: float, seed: int, layer: int, counters: Any, out: Any = None) -> Any:
    return plain.dropout(x, rate, seed, layer + 1, counters, out)


def keeps_from_the_next_word_on(
    self: Any, x: Any, rate: float, seed: int, layer: int, counters: Any, out: Any = None
) -> Any:
    return plain.dropout(x, rate + 2.0**-32, seed, layer, counters, out)


def cuts_the_seed_to_32_bits(
    self: Any, x: Any, rate: float, seed: int, layer: int, counters: Any, out: Any = None
) -> Any:
    return plain.dropout(x, rate, seed % 2**32, layer, counters, out)


def takes_the_last_of_equals(
    self: Any, losses: Any, outputs: Any, target: Any, metric: str | None, tolerance: float, stats: Any
) -> None:
    plain.tally(losses, outputs, target, metric, tolerance, stats)
    if metric == "categorical" and target.ndim == 1:
        stats[HITS] = (outputs.shape[1] - 1 - outputs[:, ::-1].argmax(axis=1) == target).sum()


def clears_what_it_does_not_know(
    self: Any, losses: Any, outputs: Any, target: Any, metric: str | None, tolerance: float, stats: Any
) -> None:
    stats[...] = 0
    plain.tally(losses, outputs, target, metric, tolerance, stats)


def runs_over_the_end_of_history(self: Any, stats: Any, penalties: Any, history: Any, counters: Any, rows: int) -> None:
    last = counters[DONE] >= len(history)
    kept = history.copy()
    plain.end_step(stats, penalties, history, counters, rows)
    if last:
        history[...] = kept


def moves_the_cursor_by_one(self: Any, stats: Any, penalties: Any, history: Any, counters: Any, rows: int) -> None:
    plain.end_step(stats, penalties, history, counters, 1)


def decays_a_step_early(self: Any, p: Any, g: Any, m: Any, hyper: Any, counters: Any) -> None:
    plain.sgd(p, g, m, hyper, counters + 1)


def puts_epsilon_under_the_root(self: Any, p: Any, g: Any, v: Any, hyper: Any, counters: Any) -> None:
    rate = hyper[0] / (1 + hyper[1] * counters[STEP])
    v += g * g
    p -= (rate * g / np.sqrt(v + hyper[4])).astype(p.dtype)


def corrects_a_step_late(self: Any, p: Any, g: Any, m: Any, v: Any, hyper: Any, counters: Any) -> None:
    later = counters.copy()
    later[STEP] += 1
    plain.adam(p, g, m, v, np.where(np.arange(6) == 1, 0, hyper), later)


def remembers_the_first_rate(self: Any, p: Any, g: Any, v: Any, hyper: Any, counters: Any) -> None:
    self.first = getattr(self, "first", None) if counters[STEP] else hyper.copy()
    plain.rmsprop(p, g, v, hyper if self.first is None else self.first, counters)


FAULTS: list[tuple[str, Callable[..., Any], str]] = [
    ("tanh", never_writes_out, "returns another array than `out`"),
    ("tanh", writes_out_and_returns_another, "returns another array than `out`"),
    ("tanh", creeps_to_float64, "no out: the result is float64, expected float32"),
    ("tanh", returns_its_operand, "without `out` the result must be a new array, but it is x"),
    ("tanh", takes_what_it_reads_to_be_contiguous, "(strided|transposed), .* tolerated 3.81e-06 .function."),
    ("tanh", writes_a_row_too_many, "out is written beyond its end"),
    ("tanh", is_imprecise, r"float32, .* relative error \S+ at \[\d+, \d+\], \S+ instead of \S+; tolerated"),
    ("softmax", overflows, r"\+-1e4, float32.* nan instead of"),
    ("relu", loses_nan, "0 instead of nan"),
    ("relu_backward", multiplies_by_a_mask, "what is not finite.* nan instead of 0"),
    ("relu_backward", counts_zero_as_positive, "instead of 0"),
    ("tanh_backward", scratches_its_operand, "changes dy, which it may only read"),
    ("cross_entropy_backward", forgets_the_mean, "7x1 plain"),
    ("cross_entropy", takes_labels_alone, "distributions"),
    ("regularize", adds_the_penalty_to_the_old_one, "penalty: relative error inf"),
    ("regularize", takes_the_slope_at_zero_as_zero, "dw: relative error"),
    ("gather_rows", always_begins_at_row_0, "relative error"),
    ("dropout", draws_its_own_words, "relative error"),
    ("dropout", keeps_from_the_next_word_on, "at the word of element 0, 0.*0 instead of"),
    ("dropout", cuts_the_seed_to_32_bits, "seed=(1099511627783|18446744073709551615)"),
    ("tally", takes_the_last_of_equals, "categorical, all the same"),
    ("tally", clears_what_it_does_not_know, "0 instead of 9"),
    ("end_step", runs_over_the_end_of_history, "history: relative error"),
    ("end_step", moves_the_cursor_by_one, "counters: .* 301 instead of 317"),
    ("sgd", decays_a_step_early, "hyper=.0.05, 0.01, 0.9.*, 200 steps"),
    ("adagrad", puts_epsilon_under_the_root, "200 steps, float32: p: relative error"),
    ("rmsprop", remembers_the_first_rate, "200 steps, float32: p: relative error"),
    ("adam", corrects_a_step_late, "200 steps, float32: p: relative error"),
]


@pytest.mark.parametrize(("operation", "fault", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_the_suite_finds_a_wrong_operation(operation: str, fault: Callable[..., Any], message: str):
    faulty = type("Faulty", (NumpyBackend,), {"name": "faulty", operation: fault})()
    with pytest.raises(AssertionError) as raised, np.errstate(all="ignore"):
        conformance.check_operation(faulty, operation, "float32", Report("faulty"))
    text = str(raised.value)
    assert text.startswith(f"faulty: {operation}, ")
    assert "float32" in text
    assert re.search(message, text), text


class Frozen(Program):
    """A replay that holds the learning rate and the order of rows as they were when it was compiled."""

    def __init__(self, backend: Any, calls: Any) -> None:
        super().__init__(backend, [replace(call, operands=self.frozen(call.operands)) for call in calls])

    def frozen(self, operands: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class FrozenRate(Frozen):
    def frozen(self, operands: dict[str, Any]) -> dict[str, Any]:
        return operands | ({"hyper": operands["hyper"].copy()} if "hyper" in operands else {})


class FrozenOrder(Frozen):
    def frozen(self, operands: dict[str, Any]) -> dict[str, Any]:
        return operands | ({"order": operands["order"].copy()} if "order" in operands else {})


class OneStepTooFew(Program):
    def run(self, steps: int) -> None:
        super().run(max(1, steps - 1))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (FrozenRate, "history: relative error"),
        (FrozenOrder, "history: relative error"),
        (OneStepTooFew, "counters are"),
    ],
)
def test_the_suite_finds_a_wrong_replay(program: type[Program], message: str):
    compile_ = {"compile": lambda self, recorder: program(self, recorder.calls)}
    with pytest.raises(AssertionError, match=f"faulty: program, adam, classification, float32: .*{message}"):
        conformance.check_program(type("Faulty", (NumpyBackend,), {"name": "faulty", **compile_})(), "adam", "float32")


def lets_anything_in(self: Any, x: Any, dtype: Any = None) -> Any:
    return np.asarray(x, dtype)


def copies(self: Any, a: Any) -> Any:
    return np.array(a)


@pytest.mark.parametrize(
    ("check", "attributes", "message"),
    [
        (check_arrays, {"asarray": lets_anything_in}, "comes back as"),
        (check_arrays, {"from_numpy": copies}, "and again: it is copied"),
        (check_arrays, {"owns": lambda self, a: isinstance(a, np.ndarray | float)}, r"owns\(1\.0\)"),
        (check_arrays, {"address": lambda self, a: id(a)}, "address"),
        (check_arrays, {"address": lambda self, a: 1}, "three different places"),
        (check_arrays, {"zeros": lambda self, shape, dtype="float32": np.ones(shape, dtype)}, r"zeros\(5, 'float32'\)"),
        (check_arrays, {"probe": lambda self: 1 / 0}, "division"),
        (check_info, {"implementation": lambda self, operation: "xp"}, r"says that \w+ runs 'xp', but its default"),
        (check_info, {"implementation": lambda self, operation: f"fast:{operation}"}, "default body was not replaced"),
        (check_info, {"versions": lambda self: {}}, "versions is empty"),
        (check_info, {"threads": lambda self: 0}, "threads is 0"),
        (check_recorder, {"record": lambda self, known: self}, "does not notice"),
    ],
)  # fmt: skip
def test_the_suite_finds_wrong_arrays_and_facts(check: Callable[..., None], attributes: dict[str, Any], message: str):
    faulty = type("Faulty", (NumpyBackend,), {"name": "faulty", **attributes})()
    with pytest.raises((AssertionError, ZeroDivisionError), match=message):
        check(faulty)


def test_info_tells_inherited_bodies_from_its_own():
    """A backend that takes over NumPy's class, and one that replaces a single operation on the instance."""
    ops = NumpyBackend().info().ops
    for name in OPERATIONS:
        default = getattr(NumpyBackend, name) is getattr(Operations, name)
        assert ops[name] == ("xp" if default else f"numpy:{name}")
    assert ops["dropout"] == "xp"
    assert ops["softmax"] == "numpy:softmax"


def test_stats_and_counters_are_where_the_operations_say():
    assert (STEP, CURSOR, DONE, LOSS, HITS) == (0, 1, 2, 0, 1)
