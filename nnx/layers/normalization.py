"""Normalization: LayerNorm (Ba, Kiros and Hinton, 2016) and BatchNorm (Ioffe and Szegedy, 2015)."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError
from nnx.layers.base import Array, Layer
from nnx.settings import Setting


class Normalization(Layer):
    """Bring numbers to mean 0 and variance 1, then to what `gamma` and `beta` say, which are learned."""

    epsilon = Setting(partial(checks.real, open_low=True))
    _facts: ClassVar[dict[str, str]] = {"n_features": "the parameters are made by it; make a new layer"}
    _normalized: Array  # the last output before gamma and beta, which gradients read
    _scales: Array  # 1 over the standard deviations that it was divided by
    _runtime: ClassVar[tuple[str, ...]] = (*Layer._runtime, "_normalized", "_scales")
    _results = Layer._results | {"_normalized", "_scales"}

    def __init__(self, n_features: int, epsilon: float = 1e-5) -> None:
        self.n_features = checks.integer(n_features, f"{type(self).__name__}: n_features")
        self.epsilon = epsilon
        self.shapes = {"gamma": (1, self.n_features), "beta": (1, self.n_features)}

    @property
    def gamma(self) -> Array:
        """What normalized numbers are multiplied by: [1, n_features]."""
        return self.parameter("gamma")

    @gamma.setter
    def gamma(self, value: Any) -> None:
        self.assign("gamma", value)

    @property
    def beta(self) -> Array:
        """What is then added: [1, n_features]."""
        return self.parameter("beta")

    @beta.setter
    def beta(self, value: Any) -> None:
        self.assign("beta", value)

    @property
    def dgamma(self) -> Array:
        """The gradient of gamma: [1, n_features]."""
        return self.gradient("gamma")

    @dgamma.setter
    def dgamma(self, value: Any) -> None:
        self.assign_gradient("gamma", value)

    @property
    def dbeta(self) -> Array:
        """The gradient of beta: [1, n_features]."""
        return self.gradient("beta")

    @dbeta.setter
    def dbeta(self, value: Any) -> None:
        self.assign_gradient("beta", value)

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return gamma of ones and beta of zeros: nothing is random here."""
        return super().draw(random) | {"gamma": np.ones(self.shapes["gamma"])}

    def output_width(self, width: int | None) -> int:
        """Return n_features; refuse another width."""
        if width not in (None, self.n_features):
            raise InputError(f"{self} takes {self.n_features} features, but the layers before it give {width}")
        return self.n_features

    def _accept_features(self, inputs: Any) -> Array:
        """Return inputs as `_accept` does; refuse another number of features."""
        x = self._accept(inputs)
        if x.shape[1] != self.n_features:
            raise InputError(f"{self}: inputs have {x.shape[1]} features, expected {self.n_features}")
        return x

    def backward_parameters(self, dvalues: Array) -> None:
        """Write `dgamma` and `dbeta` alone: the sums over samples of `dvalues` times what gamma met, and of these."""
        if not self.trainable:
            return
        dvalues = self._accept_gradient(dvalues)
        self.backend.norm_gradients(self._normalized, dvalues, self.dgamma, self.dbeta)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"n_features": self.n_features, "epsilon": self.epsilon}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_features})"


class LayerNorm(Normalization):
    """Each sample's features, less their mean, by their standard deviation; then times gamma, plus beta.

    `output = (inputs - mean) / sqrt(variance + epsilon) * gamma + beta`, where mean and variance are those of a row: so
    a sample comes out alike in training and in prediction, whatever stands beside it.

    Args:
        n_features: how many come in, and go out.
        epsilon: keeps the root of a variance off 0. Assignable at any time, right from the next step on.

    Attributes:
        gamma, beta: [1, n_features], ones and zeros at first. dgamma, dbeta: their gradients, after `backward`.
        inputs, output, dinputs: [N, n_features].

    Raises:
        InputError: an argument cannot be used, or inputs have another number of features.
    """

    operation: ClassVar[str] = "layer_norm"

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the normalized inputs [N, n_features], times gamma, plus beta."""
        self.inputs = x = self._accept_features(inputs)
        self._normalized, out = (self._room(name, tuple(x.shape), x) for name in ("normalized", "output"))
        self._scales = self._room("scales", (x.shape[0],), x)
        kept = self._normalized, self._scales
        self.output = self.backend.layer_norm(x, self.gamma, self.beta, self.epsilon, *kept, out=out)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs; write `dgamma` and `dbeta`."""
        dvalues = self._accept_gradient(dvalues)
        self.backward_parameters(dvalues)
        out = self._room("dinputs", tuple(dvalues.shape), dvalues)
        self.dinputs = self.backend.layer_norm_backward(self._normalized, self._scales, self.gamma, dvalues, out=out)
        return self.dinputs


