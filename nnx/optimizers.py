"""Optimizers (chapter 10): SGD, AdaGrad, RMSprop, Adam, and AdamW.

Each is one operation over a flat buffer. Its numbers stand in the array `hyper`, and the count of steps in `counters`,
because a recorded training step reads arrays and would never notice a changed Python number.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError
from nnx.flat_buffer import ParameterBuffer
from nnx.kernels.step_state import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, STEP, WEIGHT_DECAY
from nnx.layers import Layer
from nnx.settings import Assignable, Setting

Array = Any


class Hyper(Setting):
    """A number of an optimizer's array `hyper`, from where every step reads it: assignable at any time.

    Args:
        place: where in `hyper`. limits: as for `checks.real`.
    """

    def __init__(self, place: int, **limits: Any) -> None:
        super().__init__(partial(checks.real, **limits))
        self._place = place

    def __get__(self, part: Any, owner: type | None = None) -> Any:
        return self if part is None else float(part.hyper[self._place])

    def __set__(self, part: Any, value: Any) -> None:
        part.hyper[self._place] = self._check(value, f"{type(part).__name__}: {self._name}")


class Switch(Hyper):
    """The same for what is on or off, 1 or 0 in the array."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self._check = checks.flag

    def __get__(self, part: Any, owner: type | None = None) -> Any:
        return self if part is None else bool(part.hyper[self._place])


class Optimizer(Assignable):
    """The base of all optimizers.

    The learning rate of step t, counted from 0, is `learning_rate / (1 + decay * t)`.

    Used by hand, as in the book: `pre_update_params()`, `update_params(layer)` for each layer, `post_update_params()`.

    Attributes:
        learning_rate, decay, and whatever numbers an optimizer takes: assignable at any time, right from the next step.
        iterations: steps done.
        current_learning_rate: that of the next step.
    """

    operation: ClassVar[str]
    moments: ClassVar[tuple[str, ...]]  # which of the buffer's moments the operation takes
    _facts: ClassVar[dict[str, str]] = dict.fromkeys(("hyper", "counters"), "assign the numbers by their names")

    _runtime = ("_listener", "hyper", "counters")

    learning_rate = Hyper(LEARNING_RATE, open_low=True)  # before decay
    decay = Hyper(DECAY)  # by how much the rate falls with each step

    def __init__(self, learning_rate: float, decay: float = 0.0) -> None:
        self.hyper = np.zeros(6)
        self.counters = np.zeros(3, np.int64)
        self.learning_rate, self.decay = learning_rate, decay

    @property
    def iterations(self) -> int:
        """Steps done."""
        return int(self.counters[STEP])

    @property
    def current_learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.learning_rate / (1.0 + self.decay * self.iterations))

    # ---- by hand, as in the book ------------------------------------------------------------------------------------

    def pre_update_params(self) -> None:
        """Do nothing: the rate of the step is computed from `iterations`. The book calls it before each update."""

    def update_params(self, layer: Layer) -> None:
        """Move the parameters of one layer against their gradients. Layers without, or not to be trained, stay."""
        checks.instance(layer, Layer, "update_params: layer", "Dense(2, 3)")
        if not layer.shapes or not layer.trainable:
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
        operation = getattr(backend or flat.backend, self.operation)
        for part in flat.trained:
            moments = [part[name] for name in self.moments]
            operation(part["values"], part["gradients"], *moments, hyper, counters)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {"learning_rate": self.learning_rate, "decay": self.decay}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the arrays as its own: those that joblib loads may be read-only."""
        self.__dict__.update(state, hyper=np.array(state["hyper"]), counters=np.array(state["counters"]))

    def __copy__(self) -> Optimizer:
        """Return what `copy.deepcopy` does: the numbers stand in arrays, which two optimizers must not share."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_listener"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v:g}' for k, v in self.config().items())})"


class SGD(Optimizer):
    """v = momentum * v - rate * g; w += v, or with Nesterov's momentum w += momentum * v - rate * g.

    Args:
        learning_rate: above 0. momentum: at least 0 and below 1. decay: at least 0.
        nesterov: step from where the momentum will have led (Sutskever et al., 2013).
    """

    operation = "sgd"
    moments = ("first",)
    momentum = Hyper(BETA_1, high=1.0)  # the share of the last step that is done again
    nesterov = Switch(BETA_2)

    def __init__(
        self, learning_rate: float = 1.0, momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(learning_rate, decay)
        self.momentum = momentum
        self.nesterov = nesterov

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        nesterov = {"nesterov": True} if self.nesterov else {}  # files of before know nothing of it
        return {**super().config(), "momentum": self.momentum, **nesterov}


class AdaGrad(Optimizer):
    """cache += g**2; w -= rate * g / (sqrt(cache) + epsilon) (Duchi et al., 2011)."""

    operation = "adagrad"
    moments: ClassVar[tuple[str, ...]] = ("second",)
    epsilon = Hyper(EPSILON, open_low=True)  # what keeps the division from overflowing

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7) -> None:
        super().__init__(learning_rate, decay)
        self.epsilon = epsilon

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "epsilon": self.epsilon}


class RMSprop(AdaGrad):
    """cache = rho * cache + (1 - rho) * g**2; w -= rate * g / (sqrt(cache) + epsilon) (Hinton, 2012)."""

    operation = "rmsprop"
    rho = Hyper(BETA_1, high=1.0)  # the share of the cache that each step keeps

    def __init__(
        self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self.rho = rho

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "rho": self.rho}


class Adam(AdaGrad):
    """Momentum and RMSprop together, both corrected for starting at 0 (Kingma and Ba, 2015)."""

    operation = "adam"
    moments = ("first", "second")
    beta_1 = Hyper(BETA_1, high=1.0)  # the share of the mean gradient that each step keeps
    beta_2 = Hyper(BETA_2, high=1.0)  # the share of the mean squared gradient that each step keeps

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon)
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


class AdamW(Adam):
    """Adam, with each step also shrinking the parameters by `rate * weight_decay` (Loshchilov and Hutter, 2019)."""

    weight_decay = Hyper(WEIGHT_DECAY)  # how strongly the parameters shrink

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
        self.weight_decay = weight_decay

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "weight_decay": self.weight_decay}
