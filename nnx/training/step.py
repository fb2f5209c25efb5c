"""The training step of a network, run layer by layer, and the arrays that it reads and writes.

Everything that changes from step to step, and every result, is in arrays of the backend, so that a recorded step can be
replayed (trainer.py).
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
from nnx.settings import written
from nnx.training.custom_layers import is_custom

Array = Any
HISTORY = 8192  # the losses of so many steps are kept on the device
CHUNK = 0.2  # seconds of training steps in one call; between calls Ctrl-C is noticed
STATE = "values", "first", "second"  # the parts of the flat buffer that an optimizer changes
WANTED = 0.01  # the same as CHUNK, while other threads wait to predict


class Pace:
    """Chooses how many steps run in one call, so that Ctrl-C is noticed soon and other threads can predict.

    Attributes:
        seconds: the time of one step in the last chunk; 0 before the first.
    """

    seconds = 0.0

    def chunk(self, left: int, owner: Owner) -> int:
        """Return how many of the `left` remaining steps to run in the next call."""
        wanted, owner.wanted = owner.wanted, False
        if not self.seconds:
            return min(left, 1)
        return min(left, max(1, int((WANTED if wanted else CHUNK) / self.seconds)))


@dataclass(frozen=True, eq=False)
class Feed:
    """Where a step takes its samples from.

    Attributes:
        x, y: buffers for the batch: inputs [N, I], and targets as the loss prepared them.
        source: (all inputs, all targets, order of rows[, all factors]), from which each batch is gathered into x, y and
            factors; None: these buffers hold the batch already.
        pace: chooses how many steps on this feed run in one call.
        factors: of the samples [N, 1], on average 1 (nnx/weights.py); None: all count alike.
        parts: this process's parts of the batch, if it is divided into parts (shared.py); this feed is then the first
            of them. None: this feed is the whole batch.
        first: the number, within the batch, of the first row here. pool: the processes that have the other rows, if
            means over the whole batch are taken (nnx/distributed/pool.py).
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
        """Return the buffers whose contents exist before a step begins."""
        if self.source is not None:
            return list(self.source)
        return [self.x, self.y] if self.factors is None else [self.x, self.y, self.factors]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a batch.

    Attributes:
        place: its index among this process's parts. rows: how many it has. share: its share of the batch's rows.
        feed: where a step takes its rows from.
    """

    place: int
    rows: int
    share: float
    feed: Feed


class TrainingStep:
    """One training step of a network with a loss, an optimizer and a metric.

    Between this object, its network and what it keeps, some references are weak, to avoid reference cycles: the memory
    of a model in a cycle stays taken until Python's garbage collector runs, and when it runs depends on the number of
    objects, not on their size.

    Attributes:
        flat: the network's parameters, gradients and moments.
        hyper, counters, stats, history: arrays of the backend; see nnx/kernels/step_state.py.
        layers, loss: as a step runs them: if the last layer and the loss can be computed together, `loss` is both.
        foreign: whether any layer is user-defined, so that it might write into its inputs.
        drawing: the layers that draw random numbers. pooling: the layers that take means over whole batches.
        accumulating: whether the gradients of several parts of a batch are added up, in `flat.held`.
        averaging: (decay, number of steps before the first that counts) of the mean of the parameters in
            `flat.average`, or None.
        metric: what counts as right (see `Operations.tally`), or None.
        tolerance: how near to its target a regression's output must be to count as right.
    """

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, metrics: Sequence[Metric]) -> None:
        self.network = cast(Network, proxy(network))
        self.given_loss, self.optimizer, self.metrics = loss, optimizer, metrics
        self.backend, self._owner, self.flat = network.backend, network._owner, network.flat
        backend = self.backend
        self.tolerance = 0.0
        self.accumulating, self.averaging = False, cast("tuple[float, int] | None", None)
        self.hyper = backend.asarray(optimizer.hyper.copy(), "float64")  # a copy, as steps write into it
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
        """Set `layers` and `loss`, with the loss and the last layer as one if they can be computed together."""
        layers = self.network._layers
        self.network.mark_trained()
        fused = self.given_loss.fused_with(layers[-1])
        self.loss = fused or self.given_loss
        self.loss.backend = self.given_loss.backend = self.backend
        self.loss._owner = self.given_loss._owner = self._owner
        self.layers = layers[:-1] if fused else layers
        self.foreign = any(map(is_custom, every(layers)))
        self.metric = self.loss.metric if "accuracy" in self.metrics else None

    def step(self, feed: Feed, backend: Any = None, part: bool = False) -> None:
        """Do one training step: gather, forward, loss, backward, update, and log.

        Args:
            feed: the samples. backend: a recorder in the place of the backend, or None.
            part: whether to keep the gradients for a later step instead of updating the parameters.
        """
        self.gradients(feed, backend)
        self.collect(backend, part)
        self.finish(feed.x.shape[0], backend, part)

    def gradients(self, feed: Feed, backend: Any = None) -> None:
        """Do the first half of a step: gather, forward, loss, backward."""
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
        """Add the gradients of the batch's earlier parts, if it comes in several."""
        if self.accumulating and not part:
            (backend or self.backend).collect(self.flat.gradients, self.flat.held)

    def finish(self, rows: int, backend: Any = None, part: bool = False) -> None:
        """Do the second half of a step: update, and log; the cursor moves on by `rows`."""
        backend = backend or self.backend
        if not part:
            self.optimizer.clip_gradients(self.flat, backend)
        self.move(backend, part)
        penalties = self.nothing if part else self.network.penalties
        backend.end_step(self.stats, penalties, self.history, self.counters, rows)

    def move(self, backend: Any, part: bool) -> None:
        """Use the gradients: keep them if this is a part of a batch, else clip them and update the parameters."""
        flat = self.flat
        if part:
            backend.accumulate(flat.values, flat.gradients, flat.held, self.hyper, self.counters)
            return
        self._update(backend)
        if self.averaging is not None:
            backend.average(flat.average, flat.values, self.counters, *self.averaging)

    def _update(self, backend: Any) -> None:
        """Update the parameters. A user-defined update() may move all, so those not trained are restored afterwards."""
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
        update: Any = self.optimizer.update  # a user-defined one may return something
        result = update(flat, self.hyper, self.counters, backend)
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
        """Copy the optimizer's hyperparameters and its count of steps to where steps read them."""
        self.hyper[...] = self.backend.asarray(self.optimizer.hyper, "float64")

    def count(self) -> None:
        """Set the optimizer's count to the steps that were done."""
        self.optimizer.counters[...] = self.backend.to_numpy(self.counters)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Array, Array, Array]:
        """Return copies of what a step changes: parameters with moments, the counters, and the reserved parts."""
        return self.copy_of(self.flat.state), self.copy_of(self.counters), self.copy_of(self.flat.more)

    def copy_of(self, a: Array) -> Array:
        """Return a copy of an array of the backend."""
        return self.backend.xp.asarray(a, copy=True)

    def restore(self, state: tuple[Array, Array, Array]) -> None:
        """Go back to a state. The gradients, which it does not contain, become 0: clipping may have made them nan."""
        self.flat.state[...], self.counters[...], self.flat.more[...] = state
        self.flat.gradients[...] = 0

    def rows(self, steps: int) -> np.ndarray:
        """Return (mean loss, hits, penalty) of the last steps: float64 [steps, 3]."""
        done = int(self.backend.to_numpy(self.counters)[2])
        first, last = (done - steps) % HISTORY, (done - 1) % HISTORY + 1
        if first < last:  # copy only these rows, which makes a large difference for a single step
            return np.array(self.backend.to_numpy(self.history[first:last, ...]))
        return np.asarray(self.backend.to_numpy(self.history)[(first + np.arange(steps)) % HISTORY])

    def last_loss(self) -> float:
        """Return the mean loss of the last step, without penalties."""
        return float(self.rows(1)[0, LOSS])
