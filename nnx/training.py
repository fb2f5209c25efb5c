"""One training step of a model: run layer by layer, recorded, and replayed.

`Trainer.step` is the step itself. `Trainer.runner` records it on the backend and gives back something that runs n steps
in one call; where that cannot be, it runs the step eagerly and says why. All that changes from step to step, and
all that comes out, lives in arrays of the backend, read once for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.backends.operations import QUIET
from nnx.backends.program import Program
from nnx.errors import NonFiniteError, NotReplayable
from nnx.foreign import Foreign
from nnx.kernels.layout import LOSS, PENALTY, STEP

if TYPE_CHECKING:
    from nnx.model import Sequential

Array = Any
BATCH_SIZES = 8  # for how many sizes of batches step() keeps its recording
HISTORY = 8192  # steps whose losses fit on the device at once

# How far a replayed step may be from the eager one: relative error of the loss, and the distance of the parameters
# relative to the way they went. A replay that sums in another order stays far below; another computation far above.
LOSS_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
PATH_TOLERANCE = 0.02


@dataclass(frozen=True)
class Feed:
    """Where a step takes its samples from.

    Attributes:
        x, y: the batch: inputs [N, I], and targets as the loss prepared them.
        source: (all inputs, all targets, order of rows) to gather each batch from into x and y; None: x and y are it.
    """

    x: Array
    y: Array
    source: tuple[Array, Array, Array] | None = None

    def arrays(self) -> list[Array]:
        """Return the buffers that hold their contents before a step begins."""
        return [self.x, self.y] if self.source is None else list(self.source)


class Eager:
    """Runs a step layer by layer, as written.

    Attributes:
        reason: why it is not replayed.
    """

    native = False

    def __init__(self, trainer: Trainer, feed: Feed, reason: str) -> None:
        self._trainer, self._feed, self.reason = trainer, feed, reason

    def run(self, steps: int) -> None:
        """Run `steps` steps."""
        for _ in range(steps):
            self._trainer.step(self._feed)


class Trainer:
    """Holds what a compiled model's training steps need.

    Attributes:
        hyper, counters, stats, history: arrays of the backend; see nnx/kernels/layout.py.
        precision: how near a regression's output must be to count as right.
    """

    def __init__(self, model: Sequential) -> None:
        self.model, self.backend = model, model.backend
        backend, optimizer = self.backend, model.optimizer
        fused = model.loss.fused_with(model.layers[-1])
        self.loss = fused or model.loss
        self.loss.backend = model.loss.backend = backend
        self.layers = model.layers[:-1] if fused else model.layers
        self.metric = self.loss.metric if "accuracy" in model.metrics else None
        self.precision = 0.0
        self.hyper = backend.asarray(optimizer.hyper, "float64")
        self.counters = backend.asarray(optimizer.counters, "int64")
        self.stats = backend.zeros(3, "float64")
        self.history = backend.zeros((HISTORY, 3), "float64")
        self._saved: tuple[Array, Array] | None = None
        self._staged: dict[tuple[int, ...], tuple[Feed, Program | Eager]] = {}
        for number, layer in enumerate(model.layers):
            if hasattr(layer, "follow"):
                layer.follow(self.counters, model.seed, number)

    def quantities(self, validated: bool) -> list[str]:
        """Return the names of what a fit measures, in the order of its history."""
        parts = ["data_loss", "regularization_loss"] if self.model.regularized else []
        scores = ["loss", *(["accuracy"] if self.metric is not None else [])]
        return [scores[0], *parts, *scores[1:], *([f"val_{name}" for name in scores] if validated else [])]

    # ---- the step ----------------------------------------------------------------------------------------------------

    def step(self, feed: Feed, backend: Any = None) -> None:
        """Do one training step: gather, forward, loss, backward, update, and log."""
        backend = backend or self.backend
        if feed.source is not None:
            x, y, order = feed.source
            backend.gather_rows(x, order, self.counters, out=feed.x)
            backend.gather_rows(y, order, self.counters, out=feed.y)
        outputs = feed.x
        for layer in self.layers:
            outputs = layer.forward(outputs, training=True)
        losses, dvalues = self.loss.both(outputs, feed.y)
        first = next((i for i, layer in enumerate(self.layers) if layer.shapes), len(self.layers))
        for layer in reversed(self.layers[first + 1 :]):
            dvalues = layer.backward(dvalues)
        for layer in self.layers[first : first + 1]:
            layer.backward_parameters(dvalues)
        backend.tally(losses, outputs, feed.y, self.metric, self.precision, self.stats)
        self.model.optimizer.update(self.model.flat, self.hyper, self.counters, backend)
        backend.end_step(self.stats, self.model.penalties, self.history, self.counters, feed.x.shape[0])

    # ---- recording ---------------------------------------------------------------------------------------------------

    def runner(self, feed: Feed) -> Program | Eager:
        """Return something with `run(steps)`: a replay of the step where that can be, the step itself otherwise.

        The step is run once while it is recorded, and once from its recording; both must agree. The model is as
        before when this returns.
        """
        before = self.state()
        foreign = Foreign(self.model.layers, feed.x, self.backend.xp)
        known = [*feed.arrays(), self.hyper, self.counters, self.model.penalties, *self.model.buffers()]
        recorder = self.backend.record(known)
        try:
            with self._recorded_by(recorder), np.errstate(all="ignore"):
                self.step(feed, recorder)
            foreign.check()
            eager, eager_loss = self.state(), self._last_loss()
            self.restore(before)
            foreign.restore()
            program = self.backend.compile(recorder)
            with np.errstate(all="ignore"):
                program.run(1)
            self._compare(before, eager, eager_loss)
        except NotReplayable as reason:
            return Eager(self, feed, str(reason))
        finally:
            self.restore(before)
            foreign.restore()
        return program

    @contextmanager
    def _recorded_by(self, recorder: Any) -> Iterator[None]:
        parts = [*self.layers, self.loss]
        try:
            for part in parts:
                part.backend = recorder
            yield
        finally:
            for part in parts:
                part.backend = self.backend

    @QUIET
    def _compare(self, before: tuple[Array, Array], eager: tuple[Array, Array], eager_loss: float) -> None:
        """Refuse a replay that does not do what the eager step did, or that moved to where numbers end differently."""
        start, wanted, got = (
            self.backend.to_numpy(state[0]).astype(np.float64) for state in (before, eager, self.state())
        )
        tolerance = LOSS_TOLERANCE[self.model.dtype]
        same_loss = np.isclose(self._last_loss(), eager_loss, rtol=tolerance, atol=tolerance, equal_nan=True)
        way = np.linalg.norm(wanted - start)
        moved = np.isfinite(way) and np.linalg.norm(got - wanted) > PATH_TOLERANCE * way + 1e-12
        if moved or not same_loss:
            raise NotReplayable(
                "a replayed step differs from the eager one: a layer changes a buffer in place, or keeps numbers of "
                "its own from step to step"
            )

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, runner: Program | Eager, steps: int, meanwhile: Callable[[], None] | None = None) -> np.ndarray:
        """Run up to HISTORY steps; return their (mean loss, hits, penalty): float64 [steps, 3].

        Args:
            meanwhile: what the host does once the steps are asked for, before it waits for them.
        """
        self.hyper[...] = self.backend.asarray(self.model.optimizer.hyper, "float64")
        with np.errstate(all="ignore"):  # what is not finite is found in the losses
            runner.run(steps)
        if meanwhile is not None:
            meanwhile()
        if not isinstance(runner, Eager) and runner.reason is not None:
            self.model.replay_reason = runner.reason
        self.model.optimizer.counters[...] = self.backend.to_numpy(self.counters)
        return self._rows(steps)

    def run_guarded(
        self, runner: Program | Eager, feed: Feed, steps: int, epoch_of: Callable[[int], int],
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, NonFiniteError | None]:  # fmt: skip
        """Run steps as `run` does, up to the first one whose loss is not finite; then also return the error to raise.

        The model is then as it was before that step. `epoch_of` gives the epoch of the nth of these steps.
        """
        before = self._snapshot()
        rows = self.run(runner, steps, meanwhile)
        bad = np.flatnonzero(~np.isfinite(rows[:, LOSS] + rows[:, PENALTY]))
        if not bad.size:
            return rows, None
        self.restore(before)
        self.run(runner, int(bad[0]))
        with np.errstate(all="ignore"):
            return rows[: bad[0]], NonFiniteError(self._diagnosis(feed, rows[bad[0]], epoch_of(int(bad[0]))))

    def staged(self, x: np.ndarray, y: Array) -> tuple[Feed, Program | Eager]:
        """Copy a batch into a buffer of its size; return the feed and its runner, made once for each size."""
        key = (*x.shape, *y.shape[1:])
        if key not in self._staged:
            if len(self._staged) == BATCH_SIZES:
                self._staged.pop(next(iter(self._staged)))
            feed = Feed(self.backend.asarray(x.copy()), self.backend.asarray(self.backend.to_numpy(y).copy(), y.dtype))
            self._staged[key] = feed, self.runner(feed)
        feed, runner = self._staged[key]
        self.model.eager_reason = runner.reason if isinstance(runner, Eager) else None
        feed.x[...], feed.y[...] = self.backend.asarray(x), y
        return feed, runner

    def set_precision(self, precision: float) -> None:
        """Set how near a regression's output must be to count as right; recorded steps hold the old number."""
        if precision != self.precision:
            self.precision = precision
            self._staged.clear()

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Array, Array]:
        """Return copies of what a step changes: parameters with the optimizer's moments, and the counters."""
        return self.backend.xp.asarray(self.model.flat.state, copy=True), self.backend.xp.asarray(
            self.counters, copy=True
        )

    def restore(self, state: tuple[Array, Array]) -> None:
        """Go back to a state."""
        self.model.flat.state[...], self.counters[...] = state

    def _snapshot(self) -> tuple[Array, Array]:
        """Return the state in buffers that the next snapshot overwrites: fresh memory would cost more than the copy."""
        if self._saved is None:
            self._saved = self.state()
        else:
            self._saved[0][...], self._saved[1][...] = self.model.flat.state, self.counters
        return self._saved

    def _rows(self, steps: int) -> np.ndarray:
        done = int(self.backend.to_numpy(self.counters)[2])
        first, last = (done - steps) % HISTORY, (done - 1) % HISTORY + 1
        if first < last:  # a copy of these rows alone, which for a single step is all the difference
            return np.array(self.backend.to_numpy(self.history[first:last, ...]))
        return np.asarray(self.backend.to_numpy(self.history)[(first + np.arange(steps)) % HISTORY])

    def _last_loss(self) -> float:
        return float(self._rows(1)[0, LOSS])

    def _diagnosis(self, feed: Feed, row: np.ndarray, epoch: int) -> str:
        """Run the step's forward pass once more and name the first place with a number that is not finite."""
        backend, model = self.backend, self.model
        if feed.source is not None:
            backend.gather_rows(feed.source[0], feed.source[2], self.counters, out=feed.x)
        place, outputs = "the loss itself", feed.x
        for number, layer in enumerate(self.layers):
            name = f"layer {number}, {layer}"
            bad = [p for p in layer.shapes if not np.isfinite(backend.to_numpy(layer.parameter(p))).all()]
            outputs = layer.forward(outputs, training=True)
            if bad or not np.isfinite(backend.to_numpy(outputs)).all():
                place = f"the {bad[0]} of {name}" if bad else f"the output of {name}"
                break
        step = int(backend.to_numpy(self.counters)[STEP]) + 1
        return (
            f"the loss became {row[LOSS] + row[PENALTY]} in step {step} (epoch {epoch + 1}); the first numbers that "
            f"are not finite are in {place}. The model is as it was before that step. Lower the learning rate (now "
            f"{model.optimizer.learning_rate:g}) or scale the inputs to about -1 .. 1"
        )
