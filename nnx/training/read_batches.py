"""Mini-batches of rows that are read from disk, or made by the user's code, while steps run on the rows before.

As in `StreamedBatches`, steps take their rows from one half of an array while the other half is filled. Here a thread
fills it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nnx.backends.memory import physical, readable
from nnx.data.ahead import LONG, Reading
from nnx.errors import InputError
from nnx.kernels.step_state import CURSOR
from nnx.training.batches import Batches, feed_of
from nnx.training.factors import Factors
from nnx.training.parts import divided
from nnx.training.step import Feed
from nnx.training.supply import Supply, own_of, sizes_of
from nnx.training.trainer import Trainer

LOOK = 0.05  # seconds between two checks for Ctrl-C while waiting for rows
NOTHING_COUNTS = "fit: all samples of an epoch have the weight 0; give one of them more"
PATIENCE = 5.0  # seconds for which the end of a fit waits for user code that is making a batch


@dataclass(frozen=True)
class Chunk:
    """Facts about a chunk of rows that was read.

    Attributes:
        rows: how many there are, of all processes. sent: how many go to the device. last: whether it ends the epoch.
        sizes: the rows of each step. total: the weight of its samples. shares, scales: for weighted samples, see
            `Factors`.
    """

    rows: int
    sent: int
    last: bool
    sizes: np.ndarray
    total: float
    shares: np.ndarray
    scales: np.ndarray


NOTHING = Chunk(0, 0, False, np.empty(0), 0.0, np.empty(0), np.empty(0))


class ReadBatches(Batches):
    """The batches of rows that are read while training; see `Batches` and the module.

    Args:
        step: the trainer. supply: where the rows come from. every: how many batches make one update.
    """

    epochs = 1  # in a block

    def __init__(self, step: Trainer, supply: Supply, every: int = 1) -> None:
        self._backend, self._counters, self._supply = step.backend, step.counters, supply
        self._every, self._shares = every, step.shares
        like, self._weighted = list(supply.like), len(supply.like) > 2
        if self._weighted:  # steps take factors in the place of weights
            like[2] = np.empty((0, 1), like[0].dtype)
        _check_room(supply, like)
        self._halves = step.backend.halves([*like, np.empty(0, np.int64)], supply.room)
        *self._data, self._order = self._halves.arrays
        self.reason = supply.reason
        self._half = 1  # the half that steps read
        self._here: tuple[int, int] | None = None  # epoch and index of the chunk in that half
        self._chunk = NOTHING  # the facts about that chunk
        self._next: tuple[int, int] | None = None  # epoch and index of the chunk for the other half
        self._reading: Reading[Chunk] | None = None  # the thread that fills the other half
        self._sent = False  # whether that chunk is on its way to the device
        self._chunks, self._whole = list[Chunk](), False  # the epoch's chunks so far, and whether these are all
        self._by_size: dict[int, Feed] = {}
        self.feeds = []
        known = supply.rows
        first = supply.batch if known is None else min(known, supply.batch)
        for size in (first, 0 if known is None else known % first):
            if size:
                self._feed(size)

    # ---- what a fit calls --------------------------------------------------------------------------------------------

    @property
    def weighted(self) -> bool:
        """See `Batches`."""
        return self._weighted

    @property
    def steps(self) -> float:
        """The number of steps in an epoch; inf: it is not known."""
        return np.inf if self._supply.rows is None else self._supply.expected

    @property
    def expected(self) -> float:
        """See `Batches`."""
        return self._supply.expected

    @property
    def sizes(self) -> np.ndarray:
        """The rows of each step of the epoch; while their number is not known, with one more that never comes."""
        return np.concatenate([*(chunk.sizes for chunk in self._chunks), np.zeros(0 if self._whole else 1)])

    def shares(self, epoch: int) -> np.ndarray:
        """See `Batches`."""
        return np.concatenate([chunk.shares for chunk in self._chunks]) if self._weighted else self.sizes

    def scale(self, epoch: int, batch: int) -> float:
        """See `Batches`."""
        if not self._weighted:
            return 1.0
        before = sum(len(chunk.sizes) for chunk in self._chunks[:-1])
        return float(self._chunk.scales[batch - before])

    def total(self, shares: np.ndarray) -> float:
        """See `Batches`."""
        return self._total()

    def _total(self) -> float:
        return float(sum(chunk.total for chunk in self._chunks))

    def begin(self, first: int, epochs: int) -> None:
        """Get the first rows of an epoch ready."""
        while not self._is_at((first, 0)):
            pass

    def block(self, first: int, epochs: int) -> Iterator[tuple[Feed, int]]:
        """See `Batches`; while it waits for rows, it yields 0 steps."""
        self._chunks, self._whole = [], False
        number = 0
        while not self._whole:
            if not self._is_at((first, number)):
                yield self.feeds[0], 0
                continue
            chunk = self._chunk
            self._chunks.append(chunk)
            self._whole = chunk.last
            if self._whole and not self._total():  # before the last steps; with a single chunk, before any
                raise InputError(NOTHING_COUNTS)
            full, tail = divmod(chunk.rows, self._supply.batch)
            for size, steps in ((self._supply.batch, full), (tail, 1)):
                if size and steps:
                    yield self._feed(size), steps
            number += 1
        if self._supply.rows is None:
            self._supply.expected = float(len(self.sizes))

    def fetch(self) -> None:
        """Send the next chunk to the device, if it has been read."""
        if self._reading is not None and not self._sent and self._reading.has_result():
            self._send(self._reading)

    def close(self) -> None:
        """End reading; wait a while for user code that is making a batch."""
        reading, self._reading = self._reading, None
        if reading is None or reading.stop(PATIENCE):
            self._supply.close()
        self._halves.close()

    # ---- chunks ------------------------------------------------------------------------------------------------------

    def _feed(self, size: int) -> Feed:
        """Return the feed for a batch size, made when a batch of this size first comes."""
        if size not in self._by_size:
            batch = [self._backend.zeros((size, *a.shape[1:]), a.dtype) for a in self._data]
            source = (*self._data[:2], self._order, *self._data[2:])
            feed = feed_of(batch, source)
            self._by_size[size] = feed if self._shares is None else divided(feed, self._shares)
            self.feeds.append(self._by_size[size])
        return self._by_size[size]

    def _is_at(self, wanted: tuple[int, int]) -> bool:
        """Go to the first row of a chunk, waiting for it a little; return whether it is there."""
        if wanted != self._here:
            if wanted != self._next or self._reading is None:
                if self._reading is not None:
                    self._reading.stop(LONG)
                self._read(wanted)
            reading = self._reading
            assert reading is not None
            if not reading.is_ready(LOOK):
                return False
            chunk = reading.result()
            self._send(reading)
            self._halves.leave(self._half)
            self._half = 1 - self._half
            self._halves.enter(self._half)
            self._here, self._chunk = wanted, chunk
            following = (wanted[0] + 1, 0) if chunk.last else (wanted[0], wanted[1] + 1)
            self._next = self._reading = None
            if following[0] < self.end:
                self._read(following)
        self._counters[CURSOR] = self._half * self._supply.room
        return True

    def _read(self, chunk: tuple[int, int]) -> None:
        """Begin to read a chunk into the other half."""
        half = 1 - self._half
        self._next, self._sent = chunk, False
        self._reading = Reading(partial(self._filled, chunk, half * self._supply.room, self._halves.room(half)))

    def _filled(self, chunk: tuple[int, int], begin: int, room: list[np.ndarray], stopped: Callable[[], bool]) -> Chunk:
        """Read a chunk into the half at row `begin`, and turn its weights into factors; runs in the reading thread."""
        weights = np.zeros(self._supply.chunk if self._weighted else 0)
        filled = self._supply.fill(*chunk, [*room[:2], *([weights] if self._weighted else [])], stopped)
        rows, last = filled.rows, filled.last
        own, sizes = own_of(self._shares, rows, self._supply.batch), sizes_of(rows, self._supply.batch)
        order = own if filled.order is None else filled.order
        room[-1][: len(own)] = begin + order
        sent = rows if filled.order is None else len(own)
        if not self._weighted or not rows:
            return Chunk(rows, sent, last, sizes, float(rows), sizes, sizes)
        factors = Factors(weights[:rows], sizes, room[2].dtype.name, self._every)
        factors.draw(0, np.arange(rows))
        room[2][order] = factors.by_row[own]
        shares = factors.shares[0]
        return Chunk(rows, sent, last, sizes, float(shares[factors.last].sum()), shares, factors.scales[0])

    def _send(self, reading: Reading[Chunk]) -> None:
        if not self._sent:
            self._sent = True
            self._halves.send(1 - self._half, reading.result().sent)


def _check_room(supply: Supply, like: Sequence[np.ndarray]) -> None:
    """Refuse a batch size for which memory is too small, even if the data should have fewer rows."""
    size = 2 * supply.room * sum(math.prod(a.shape[1:]) * a.itemsize for a in like)  # of both halves
    if size > (physical() or np.inf):
        raise InputError(
            f"fit: batch_size={supply.batch:,}: there must be room for as many rows, twice, which is "
            f"{readable(size)}, more than this machine's memory; give a smaller batch_size"
        )
