"""Supplies of rows for training, chunk by chunk and ready for steps: the interface, and the one for made batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from nnx.backends.memory import readable
from nnx.data.iterated import Iterated
from nnx.distributed.shares import Shares
from nnx.errors import InputError, InputTypeError
from nnx.training.batches import own_places
from nnx.training.converting import Converter

HALF = 4 << 20  # bytes of a chunk of made batches, unless one step has more

END: Any = object()  # stands for the end of an epoch
LONG = 0.1  # seconds after which a chunk ends early, with the step that was begun


class Filled(NamedTuple):
    """Facts about a chunk that was written into arrays.

    Attributes:
        rows: how many there are, of all processes. last: whether the chunk ends an epoch.
        order: the indices of this process's rows, in the order in which steps take them; None: all rows, in order.
    """

    rows: int
    last: bool
    order: np.ndarray | None = None


class Supply(Protocol):
    """Gives rows, epoch by epoch, in chunks; each chunk but an epoch's last holds whole batches.

    If processes share batches, each has its own supply, which gives it the inputs and targets of its own rows.

    Attributes:
        like: empty arrays with the types and shapes of inputs, targets and, if samples are weighted, weights.
        batch: rows of a step. chunk: rows of a chunk. room: the most rows of a chunk that are written to arrays.
        rows: of an epoch; None if that is known only at its end.
        expected: the expected number of steps in an epoch, for showing progress; inf: it is not known.
        reason: how rows come, for `History.streamed`. facts: what must be the same on all processes, by name.
    """

    like: list[np.ndarray]
    batch: int
    chunk: int
    room: int
    rows: int | None
    expected: float
    reason: str
    facts: dict[str, Any]

    def fill(self, epoch: int, chunk: int, out: Sequence[np.ndarray], stopped: Callable[[], bool]) -> Filled:
        """Write a chunk of an epoch into the arrays `out`. Chunks are asked for in order, or again from the first one.

        Inputs and targets are those of this process's rows, or of all rows; weights are those of all rows, in order,
        since a row's factor depends on its whole batch. If `stopped()` becomes true, Stopped is raised.
        """

    def close(self) -> None:
        """Close files, and generators of batches; not called while `fill` runs."""


class Stopped(Exception):
    """The chunk is not wanted any more."""


def sizes_of(rows: int, batch: int) -> np.ndarray:
    """Return the number of rows of each step, for `rows` rows in batches, float64."""
    full, tail = divmod(rows, batch)
    return np.array([*full * [batch], *([tail] if tail else [])], np.float64)


def own_of(shares: Shares | None, rows: int, batch: int) -> np.ndarray:
    """Return the indices of this process's rows in a chunk, in order."""
    if shares is None or not rows:
        return np.arange(rows)
    return own_places(shares, sizes_of(rows, batch))


