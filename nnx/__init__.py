"""Neural networks from scratch, at full speed on whatever the machine has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnx import backends, callbacks, datasets, distributed, errors, metrics, schedules
from nnx.backends import get_backend, set_backend, use_backend
from nnx.backends.resolve import memory, release
from nnx.backends.threads import set_threads
from nnx.converters import from_onnx, from_torch
from nnx.ensemble import Ensemble
from nnx.errors import (
    BackendFallbackWarning,
    BackendUnavailable,
    DeviceMemoryError,
    InputError,
    InUseError,
    MissingExtra,
    NonFiniteError,
)
from nnx.gradcheck import gradcheck
from nnx.history import History
from nnx.layers import (
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Elementwise,
    Embedding,
    Flatten,
    GaussianNoise,
    Layer,
    LayerNorm,
    Residual,
    activations,
    seed,
)
from nnx.layers.activations import *  # noqa: F403 - the names in its __all__
from nnx.loading import load
from nnx.losses import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    ElementwiseLoss,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    accuracy,
)
from nnx.optimizers import SGD, AdaGrad, Adam, AdamW, AMSGrad, Lion, Nadam, Optimizer, RMSprop
from nnx.rate_finder import find_learning_rate
from nnx.sequential import Sequential
from nnx.training.many import fit_many

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AMSGrad",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BackendFallbackWarning",
    "BackendUnavailable",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "Concat",
    "Dense",
    "DeviceMemoryError",
    "Dropout",
    "Elementwise",
    "ElementwiseLoss",
    "Embedding",
    "Ensemble",
    "Flatten",
    "GaussianNoise",
    "History",
    "Huber",
    "InUseError",
    "InputError",
    "Layer",
    "LayerNorm",
    "Lion",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MissingExtra",
    "Nadam",
    "NonFiniteError",
    "Optimizer",
    "RMSprop",
    "Residual",
    "Sequential",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "accuracy",
    "backends",
    "callbacks",
    "datasets",
    "distributed",
    "errors",
    "find_learning_rate",
    "fit_many",
    "from_onnx",
    "from_torch",
    "get_backend",
    "gradcheck",
    "load",
    "memory",
    "metrics",
    "release",
    "schedules",
    "seed",
    "set_backend",
    "set_threads",
    "use_backend",
]
__all__ += activations.__all__
del activations  # a name of nnx.layers, not of nnx


if TYPE_CHECKING:
    import numpy as _numpy

    xp = _numpy  # whose interface all backends' namespaces have

_LATER = ("data", "nnfs", "testing", "xp")  # made or imported when first asked for


def __dir__() -> list[str]:
    """Return the public names, and not those of modules that happen to be imported."""
    return sorted([*__all__, *_LATER, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "xp":  # the active backend's array namespace, which can change: from nnx import xp as np
        return get_backend().xp
    if name in _LATER:
        return import_module(f"nnx.{name}")
    raise AttributeError(f"module 'nnx' has no attribute {name!r}")
