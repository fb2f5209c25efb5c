"""Saving and restoring: the checkpoint of a model with its training state, and how another model continues from it."""

from __future__ import annotations

from nnx.backends.base import on_its_device
from nnx.errors import InputError
from nnx.kernels.user_warnings import warn
from nnx.model.checkpoint import Checkpoint, Training
from nnx.training.trainable import Trainable


def checkpoint_of(model: Trainable) -> Checkpoint:
    """Return a checkpoint: parameters, architecture, what the model was compiled with, and the optimizer's state."""
    training = None
    if model.optimizer is not None:
        trainer = model._compiled("save")
        trainer.check()  # a model that it refuses could not be loaded
        moments = {name: model.backend.to_numpy(getattr(model.flat, name)) for name in model.optimizer.moments}
        training = Training(model.loss, model.optimizer, model.optimizer.iterations, trainer.tolerance, moments)
    return Checkpoint(
        model.layers, model.dtype, model.seed, model.epochs_done, model.metrics, model.metadata,
        model._host_parameters(), training,
    )  # fmt: skip


@on_its_device
def restore(model: Trainable, saved: Checkpoint) -> None:
    """Set a new model with the layers of a checkpoint to its state, so that training continues from there."""
    training = saved.training
    if training is not None:
        model.compile(training.loss, training.optimizer, metrics=saved.metrics)
        if saved.functions:
            names = ", ".join(saved.functions)
            warn(
                f"load: the model was compiled with {names} as metrics, functions that a file cannot hold; to have "
                f"them, give them: nnx.load(path, custom=[{names}])",
                UserWarning,
            )
        for name, moment in training.moments.items():
            part = getattr(model.flat, name)
            if moment.shape != part.shape:
                raise InputError(f"the optimizer's {name} is {moment.shape}, expected {part.shape}")
            part[...] = model.backend.asarray(moment, model.dtype)
        model.resume(training.iterations, training.tolerance)
    model.set_parameters(saved.parameters)
    model.epochs_done, model.metadata = saved.epochs_done, saved.metadata
