"""The dense layer (chapter 3; its gradients, chapter 9; L1 and L2 regularization, chapter 14)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError
from nnx.layers.base import Array, Layer
from nnx.settings import Setting


class Dense(Layer):
    """A fully connected layer: `output = inputs @ weights + biases`.

    Args:
        n_inputs: the number of input features. n_neurons: the number of neurons, which is that of output features.
        weight_l1, weight_l2, bias_l1, bias_l2: strengths of the penalties `l1 * sum|w|` and `l2 * sum(w**2)`.
            Assignable at any time; the next step uses the new value.
        init: "he" (normal, standard deviation sqrt(2 / n_inputs); He et al., 2015), "glorot" (uniform within
            sqrt(6 / (n_inputs + n_neurons)); Glorot and Bengio, 2010), a number (normal with that standard
            deviation; the book's is 0.01), or the weights themselves as an array.

    Attributes:
        weights: [n_inputs, n_neurons]; biases: [1, n_neurons]. An assigned array is copied.
        dweights, dbiases: their gradients, penalties included, after `backward`; assignable too, as in
            `dense.dweights *= 0.5` before the optimizer's step.
        inputs, output, dinputs: [N, n_inputs], [N, n_neurons], [N, n_inputs].

    Raises:
        InputError: an argument cannot be used, or inputs do not fit the weights.
    """

    operation: ClassVar[str] = "dense"
    weight_l1, weight_l2 = Setting(checks.real), Setting(checks.real)
    bias_l1, bias_l2 = Setting(checks.real), Setting(checks.real)
    _facts: ClassVar[dict[str, str]] = dict.fromkeys(
        ("n_inputs", "n_neurons", "init"), "the parameters are made by it; make a new Dense layer"
    )

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        weight_l1: float = 0,
        weight_l2: float = 0,
        bias_l1: float = 0,
        bias_l2: float = 0,
        init: str | float | Any = "he",
    ) -> None:
        self.n_inputs = checks.integer(n_inputs, "Dense: n_inputs")
        self.n_neurons = checks.integer(n_neurons, "Dense: n_neurons")
        self.weight_l1, self.weight_l2 = weight_l1, weight_l2
        self.bias_l1, self.bias_l2 = bias_l1, bias_l2
        self.shapes = {"weights": (self.n_inputs, self.n_neurons), "biases": (1, self.n_neurons)}
        if isinstance(init, str):
            self.init: str | float = checks.choice(init, "Dense: init", ("he", "glorot"))
        elif isinstance(init, list | tuple) or np.ndim(init) > 0:
            self.init = "he"
            self.assign("weights", init)
            self.assign("biases", np.zeros((1, self.n_neurons)))
        else:
            self.init = checks.real(init, "Dense: init")

    @property
    def weights(self) -> Array:
        """[n_inputs, n_neurons]."""
        return self.parameter("weights")

    @weights.setter
    def weights(self, value: Any) -> None:
        self.assign("weights", value)

    @property
    def biases(self) -> Array:
        """[1, n_neurons]."""
        return self.parameter("biases")

    @biases.setter
    def biases(self, value: Any) -> None:
        self.assign("biases", value)

    @property
    def dweights(self) -> Array:
        """The gradient of the weights: [n_inputs, n_neurons]."""
        return self.gradient("weights")

    @dweights.setter
    def dweights(self, value: Any) -> None:
        self.assign_gradient("weights", value)

    @property
    def dbiases(self) -> Array:
        """The gradient of the biases: [1, n_neurons]."""
        return self.gradient("biases")

    @dbiases.setter
    def dbiases(self, value: Any) -> None:
        self.assign_gradient("biases", value)

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return weights drawn as `init` says, and zero biases."""
        shape = self.shapes["weights"]
        if self.init == "glorot":
            limit = np.sqrt(6 / sum(shape))
            weights = random.uniform(-limit, limit, shape)
        else:
            scale = np.sqrt(2 / self.n_inputs) if self.init == "he" else float(self.init)
            weights = random.normal(0.0, scale, shape)
        return {"weights": weights, "biases": np.zeros(self.shapes["biases"])}

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return `inputs @ weights + biases`: [N, n_neurons]."""
        x = self._accept(inputs)
        if x.shape[1] != self.n_inputs:
            raise InputError(
                f"{self}: inputs have {x.shape[1]} features, expected {self.n_inputs} "
                f"(inputs: {tuple(x.shape)}, weights: {self.shapes['weights']})"
            )
        self.inputs = x
        out = self._room("output", (x.shape[0], self.n_neurons), self.weights)
        self.output = self.backend.dense(x, self.weights, self.biases, out=out)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return `dinputs = dvalues @ weights.T`; write `dweights = inputs.T @ dvalues`, `dbiases = sum(dvalues)`."""
        dvalues = self._accept_gradient(dvalues)
        out = self._room("dinputs", tuple(self.inputs.shape), self.weights)
        if not self.trainable:
            self.dinputs = self.backend.dense_dinputs(self.weights, dvalues, out=out)
            return self.dinputs
        self.dinputs = self.backend.dense_backward(
            self.inputs, self.weights, dvalues, self.dweights, self.dbiases, out=out
        )
        self._regularize()
        return self.dinputs

    def backward_parameters(self, dvalues: Array) -> None:
        """Write `dweights` and `dbiases`, and no `dinputs`."""
        self.backend.dense_gradients(self.inputs, self._accept_gradient(dvalues), self.dweights, self.dbiases)
        self._regularize()

    def _regularize(self) -> None:
        """Add the penalties' gradients to those of the parameters, and write the penalties to `self.penalties`."""
        for name, (l1, l2) in self.strengths().items():
            self.backend.regularize(self.parameter(name), self.gradient(name), l1, l2, self.penalties[name])

    def _changed(self) -> None:
        if self._parameters is not None:
            for penalty in self.penalties.values():
                penalty[...] = 0  # this penalty was switched off; the next step writes the others again
        super()._changed()

    def strengths(self) -> dict[str, tuple[float, float]]:
        """Return (l1, l2) of each parameter that is regularized."""
        if not self.trainable:
            return {}
        both = {"weights": (self.weight_l1, self.weight_l2), "biases": (self.bias_l1, self.bias_l2)}
        return {name: strengths for name, strengths in both.items() if any(strengths)}

    def output_width(self, width: int | None) -> int:
        """Return n_neurons; refuse a width other than n_inputs."""
        if width not in (None, self.n_inputs):
            raise InputError(f"{self} takes {self.n_inputs} inputs, but the layers before it give {width}")
        return self.n_neurons

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        strengths = {name: getattr(self, name) for name in ("weight_l1", "weight_l2", "bias_l1", "bias_l2")}
        return {"n_inputs": self.n_inputs, "n_neurons": self.n_neurons, **strengths, "init": self.init}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_inputs}, {self.n_neurons})"
