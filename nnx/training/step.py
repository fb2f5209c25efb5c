"""Training step of a network, run layer by layer, and the arrays that it reads and writes.

All that changes from step to step, and all that comes out, lives in arrays of the backend, so that a recorded step can
be replayed (trainer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import proxy

import numpy as np

from nnx.backends.recorder import lent
from nnx.distributed.pool import Pool
from nnx.errors import InputError
from nnx.kernels.step_state import LOSS
from nnx.layers import BatchNorm
from nnx.layers.chain import every, gradient_of, output_of
from nnx.layers.dropout import Drawing
from nnx.losses import Loss
from nnx.measures import Metric
from nnx.model.network import Network
from nnx.optimizers import Optimizer
from nnx.owner import Owner
from nnx.settings import is_own, replaced, written

Array = Any
HISTORY = 8192  # steps whose losses fit on the device at once
CHUNK = 0.2  # seconds of training between two looks at the clock and the keyboard
STATE = "values", "first", "second"  # what an optimizer changes
WANTED = 0.01  # the same where other threads have waited to predict


class Pace:
    """How many steps are run at once, so that Ctrl-C is heard and other threads can predict.

    Attributes:
        seconds: of a step of the last chunk, 0 before the first.
    """

    seconds = 0.0

    def chunk(self, left: int, owner: Owner) -> int:
        """Return how many of the steps that are left to run now."""
        wanted, owner.wanted = owner.wanted, False
        if not self.seconds:
            return min(left, 1)
        return min(left, max(1, int((WANTED if wanted else CHUNK) / self.seconds)))


@dataclass(frozen=True, eq=False)
class Feed:
    """Where a step takes its samples from.

    Attributes:
        x, y: the batch: inputs [N, I], and targets as the loss prepared them.
        source: (all inputs, all targets, order of rows, and all factors, if there are any) to gather each batch from
            into x, y and factors; None: these are it.
        pace: of steps on it.
        factors: what each sample counts [N, 1], on average 1 (nnx/weights.py); None: all alike.
        parts: this process's parts of the batch, where several processes share it, or where it is divided into parts
            all the same (shared.py); this is then the first of them. None: this is all of it.
        first: which row of the batch is the first one here. pool: of the processes that have the others, where means
            over all rows are taken (nnx/distributed/pool.py).
    """

    x: Array
    y: Array
    source: tuple[Array, ...] | None = None
    pace: Pace = field(default_factory=Pace)
    factors: Array | None = None
    parts: tuple[Part, ...] | None = None
    first: int = 0
    pool: Pool | None = None

    def arrays(self) -> list[Array]:
        """Return the buffers that hold their contents before a step begins."""
        if self.source is not None:
            return list(self.source)
        return [self.x, self.y] if self.factors is None else [self.x, self.y, self.factors]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a batch.

    Attributes:
        place: which of this process's parts it is. rows: how many it has. share: of the rows of the whole batch.
        feed: where a step takes them from.
    """

    place: int
    rows: int
    share: float
    feed: Feed


