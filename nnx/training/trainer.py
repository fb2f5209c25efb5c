"""Trainer: a training step that is recorded once and replayed many times.

`Trainer.runner` records a step on the backend and returns an object that runs n steps in one call. If a step cannot be
replayed, that object runs it eagerly, layer by layer, and says why. Steps are done completely or not at all: one that
is interrupted is undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from nnx.backends.recorder import AS_WRITTEN, Program, Recorder, Template, lent
from nnx.callbacks import Model
from nnx.distributed.shares import Shares
from nnx.errors import InputError, NonFiniteError, NotReplayable
from nnx.kernels.step_state import LOSS, PENALTY, STEP
from nnx.layers.chain import every
from nnx.losses import Loss
from nnx.measures import Metric, beside, name_of
from nnx.model.network import Network
from nnx.model.validation import check_ending, check_loss, check_optimizer
from nnx.optimizers import Optimizer
from nnx.owner import changing
from nnx.settings import Assignable, written
from nnx.training.agreement import State, check_agreement
from nnx.training.custom_layers import CustomParts, Held, is_custom
from nnx.training.eager import Eager
from nnx.training.parts import divided
from nnx.training.shared import Halves, Shared, shared
from nnx.training.step import HISTORY, Feed, TrainingStep
from nnx.training.stepwise import Stepwise, WithoutPenalties

Array = Any
Result = TypeVar("Result")
LOSS_ITSELF = "the loss itself"
BATCH_SIZES = 8  # step() keeps the recordings for so many batch sizes
TEMPLATES = 8  # fits keep the templates for so many forms of data


@dataclass(frozen=True)
class Execution:
    """How steps ran, in words, kept after the program that ran them, whose data need memory, is gone.

    Attributes:
        description, kernels: see `Program`.
    """

    description: str
    kernels: Mapping[str, str]


Runner = Program | Eager | Shared | Stepwise


class Trainer(TrainingStep):
    """Records and runs the training steps of a compiled model.

    Attributes:
        edition: a number that grows whenever settings have changed; a recording contains the settings of its edition.
        outdated: whether settings have changed since the last `refresh`.
        ran: how the last steps ran; None before the first.
    """

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, metrics: Sequence[Metric]) -> None:
        self.edition, self.outdated = 0, True
        self.ran: Program | Eager | Shared | Execution | None = None
        self._held: list[Held] = []  # the values of user-defined parts that recordings contain
        self._saved: State | None = None
        self._staged: dict[tuple[int, ...], tuple[Feed, Program | Eager | Shared]] = {}
        self._templates: dict[Any, Template] = {}  # of what was recorded, by the form of its data
        self._shares: Shares | None = None
        super().__init__(network, loss, optimizer, metrics)

    def check(self) -> None:
        """Raise InputError if the model cannot be trained any more because layers or methods were replaced."""
        if self.network.flat.size == 0:
            raise InputError("the model has no parameters, so there is nothing to train; add a Dense layer")
        if not self.network.trainable:
            raise InputError(
                "all layers with parameters have trainable=False, so there is nothing to train; set it to True for one"
            )
        check_loss(self.given_loss)
        check_ending(self.network.layers[-1], self.given_loss)
        check_optimizer(self.optimizer)

    def refresh(self) -> int:
        """Take over the present settings of layers, loss and optimizer; return the edition.

        A step that was recorded in another edition must be recorded again.

        Raises:
            InputError: see `check`.
        """
        if self.outdated or (self._held and any(held.changed() for held in self._held)):
            self.check()
            whole = False
            try:
                self.outdated = False  # first, since another thread may change settings while they are read
                self._fuse()
                self.network.penalties[...] = 0  # steps write only those of layers that have penalties
                self._forget()
                self._held.clear()
                self.edition += 1
                whole = True
            finally:
                if not whole:  # interrupted by Ctrl-C (owner.py)
                    self.outdated = True
        return self.edition

    def _forget(self) -> None:
        """Forget what was recorded."""
        self._staged.clear()
        self._templates.clear()

    def quantities(self, validated: bool) -> list[str]:
        """Return the names of the quantities that a fit measures, in the order of its history."""
        parts = ["data_loss", "regularization_loss"] if self.network.regularized else []
        scores = ["loss", *(["accuracy"] if self.metric is not None else [])]
        held_out = [*scores, *map(name_of, beside(self.metrics))] if validated else []
        return [scores[0], *parts, *scores[1:], *(f"val_{name}" for name in held_out)]

    # ---- recording ---------------------------------------------------------------------------------------------------

    @changing
    def runner(self, feed: Feed, part: bool = False) -> Program | Eager | Shared:
        """Return an object with `run(steps)`: the compiled recording of a step if it can be replayed, else `Eager`.

        The step is run once while it is recorded, and once from its recording; both must agree. The model is unchanged
        when this returns. `part`: as for `step`.
        """
        if feed.parts is None:
            return self._runner(feed, self.backend.compile, part)
        assert self._shares is not None
        halves = partial(Halves, self, self._shares)
        each = [self._runner(mine.feed, halves, part) for mine in feed.parts]
        return shared(self, feed, each, self._shares, part)

    def _runner(self, feed: Feed, compiled: Callable[[Recorder], Program], part: bool = False) -> Program | Eager:
        optimizer = self.optimizer
        if written(optimizer, "update"):  # it may clip, warm up or skip steps, which one step does not show
            reason = f"{optimizer} has an update() of its own, which may differ from step to step"
            return Eager(self, feed, reason, part)
        custom = CustomParts(self._parts(), feed.x, self.backend.xp)
        before, state, counters, more = self.state(), self.flat.state, self.counters, self.flat.more
        gradients = self.flat.gradients
        known = [*feed.arrays(), self.hyper, self.counters, self.network.penalties, self.nothing]
        known += self.network.buffers()
        recorder = self.backend.record(known)
        recorder.watching, recorder.loud = custom.any, True
        try:
            try:
                self._owner.recorder = WithoutPenalties(recorder) if part else recorder
                with np.errstate(all="ignore"):
                    self.step(feed, recorder, part)
            finally:
                self._owner.recorder = None
            custom.check()
            eager, eager_loss = self.state(), self.last_loss()
            self.restore(before)
            custom.restore()
            program = compiled(recorder)
            with np.errstate(all="ignore"):
                program.run(1)
                check_agreement(self, recorder, before, eager, eager_loss, part)
        except NotReplayable as reason:
            return Eager(self, feed, str(reason), part)
        finally:  # also after an exception from a signal handler (owner.py)
            state[...], counters[...], more[...] = before
            gradients[...] = 0  # see `restore`
            try:
                custom.restore()
            finally:
                custom.restore()
        held = custom.held()
        self._held += [] if held is None else [held]
        return program

    def _parts(self) -> list[Assignable]:
        return [*every(self.network._layers), self.loss, self.optimizer]

    def known_runner(self, feed: Feed) -> Program | Eager | Shared:
        """Return `runner(feed)`, without recording where that was done on other data of the same form.

        Settings are those of then, or `refresh` had forgotten it; code of the user's own may depend on more.
        """
        form = self.backend.form(feed.arrays()) if self._shares is None else None
        if form is None or any(map(is_custom, self._parts())):
            return self.runner(feed)
        key = form, feed.x.shape[0], self.accumulating, self.averaging
        if key in self._templates:
            return self._templates[key].on(feed.arrays(), self.backend.threads)
        runner = self.runner(feed)
        template = None if isinstance(runner, Eager | Shared) else runner.template(feed.arrays())
        if template is not None:
            if len(self._templates) == TEMPLATES:
                self._templates.pop(next(iter(self._templates)))
            self._templates[key] = template
        return runner

    # ---- shares ------------------------------------------------------------------------------------------------------

    @property
    def shares(self) -> Shares | None:
        """How batches are divided among processes; None if this process takes each batch as a whole."""
        return self._shares

    @shares.setter
    def shares(self, shares: Shares | None) -> None:
        if shares != self._shares:
            self._shares = shares
            self._forget()

    @changing
    def swap(self) -> None:
        """Exchange the parameters and their mean."""
        values, mean = self.flat.values, self.flat.average
        kept = self.copy_of(values)
        values[...] = mean
        mean[...] = kept

    # ---- running -----------------------------------------------------------------------------------------------------

    @changing
    def run(self, runner: Runner, steps: int) -> np.ndarray:
        """Run up to HISTORY steps; return their (mean loss, hits, penalty): float64 [steps, 3].

        If it is interrupted, the model is as before this call or as after all its steps, never in between.
        """
        if runner.native:  # Python notices a signal only after all steps
            return self._run(runner, steps)
        return self._whole(lambda before: self._run(runner, steps))

    def run_all(self, feed: Feed, runner: Runner, steps: int) -> np.ndarray:
        """Run any number of steps as `run` does, in chunks between which Ctrl-C is noticed."""
        if steps == 1:
            return self.run(runner, 1)
        rows, done, pace = [], 0, feed.pace
        while done < steps:
            begin = time.perf_counter()
            rows.append(self.run(runner, pace.chunk(min(HISTORY, steps - done), self._owner)))
            done += len(rows[-1])
            pace.seconds = (time.perf_counter() - begin) / len(rows[-1])
        return np.concatenate(rows)

    def _run(self, runner: Runner, steps: int, meanwhile: Callable[[], None] | None = None) -> np.ndarray:
        self.begin()
        with np.errstate(all="ignore"):  # the losses show numbers that are not finite
            runner.run(steps)
        if meanwhile is not None:
            meanwhile()
        self.count()
        return self.rows(steps)

    @changing
    def run_guarded(
        self, runner: Runner, feed: Feed, steps: int, epoch_of: Callable[[int], int],
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, NonFiniteError | None]:  # fmt: skip
        """Run steps as `run` does, up to the first one whose loss is not finite; then also return the error to raise.

        The model is then as it was before that step. `epoch_of(n)` is the epoch of the nth of these steps. `meanwhile`
        is called on the host after the steps were started, before waiting for them.
        """
        return self._whole(lambda before: self._guarded(before, runner, feed, steps, epoch_of, meanwhile))

    def _guarded(
        self, before: State, runner: Runner, feed: Feed, steps: int,
        epoch_of: Callable[[int], int], meanwhile: Callable[[], None] | None,
    ) -> tuple[np.ndarray, NonFiniteError | None]:  # fmt: skip
        rows = self._run(runner, steps, meanwhile)
        finite = np.isfinite(rows[:, LOSS] + rows[:, PENALTY])
        if finite.all():
            return rows, None
        bad = np.flatnonzero(~finite)
        self.restore(before)
        self.count()
        self._run(runner, int(bad[0]))
        with np.errstate(all="ignore"):
            return rows[: bad[0]], NonFiniteError(self._diagnosis(feed, rows[bad[0]], epoch_of(int(bad[0]))))

    def _whole(self, work: Callable[[State], Result]) -> Result:
        """Return `work(state)`, given the present state; if it is interrupted, go back to that state."""
        state, counters, more, gradients = self.flat.state, self.counters, self.flat.more, self.flat.gradients
        counted = self.optimizer.counters
        iterations, before, whole = counted.copy(), None, False
        try:
            before = self._snapshot()
            result = work(before)
            whole = True
            return result
        finally:
            if not whole and before is not None:
                (state[...], counters[...], more[...]), counted[...] = before, iterations
                gradients[...] = 0  # see `restore`

    def staged(self, x: np.ndarray, y: Array, factors: Array = None) -> tuple[Feed, Program | Eager | Shared]:
        """Copy a batch into the buffers for its size; return their feed and its runner, made once for each size."""
        key = (*x.shape, *y.shape[1:], *(() if factors is None else (-1,)))
        if key not in self._staged:
            if len(self._staged) == BATCH_SIZES:
                self._staged.pop(next(iter(self._staged)))
            arrays = self.backend.asarray(x.copy()), self.backend.asarray(self.backend.to_numpy(y).copy(), y.dtype)
            feed = Feed(*arrays, factors=None if factors is None else self.copy_of(factors))
            if self._shares is not None:
                feed = divided(feed, self._shares)
            self._staged[key] = feed, self.runner(feed)
        feed, runner = self._staged[key]
        self.ran = runner
        feed.x[...], feed.y[...] = self.backend.asarray(x), y
        if feed.factors is not None:
            feed.factors[...] = factors
        return feed, runner

    def note(self, runners: Sequence[Runner]) -> None:
        """Store how the steps of a fit run: those of full batches first, then those of a smaller last one, if any."""
        if runners:
            how, *others = dict.fromkeys(runner.description for runner in runners)
            description = "; an epoch's last: ".join([how, *others])
            self.ran = Execution(description, runners[0].kernels)

    def set_tolerance(self, tolerance: float) -> None:
        """Set how near to its target a regression's output must be to be right; recordings of `step` are dropped."""
        if tolerance != self.tolerance:
            self.tolerance = tolerance
            if self.metric is not None:
                self._forget()

    def _snapshot(self) -> State:
        """Return the state in buffers that the next snapshot overwrites: new memory would take longer than the copy."""
        if self._saved is None or self._saved[2].shape != self.flat.more.shape:
            self._saved = self.state()
        else:
            self._saved[0][...], self._saved[1][...] = self.flat.state, self.counters
            if self.flat.names:
                self._saved[2][...] = self.flat.more
        return self._saved

    def _diagnosis(self, feed: Feed, row: np.ndarray, epoch: int) -> str:
        """Run the step's forward pass again, and return the message that names the first number that is not finite."""
        backend, before = self.backend, self.copy_of(self.flat.statistics)
        if feed.source is not None:
            backend.gather_rows(feed.source[0], feed.source[2], self.counters, out=feed.x)
        place, outputs = LOSS_ITSELF, lent(feed.x, backend)
        for number, layer in enumerate(self.layers):
            name = f"layer {number}, {layer}"
            bad = [p for p in layer.shapes if not np.isfinite(backend.to_numpy(layer.parameter(p))).all()]
            outputs = layer.forward(outputs, training=True)
            if bad or not np.isfinite(backend.to_numpy(outputs)).all():
                place = f"the {bad[0]} of {name}" if bad else f"the output of {name}"
                break
        self.flat.statistics[...] = before  # the forward pass has changed them
        step = int(backend.to_numpy(self.counters)[STEP]) + 1
        numbers = self.loss.metric == "regression" and place == LOSS_ITSELF  # the outputs are finite
        scaled = "the inputs and the targets" if numbers else "the inputs"
        return (
            f"the loss became {row[LOSS] + row[PENALTY]} in step {step} (epoch {epoch + 1}); the first numbers that "
            f"are not finite are in {place}. The model is as it was before that step. Lower the learning rate (now "
            f"{self.optimizer.learning_rate:g}) or scale {scaled} to about -1 .. 1"
        )


def explain(model: Model, runner: Runner) -> None:
    """Set a model's `eager_reason` and `replay_reason` by how its steps run."""
    if runner.reason is None:
        return
    if runner.description == AS_WRITTEN:
        model.eager_reason = runner.reason
    else:
        model.replay_reason = runner.reason
