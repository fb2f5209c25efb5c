"""The book's optimizers (chapter 10). Each updates a layer in place and keeps its state on the layer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.arguments import explained
from nnx.errors import InputError
from nnx.kernels.step_state import BETA_1, BETA_2, EPSILON, LEARNING_RATE
from nnx.nnfs.precision import backend, floats

Array = Any


class Optimizer:
    """Base class of the optimizers: the decaying learning rate, and one operation of the backend for each parameter.

    Attributes:
        learning_rate, decay: the rate of step t, counted from 0, is `learning_rate / (1 + decay * t)`.
        current_learning_rate: the rate of the last step. Without decay you may set it.
        iterations: the number of steps done.
    """

    operation: ClassVar[str]
    moments: ClassVar[tuple[str, ...]]  # what is kept on the layer, after "weight_" and "bias_"

    def __init__(self, learning_rate: float, decay: float) -> None:
        self.learning_rate = checks.real(learning_rate, f"{type(self).__name__}: learning_rate")
        self.current_learning_rate = self.learning_rate
        self.decay = checks.real(decay, f"{type(self).__name__}: decay")
        self.iterations = 0

    def pre_update_params(self) -> None:
        """Set the rate of this step. Call it once before the layers are updated."""
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1.0 / (1.0 + self.decay * self.iterations))

    def update_params(self, layer: Any) -> None:
        """Update weights and biases of a layer in place, given their gradients."""
        hyper = np.zeros(6)  # laid out as step_state.py says; the rate stands there decayed
        hyper[LEARNING_RATE] = self.current_learning_rate
        for place, number in self.hyper().items():
            hyper[place] = number
        counters = np.array([self.iterations, 0, 0])
        for parameter, prefix in ((layer.weights, "weight"), (layer.biases, "bias")):
            gradient = self.gradient(layer, "dweights" if prefix == "weight" else "dbiases", parameter)
            state = [self.state(layer, f"{prefix}_{moment}", gradient) for moment in self.moments]
            flat = [a.reshape(-1) for a in (parameter, gradient, *state)]  # views: Layer_Dense sees to that
            getattr(backend(), self.operation)(*flat, hyper, counters)

    def post_update_params(self) -> None:
        """Count the step. Call it once after the layers are updated."""
        self.iterations += 1

    def hyper(self) -> dict[int, float]:
        """Return the optimizer's numbers by their places: see nnx/kernels/step_state.py."""
        raise NotImplementedError

    def gradient(self, layer: Any, name: str, parameter: Array) -> Array:
        """Return a gradient of the layer; raise InputError if there is none, or if it has another shape."""
        gradient = getattr(layer, name, None)
        if gradient is None:
            raise InputError(f"{type(self).__name__}: {layer} has no {name}: call backward() before update_params()")
        if gradient.shape != parameter.shape:
            raise InputError(
                f"{type(self).__name__}: {name} of {layer} have shape {gradient.shape}, expected {parameter.shape}"
            )
        return floats(gradient, like=parameter)

    def state(self, layer: Any, name: str, gradient: Array) -> Array:
        """Return the state that is kept on the layer under `name`; zeros at first."""
        if getattr(layer, name, None) is None:
            setattr(layer, name, np.zeros_like(gradient, order="C"))
        return getattr(layer, name)


class Optimizer_SGD(Optimizer):
    """v = momentum * v - rate * g; w += v."""

    operation = "sgd"
    moments = ("momentums",)

    @explained
    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, momentum: float = 0.0) -> None:
        super().__init__(learning_rate, decay)
        self.momentum = checks.real(momentum, "Optimizer_SGD: momentum", high=1.0)

    def hyper(self) -> dict[int, float]:
        """Return the momentum."""
        return {BETA_1: self.momentum}

    def state(self, layer: Any, name: str, gradient: Array) -> Array:
        """Keep nothing on the layer without momentum."""
        return super().state(layer, name, gradient) if self.momentum else np.zeros_like(gradient)


class Optimizer_Adagrad(Optimizer):
    """cache += g**2; w -= rate * g / (sqrt(cache) + epsilon)."""

    operation = "adagrad"
    moments: ClassVar[tuple[str, ...]] = ("cache",)

    @explained
    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7) -> None:
        super().__init__(learning_rate, decay)
        self.epsilon = checks.real(epsilon, f"{type(self).__name__}: epsilon")

    def hyper(self) -> dict[int, float]:
        """Return epsilon."""
        return {EPSILON: self.epsilon}


class Optimizer_RMSprop(Optimizer_Adagrad):
    """cache = rho * cache + (1 - rho) * g**2; w -= rate * g / (sqrt(cache) + epsilon)."""

    operation = "rmsprop"

    @explained
    def __init__(
        self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self.rho = checks.real(rho, "Optimizer_RMSprop: rho", high=1.0)

    def hyper(self) -> dict[int, float]:
        """Return epsilon and rho."""
        return {EPSILON: self.epsilon, BETA_1: self.rho}


class Optimizer_Adam(Optimizer_Adagrad):
    """Momentum and RMSprop together, both corrected for starting at 0."""

    operation = "adam"
    moments = ("momentums", "cache")

    @explained
    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self.beta_1 = checks.real(beta_1, "Optimizer_Adam: beta_1", high=1.0)
        self.beta_2 = checks.real(beta_2, "Optimizer_Adam: beta_2", high=1.0)

    def hyper(self) -> dict[int, float]:
        """Return epsilon and both betas."""
        return {EPSILON: self.epsilon, BETA_1: self.beta_1, BETA_2: self.beta_2}
