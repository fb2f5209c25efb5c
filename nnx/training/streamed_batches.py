"""Mini-batches of samples that do not fit on the device, and are streamed to it while it computes."""

from __future__ import annotations

import numpy as np

from nnx.backends.streaming import Stream
from nnx.kernels.step_state import CURSOR
from nnx.training.batches import Batches, most_taken, taken_of
from nnx.training.factors import Factors
from nnx.training.trainer import Trainer


class StreamedBatches(Batches):
    """Batches of samples that stay on the host and go to the device in chunks, with rows in the order of the epoch.

    The device has room for two chunks. While steps take their rows from one of them, the host gathers the rows of the
    next chunk and sends them to the other. Steps get the same rows as from `Batches`.
    """

    epochs = 1  # in a block

    def __init__(
        self, step: Trainer, stream: Stream, sizes: np.ndarray, shuffle: bool, factors: Factors | None
    ) -> None:
        self._prepare(step, sizes, shuffle, factors)
        self._stream, self._data = stream, list(stream.arrays)
        self._order = self._backend.asarray(np.arange(2 * stream.rows), "int64")
        self._each = taken_of(step.shares, int(sizes[0]))  # rows that this process takes in a step
        self._steps = stream.rows // most_taken(step.shares, sizes)  # steps in a chunk
        self._half = 1  # the half that steps read
        self._here: tuple[int, int] | None = None  # epoch and index of the chunk in that half
        self._next: tuple[int, int] | None = None  # epoch and index of the chunk in the other half
        self._epoch = -1, np.empty(0, np.int64)  # the epoch whose order was drawn last, and that order
        self.reason = stream.reason
        self.feeds = self._feeds()

    def begin(self, first: int, epochs: int) -> None:
        """Get the first rows of an epoch ready."""
        self._turn_to((first, 0))

    def _ready(self, step: int) -> int:
        """Get a step of the epoch ready; return how many steps from there on are in its chunk."""
        assert self._here is not None
        chunk, done = divmod(step, self._steps)
        if chunk != self._here[1]:
            self._turn_to((self._here[0], chunk))
        return self._steps - done

    def fetch(self) -> None:
        """Send the next chunk to the device."""
        assert self._here is not None
        epoch, chunk = self._here
        last = (chunk + 1) * self._steps >= len(self.sizes)
        self._send((epoch + 1, 0) if last else (epoch, chunk + 1))

    def close(self) -> None:
        """Wait for the chunk on its way: no copy may go on into memory that is released."""
        self._stream.close()

    def _turn_to(self, chunk: tuple[int, int]) -> None:
        """Go to the first row of a chunk."""
        if chunk != self._here:
            self._send(chunk)
            self._stream.leave(self._half)
            self._half = 1 - self._half
            self._stream.enter(self._half)
            self._here, self._next = chunk, None
        self._counters[CURSOR] = self._half * self._stream.rows

    def _send(self, chunk: tuple[int, int]) -> None:
        """Send a chunk to the other half, unless it is there already."""
        if chunk == self._next:
            return
        epoch, number = chunk
        if epoch != self._epoch[0]:
            self._epoch = epoch, self._drawn(epoch)
        begin = number * self._steps * self._each
        self._stream.fill(1 - self._half, self._epoch[1][begin : begin + self._stream.rows])
        self._next = chunk


def batches_for(
    step: Trainer, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool, each_epoch: bool,
    weights: np.ndarray | None = None, every: int = 1,
) -> Batches:  # fmt: skip
    """Return the batches of samples: on the device if they fit there or are a single batch, else streamed.

    Args:
        step: the trainer. x, y: inputs and prepared targets, NumPy arrays. batch: rows of a step. shuffle, each_epoch:
            see `Batches`. weights: of the samples, float64 [N]; None: all count alike.
        every: the number of parts of each batch, of `batch` rows each.
    """
    sizes = np.full(-(-len(x) // batch), float(batch))
    sizes[-1] = len(x) - batch * (len(sizes) - 1)
    if every > 1 and weights is None:
        weights = np.ones(len(x))
    factors = None if weights is None else Factors(weights, sizes, x.dtype.name, every)
    data = [x, y] if factors is None else [x, y, factors.by_row]
    taken = most_taken(step.shares, sizes)
    stream = step.backend.stream(data, taken) if batch < len(x) and taken else None
    if stream is None:
        return Batches(step, x, y, sizes, shuffle, each_epoch, factors)
    return StreamedBatches(step, stream, sizes, shuffle, factors)
