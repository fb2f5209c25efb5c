"""A call of `Sequential.fit`, from its arguments to the loop of epochs: all is checked before the model is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nnx import checks
from nnx.callbacks import Callback, Model
from nnx.callbacks.checking import check_callbacks, check_monitors
from nnx.data.arrays import Arrays
from nnx.distributed import current
from nnx.history import History
from nnx.training import together
from nnx.training.beside import Alone
from nnx.training.fit import Fit
from nnx.training.given import taken
from nnx.training.held_out import HeldOut, facts_of, held_out, tried
from nnx.training.samples import InMemory, Options, Samples

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable


def options(
    model: Trainable, epochs: int, batch_size: int | None, shuffle: bool, callbacks: Sequence[Callback], verbose: Any,
    class_weight: Any, accumulate: int, deterministic: bool | int, beside: Alone | None = None,
) -> Options:  # fmt: skip
    """Return a fit's arguments other than its data, checked; `beside`: what it shares with fits of other models."""
    trainer = model._trainable("fit")
    shares = together.shares_for(model, "fit", deterministic)
    epochs = checks.integer(epochs, "fit: epochs")
    batch = None if batch_size is None else checks.integer(batch_size, "fit: batch_size")
    every = min(checks.integer(accumulate, "fit: accumulate"), 1 << 31)  # no epoch has as many batches
    shuffle = checks.flag(shuffle, "fit: shuffle")
    checks.verbosity(verbose, "fit: verbose")
    check_callbacks(callbacks)
    return Options(trainer, shares, epochs, batch, every, shuffle, callbacks, verbose, class_weight, beside or Alone())


def fit(
    trained: Trainable, x: Any, y: Any, sample_weight: Any, label: str | None, validation_data: Any,
    validation_split: Any, how: Options,
) -> History:  # fmt: skip
    """Train as `Sequential.fit` describes, with its other arguments checked: `how`."""
    model, trainer = cast(Model, trained), how.trainer  # the same object under two interfaces
    with current().sharing():
        samples, validation = checked(trained, x, y, sample_weight, label, validation_data, validation_split, how)
        tried(trained, model, validation)
        samples.begin()
    trainer.shares = how.shares
    model.eager_reason = model.replay_reason = None
    try:
        callbacks = samples.callbacks()
        together.begin(
            trainer, "fit", **samples.facts, validation_data=facts_of(validation), epochs=how.epochs,
            epochs_done=model.epochs_done, batch_size=samples.batch, shuffle=how.shuffle, callbacks=how.callbacks,
            accumulate=how.every,
        )  # fmt: skip
        batches = samples.batches(each_epoch=bool(callbacks or validation))
    except BaseException:
        samples.close()
        raise
    return Fit(model, trainer, batches, samples.batch, validation, callbacks, how.every, how.beside).run(
        how.epochs, how.verbose
    )


def checked(
    model: Trainable, x: Any, y: Any, sample_weight: Any, label: str | None, validation_data: Any,
    validation_split: Any, how: Options,
) -> tuple[Samples, HeldOut | None]:  # fmt: skip
    """Return the samples to train on and those held out, after checking that all fit together; nothing is changed."""
    came = taken(model, "fit", x, y, sample_weight, label, how.batch)
    samples = _samples(model, came, how, model.epochs_done)
    validation = None if validation_data is None else held_out(model, validation_data, how.epochs)
    if np.ndim(validation_split) or validation_split != 0.0:
        validation = held_out(model, samples.hold_out(validation_split, validation_data), how.epochs)
    samples.check()
    check_monitors(how.callbacks, how.trainer.quantities(validation is not None), model._owner)
    return samples, validation


def _samples(model: Trainable, came: Any, how: Options, epoch: int) -> Samples:
    """Return the samples to train on, from the result of `taken`; `epoch` is the number of the first epoch."""
    if isinstance(came, Arrays):
        return InMemory(model, came, how)
    from nnx.training.read_samples import samples_of  # here, since training on arrays needs no module that reads files

    return samples_of(model, came, how, epoch)
