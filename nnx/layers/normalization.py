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
    """The base of both: normalize to mean 0 and variance 1, then multiply by `gamma` and add `beta`, both learned."""

    epsilon = Setting(partial(checks.real, open_low=True))
    _facts: ClassVar[dict[str, str]] = {"n_features": "the parameters are made by it; make a new layer"}
    _normalized: Array  # the last output before gamma and beta; `backward` reads it
    _scales: Array  # 1 / the standard deviations that the inputs were divided by
    _runtime: ClassVar[tuple[str, ...]] = (*Layer._runtime, "_normalized", "_scales")
    _results = Layer._results | {"_normalized", "_scales"}

    def __init__(self, n_features: int, epsilon: float = 1e-5) -> None:
        self.n_features = checks.integer(n_features, f"{type(self).__name__}: n_features")
        self.epsilon = epsilon
        self.shapes = {"gamma": (1, self.n_features), "beta": (1, self.n_features)}

    @property
    def gamma(self) -> Array:
        """The learned factors of the normalized numbers: [1, n_features]."""
        return self.parameter("gamma")

    @gamma.setter
    def gamma(self, value: Any) -> None:
        self.assign("gamma", value)

    @property
    def beta(self) -> Array:
        """The learned offsets that are added afterwards: [1, n_features]."""
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
        """Write only `dgamma = sum(dvalues * normalized)` and `dbeta = sum(dvalues)`, summed over the samples."""
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
    """Layer normalization: normalize the features of each sample, then scale by gamma and shift by beta.

    `output = (inputs - mean) / sqrt(variance + epsilon) * gamma + beta`, with mean and variance of each row. So a
    sample's output is the same in training and in prediction, and does not depend on the other samples.

    Args:
        n_features: the number of features, the same for inputs and output.
        epsilon: keeps the divisor above 0. Assignable at any time; the next step uses the new value.

    Attributes:
        gamma, beta: [1, n_features], initially 1 and 0. dgamma, dbeta: their gradients, after `backward`.
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
    """Batch normalization: normalize each feature over the samples of a batch, then scale by gamma and shift by beta.

    `output = (inputs - mean) / sqrt(variance + epsilon) * gamma + beta`. In training, mean and variance are those of
    the batch; each row counts once, whatever its `sample_weight`. In prediction and evaluation they are running
    averages of these, so a sample's output does not depend on the other samples.

    Args:
        n_features: the number of features, the same for inputs and output.
        momentum: the share of the running statistics that each step keeps, as in Keras:
            `running = momentum * running + (1 - momentum) * batch`. PyTorch's momentum is 1 minus this.
        epsilon: keeps the divisor above 0. Both are assignable at any time; the next step uses the new value.

    Attributes:
        gamma, beta: [1, n_features], initially 1 and 0. dgamma, dbeta: their gradients, after `backward`.
        running_mean, running_var: [1, n_features], initially 0 and 1; the optimizer does not move them. They are saved,
            copied and pickled with the layer, and restored when a step is undone. The variance is the unbiased one,
            divided by N - 1. A layer with `trainable = False` uses them in training too, and does not change them.
        inputs, output, dinputs: [N, n_features].

    Raises:
        InputError: an argument cannot be used, inputs have another number of features, or a training batch has a single
            row, which has no variance.
    """

    operation: ClassVar[str] = "batch_norm"
    momentum = Setting(partial(checks.real, high=1.0))
    _learned = False  # whether the last `forward` used the statistics of its batch
    _pool: Any = None  # a Pool, where several processes share each batch
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
        """Return gamma of ones, beta of zeros, a running mean of zeros and a running variance of ones."""
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
        """Set the pool of processes that share the next batches, or None: see nnx/distributed/pool.py."""
        self._pool = pool

    def _by_all(self, x: Array, *known: Any) -> Array:
        """Return the output by mean and variance of the whole batch, of which other processes have parts."""
        backend, pool = self.backend, self._pool
        *parameters, epsilon, normalized, scales, out = known
        means, spreads = (self._wide_room(name) for name in ("means", "spreads"))
        backend.column_means(x, means)
        backend.pool(means, pool)
        backend.column_spreads(x, means, spreads)  # around the mean of all rows, to lose no digits far from 0
        backend.pool(spreads, pool)
        numbers = pool.rows, epsilon, self.momentum
        output: Array = backend.pooled_norm(x, *parameters, means, spreads, *numbers, normalized, scales, out=out)
        return output

    def _wide_room(self, name: str) -> Array:
        """Return a workspace with one float64 number for each feature."""
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
