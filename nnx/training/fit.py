"""The training loop of `Sequential.fit`: epochs, validation, callbacks, progress and Ctrl-C around the steps.

Epochs run in blocks. If something must happen after each epoch (a callback, validation), a block is one epoch;
otherwise it has as many epochs as keep the array with the order of rows small. Within a block, steps run in chunks of
about 0.2 seconds (`Pace`), so that the progress moves and Ctrl-C is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from nnx.callbacks import Callback, Model, WeightAverage
from nnx.callbacks.callback import watches_batches
from nnx.callbacks.rates import rate_by_step
from nnx.distributed.communicator import Communicator
from nnx.errors import InputError, NonFiniteError
from nnx.history import History
from nnx.kernels.step_state import HITS, LOSS, PENALTY
from nnx.training import progress, together
from nnx.training.batches import Batches
from nnx.training.beside import Alone
from nnx.training.step import HISTORY, Feed
from nnx.training.stepwise import Plan, Stepwise
from nnx.training.trainer import Runner, Trainer, explain


class Fit:
    """One call of `fit`, with all arguments already checked.

    Args:
        model, trainer: what is trained, and what trains it. batches: where the steps' rows come from.
        batch: rows of a step. validation: the arguments of `evaluate` after each epoch, or None. callbacks: as given.
        accumulate: how many batches make one update. beside: what it shares with other fits, if any.
    """

    def __init__(
        self, model: Model, trainer: Trainer, batches: Batches, batch: int, validation: tuple[Any, ...] | None = None,
        callbacks: Sequence[Callback] = (), accumulate: int = 1, beside: Alone | None = None,
    ) -> None:  # fmt: skip
        self.model, self.trainer, self.batches, self.batch = model, trainer, batches, batch
        self.validation, self.callbacks = validation, callbacks
        self.each_batch = [callback for callback in callbacks if watches_batches(callback)]
        self.comm = Communicator() if trainer.shares is None else trainer.shares.comm
        self.beside = beside or Alone()
        self.interrupt = self.beside.interrupt()
        self.agreement = together.Agreement(self.comm, self.interrupt)
        self.plan = Plan(batches.steps, accumulate, rate_by_step(callbacks))
        self.mean = next((callback for callback in callbacks if isinstance(callback, WeightAverage)), None)
        self.runners: dict[Feed, Runner] = {}
        self.epochs = 0  # done in this fit
        self.edition = 0  # of the settings with which the runners were recorded (see `Trainer.refresh`)
        self.regularized = False  # whether the history lists the penalties separately

    def record(self, within: bool = False) -> None:
        """Record a step for each batch size, again after settings have changed; `within`: in the middle of an epoch."""
        self.edition = self.trainer.refresh()
        self.model.eager_reason = self.model.replay_reason = None
        for feed in self.batches.feeds:
            if not within:  # else rows are ready, and steps continue after those already taken
                self._begin()
            self._add_runner(feed, within)
        self._note()

    def _add_runner(self, feed: Feed, within: bool) -> None:
        """Record a step for one batch size."""
        with self.beside.recording(feed.x.shape[0] * self.trainer.flat.size):
            self.runners[feed] = self._runner(feed, within)
        explain(self.model, self.runners[feed])

    def _runner(self, feed: Feed, within: bool) -> Runner:
        """Return the object that runs the steps on a feed."""
        update = self.trainer.known_runner(feed)
        if self.plan.plain:
            return update
        part = None
        if self.plan.every > 1:
            if not within:
                self._begin()
            part = self.trainer.runner(feed, part=True)
        return Stepwise(self.trainer, self.plan, update, part)

    def _begin(self) -> None:
        with self.agreement.sharing():
            self.batches.begin(self.model.epochs_done, 1)
        self.agreement.goes_on(stop=False)  # wait until all have their data, as recording may need all processes

    def _note(self) -> None:
        """Store how steps run, for `Sequential.summary`."""
        self.trainer.note(list(self.runners.values()))

    def run(self, epochs: int, verbose: Any) -> History:
        """Train for `epochs` epochs; `verbose` as for `Sequential.fit`."""
        model, history = self.model, History(self.model.epochs_done)
        history.streamed = self.batches.reason
        model.stop_training = False
        self.batches.end = model.epochs_done + epochs
        try:
            self._reserve()
            self.interrupt.begin()
            with (
                together.repeatable(self.trainer.shares, self.trainer.backend),
                self.beside.progress(verbose if self.comm.leads else 0, epochs, history.first_epoch) as bar,
            ):
                self._run(epochs, history, bar)
        finally:
            try:
                self.interrupt.end()
            finally:  # once more, in case a signal interrupted that
                self.interrupt.end()
                self.trainer.accumulating, self.trainer.averaging = False, None
        together.end(self.trainer, self.comm, "fit")
        return history

    def _reserve(self) -> None:
        """Reserve the parts of the flat buffer that this fit needs besides the usual ones."""
        flat, accumulating = self.trainer.flat, self.plan.every > 1
        if flat.reserve(*(["held"] if accumulating else []), *(["average"] if self.mean is not None else [])):
            self.trainer.outdated = True  # recordings have the addresses of the buffer's former parts
        self.trainer.accumulating = accumulating
        if accumulating:
            flat.held[...] = 0

    def _average(self) -> None:
        """Begin to average the parameters, if this is the epoch for it."""
        if self.mean is None or self.trainer.averaging is not None or self.epochs < self.mean.start:
            return
        self.trainer.flat.average[...] = self.trainer.flat.values
        self.trainer.averaging, self.trainer.outdated = (self.mean.decay, self.trainer.optimizer.iterations), True

    def _run(self, epochs: int, history: History, bar: progress.Progress) -> None:
        model, agreement = self.model, self.agreement
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(model)
            self.regularized = self.trainer.network.regularized  # fixed here: all epochs have the same quantities
            self._average()
            self.record()  # within the bar, as it may compile
            while history.epochs < epochs and agreement.goes_on(model.stop_training):
                self._block(min(self.batches.epochs, epochs - history.epochs), history, bar)
                self.epochs = history.epochs
            if self.trainer.averaging is not None:
                self.trainer.swap()
            history.interrupted = agreement.interrupted and history.epochs < epochs
            history.complete = not history.interrupted
        except InputError as error:  # in data that are read during the fit
            error.history = history
            raise
        finally:
            self.batches.close()
            self._note()  # again: steps that CUDA refused have continued in another way
            for callback in self.callbacks:
                callback.on_fit_end(model, history)

    def _block(self, epochs: int, history: History, bar: progress.Progress) -> None:
        first = self.model.epochs_done
        for callback in self.callbacks:
            callback.on_epoch_begin(self.model, first)
        self._average()
        if self.trainer.refresh() != self.edition:  # a callback has changed a setting
            self.record()
        rows = [np.empty((0, 3))]  # stays so if Ctrl-C comes before the first step
        done = 0
        for feed, ready in self._ready(first, epochs):
            if ready and feed not in self.runners:  # a batch of a new size
                self.agreement.steps(1, feed.x.shape[0])
                self._add_runner(feed, within=True)
            while ready:
                steps = self.agreement.steps(self._chunk(feed, ready), feed.x.shape[0])
                if not steps:
                    break
                self._before_batch(done)
                runner = self.runners[feed]
                if isinstance(runner, Stepwise):
                    runner.at = int(done % self.plan.steps)
                part, error = self._steps(feed, steps, partial(self._epoch, first, done), history)
                rows.append(part)
                if error is not None:
                    self._close(first, np.concatenate(rows), history, bar)
                    raise error
                self._after_batch(done, part[0], feed.x.shape[0])
                done, ready = done + steps, ready - steps
                bar.advance(steps / self.batches.expected)
            if ready:  # Ctrl-C has come
                break
        self._close(first, np.concatenate(rows), history, bar)

    def _ready(self, first: int, epochs: int) -> Iterator[tuple[Feed, int]]:
        """Yield what `Batches.block` yields. If a process cannot read its data, all processes get the error."""
        batches = self.batches.block(first, epochs)
        while True:
            with self.agreement.sharing():
                ready = next(batches, None)
            if ready is None:
                return
            yield ready

    def _chunk(self, feed: Feed, ready: int) -> int:
        return 1 if self.each_batch else feed.pace.chunk(min(ready, HISTORY), self.trainer._owner)

    def _before_batch(self, batch: int) -> None:
        for callback in self.each_batch:
            callback.on_batch_begin(self.model, batch)
        if self.each_batch and self.trainer.refresh() != self.edition:  # a callback has changed a setting
            self.record(within=True)

    def _after_batch(self, batch: int, row: np.ndarray, rows: int) -> None:
        for callback in self.each_batch:
            scale = self.batches.scale(self.model.epochs_done, batch)
            logs = self._values(float(row[LOSS] * scale), float(row[PENALTY]), float(row[HITS] * scale / rows))
            callback.on_batch_end(self.model, batch, logs)

    def _steps(
        self, feed: Feed, steps: int, epoch_of: Callable[[int], int], history: History
    ) -> tuple[np.ndarray, NonFiniteError | None]:
        """Run steps of one batch size, and measure how long they take."""
        runner = self.runners[feed]
        native = runner.native and self.trainer.backend.device == "cpu"
        with self.beside.letting_go(steps * feed.pace.seconds if native else 0.0):
            begin = time.perf_counter()
            done = self.trainer.run_guarded(runner, feed, steps, epoch_of, self.batches.fetch)
            seconds = time.perf_counter() - begin
        explain(self.model, runner)
        feed.pace.seconds = seconds / steps
        history.seconds += seconds
        return done

    def _epoch(self, first: int, done: int, more: int) -> int:
        return first if self.batches.epochs == 1 else int(first + (done + more) // self.batches.steps)

    def _close(self, first: int, rows: np.ndarray, history: History, bar: progress.Progress) -> None:
        """Compute the values of whole epochs from those of their steps, and do what is due after each epoch."""
        values = self._means(first, rows)
        epochs, samples = len(values["loss"]), int(self.batches.sizes.sum())
        if not self.callbacks and self.validation is None:  # one by one that would take as long as a step of 10 us
            history.extend(values)
            history.samples += epochs * samples
            self.model.epochs_done = first + epochs
            for number in dict.fromkeys((0, epochs - 1)) if epochs else ():
                bar.log(first + number, {name: float(column[number]) for name, column in values.items()})
            return
        for number, each in enumerate(zip(*(column.tolist() for column in values.values()), strict=True)):
            self.model.epochs_done = first + number + 1
            with self._averaged():
                self._end_epoch(first + number, dict(zip(values, each, strict=True)), samples, history, bar)

    def _means(self, first: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values of each whole epoch. Each sum is over one epoch, so its bits do not depend on others."""
        batches, sizes = self.batches, self.batches.sizes
        size, weighted = len(sizes), batches.weighted
        epochs = len(rows) // size
        if not epochs:
            return self._values(*np.zeros((3, 0)))
        # Without weights all epochs count the same. With them hits are sums of weights.
        shares = [batches.shares(first + number) for number in range(epochs if weighted else 1)]
        steps = rows[: epochs * size].reshape(epochs, size, rows.shape[1])
        values = np.ascontiguousarray(steps.transpose(0, 2, 1))  # so that each sum is over contiguous numbers
        counted = np.array(shares)
        values[:, LOSS] *= counted
        values[:, PENALTY] *= counted
        if weighted:
            values[:, HITS] *= counted / sizes
        means = np.add.reduce(values, axis=2) / [[batches.total(share)] for share in shares]
        return self._values(means[:, LOSS], means[:, PENALTY], means[:, HITS])

    def _end_epoch(
        self, epoch: int, logs: dict[str, float], samples: int, history: History, bar: progress.Progress
    ) -> None:
        """Do what is due after an epoch: validation, callbacks, progress, history."""
        if self.validation is not None:
            x, y, *weights = self.validation
            logs.update({f"val_{name}": value for name, value in self._scores(x, y, *weights).items()})
        history.add(logs)
        history.samples += samples
        bar.log(epoch, logs)
        for callback in self.callbacks:
            callback.on_epoch_end(self.model, epoch, logs)

    def _scores(self, x: Any, y: Any, *weights: Any) -> dict[str, float]:
        rows = max(self.batch, 256)
        if self.comm.size == 1:
            return self.model.evaluate(x, y, rows, *weights)
        return self.model.scores(x, y, rows, *weights, comm=self.comm)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Return a context in which the parameters are their mean, if one is taken."""
        if self.trainer.averaging is None:
            yield
            return
        self.trainer.swap()
        try:
            yield
        finally:
            self.trainer.swap()

    def _values(self, data: Any, penalty: Any, accuracy: Any) -> dict[str, Any]:
        """Return the values that the history lists, for one epoch, or as arrays for several."""
        values = {"loss": data + penalty}
        if self.regularized:
            values |= {"data_loss": data, "regularization_loss": penalty}
        if self.trainer.metric is not None:
            values["accuracy"] = accuracy
        return values
