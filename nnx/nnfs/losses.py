"""The book's losses: categorical cross-entropy (chapter 5), binary (16), mean squared and mean absolute error (17)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import checks, targets
from nnx.backends.base import host_array
from nnx.backends.operation_table import QUIET
from nnx.errors import InputError
from nnx.nnfs.activations import Activation_Softmax
from nnx.nnfs.precision import backend, floats, target_type

Array = Any


class Loss:
    """Base class of the losses. A subclass defines how targets are checked, and which operation computes the loss.

    Attributes:
        dinputs: the gradient of the mean loss after `backward`, [N, C].
        accumulated_sum, accumulated_count: sum and number of the samples' losses since `new_pass` (chapter 19).
        trainable_layers: the layers whose penalties `regularization_loss()` sums (chapter 18).
    """

    operation: ClassVar[str]
    accumulated_sum: float = 0
    accumulated_count: int = 0
    trainable_layers: Sequence[Any] = ()

    def forward(self, y_pred: Any, y_true: Any) -> Array:
        """Return the loss of each sample [N], given outputs [N, C] and targets."""
        outputs, target = self.prepared(y_pred, y_true)
        return getattr(backend(), self.operation)(outputs, target)

    def backward(self, dvalues: Any, y_true: Any) -> None:
        """Compute `dinputs`: the gradient of the mean loss at outputs `dvalues` [N, C]."""
        outputs, target = self.prepared(dvalues, y_true)
        self.dinputs = getattr(backend(), f"{self.operation}_backward")(outputs, target)

    def prepared(self, y_pred: Any, y_true: Any) -> tuple[Array, Array]:
        """Return outputs as floats, and targets in the form that the operation takes.

        Raises:
            InputError: shapes do not fit (nothing is broadcast), or a target is out of range.
        """
        outputs = floats(y_pred)
        checks.matrix(outputs.shape, type(self).__name__, "outputs")
        return outputs, self.target(outputs, y_true)

    def target(self, outputs: Array, y_true: Any) -> Array:
        """Return targets in exactly the outputs' shape [N, O]; [N] is accepted if O is 1."""
        shares = self.operation == "binary_cross_entropy"
        return targets.numeric(y_true, outputs.shape, target_type(y_true, outputs), type(self).__name__, shares=shares)

    # ---- means -------------------------------------------------------------------------------------------------------

    @QUIET
    def calculate(self, output: Any, y: Any, *, include_regularization: bool = False) -> Any:
        """Return the mean loss of a batch, a NumPy number; with `include_regularization`, the penalties too.

        Args:
            output: [N, C]. y: the targets, as for `forward`.
        """
        sample_losses = self.forward(output, y)
        self.accumulated_sum += float(np.sum(sample_losses))
        self.accumulated_count += len(sample_losses)
        data_loss = np.mean(sample_losses)
        return (data_loss, self.regularization_loss()) if include_regularization else data_loss

    def calculate_accumulated(self, *, include_regularization: bool = False) -> Any:
        """Return the mean loss of all samples since `new_pass` (chapter 19)."""
        if not self.accumulated_count:
            raise InputError(f"{type(self).__name__}: calculate_accumulated() was called before any calculate()")
        data_loss = self.accumulated_sum / self.accumulated_count
        return (data_loss, self.regularization_loss()) if include_regularization else data_loss

    def new_pass(self) -> None:
        """Forget the samples counted so far (chapter 19)."""
        self.accumulated_sum, self.accumulated_count = 0, 0

    # ---- regularization ----------------------------------------------------------------------------------------------

    def remember_trainable_layers(self, trainable_layers: Sequence[Any]) -> None:
        """Keep the layers whose penalties are part of the loss (chapter 18)."""
        self.trainable_layers = trainable_layers

    @QUIET
    def regularization_loss(self, layer: Any = None) -> Any:
        """Return the penalty of one layer (chapter 14), or of all remembered ones (chapter 18); 0 if there are none."""
        penalty: Any = 0
        for one in self.trainable_layers if layer is None else [layer]:
            for parameter, l1, l2 in (
                (one.weights, one.weight_regularizer_l1, one.weight_regularizer_l2),
                (one.biases, one.bias_regularizer_l1, one.bias_regularizer_l2),
            ):
                if l1:
                    penalty += l1 * np.sum(np.abs(parameter))
                if l2:
                    penalty += l2 * np.sum(parameter * parameter)
        return penalty


class Loss_CategoricalCrossentropy(Loss):
    """-log of the probability of the true class (chapter 5).

    Targets are class indices [N], one-hot rows or distributions [N, C], of any number type. Probabilities are clipped
    to [1e-7, 1 - 1e-7], also in `backward`, so that the gradient at 0 is large but finite.
    """

    operation = "cross_entropy"

    def target(self, outputs: Array, y_true: Any) -> Array:
        """Return class indices [N], or distributions [N, C] as floats."""
        target = targets.categorical(y_true, len(outputs), outputs.shape[1], type(self).__name__)
        return target if target.ndim == 1 else host_array(target, outputs.dtype)


class Loss_BinaryCrossentropy(Loss):
    """-(t log p + (1 - t) log(1 - p)), averaged over the outputs (chapter 16)."""

    operation = "binary_cross_entropy"


class Loss_MeanSquaredError(Loss):
    """(y_true - y_pred)**2, averaged over the outputs (chapter 17)."""

    operation = "mean_squared_error"


class Loss_MeanAbsoluteError(Loss):
    """|y_true - y_pred|, averaged over the outputs (chapter 17). Its gradient has the right sign, unlike the book's."""

    operation = "mean_absolute_error"


class Activation_Softmax_Loss_CategoricalCrossentropy:
    """Softmax and categorical cross-entropy together, whose gradient is simple: (p - y) / N (chapter 9).

    Attributes:
        activation, loss: the two. output: the probabilities [N, C]. dinputs: the gradient [N, C].
    """

    def __init__(self) -> None:
        self.activation = Activation_Softmax()
        self.loss = Loss_CategoricalCrossentropy()

    def forward(self, inputs: Any, y_true: Any) -> Any:
        """Return the mean loss for the last layer's outputs [N, C] (chapters 9 to 17)."""
        self.activation.forward(inputs)
        self.output = self.activation.output
        return self.loss.calculate(self.output, y_true)

    @QUIET
    def backward(self, dvalues: Any, y_true: Any) -> None:
        """Compute `dinputs`, given the softmax's output `dvalues` [N, C]."""
        p, target = self.loss.prepared(dvalues, y_true)
        self.dinputs = p.copy()
        if target.ndim == 1:
            self.dinputs[np.arange(len(p)), target] -= 1
        else:
            self.dinputs -= target
        self.dinputs /= len(p)
