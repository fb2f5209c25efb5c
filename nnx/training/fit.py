"""Training loop of `Sequential.fit`: epochs, order of rows, validation, callbacks, progress, Ctrl-C around a step.

Epochs run in blocks. Where something must happen after each epoch (a callback, validation) a block is one epoch;
otherwise it is as many as keep the order of rows small. Within a block steps run in chunks of about 0.2 seconds
(`Pace`), so that the progress moves and Ctrl-C is heard.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.history import History
from nnx.kernels.step_state import HITS, LOSS, PENALTY
from nnx.training import progress
from nnx.training.batches import samples_for
from nnx.training.interrupt import Interrupt
from nnx.training.step import HISTORY, Eager, Feed, Trainer

if TYPE_CHECKING:
    from nnx.callbacks import Callback
    from nnx.model.sequential import Sequential

Array = Any


@dataclass(frozen=True)
class Piece:
    """A number of steps of one batch size, within an epoch or running over several."""

    feed: Feed
    runner: Any
    steps: int


class Fit:
    """One call of `fit`, with everything checked; x and y are NumPy arrays."""

    def __init__(
        self, model: Sequential, trainer: Trainer, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool,
        validation: tuple[Any, Any] | None, callbacks: Sequence[Callback],
    ) -> None:  # fmt: skip
        self.model, self.trainer, self.rows = model, trainer, len(x)
        self.batch, self.tail = min(batch, self.rows), self.rows % min(batch, self.rows)
        self.validation, self.callbacks = validation, callbacks
        self.steps_per_epoch = -(-self.rows // self.batch)
        self.samples = samples_for(model, trainer, x, y, self.batch, shuffle, self.each_epoch)
        self.full: tuple[Feed, Any] | None = None
        self.last: tuple[Feed, Any] | None = None
        self.edition = 0  # of the settings that both were recorded with
        self.regularized = False  # whether penalties are listed apart

    @property
    def each_epoch(self) -> bool:
        """Whether something must happen after every epoch."""
        return bool(self.callbacks or self.validation)

    def record(self) -> None:
        """Record the steps of both batch sizes: the full one, and the last of an epoch; anew where settings changed."""
        self.edition = self.trainer.refresh()
        self.model.eager_reason = self.model.replay_reason = None
        self.full, self.last = self._runner(self.batch, self.full), self._runner(self.tail, self.last)
        self._note()

    def _note(self) -> None:
        """Note how steps run, for `Sequential.summary`."""
        self.trainer.note([found[1] for found in (self.full, self.last) if found is not None])

    def _runner(self, rows: int, before: tuple[Feed, Any] | None) -> tuple[Feed, Any] | None:
        if rows == 0:
            return None
        feed = self.samples.feed(rows) if before is None else before[0]
        self.samples.begin(self.model.epochs_done, 1)
        runner = self.trainer.runner(feed)
        if isinstance(runner, Eager):
            self.model.eager_reason = runner.reason
        return feed, runner

    def run(self, epochs: int, verbose: Any) -> History:
        """Train for so many epochs."""
        model, history = self.model, History(self.model.epochs_done)
        history.streamed = self.samples.reason
        model.stop_training = False
        interrupt = Interrupt()
        try:
            interrupt.begin()
            with progress.make(verbose, epochs, history.first_epoch) as bar:
                self._run(epochs, history, interrupt, bar)
        finally:
            try:
                interrupt.end()
            finally:  # again, if a signal has cut that short
                interrupt.end()
        return history

    def _run(self, epochs: int, history: History, interrupt: Interrupt, bar: progress.Progress) -> None:
        model = self.model
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(model)
            self.regularized = model.regularized  # as a table's columns, the same for all epochs
            self.record()  # may compile, so under the bar
            while history.epochs < epochs and not (interrupt.asked or model.stop_training):
                self._block(min(self.samples.epochs, epochs - history.epochs), history, interrupt, bar)
            history.interrupted = interrupt.asked and history.epochs < epochs
            history.complete = not history.interrupted
        finally:
            self.samples.close()
            self._note()  # again: what CUDA refuses while it runs goes on otherwise
            for callback in self.callbacks:
                callback.on_fit_end(model, history)

    def _block(self, epochs: int, history: History, interrupt: Interrupt, bar: progress.Progress) -> None:
        first = self.model.epochs_done
        for callback in self.callbacks:
            callback.on_epoch_begin(self.model, first)
        if self.trainer.refresh() != self.edition:  # a callback has changed a setting
            self.record()
        self.samples.begin(first, epochs)
        rows = [np.empty((0, 3))]  # Ctrl-C may come before the first step
        done = 0
        for piece in self._pieces(epochs):
            left = piece.steps
            while left and not interrupt.asked:
                ready = min(left, HISTORY, self.samples.ready(done))
                steps = piece.feed.pace.chunk(ready, self.model._owner)
                begin = time.perf_counter()
                epoch_of = partial(self._epoch, first, done)
                part, error = self.trainer.run_guarded(piece.runner, piece.feed, steps, epoch_of, self.samples.fetch)
                rows.append(part)
                if error is not None:
                    self._close(first, np.concatenate(rows), history, bar)
                    raise error
                seconds = time.perf_counter() - begin
                piece.feed.pace.seconds = seconds / steps
                history.seconds += seconds
                done, left = done + steps, left - steps
                bar.advance(steps / self.steps_per_epoch)
        self._close(first, np.concatenate(rows), history, bar)

    def _epoch(self, first: int, done: int, more: int) -> int:
        return int(first + (done + more) // self.steps_per_epoch)

    def _pieces(self, epochs: int) -> list[Piece]:
        assert self.full is not None
        if self.last is None:
            return [Piece(*self.full, epochs * self.steps_per_epoch)]
        return epochs * [Piece(*self.full, self.steps_per_epoch - 1), Piece(*self.last, 1)]

    def _close(self, first: int, rows: np.ndarray, history: History, bar: progress.Progress) -> None:
        """Turn the steps of whole epochs into the epochs' values, and do what is due after each."""
        weights = np.full(self.steps_per_epoch, float(self.batch))
        if self.tail:
            weights[-1] = self.tail
        whole = len(rows) // self.steps_per_epoch
        for number, steps in enumerate(rows[: whole * self.steps_per_epoch].reshape(whole, self.steps_per_epoch, 3)):
            logs = self._logs(weights @ steps[:, [LOSS, PENALTY]] / self.rows, steps[:, HITS].sum() / self.rows)
            self.model.epochs_done = first + number + 1
            if self.validation is not None:
                scores = self.model.evaluate(*self.validation, batch_size=max(self.batch, 256))
                logs.update({f"val_{name}": value for name, value in scores.items()})
            history.add(logs)
            history.samples += self.rows
            bar.log(first + number, logs)
            for callback in self.callbacks:
                callback.on_epoch_end(self.model, first + number, logs)

    def _logs(self, means: np.ndarray, accuracy: float) -> dict[str, float]:
        data, penalty = (float(mean) for mean in means)
        logs = {"loss": data + penalty}
        if self.regularized:
            logs |= {"data_loss": data, "regularization_loss": penalty}
        if self.trainer.metric is not None:
            logs["accuracy"] = float(accuracy)
        return logs
