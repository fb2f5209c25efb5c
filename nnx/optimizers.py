"""Optimizers (chapter 10): SGD, AdaGrad, RMSprop, Adam, and AdamW, Nadam, AMSGrad and Lion.

Each is one operation over a flat buffer. Its numbers stand in the array `hyper`, and the count of steps in `counters`,
because a recorded training step reads arrays and would never notice a changed Python number.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError
from nnx.flat_buffer import ParameterBuffer
from nnx.kernels.step_state import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, MOMENTUM_DECAY, STEP, WEIGHT_DECAY
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


def limit(value: Any, what: str) -> float | None:
    """Return a limit of gradients; None is none."""
    return None if value is None else checks.real(value, what, open_low=True)


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

    Gradients can be clipped before they are used, penalties included: `clip_value` bounds each number, and `clip_norm`
    the Euclidean norm of all of them together (Pascanu et al., 2013): where that is greater they are multiplied by
    clip_norm / norm. Both: by value first. A norm that is not finite makes all of them nan, so the loss says so.

    Used by hand, as in the book: `pre_update_params()`, `update_params(layer)` for each layer, `post_update_params()`.

    Attributes:
        clip_norm, clip_value: above 0, or None: no limit.
        learning_rate, decay, and whatever numbers an optimizer takes: assignable at any time, right from the next step.
        iterations: steps done.
        current_learning_rate: that of the next step.
    """

    operation: ClassVar[str]
    moments: ClassVar[tuple[str, ...]] = ()  # which of the buffer's moments the operation takes
    _facts: ClassVar[dict[str, str]] = dict.fromkeys(("hyper", "counters"), "assign the numbers by their names")

    _runtime = ("_listener", "hyper", "counters")

    learning_rate = Hyper(LEARNING_RATE, open_low=True)  # before decay
    decay = Hyper(DECAY)  # by how much the rate falls with each step
    clip_norm, clip_value = Setting(limit, default=(None,)), Setting(limit, default=(None,))

    def __init__(
        self, learning_rate: float, decay: float = 0.0, *, clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:  # fmt: skip
        self.hyper = np.zeros(7)
        self.counters = np.zeros(3, np.int64)
        self.learning_rate, self.decay = learning_rate, decay
        self.clip_norm, self.clip_value = clip_norm, clip_value

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
        if self.clip_norm is not None:
            raise InputError(
                f"update_params: clip_norm={self.clip_norm:g} limits the norm of all gradients together, and here is "
                "one layer's; use clip_value, or a model: model.step() or fit()"
            )
        backend = layer.backend
        flat.train(list(layer.trained().values()))  # in a block some may be, others not
        self.reserve_moments(flat)
        self.clip_gradients(flat, backend)
        self.update(flat, backend.asarray(self.hyper, "float64"), backend.asarray(self.counters, "int64"))

    def post_update_params(self) -> None:
        """Count the step."""
        self.counters[STEP] += 1

    # ---- what a model calls ------------------------------------------------------------------------------------------

    def update(self, flat: ParameterBuffer, hyper: Array, counters: Array, backend: Any = None) -> None:
        """Do one step over a flat buffer, with `hyper` and `counters` as arrays of its backend."""
        operation = getattr(backend or flat.backend, self.operation)
        for run in flat.trained:
            parts = [getattr(flat, name)[run] for name in ("values", "gradients", *self.moments)]
            operation(*parts, hyper, counters)

    def clip_gradients(self, flat: ParameterBuffer, backend: Any) -> None:
        """Clip all gradients, where a limit was set."""
        if self.clip_norm is not None or self.clip_value is not None:
            backend.clip(flat.gradients, self.clip_norm or math.inf, self.clip_value or math.inf)

    def reserve_moments(self, flat: ParameterBuffer) -> None:
        """Have those moments in the buffer that not every one has."""
        flat.reserve(*self.moments)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        limits = {"clip_norm": self.clip_norm, "clip_value": self.clip_value}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"learning_rate": self.learning_rate, "decay": self.decay, **given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the arrays as its own: those that joblib loads may be read-only."""
        hyper = np.zeros(7)
        hyper[: len(state["hyper"])] = state["hyper"]  # earlier versions had one less
        self.__dict__.update(state, hyper=hyper, counters=np.array(state["counters"]))

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
        self, learning_rate: float = 1.0, momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False, *,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, decay, clip_norm=clip_norm, clip_value=clip_value)
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

    def __init__(
        self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7, *, clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, decay, clip_norm=clip_norm, clip_value=clip_value)
        self.epsilon = epsilon

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "epsilon": self.epsilon}


class RMSprop(AdaGrad):
    """cache = rho * cache + (1 - rho) * g**2; w -= rate * g / (sqrt(cache) + epsilon) (Hinton, 2012)."""

    operation = "rmsprop"
    rho = Hyper(BETA_1, high=1.0)  # the share of the cache that each step keeps

    def __init__(
        self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9, *,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, decay, epsilon, clip_norm=clip_norm, clip_value=clip_value)
        self.rho = rho

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "rho": self.rho}


class Adam(AdaGrad):
    """Momentum and RMSprop together, both corrected for starting at 0 (Kingma and Ba, 2015)."""

    operation = "adam"
    moments: ClassVar[tuple[str, ...]] = ("first", "second")
    beta_1 = Hyper(BETA_1, high=1.0)  # the share of the mean gradient that each step keeps
    beta_2 = Hyper(BETA_2, high=1.0)  # the share of the mean squared gradient that each step keeps

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon, clip_norm=clip_norm, clip_value=clip_value)
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
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, epsilon, beta_1, beta_2, clip_norm=clip_norm, clip_value=clip_value)
        self.weight_decay = weight_decay

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "weight_decay": self.weight_decay}


class AMSGrad(AdamW):
    """Adam, with the largest mean of squares so far, so that steps never grow by it (Reddi et al., 2018).

    It keeps one number more of each parameter. It is torch's Adam(amsgrad=True), or with a weight decay its AdamW.
    """

    operation = "amsgrad"
    moments = ("first", "second", "third")

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, decay, epsilon, beta_1, beta_2, weight_decay, clip_norm=clip_norm, clip_value=clip_value
        )


class Nadam(AdamW):
    """Adam with Nesterov's momentum, which begins at half of beta_1 and rises by `momentum_decay` (Dozat, 2016).

    The weight decay is the parameters' own, as AdamW's: torch's NAdam(decoupled_weight_decay=True).
    """

    operation = "nadam"
    momentum_decay = Hyper(MOMENTUM_DECAY)  # the momentum of step t is beta_1 * (1 - 0.96**(t * momentum_decay) / 2)

    def __init__(
        self,
        learning_rate: float = 0.002,
        decay: float = 0.0,
        epsilon: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, decay, epsilon, beta_1, beta_2, weight_decay, clip_norm=clip_norm, clip_value=clip_value
        )
        self.momentum_decay = momentum_decay

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {**super().config(), "momentum_decay": self.momentum_decay}


class Lion(Optimizer):
    """w -= rate * (sign(beta_1 m + (1 - beta_1) g) + weight_decay * w); m = beta_2 m + (1 - beta_2) g.

    (Chen et al., 2023.) Each step is as long as any other, so the rate is a third to a tenth of Adam's, and the weight
    decay as much larger.
    """

    operation = "lion"
    moments = ("first",)
    beta_1 = Hyper(BETA_1, high=1.0)  # the share of the mean gradient in what is followed
    beta_2 = Hyper(BETA_2, high=1.0)  # the share of the mean gradient that each step keeps
    weight_decay = Hyper(WEIGHT_DECAY)  # how strongly the parameters shrink

    def __init__(
        self,
        learning_rate: float = 1e-4,
        decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, clip_norm=clip_norm, clip_value=clip_value)
        self.beta_1, self.beta_2, self.weight_decay = beta_1, beta_2, weight_decay

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        return {
            **super().config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "weight_decay": self.weight_decay,
        }  # fmt: skip