class BatchNorm(Normalization):
    """Each feature, less its mean over the batch, by its standard deviation; then times gamma, plus beta.

    In training mean and variance are those of the batch, each row counted once, whatever `sample_weight` says of its
    loss. Running means of both are kept beside, and used in prediction and evaluation, where a sample comes out alike
    whatever stands beside it.

    Args:
        n_features: how many come in, and go out.
        momentum: how much of the running statistics stays in each step, as Keras has it; PyTorch's momentum is 1 minus
            that: `running = momentum * running + (1 - momentum) * batch`.
        epsilon: keeps the root of a variance off 0. Both are assignable at any time, right from the next step on.

    Attributes:
        gamma, beta: [1, n_features], ones and zeros at first. dgamma, dbeta: their gradients, after `backward`.
        running_mean, running_var: [1, n_features], zeros and ones at first; no gradient moves them. They are saved,
            copied and pickled with the layer, and go back where a step is undone. The variance is the unbiased one, by
            N - 1. A layer with `trainable = False` uses them in training too, and leaves them as they are.
        inputs, output, dinputs: [N, n_features].

    Raises:
        InputError: an argument cannot be used, inputs have another number of features, or training is asked for with a
            single row, which has no variance.
    """

    operation: ClassVar[str] = "batch_norm"
    momentum = Setting(partial(checks.real, high=1.0))
    _learned = False  # whether the last forward was by the batch's own statistics
    _pool: Any = None  # of the processes that have parts of the batch, where several do
    _runtime: ClassVar[tuple[str, ...]] = (*Normalization._runtime, "_learned", "_pool")
    _results = Normalization._results | {"_learned", "_pool"}

    def __init__(self, n_features: int, momentum: float = 0.9, epsilon: float = 1e-5) -> None:
        super().__init__(n_features, epsilon)
        self.momentum = momentum
        self._running_shapes = {"running_mean": (1, self.n_features), "running_var": (1, self.n_features)}

    @property
    def running_mean(self) -> Array:
        """The running mean of each feature: [1, n_features]."""
        return self.parameter("running_mean")

    @running_mean.setter
    def running_mean(self, value: Any) -> None:
        self.assign("running_mean", value)

    @property
    def running_var(self) -> Array:
        """The running variance of each feature: [1, n_features]."""
        return self.parameter("running_var")

    @running_var.setter
    def running_var(self, value: Any) -> None:
        self.assign("running_var", value)

    def checked(self, name: str, value: Any) -> np.ndarray:
        """Return `value` as a NumPy array that may be assigned; refuse a variance below 0."""
        host = super().checked(name, value)
        if name == "running_var" and (host < 0).any():
            raise InputError(f"{self}: running_var holds {host.min():g}, expected no number below 0")
        return host

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the same, a running mean of zeros, and a variance of ones."""
        return super().draw(random) | {"running_var": np.ones(self.shapes["gamma"])}

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the normalized inputs [N, n_features], times gamma, plus beta."""
        self.inputs = x = self._accept_features(inputs)
        self._learned = training and self.trainable
        if self._learned and (x.shape[0] if self._pool is None else self._pool.rows) == 1:
            raise InputError(
                f"{self}: training was given a batch of one row, which has no variance; choose a batch_size that "
                "leaves at least two rows for the last batch"
            )
        self._normalized, out = (self._room(name, tuple(x.shape), x) for name in ("normalized", "output"))
        self._scales = self._room("scales", self.shapes["gamma"], x)
        known = x, self.gamma, self.beta, self.running_mean, self.running_var, self.epsilon
        kept = self._normalized, self._scales
        if self._learned and self._pool is not None:
            self.output = self._by_all(*known, *kept, out)
        elif self._learned:
            self.output = self.backend.batch_norm(*known, self.momentum, *kept, out=out)
        else:
            self.output = self.backend.fixed_norm(*known, *kept, out=out)
        return self.output

    def take_part(self, pool: Any) -> None:
        """Be told with whom the batches to come are shared, if with any: see nnx/distributed/pool.py."""
        self._pool = pool

    def _by_all(self, x: Array, *known: Any) -> Array:
        """Return the output by the moments of all rows, of which other processes have the rest."""
        backend, pool = self.backend, self._pool
        *parameters, epsilon, normalized, scales, out = known
        means, spreads = (self._wide_room(name) for name in ("means", "spreads"))
        backend.column_means(x, means)
        backend.pool(means, pool)
        backend.column_spreads(x, means, spreads)  # about the mean of all, so that far from 0 no digits are lost
        backend.pool(spreads, pool)
        numbers = pool.rows, epsilon, self.momentum
        output: Array = backend.pooled_norm(x, *parameters, means, spreads, *numbers, normalized, scales, out=out)
        return output

    def _wide_room(self, name: str) -> Array:
        """Return a workspace for a number of each feature, in float64."""
        buffers: dict[str, Array] = self.__dict__.setdefault("_buffers", {})
        if name not in buffers:
            buffers[name] = self.backend.zeros(self.shapes["gamma"], "float64")
        return buffers[name]

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs; write `dgamma` and `dbeta`."""
        dvalues = self._accept_gradient(dvalues)
        self.backward_parameters(dvalues)
        out = self._room("dinputs", tuple(dvalues.shape), dvalues)
        if self._learned:
            sums = self.dgamma, self.dbeta
            if self._pool is not None:
                for a in sums:
                    self.backend.pool(a, self._pool)
            self.dinputs = self.backend.batch_norm_backward(
                self._normalized, self._scales, self.gamma, dvalues, *sums, out=out
            )
        else:
            self.dinputs = self.backend.fixed_norm_backward(self._scales, self.gamma, dvalues, out=out)
        return self.dinputs

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"n_features": self.n_features, "momentum": self.momentum, "epsilon": self.epsilon}
