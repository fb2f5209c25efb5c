"""Test calls: call an operation with operands in every memory layout that is allowed, and compare the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.errors import NotReplayable
from nnx.backends.operation_table import OPERATIONS
from nnx.kernels.elementwise import NAMES
from nnx.testing.cases import Case
from nnx.testing.compare import CLASS, Report, compare, unchanged

Array = Any
READ_ANY_WAY = ("x", "w", "dy", "y", "p", "target", "logits", "prediction", "outputs", "source")
IN_PLACE = (*NAMES, "softmax")  # `out` may be `x` itself
GUARD = 3  # rows behind what is written, which must stay as they are


@dataclass(frozen=True)
class Way:
    """How an operation is called: whether its inputs are contiguous, strided or transposed, and which `out` it gets."""

    layout: str = "contiguous"
    with_out: bool = True
    in_place: bool = False
    replayed: bool = False

    def __str__(self) -> str:
        if self.replayed:
            return "replayed"
        return f"{self.layout}, {'out=x' if self.in_place else 'out given' if self.with_out else 'no out'}"


OTHER_WAYS = [Way(layout, with_out) for layout in ("contiguous", "strided", "transposed") for with_out in (True, False)]


def ways(case: Case, random: np.random.Generator) -> Iterator[Way]:
    """Choose how to call an operation: plainly, and in one other way. Its many cases cover all ways in turn."""
    free = case.out is not None and case.operation != "gather_rows"  # whether `out` may be left out
    others = [*(way for way in OTHER_WAYS[1:] if free or way.with_out), Way(replayed=True)]
    yield OTHER_WAYS[0]
    yield others[random.integers(len(others))]
    if case.operation in IN_PLACE:
        yield Way(in_place=True)


class Guarded:
    """An array that an operation writes: the first rows of a larger one, whose others, the guard, must not change."""

    def __init__(self, backend: Backend, values: np.ndarray) -> None:
        self.backend, self.rows = backend, len(values)
        self.values = np.concatenate([values, np.full((GUARD, *values.shape[1:]), 77, values.dtype)])
        self.whole = backend.asarray(self.values.copy(), values.dtype.name)
        self.array = self.whole[: self.rows, ...]

    def reset(self) -> None:
        """Restore the original contents."""
        self.whole[...] = self.backend.asarray(self.values.copy(), self.values.dtype.name)

    def read(self, what: str) -> np.ndarray:
        """Return what was written."""
        whole = self.backend.to_numpy(self.whole)
        assert (whole[self.rows :] == 77).all(), f"{what} is written beyond its end"
        return np.array(whole[: self.rows])


def laid_out(backend: Backend, values: np.ndarray, layout: str) -> Array:
    """Return values as an array of the backend, in the given memory layout."""
    dtype = values.dtype.name
    if layout == "transposed" and values.ndim == 2:
        return backend.xp.matrix_transpose(backend.asarray(values.T.copy(), dtype))
    if layout == "strided":
        between = np.full((*values.shape[:-1], 2 * values.shape[-1]), 99, values.dtype)
        between[..., ::2] = values
        return backend.asarray(between, dtype)[..., ::2]
    return backend.asarray(values.copy(), dtype)


def check_case(backend: Backend, case: Case, dtype: str, random: np.random.Generator, report: Report) -> None:
    """Call an operation in some ways; raise AssertionError if a result is wrong."""
    for way in ways(case, random):
        _check_call(backend, case, dtype, way, report)


def _check_call(backend: Backend, case: Case, dtype: str, way: Way, report: Report) -> None:
    what = f"{backend.name}: {case.operation}, {case.name}, {dtype}, {way}"
    arrays = {name: value for name, value in case.operands.items() if isinstance(value, np.ndarray)}
    written = {name for name in arrays if name in OPERATIONS[case.operation].writes or (way.in_place and name == "x")}
    guarded = {name: Guarded(backend, arrays[name]) for name in written}
    read = {
        name: laid_out(backend, values, way.layout if name in READ_ANY_WAY else "contiguous")
        for name, values in arrays.items()
        if name not in written
    }
    operands = case.operands | read | {name: one.array for name, one in guarded.items()}
    if case.out is not None and way.with_out:
        guarded["out"] = (
            guarded["x"] if way.in_place else Guarded(backend, np.full(case.out, 55, next(iter(arrays.values())).dtype))
        )
    result = _call(backend, case, operands, guarded, way)
    if result is NotReplayable:
        return
    _check_result(backend, case, result, operands, guarded, what)
    got = {name: one.read(f"{what}: {name}") for name, one in guarded.items()}
    if case.out is not None:
        got["out"] = backend.to_numpy(result)
    errors = [
        compare(got[n], wanted, CLASS[case.operation], dtype, f"{what}: {n}") for n, wanted in case.wanted.items()
    ]
    for name, array in read.items():
        assert unchanged(backend.to_numpy(array), arrays[name]), f"{what}: changes {name}, which it may only read"
    report.add(case.operation, max(errors))
    report.replayed += way.replayed


def _call(backend: Backend, case: Case, operands: dict[str, Any], guarded: dict[str, Guarded], way: Way) -> Any:
    extra = {"out": guarded["out"].array} if "out" in guarded else {}
    if not way.replayed:
        return getattr(backend, case.operation)(*operands.values(), **extra)
    recorder = backend.record([a for a in operands.values() if backend.owns(a)])
    result = getattr(recorder, case.operation)(*operands.values(), **extra)
    try:
        program = backend.compile(recorder)
    except NotReplayable:  # a lone operation need not be; whole training steps must (training/step.py)
        return NotReplayable
    for one in guarded.values():
        one.reset()
    program.run(1)
    return result


def _check_result(
    backend: Backend, case: Case, result: Any, operands: dict[str, Any], guarded: dict[str, Guarded], what: str
) -> None:
    if case.out is None:
        assert result is None, f"{what}: returns {result!r}, expected None"
        return
    assert backend.owns(result), f"{what}: returns {type(result)}, no array of the backend"
    first = next(a for a in operands.values() if backend.owns(a))
    kind, wanted = backend.dtype_name(result.dtype), backend.dtype_name(first.dtype)
    assert kind == wanted, f"{what}: the result is {kind}, expected {wanted}, that of the operands"
    if "out" in guarded:
        same = backend.address(result) == backend.address(guarded["out"].array)
        assert same, f"{what}: returns another array than `out`"
    else:
        places = {name: backend.address(a) for name, a in operands.items() if backend.owns(a)}
        shared = [name for name, place in places.items() if place == backend.address(result)]
        assert not shared, f"{what}: without `out` the result must be a new array, but it is {shared[0]}"
