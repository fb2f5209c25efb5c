"""Summary of a model, including how it is trained."""

from __future__ import annotations

from nnx.model.summary import summarize
from nnx.training.trainable import Trainable


def summary_of(model: Trainable) -> str:
    """Return the layers with their shapes and parameters, and how predictions and training steps run, as text."""
    trainer = model._trainer
    ran = None if trainer is None else trainer.ran
    training = []
    if model.loss is not None:
        epochs = f"{model.epochs_done} epoch{'s' * (model.epochs_done != 1)} done"
        training.append(f"{model.loss}, {model.optimizer}; {epochs}")
    planned = f"none yet; planned: {model.backend.planned_step()}"
    training.append(f"training steps: {planned if ran is None else ran.description}")
    if model.eager_reason is not None:
        training.append(f"steps run eagerly, not replayed: {model.eager_reason}")
    if model.replay_reason is not None:
        training.append(f"steps are replayed one operation at a time: {model.replay_reason}")
    fused = [] if trainer is None else [layer for layer in model.layers if layer not in trainer.layers]
    return summarize(model, training, {} if ran is None else ran.kernels, fused)
