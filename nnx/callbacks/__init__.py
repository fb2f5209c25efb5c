"""Callbacks, which `fit` calls before and after epochs and steps: stop early, save, log, change the learning rate."""

from nnx.callbacks.callback import Callback, Model
from nnx.callbacks.early_stopping import EarlyStopping
from nnx.callbacks.monitor import Monitor
from nnx.callbacks.rates import LearningRateSchedule, ReduceOnPlateau
from nnx.callbacks.weight_average import WeightAverage
from nnx.callbacks.writing import CSVLogger, ModelCheckpoint

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LearningRateSchedule",
    "Model",
    "ModelCheckpoint",
    "Monitor",
    "ReduceOnPlateau",
    "WeightAverage",
]
