"""The book's layers: dense (chapter 3), dropout (15), and the input of a model (18).

Every call makes new arrays, as in the book, so a script may keep an earlier `output` while it computes the next.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.arguments import explained
from nnx.backends.base import host_array
from nnx.backends.operation_table import QUIET
from nnx.errors import InputError
from nnx.nnfs.precision import backend, default_dtype, floats, outputs_of, randn

Array = Any
NEAR = 2.0**-45  # nearer to a limit, rounding may decide on which side a uniform number lies


class Layer_Dense:
    """output = inputs @ weights + biases (chapter 3; its gradients, chapter 9; regularization, chapter 14).

    Args:
        n_inputs: features in. n_neurons: features out.
        weight_regularizer_l1, ...: strengths of the penalties `l1 * sum|w|` and `l2 * sum(w**2)`; assignable.

    Attributes:
        weights: [n_inputs, n_neurons], normal with deviation `weight_scale`. biases: [1, n_neurons], zeros. Assigned
            arrays are converted to the layer's type if necessary, and otherwise not copied.
        inputs, output, dinputs: [N, n_inputs], [N, n_neurons], [N, n_inputs].
        dweights, dbiases: gradients after `backward`, penalties included.
        weight_momentums, weight_cache, bias_momentums, bias_cache: the optimizer's state, after its first update.
        weight_scale: 0.01; chapter 17 draws its last networks with 0.1: `Layer_Dense.weight_scale = 0.1`.

    Raises:
        InputError: inputs or dvalues do not fit the weights.
    """

    weight_scale: ClassVar[float] = 0.01

    @explained
    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        weight_regularizer_l1: float = 0,
        weight_regularizer_l2: float = 0,
        bias_regularizer_l1: float = 0,
        bias_regularizer_l2: float = 0,
    ) -> None:
        n_inputs = checks.integer(n_inputs, "Layer_Dense: n_inputs")
        n_neurons = checks.integer(n_neurons, "Layer_Dense: n_neurons")
        self.dtype = default_dtype()
        self.weights: Array = self.weight_scale * randn(n_inputs, n_neurons)
        self.biases: Array = np.zeros((1, n_neurons), self.dtype)
        self.weight_regularizer_l1 = checks.real(weight_regularizer_l1, "Layer_Dense: weight_regularizer_l1")
        self.weight_regularizer_l2 = checks.real(weight_regularizer_l2, "Layer_Dense: weight_regularizer_l2")
        self.bias_regularizer_l1 = checks.real(bias_regularizer_l1, "Layer_Dense: bias_regularizer_l1")
        self.bias_regularizer_l2 = checks.real(bias_regularizer_l2, "Layer_Dense: bias_regularizer_l2")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; parameters become contiguous arrays of the layer's type, which optimizers need."""
        if name in ("weights", "biases"):
            value = np.ascontiguousarray(host_array(value, self.dtype))
        super().__setattr__(name, value)

    def forward(self, inputs: Any, training: bool = False) -> None:
        """Compute `output` for inputs [N, n_inputs]."""
        x = floats(inputs, like=self.weights)
        checks.matrix(x.shape, str(self))
        if x.shape[1] != len(self.weights):
            raise InputError(
                f"{self}: inputs have {x.shape[1]} features, expected {len(self.weights)} "
                f"(inputs: {x.shape}, weights: {self.weights.shape})"
            )
        self.inputs = x
        self.output = backend().dense(x, self.weights, self.biases)

    def backward(self, dvalues: Any) -> None:
        """Compute `dweights`, `dbiases` and `dinputs`, given the gradient of the output [N, n_neurons]."""
        dy = floats(dvalues, like=self.weights)
        if dy.shape != outputs_of(self).shape:
            raise InputError(f"{self}: dvalues have shape {dy.shape}, expected that of the output, {self.output.shape}")
        self.dweights, self.dbiases = np.empty_like(self.weights), np.empty(self.biases.shape, dy.dtype)
        self.dinputs = backend().dense_backward(self.inputs, self.weights, dy, self.dweights, self.dbiases)
        for parameter, gradient, l1, l2 in (
            (self.weights, self.dweights, self.weight_regularizer_l1, self.weight_regularizer_l2),
            (self.biases, self.dbiases, self.bias_regularizer_l1, self.bias_regularizer_l2),
        ):
            if l1 or l2:
                backend().regularize(parameter, gradient, l1, l2, np.zeros(1))

    def get_parameters(self) -> tuple[Array, Array]:
        """Return copies of weights and biases (chapter 22)."""
        return self.weights.copy(), self.biases.copy()

    def set_parameters(self, weights: Any, biases: Any) -> None:
        """Copy weights and biases into the layer (chapter 22); raise InputError if their shapes differ."""
        shapes, own = (np.shape(weights), np.shape(biases)), (self.weights.shape, self.biases.shape)
        if shapes != own:
            raise InputError(f"{self}: parameters given have shapes {shapes}, expected {own}")
        self.weights, self.biases = np.array(weights), np.array(biases)

    def __repr__(self) -> str:
        return f"Layer_Dense({', '.join(map(str, self.weights.shape))})"


class Layer_Dropout:
    """Set a random share of the inputs to 0, and divide the others by the share that is kept (chapter 15).

    The mask comes from `np.random.binomial`, so that it equals the book's for the same seed.

    Args:
        rate: the share dropped, at least 0 and below 1.

    Attributes:
        rate: the share KEPT, as in the book.
        binary_mask: [N, C], 0 or 1 / rate, of the last forward in training.
    """

    @explained
    def __init__(self, rate: float) -> None:
        self.rate = 1 - checks.real(rate, "Layer_Dropout: rate", high=1.0)

    @QUIET
    def forward(self, inputs: Any, training: bool = True) -> None:
        """Compute `output` [N, C]. Chapters 15 to 17 call it without `training`, and it drops inputs."""
        self.inputs = x = floats(inputs)
        if not training:
            self.output = x.copy()
            return
        self.binary_mask = floats(kept(self.rate, x.shape) / self.rate, like=x)
        self.output = x * self.binary_mask

    @QUIET
    def backward(self, dvalues: Any) -> None:
        """Compute `dinputs`: dvalues times the mask of the last forward in training."""
        if not hasattr(self, "binary_mask"):
            raise InputError("Layer_Dropout: backward() was called before a forward() in training: there is no mask")
        self.dinputs = floats(dvalues, like=self.output) * self.binary_mask


def kept(rate: float, shape: tuple[int, ...]) -> Array:
    """Return exactly `np.random.binomial(1, rate, shape)` as booleans, in less than half the time.

    NumPy makes each result from one uniform number u: the more common one if u is below its probability. If rounding
    could change a result, or make NumPy draw another u, NumPy's function is called. That happens once in about 10**13
    numbers.
    """
    before = np.random.get_state()  # noqa: NPY002 - the stream of the book's figures
    u = np.random.random_sample(shape)  # noqa: NPY002
    common = max(rate, 1 - rate)
    is_common = u < common - NEAR
    if np.count_nonzero(is_common) != np.count_nonzero(u < common + NEAR) or np.max(u, initial=0) > 1 - NEAR:
        np.random.set_state(before)  # noqa: NPY002
        return np.random.binomial(1, rate, shape).astype(bool)  # noqa: NPY002
    return is_common if rate > 0.5 else ~is_common


class Layer_Input:
    """A model's first layer, whose output is the data (chapter 18)."""

    def forward(self, inputs: Any, training: bool = False) -> None:
        """Take the inputs as the output."""
        self.output = inputs
