"""Optimizers (chapter 10): SGD, AdaGrad, RMSprop, Adam, and AdamW, Nadam, AMSGrad and Lion.

Each is one operation over the flat buffer of all parameters. Hyperparameters are kept in the array `hyper`, and the
count of steps in `counters`: a recorded training step reads arrays and would not notice a changed Python number.
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
    """A hyperparameter that is stored in the optimizer's array `hyper`; assignable at any time.

    Args:
        place: its index in `hyper`. limits: as for `checks.real`.
    """

    def __init__(self, place: int, **limits: Any) -> None:
        super().__init__(partial(checks.real, **limits))
        self._place = place

    def __get__(self, part: Any, owner: type | None = None) -> Any:
        return self if part is None else float(part.hyper[self._place])

    def __set__(self, part: Any, value: Any) -> None:
        part.hyper[self._place] = self._check(value, f"{type(part).__name__}: {self._name}")


def limit(value: Any, what: str) -> float | None:
    """Return a limit for clipping gradients as a float; None means no limit."""
    return None if value is None else checks.real(value, what, open_low=True)


class Switch(Hyper):
    """A hyperparameter that is True or False, stored as 1 or 0."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self._check = checks.flag

    def __get__(self, part: Any, owner: type | None = None) -> Any:
        return self if part is None else bool(part.hyper[self._place])


class Optimizer(Assignable):
    """The base of all optimizers.

    The learning rate of step t, counted from 0, is `learning_rate / (1 + decay * t)`.

    Gradients, penalties included, can be clipped before they are used: `clip_value` bounds each number; `clip_norm`
    bounds the Euclidean norm of all of them together (Pascanu et al., 2013): if it is greater, all are multiplied by
    clip_norm / norm. With both, clipping by value comes first. A norm that is not finite makes all gradients nan, so
    that the loss shows it.

    Used by hand, as in the book: `pre_update_params()`, `update_params(layer)` for each layer, `post_update_params()`.

    Attributes:
        clip_norm, clip_value: above 0, or None for no limit.
        learning_rate, decay, and all other hyperparameters: assignable at any time; the next step uses the new value.
        iterations: the number of steps done.
        current_learning_rate: that of the next step.
    """

    operation: ClassVar[str]
    moments: ClassVar[tuple[str, ...]] = ()  # the parts of the flat buffer that the operation takes besides the values
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
        """The number of steps done."""
        return int(self.counters[STEP])

    @property
    def current_learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.learning_rate / (1.0 + self.decay * self.iterations))

    # ---- by hand, as in the book ------------------------------------------------------------------------------------

    def pre_update_params(self) -> None:
        """Do nothing: the step's rate follows from `iterations`. The book's scripts call it before each update."""

    def update_params(self, layer: Layer) -> None:
        """Update one layer's parameters by their gradients; one without parameters, or not trainable, is left alone."""
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
        """Do one step over a flat buffer; `hyper` and `counters` are arrays of its backend."""
        operation = getattr(backend or flat.backend, self.operation)
        for run in flat.trained:
            parts = [getattr(flat, name)[run] for name in ("values", "gradients", *self.moments)]
            operation(*parts, hyper, counters)

    def clip_gradients(self, flat: ParameterBuffer, backend: Any) -> None:
        """Clip all gradients, if a limit is set."""
        if self.clip_norm is not None or self.clip_value is not None:
            backend.clip(flat.gradients, self.clip_norm or math.inf, self.clip_value or math.inf)

    def reserve_moments(self, flat: ParameterBuffer) -> None:
        """Add to the buffer those parts of `moments` that not every buffer has."""
        flat.reserve(*self.moments)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        limits = {"clip_norm": self.clip_norm, "clip_value": self.clip_value}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"learning_rate": self.learning_rate, "decay": self.decay, **given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy the arrays: those that joblib loads may be read-only."""
        hyper = np.zeros(7)
        hyper[: len(state["hyper"])] = state["hyper"]  # earlier versions had one less
        self.__dict__.update(state, hyper=hyper, counters=np.array(state["counters"]))

    def __copy__(self) -> Optimizer:
        """Return a deep copy: two optimizers must not share the arrays that hold their hyperparameters."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_listener"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v:g}' for k, v in self.config().items())})"


class SGD(Optimizer):
    """v = momentum * v - rate * g; w += v, or with Nesterov's momentum w += momentum * v - rate * g.

    Args:
        learning_rate: above 0. momentum: at least 0 and below 1. decay: at least 0.
        nesterov: whether to use Nesterov's momentum (Sutskever et al., 2013).
    """

    operation = "sgd"
    moments = ("first",)
    momentum = Hyper(BETA_1, high=1.0)  # the share of the previous step that is repeated
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
        nesterov = {"nesterov": True} if self.nesterov else {}  # left out where False, as in files of older versions
        return {**super().config(), "momentum": self.momentum, **nesterov}


class AdaGrad(Optimizer):
    """cache += g**2; w -= rate * g / (sqrt(cache) + epsilon) (chapter 10; Duchi et al., 2011)."""

    operation = "adagrad"
    moments: ClassVar[tuple[str, ...]] = ("second",)
    epsilon = Hyper(EPSILON, open_low=True)  # keeps the divisor above 0

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
    """m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g**2; w -= rate * m' / (sqrt(v') + epsilon).

    At step t, counted from 1, m' = m / (1 - beta_1**t) and v' = v / (1 - beta_2**t) make up for starting at 0
    (chapter 10; Kingma and Ba, 2015).
    """

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
    """Adam that divides by the largest v so far, so that a step never grows because v falls (Reddi et al., 2018).

    It keeps one more number for each parameter. It is PyTorch's Adam(amsgrad=True); with a weight decay, its
    AdamW(amsgrad=True).
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
    """Adam with Nesterov's momentum, which begins near half of beta_1 and rises towards beta_1 (Dozat, 2016).

    `momentum_decay` says how fast. The weight decay is decoupled, as in AdamW: it is PyTorch's
    NAdam(decoupled_weight_decay=True).
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

    (Chen et al., 2023.) Every step moves every parameter by `rate`, so the learning rate should be a third to a tenth
    of Adam's, and the weight decay larger by the same factor.
    """

    operation = "lion"
    moments = ("first",)
    beta_1 = Hyper(BETA_1, high=1.0)  # the share of the mean gradient m in the direction of a step
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