class AsTheyCome:
    """Batches that the user's code makes, in their order, divided into steps of another size; see `Supply`.

    Each of several processes makes all batches, and takes its own rows of them.
    """

    rows: int | None = None

    def __init__(
        self, batches: Iterated, convert: Converter, batch: int | None, epoch: int, who: str,
        shares: Shares | None = None,
    ) -> None:  # fmt: skip
        self._batches, self._convert, self._who = batches, convert, who
        self._number, self._length = 0, 0
        self._left: list[list[np.ndarray]] = []
        self._iterator: Iterator[Any] | None = None
        self.like: list[np.ndarray] = []
        first = self._pull(epoch, anew=True)
        if first is None:
            raise InputError(f"{who}: there are no batches; expected one (x, y) at least")
        self._left, self._fresh = [first], True
        self.like = [a[:0] for a in first]
        self.first = first
        self.batch, self.expected = batch or len(first[0]), batches.expected * len(first[0])
        self.expected = np.ceil(self.expected / self.batch)
        size = sum(a[:1].nbytes for a in first)
        self.chunk = max(1, HALF // (size * self.batch)) * self.batch
        self.reason = f"batches come as they are made, {self.chunk:,} rows ({readable(self.chunk * size)}) at a time"
        self.facts = {"the batch size": self.batch, "the first batch": first}
        self.room = self.chunk
        if shares is not None and shares.comm.size > 1:
            self.reason += f"; each of {shares.comm.size} processes makes all of them"

    def fill(self, epoch: int, chunk: int, out: Sequence[np.ndarray], stopped: Callable[[], bool]) -> Filled:
        """See `Supply`."""
        anew = chunk == 0 and not self._fresh
        self._fresh = False
        if anew:
            self._left = []
        done, last, goal, end = 0, False, self.chunk, time.monotonic() + LONG
        while done < goal and not last:
            if stopped():
                raise Stopped
            some = self._left.pop() if self._left else self._pull(epoch, anew)
            anew, last = False, some is None
            if some is not None:
                count = min(goal - done, len(some[0]))
                for array, part in zip(out, some, strict=True):
                    array[done : done + count] = part[:count]
                if count < len(some[0]):
                    self._left = [[part[count:] for part in some]]
                done += count
                if time.monotonic() > end:
                    goal = -(-done // self.batch) * self.batch
        if not done and chunk == 0:
            raise InputError(
                f"{self._who}: there are no batches in epoch {epoch + 1}; the function must make them anew each time"
            )
        return Filled(done, last)

    def close(self) -> None:
        """See `Supply`."""
        iterator: Any = self._iterator
        self._iterator = None
        if hasattr(iterator, "close"):
            iterator.close()

    def _pull(self, epoch: int, anew: bool) -> list[np.ndarray] | None:
        """Return the next batch, converted; None at the end. `anew`: begin an epoch."""
        if anew:
            self.close()
            self._iterator, self._number = self._batches.begin(), 0
        assert self._iterator is not None
        while True:
            batch = next(self._iterator, END)
            if batch is END:
                return None
            self._number += 1
            where = _Place(self._number, epoch)
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise InputTypeError(
                    f"{self._who}: {where(None)} is a {type(batch).__name__}"
                    f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}; expected a pair (x, y), or "
                    "(x, y, sample_weight)"
                )
            x, y, weights = (*batch, None)[:3]
            if not self._length:
                self._length = len(batch)
                self._convert.weighted = self._convert.weighted or len(batch) == 3
            if len(batch) != self._length:
                raise InputError(
                    f"{self._who}: {where(None)} has {len(batch)} parts, the first had {self._length}; expected "
                    "weights with all or with none"
                )
            if _is_empty(x) and _is_empty(y):
                continue  # a filter may have left no row of a batch
            ready = self._convert.all(x, y, weights, where)
            for part, known, name in zip(ready, self.like, ("x", "y", "weights"), strict=False):
                if part.shape[1:] != known.shape[1:] or part.dtype != known.dtype:
                    raise InputError(
                        f"{self._who}: {where(None)}: {name} has shape {part.shape} and holds {part.dtype}, those "
                        f"before had rows of shape {known.shape[1:]} and {known.dtype}; expected all batches alike"
                    )
            return ready


def of_batch(batches: Iterated, convert: Converter, who: str, inputs_only: bool) -> Iterator[list[np.ndarray]]:
    """Yield batches as they were made, converted: (x, y) or (x, y, weights), or only x if `inputs_only`."""
    for number, batch in enumerate(batches.begin(), 1):
        where = _Place(number)
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if len(parts) > 3 or (len(parts) < 2 and not inputs_only):
            raise InputTypeError(f"{who}: {where(None)} has {len(parts)} parts; expected (x, y), or (x, y, weights)")
        if inputs_only:
            yield [convert.inputs(parts[0], where)]
        else:
            convert.weighted = convert.weighted or len(parts) == 3
            yield convert.all(parts[0], parts[1], parts[2] if len(parts) == 3 else None, where)


def _is_empty(a: Any) -> bool:
    """Return whether an array, a tensor or a list has no rows."""
    shape = getattr(a, "shape", None)
    return (len(shape) > 0 and shape[0] == 0) if isinstance(shape, tuple) else isinstance(a, list) and not a


class _Place:
    """Names the place of a row in a batch, for messages."""

    def __init__(self, number: int, epoch: int | None = None) -> None:
        self._name = f"batch {number:,}{'' if epoch is None else f' of epoch {epoch + 1}'}"

    def __call__(self, row: int | None, part: int = 0) -> str:
        return self._name if row is None else f"{self._name}, row {row:,} of its {('x', 'y', 'weights')[part]}"
