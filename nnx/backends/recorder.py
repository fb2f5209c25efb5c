"""Recorder and program: a training step is recorded once, and replayed at full speed.

`Recorder` takes the place of a backend while the model runs one step. It passes every operation on to the backend, and
notes it with its operands. `Program` replays the noted operations. Everything that differs between steps is in arrays
that the operations read, so the replayed step needs no Python numbers and no layers.
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
AS_WRITTEN = "layer by layer, as written"  # how steps and predictions without a program run


class Arrays(Protocol):
    """What a recorder needs from its backend besides the operations: the addresses and contents of arrays."""

    def address(self, a: Array) -> int:
        """Return the address in memory at which an array begins."""

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
    """Return a step's operations up to the gradients, and those after them: the update and the end."""
    told = max(number for number, call in enumerate(calls) if call.name in ("tally", "weighted_tally"))
    return calls[: told + 1], calls[told + 1 :]


@dataclass(frozen=True)
class Piece:
    """Operations of a step between which the host has nothing to do.

    Attributes:
        pools: the calls of `pool` that the host does after them.
        stops: what else the host does then, as the numbers of the calls that it comes after.
    """

    calls: list[Call] = field(default_factory=list)
    pools: list[Call] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)


def in_pieces(calls: list[Call], stops: Iterable[int] = ()) -> list[Piece]:
    """Return a step's operations except updates, divided into pieces where the host has something to do.

    Args:
        calls: those of a step. stops: numbers of calls after which the host has something to do, besides the calls of
            `pool`, which it does itself.
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
    """Tell whether the backend that layers compute with is a `Recorder`."""
    return hasattr(backend, "calls")


def lent(a: Array, backend: Any) -> Array:
    """Return a copy of an array for user-defined code, which may edit it although others need the original.

    While a step is recorded, a copy would not be recognised, so it is a read-only view; see `refuse_editing`.
    """
    return unwritable(a) if recording(backend) else backend.xp.asarray(a, copy=True)


def refuse_editing(error: ValueError, part: Any, what: str) -> None:
    """Refuse to record a step if an error says that a user-defined part has written into an array it was `lent`."""
    if written_into(error):
        raise NotReplayable(f"{part} edits {what} in place") from error


class Recorder:
    """A backend that records operations. Everything else is passed on to the real backend.

    It also checks the flow of data: an operation may only read buffers that are known from the start, or that earlier
    recorded operations have written and nothing has changed since. A layer that itself computes with `xp`, or edits a
    buffer in place, violates this and is detected here.

    Args:
        known: the buffers that have contents from the start.
        by: another backend with the same arrays, which carries out the operations; None means `backend` itself.

    Attributes:
        watching: whether to look for buffers that something else edits. Copying and comparing them takes longer than
            the operations of a small network, so a caller may turn it off if all code is known to be safe.
        calls: the recorded calls. places: addresses of arrays by their ids, since NumPy takes a microsecond for one.
        loud: whether operations run without ignoring NumPy's floating-point errors, which the caller then has done.
    """

    watching = True
    loud = False

    def __init__(self, backend: Arrays, known: Iterable[Array], by: Arrays | None = None) -> None:
        self.backend, self.by, self._address_of = backend, by or backend, backend.address
        self.calls: list[Call] = []
        self._kept: list[Array] = []  # keeps each buffer alive, so that no other can get its address
        self.places: dict[int, int] = {}
        self._known: dict[int, int] = {}  # how many numbers are known, from each address on
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
        self.__dict__[name] = found  # getting here takes as long as a small operation
        return found

    def _recorded(self, spec: OperationSpec, method: Callable[..., Any]) -> Callable[..., Any]:
        recorder = ref(self)  # weak: a reference cycle would keep all buffers until Python's garbage collection
        name, reads, writes, bind = spec.name, spec.reads, spec.writes, spec.bind

        def call(*args: Any, **kwargs: Any) -> Any:
            notes = recorder()
            assert notes is not None
            operands, known, watching = bind(args, kwargs), notes.places, notes.watching
            for operand in reads:  # arrays read or written before are known: they don't grow
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
        """Return the addresses within an array at which something was written."""
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
    """A program without its data and the memory that it works in, so that it can be used on other data."""

    def on(self, arrays: Sequence[Array], limit: Any) -> Program:
        """Return the program for other data of the same form (see `Backend.form`); `limit` is the number of threads."""


class Program:
    """A recorded step, replayed by calling each operation with its recorded operands.

    Every backend can use it; those with something faster return their own from `compile`.

    Attributes:
        native: whether no Python runs between the operations.
        reason: why it is not native although the backend can do that, or None.
        description: how it runs, in words. kernels: the kernels of those operations, by name, that don't run by the
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
        """Return a template that makes this program for other data, or None if it must be recorded again.

        Args:
            arrays: the data that it was recorded with.
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
    """A recorded step in which every result is changed by about one rounding, to show the effects of rounding.

    Gathered samples are not changed: a copy rounds nothing, and a changed code would be invalid (see `Embedding`).

    Args:
        recorder: the recorder of the step. unit: the relative size of the changes.
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
        """Change each number by one rounding; counts, and operands that are None, are left alone."""
        if array is None or np.dtype(self._backend.dtype_name(array.dtype)).kind != "f":
            return
        signs = self._random.choice([-self._unit, self._unit], tuple(array.shape))
        array[...] = array * self._backend.asarray(1 + signs, array.dtype)
