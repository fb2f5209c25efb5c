"""Optimizers (chapter 10): SGD, AdaGrad, RMSprop, Adam, and AdamW.

Each is one operation over a flat buffer. Its numbers stand in the array `hyper`, and the count of steps in `counters`,
because a recorded training step reads arrays and would never notice a changed Python number.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError
from nnx.kernels.layout import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, STEP, WEIGHT_DECAY
from nnx.layers import Layer
from nnx.parameters import ParameterBuffer
from nnx.structure import expect_instance

Array = Any


class Optimizer:
    """The base of all optimizers.

    The learning rate of step t, counted from 0, is `learning_rate / (1 + decay * t)`.

    Used by hand, as in the notes: `pre_update_params()`, `update_params(layer)` for each layer, `post_update_params()`.

    Attributes:
        iterations: steps done.
        current_learning_rate: that of the next step.
    """

    operation: ClassVar[str]
    moments: ClassVar[tuple[str, ...]]  # which of the buffer's moments the operation takes

    def __init__(self, learning_rate: float, decay: float = 0.0) -> None:
        self.hyper = np.zeros(6)
        self.counters = np.zeros(3, np.int64)
        self.learning_rate = learning_rate
        self._set("decay", DECAY, decay)

    def _set(self, name: str, place: int, value: float, **limits: Any) -> None:
        self.hyper[place] = checks.real(value, f"{type(self).__name__}: {name}", **limits)

    @property
    def learning_rate(self) -> float:
        """The rate before decay; assignable at any time."""
        return float(self.hyper[LEARNING_RATE])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._set("learning_rate", LEARNING_RATE, value, open_low=True)

    @property
    def decay(self) -> float:
        """By how much the rate falls with each step."""
        return float(self.hyper[DECAY])

    @property
    def epsilon(self) -> float:
        """What keeps the division from overflowing."""
        return float(self.hyper[EPSILON])

    @property
    def iterations(self) -> int:
        """Steps done."""
        return int(self.counters[STEP])

    @property
    def current_learning_rate(self) -> float:
        """The rate of the next step."""
        return self.learning_rate / (1.0 + self.decay * self.iterations)

    # ---- by hand, as in the notes ------------------------------------------------------------------------------------

    def pre_update_params(self) -> None:
        """Do nothing: the rate of the step is computed from `iterations`. The notes call it before each update."""

    def update_params(self, layer: Layer) -> None:
        """Move the parameters of one layer against their gradients. Layers without parameters stay as they are."""
        expect_instance(layer, Layer, "update_params: layer", "Dense(2, 3)")
        if not layer.shapes:
            return
        layer.parameter(next(iter(layer.shapes)))
        flat = getattr(layer, "flat", None)
        if flat is None:
            raise InputError(
                f"{layer} belongs to a model, which updates all its layers at once: call model.step() or fit()"
            )
        backend = layer.backend
        self.update(flat, backend.asarray(self.hyper, "float64"), backend.asarray(self.counters, "int64"))

    def post_update_params(self) -> None:
        """Count the step."""
        self.counters[STEP] += 1

    # ---- what a model calls ------------------------------------------------------------------------------------------

    def update(self, flat: ParameterBuffer, hyper: Array, counters: Array, backend: Any = None) -> None:
        """Do one step over a flat buffer, with `hyper` and `counters` as arrays of its backend."""
        moments = [getattr(flat, name) for name in self.moments]
        operation = getattr(backend or flat.backend, self.operation)
        operation(flat.values, flat.gradients, *moments, hyper, counters)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {"learning_rate": self.learning_rate, "decay": self.decay}

    def __copy__(self) -> Optimizer:
        """Return what `copy.deepcopy` does: the numbers stand in arrays, which two optimizers must not share."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v:g}' for k, v in self.config().items())})"


class SGD(Optimizer):
    """v = momentum * v - rate * g; w += v.

    Args:
        learning_rate: above 0. momentum: at least 0 and below 1. decay: at least 0.
    """

    operation = "sgd"
    moments = ("first",)

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(learning_rate, decay)
        self._set("momentum", BETA_1, momentum, high=1.0)

    @property
    def momentum(self) -> float:
        """The share of the last step that is done again."""
        return float(self.hyper[BETA_1])

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "momentum": self.momentum}


class AdaGrad(Optimizer):
    """cache += g**2; w -= rate * g / (sqrt(cache) + epsilon) (Duchi et al., 2011)."""

    operation = "adagrad"
    moments: ClassVar[tuple[str, ...]] = ("second",)

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7) -> None:
        super().__init__(learning_rate, decay)
        self._set("epsilon", EPSILON, epsilon, open_low=True)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "epsilon": self.epsilon}


class RMSprop(AdaGrad):
    """cache = rho * cache + (1 - rho) * g**2; w -= rate * g / (sqrt(cache) + epsilon) (Hinton, 2012)."""

    operation = "rmsprop"

    def __init__(
        self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self._set("rho", BETA_1, rho, high=1.0)

    @property
    def rho(self) -> float:
        """The share of the cache that each step keeps."""
        return float(self.hyper[BETA_1])

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "rho": self.rho}


class Adam(AdaGrad):
    """Momentum and RMSprop together, both corrected for starting at 0 (Kingma and Ba, 2015)."""

    operation = "adam"
    moments = ("first", "second")

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self._set("beta_1", BETA_1, beta_1, high=1.0)
        self._set("beta_2", BETA_2, beta_2, high=1.0)

    @property
    def beta_1(self) -> float:
        """The share of the mean gradient that each step keeps."""
        return float(self.hyper[BETA_1])

    @property
    def beta_2(self) -> float:
        """The share of the mean squared gradient that each step keeps."""
        return float(self.hyper[BETA_2])

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


class AdamW(Adam):
    """Adam, with each step also shrinking the parameters by `rate * weight_decay` (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon, beta_1, beta_2)
        self._set("weight_decay", WEIGHT_DECAY, weight_decay)

    @property
    def weight_decay(self) -> float:
        """How strongly the parameters shrink."""
        return float(self.hyper[WEIGHT_DECAY])

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "weight_decay": self.weight_decay}
