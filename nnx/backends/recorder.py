"""Recorder and program: a training step is recorded once, and replayed at full speed.

`Recorder` stands in for a backend while the model runs one step: it passes every operation on, and notes it with its
operands. `Program` replays the notes. Everything that differs between steps lives in arrays that the operations read,
so the replayed step needs no Python numbers and no layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from weakref import ref

import numpy as np

from nnx.backends.errors import NotReplayable
from nnx.backends.inputs import unwritable, written_into
from nnx.backends.operation_table import OPERATIONS, QUIET, OperationSpec, loud

Array = Any
# The operations that move parameters, or keep their gradients instead.
UPDATES = "sgd", "adagrad", "rmsprop", "adam", "nadam", "amsgrad", "lion", "accumulate"
AS_WRITTEN = "layer by layer, as written"  # how steps and predictions run that no program stands for


class Arrays(Protocol):
    """What a recorder asks of its backend beside the operations: where arrays are, and what is in them."""

    def address(self, a: Array) -> int:
        """Return where in memory an array begins."""

    def dtype_name(self, dtype: Any) -> str:
        """Return a type's name."""

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` as an array of this backend."""

    def to_numpy(self, a: Array) -> np.ndarray:
        """Return an array of this backend as a NumPy array."""


@dataclass(frozen=True)
class Call:
    """One recorded operation: its name and its operands by name, defaults included."""

    name: str
    operands: dict[str, Any]


def halves(calls: list[Call]) -> tuple[list[Call], list[Call]]:
    """Return a step's operations as far as the gradients, and those that come then: update and end."""
    told = max(number for number, call in enumerate(calls) if call.name in ("tally", "weighted_tally"))
    return calls[: told + 1], calls[told + 1 :]


@dataclass(frozen=True)
class Piece:
    """Operations of a step between which the host need not come in.

    Attributes:
        pools: the calls of `pool` that the host does behind them. stops: for what else it comes in then, by the numbers
            of the calls behind which it is.
    """

    calls: list[Call] = field(default_factory=list)
    pools: list[Call] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)


def in_pieces(calls: list[Call], stops: Iterable[int] = ()) -> list[Piece]:
    """Return a step's operations but for what is done with the gradients, divided where the host comes in.

    Args:
        calls: a step's. stops: numbers of calls behind which it does, beside those of `pool`, which it does itself.
    """
    first, rest = halves(calls)
    pieces, stopping = [Piece()], set(stops)
    for number, call in enumerate([*first, *(call for call in rest if call.name == "end_step")]):
        if call.name == "pool":
            pieces[-1].pools.append(call)
        else:
            if pieces[-1].pools or pieces[-1].stops:
                pieces.append(Piece())
            pieces[-1].calls.append(call)
        if number in stopping:
            pieces[-1].stops.append(number)
    return pieces


def recording(backend: Any) -> bool:
    """Tell whether what layers compute with is a `Recorder`."""
    return hasattr(backend, "calls")


def lent(a: Array, backend: Any) -> Array:
    """Return an array for code of the user's own, which may edit it, though others need it as it is: a copy.

    While a step is recorded, where nobody would know a copy again, a view that is read-only; see `refuse_editing`.
    """
    return unwritable(a) if recording(backend) else backend.xp.asarray(a, copy=True)


def refuse_editing(error: ValueError, part: Any, what: str) -> None:
    """Refuse to record a step in which a part of the user's own writes into what it was `lent`, as an error says."""
    if written_into(error):
        raise NotReplayable(f"{part} edits {what} in place") from error


class Recorder:
    """A backend that takes notes. Whatever it is not asked to record it passes on to the real one.

    It checks the flow of data as it goes: what an operation reads must be a buffer known from the start, or the work of
    operations recorded before, unchanged since. A layer that computes with `xp` on its own, or edits a buffer in place,
    breaks that chain and is found here.

    Args:
        known: the buffers that hold their contents from the start.
        by: another backend with the same arrays, which carries the operations out; None means `backend` itself.

    Attributes:
        watching: whether to look for buffers that something else edits. To copy and compare them takes longer than the
            operations of a small network, so who knows that there is nothing else may leave it out.
        calls: what was recorded. places: addresses of arrays by their ids, since NumPy takes a microsecond for one.
        loud: whether operations are run without ignoring NumPy's floating-point errors: who has seen to that once.
    """

    watching = True
    loud = False

    def __init__(self, backend: Arrays, known: Iterable[Array], by: Arrays | None = None) -> None:
        self.backend, self.by, self._address_of = backend, by or backend, backend.address
        self.calls: list[Call] = []
        self._kept: list[Array] = []  # keeps each buffer alive, so that no other can take its address
        self.places: dict[int, int] = {}
        self._known: dict[int, int] = {}  # how many numbers are accounted for, from each address on
        self._written: dict[int, tuple[str, Array, bytes]] = {}  # the last operation to write there, and what
        for array in known:
            self._account_for(array)

    def __getattr__(self, name: str) -> Any:
        spec = OPERATIONS.get(name)
        if spec is None:
            found = getattr(self.backend, name)
        else:
            method = getattr(self.by, name)
            found = self._recorded(spec, loud(method) if self.loud else method)
        self.__dict__[name] = found  # to come here takes as long as a small operation
        return found

    def _recorded(self, spec: OperationSpec, method: Callable[..., Any]) -> Callable[..., Any]:
        recorder = ref(self)  # which keeps this: a circle would keep all buffers until Python looks for circles
        name, reads, writes, bind = spec.name, spec.reads, spec.writes, spec.bind

        def call(*args: Any, **kwargs: Any) -> Any:
            notes = recorder()
            assert notes is not None
            operands, known, watching = bind(args, kwargs), notes.places, notes.watching
            for operand in reads:  # what was read or written before stays known: no array grows
                if watching or id(operands[operand]) not in known:
                    notes._check_read(name, operand, operands[operand])
            result = method(*args, **kwargs)
            if "out" in operands and operands["out"] is None:
                operands["out"] = result  # a fresh array: from now on it is this call's buffer
            for operand in writes:
                if watching or id(operands[operand]) not in known:
                    notes._remember(name, operands[operand])
            notes.calls.append(Call(name, operands))
            return result

        return call

    def _check_read(self, op: str, operand: str, array: Array) -> None:
        begin, count = self._address(array), array.size
        if self._known.get(begin, 0) < count:
            del self.places[id(array)]
            raise NotReplayable(
                f"{op} reads {operand} {tuple(array.shape)}, which no recorded operation wrote: a layer, or "
                "the loss, computes it by other means than the backend's operations"
            )
        if not self.watching:
            return
        for writer, written, then in [self._written[place] for place in self._within(begin, array)]:
            if self.backend.to_numpy(written).tobytes() != then:
                raise NotReplayable(
                    f"{op} reads {operand} {tuple(array.shape)}, where something has changed what {writer} wrote: "
                    "a layer edits a buffer in place"
                )

    def _remember(self, op: str, array: Array | None) -> None:
        if array is not None:
            place = self._account_for(array)
            if self.watching:
                for inside in self._within(place, array):  # which this operation has written anew, if it held any
                    del self._written[inside]
                self._written[place] = op, array, self.backend.to_numpy(array).tobytes()

    def _within(self, begin: int, array: Array) -> list[int]:
        """Return where in an array something was written."""
        end = begin + math.prod(array.shape) * np.dtype(self.backend.dtype_name(array.dtype)).itemsize
        return [place for place in self._written if begin <= place < end]

    def _address(self, array: Array) -> int:
        place = self.places.get(id(array))
        if place is None:
            self._kept.append(array)
            place = self.places[id(array)] = self._address_of(array)
        return place

    def _account_for(self, array: Array) -> int:
        known = self.places.get(id(array))
        if known is not None:
            return known
        address = self._address(array)
        self._known[address] = max(self._known.get(address, 0), array.size)
        return address


class Template(Protocol):
    """What is left of a program without its data and the memory that it works in: to use it on other data."""

    def on(self, arrays: Sequence[Array], limit: Any) -> Program:
        """Return the program on other data of the same form: see `Backend.form`; `limit` says how many threads."""


class Program:
    """A recorded step, replayed by calling each operation with the operands it had.

    This is what every backend has; those that can do better return their own from `compile`.

    Attributes:
        native: whether no Python runs between the operations.
        reason: why that is not so on a backend that can, or None.
        description: how it runs, in words. kernels: which kernel does an operation, by its name, where that is not the
            backend's own (`Backend.implementation`).
    """

    native = False
    reason: str | None = None
    description = "one operation after the other"
    kernels: Mapping[str, str] = MappingProxyType({})

    def __init__(self, backend: object, calls: list[Call]) -> None:
        self.calls = calls
        self._bound = [(loud(getattr(backend, call.name)), tuple(call.operands.values())) for call in calls]

    def template(self, arrays: Sequence[Array]) -> Template | None:
        """Return what makes this program anew on other data, or None where it must be recorded again.

        Args:
            arrays: the data that it was recorded on.
        """
        return None

    @QUIET
    def run(self, steps: int) -> None:
        """Replay `steps` steps."""
        bound = self._bound
        for _ in range(steps):
            for method, operands in bound:
                method(*operands)


class Rounded(Program):
    """A recorded step whose every result is off by about a rounding, up or down: it shows what rounding can do.

    Samples that are gathered are not: a copy rounds nothing, and a code that is off is none (see `Embedding`).

    Args:
        recorder: what noted the step. unit: how far off, relative.
    """

    def __init__(self, recorder: Recorder, unit: float) -> None:
        super().__init__(recorder.by, recorder.calls)
        self._backend, self._unit, self._random = recorder.by, unit, np.random.default_rng(0)
        self._written = [
            [call.operands[name] for name in OPERATIONS[call.name].writes if call.name != "gather_rows"]
            for call in recorder.calls
        ]

    def run(self, steps: int) -> None:
        """Run `steps` steps."""
        for _ in range(steps):
            for (method, operands), written in zip(self._bound, self._written, strict=True):
                method(*operands)
                for array in written:
                    self.nudge(array)

    def nudge(self, array: Array | None) -> None:
        """Move each number by a rounding; counts and what is not there stay."""
        if array is None or np.dtype(self._backend.dtype_name(array.dtype)).kind != "f":
            return
        signs = self._random.choice([-self._unit, self._unit], tuple(array.shape))
        array[...] = array * self._backend.asarray(1 + signs, array.dtype)