class TrainingStep:
    """A network with a loss, an optimizer and a metric: what one step of training does.

    It knows its network, and what it keeps knows it, by weak references: a circle would keep the memory of a model that
    is no more until Python looks for circles, and that goes by the number of objects, not by their size.

    Attributes:
        flat: the network's parameters, gradients and moments.
        hyper, counters, stats, history: arrays of the backend; see nnx/kernels/step_state.py.
        layers, loss: as a step runs them: where the last layer and the loss can be one, `loss` is both.
        foreign: whether any layer is not nnx's own, and might write into its inputs.
        drawing: the layers that draw random numbers. pooling: those that take means over whole batches.
        accumulating: whether gradients are those of several parts of a batch, kept in `flat.held`.
        averaging: (decay, steps done before the first one) of the mean of parameters in `flat.average`, or None.
        metric: what counts as right (see `Operations.tally`), or None.
        tolerance: how near a regression's output must be to count as right.
    """

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, metrics: Sequence[Metric]) -> None:
        self.network = cast(Network, proxy(network))
        self.given_loss, self.optimizer, self.metrics = loss, optimizer, metrics
        self.backend, self._owner, self.flat = network.backend, network._owner, network.flat
        backend = self.backend
        self.tolerance = 0.0
        self.accumulating, self.averaging = False, cast("tuple[float, int] | None", None)
        self.hyper = backend.asarray(optimizer.hyper.copy(), "float64")  # for a step to write into
        self.counters = backend.asarray(optimizer.counters, "int64")
        self.stats = backend.zeros(3, "float64")
        self.nothing = backend.zeros(1, "float64")
        self.history = backend.zeros((HISTORY, 3), "float64")
        self.drawing = [layer for layer in every(network._layers) if isinstance(layer, Drawing)]
        self.pooling = [layer for layer in every(network._layers) if isinstance(layer, BatchNorm)]
        for number, layer in enumerate(every(network._layers)):
            if isinstance(layer, Drawing):
                layer.follow(self.counters, network.seed, number)
        for part in (loss, optimizer):
            part.listen(network)
        self._fuse()

    def _fuse(self) -> None:
        """Take the loss together with the last layer where that can be, as both are now."""
        layers = self.network._layers
        self.network.mark_trained()
        fused = self.given_loss.fused_with(layers[-1])
        self.loss = fused or self.given_loss
        self.loss.backend = self.given_loss.backend = self.backend
        self.loss._owner = self.given_loss._owner = self._owner
        self.layers = layers[:-1] if fused else layers
        self.foreign = any(not is_own(type(layer)) or replaced(layer) for layer in every(layers))
        self.metric = self.loss.metric if "accuracy" in self.metrics else None

    def step(self, feed: Feed, backend: Any = None, part: bool = False) -> None:
        """Do one training step: gather, forward, loss, backward, update, and log.

        Args:
            part: whether to keep the gradients for a later step instead of the update.
        """
        self.gradients(feed, backend)
        self.collect(backend, part)
        self.finish(feed.x.shape[0], backend, part)

    def gradients(self, feed: Feed, backend: Any = None) -> None:
        """Do the step as far as the gradients: gather, forward, loss, backward."""
        try:
            for drawing in self.drawing:
                drawing.begin_at(feed.first)
            for pooling in self.pooling:
                pooling.take_part(feed.pool)
            self._gradients(feed, backend or self.backend)
        finally:
            for pooling in self.pooling:
                pooling.take_part(None)

    def _gradients(self, feed: Feed, backend: Any) -> None:
        if feed.source is not None:
            x, y, order, *factors = feed.source
            backend.gather_rows(x, order, self.counters, out=feed.x)
            backend.gather_rows(y, order, self.counters, out=feed.y)
            for source in factors:
                backend.gather_rows(source, order, self.counters, out=feed.factors)
        outputs = lent(feed.x, backend) if self.foreign else feed.x
        for layer in self.layers:
            outputs = output_of(layer, outputs, training=True)
        losses, dvalues = self.loss.both(outputs, feed.y)
        if feed.factors is not None:
            dvalues = self.loss.weighed(dvalues, feed.factors)
        first = next((i for i, layer in enumerate(self.layers) if any(layer.trained().values())), len(self.layers))
        for layer in reversed(self.layers[first + 1 :]):
            dvalues = gradient_of(layer, dvalues)
        for layer in self.layers[first : first + 1]:
            layer.backward_parameters(dvalues)
        if feed.factors is None:
            backend.tally(losses, outputs, feed.y, self.metric, self.tolerance, self.stats)
        else:
            how = self.metric, self.tolerance
            backend.weighted_tally(losses, outputs, feed.y, feed.factors, *how, self.stats)

    def collect(self, backend: Any = None, part: bool = False) -> None:
        """Add the gradients of the other parts of a batch, where it came in several."""
        if self.accumulating and not part:
            (backend or self.backend).collect(self.flat.gradients, self.flat.held)

    def finish(self, rows: int, backend: Any = None, part: bool = False) -> None:
        """Do the rest of a step: update, and log; `rows` is by how many the cursor moves on."""
        backend = backend or self.backend
        if not part:
            self.optimizer.clip_gradients(self.flat, backend)
        self.move(backend, part)
        penalties = self.nothing if part else self.network.penalties
        backend.end_step(self.stats, penalties, self.history, self.counters, rows)

    def move(self, backend: Any, part: bool) -> None:
        """Do what gradients are for, once they are there."""
        flat = self.flat
        if part:
            backend.accumulate(flat.values, flat.gradients, flat.held, self.hyper, self.counters)
            return
        self._update(backend)
        if self.averaging is not None:
            backend.average(flat.average, flat.values, self.counters, *self.averaging)

    def _update(self, backend: Any) -> None:
        """Move the parameters. An update() of the user's own may move all of them: what is not trained is put back."""
        flat = self.flat
        if not written(self.optimizer, "update"):
            self.optimizer.update(flat, self.hyper, self.counters, backend)
            return
        if flat.trained == [slice(0, flat.size)]:
            self._update_as_written(backend)
            return
        parts = [getattr(flat, name) for name in (*STATE, *flat.names)]
        kept = [self.copy_of(part) for part in parts]
        self._update_as_written(backend)
        for part, before in zip(parts, kept, strict=True):
            for run in flat.trained:
                before[run] = part[run]
            part[...] = before

    def _update_as_written(self, backend: Any) -> None:
        """Call an update() of the user's own; refuse one that makes new arrays and leaves the parameters alone."""
        flat = self.flat
        before = {name: getattr(flat, name) for name in (*STATE, *flat.names)}
        result: Any = self.optimizer.update(  # type: ignore[func-returns-value]  # a user's may
            flat, self.hyper, self.counters, backend
        )
        lost = [name for name, array in before.items() if getattr(flat, name) is not array]
        for name in lost:
            setattr(flat, name, before[name])
        if lost or (self.backend.owns(result) and result is not flat.values):
            did = f"made another array of flat.{lost[0]}" if lost else "returned an array"
            raise InputError(
                f"{self.optimizer}: update() {did}, which nobody reads: write into the array, as by "
                f"flat.{(*lost, 'values')[0]}[...] = ..."
            )

    def begin(self) -> None:
        """Give the steps to come the optimizer's numbers."""
        self.hyper[...] = self.backend.asarray(self.optimizer.hyper, "float64")

    def count(self) -> None:
        """Tell the optimizer how many steps were done."""
        self.optimizer.counters[...] = self.backend.to_numpy(self.counters)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Array, Array, Array]:
        """Return copies of what a step changes: parameters with moments, the counters, what else is kept of each."""
        return self.copy_of(self.flat.state), self.copy_of(self.counters), self.copy_of(self.flat.more)

    def copy_of(self, a: Array) -> Array:
        """Return a copy of an array of the backend."""
        return self.backend.xp.asarray(a, copy=True)

    def restore(self, state: tuple[Array, Array, Array]) -> None:
        """Go back to a state. Gradients are no part of it, and are 0: clipping may have left nan between them."""
        self.flat.state[...], self.counters[...], self.flat.more[...] = state
        self.flat.gradients[...] = 0

    def rows(self, steps: int) -> np.ndarray:
        """Return (mean loss, hits, penalty) of the last steps: float64 [steps, 3]."""
        done = int(self.backend.to_numpy(self.counters)[2])
        first, last = (done - steps) % HISTORY, (done - 1) % HISTORY + 1
        if first < last:  # a copy of these rows alone, which for a single step is all the difference
            return np.array(self.backend.to_numpy(self.history[first:last, ...]))
        return np.asarray(self.backend.to_numpy(self.history)[(first + np.arange(steps)) % HISTORY])

    def last_loss(self) -> float:
        """Return the mean loss of the last step, without penalties."""
        return float(self.rows(1)[0, LOSS])
