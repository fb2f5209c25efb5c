"""Losses: categorical cross-entropy (chapters 5, 9), binary (16), mean squared and absolute error (17), and Huber's.

A loss compares the last layer's output with the targets. Gradients are those of the mean over samples, so that they do
not depend on the batch size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnx import checks, targets, weights
from nnx.backends.base import host_array
from nnx.backends.formula import Formula
from nnx.backends.inference import Scored
from nnx.backends.recorder import lent, refuse_editing
from nnx.errors import InputError
from nnx.kernels.step_state import CLIP
from nnx.layers import Layer, Sigmoid, Softmax
from nnx.layers.base import Array
from nnx.settings import Setting, replaced, written


class Loss(Layer):
    """The base of all losses; subclass it to write your own.

    A user-defined loss has two methods, as in the book: `forward(y_pred, y_true)` returns the loss of each sample [N],
    `backward(y_pred, y_true)` the gradient of their mean, shaped like y_pred. In a model, y_true is an array of the
    backend: class indices int64 [N] if labels were given, else numbers in the model's type, [N, 1] for a single output.
    If the class sets `metric`, the targets are checked for that task. Training steps with such a loss are not compiled;
    subclass `ElementwiseLoss` for one whose steps are. docs/extending.md has examples.

    Attributes:
        output: the loss of each sample [N]. dinputs: the gradient of their mean, shaped like y_pred.
        metric: the task, which defines the accuracy: "categorical", "binary" or "regression" (see `Operations.tally`);
            None: there is no accuracy.
    """

    operation: ClassVar[str]
    metric: ClassVar[str | None] = None
    trainable = property(lambda self: True)  # not assignable: a loss has no parameters

    def forward(self, y_pred: Array, y_true: Any) -> Array:
        """Return the loss of each sample [N].

        Args:
            y_pred: [N, C], the last layer's output. y_true: the targets; see the class.
        """
        losses, counted = self.losses(*self._prepared(y_pred, y_true)), self.counted(y_true)
        if counted is not None:
            factors = self.backend.asarray(counted[:, None], losses.dtype)
            self.output = losses = self.backend.weigh(losses[:, None], factors)[:, 0]
        return losses

    def calculate(self, y_pred: Array, y_true: Any, sample_weight: Any = None) -> float:
        """Return the mean loss over all samples, without regularization; with weights [N], sum(w * loss) / sum(w)."""
        by_hand = self._by_hand("forward", "losses")
        found = self.each(*self._prepared(y_pred, y_true)) if by_hand else self.forward(y_pred, y_true)
        losses = self.backend.to_numpy(found)
        counts = self._counts(y_true, sample_weight, len(losses))
        if counts is None:
            return float(losses.mean(dtype=np.float64))
        return float(np.dot(counts, np.where(counts > 0, losses, 0)) / counts.sum())

    if TYPE_CHECKING:  # a user-defined `backward` need not take weights

        def backward(self, y_pred: Array, y_true: Any, *args: Any, **kwargs: Any) -> Array:
            """Return the gradient of the mean loss, shaped like `y_pred`."""

    else:

        def backward(self, y_pred: Array, y_true: Any, sample_weight: Any = None) -> Array:
            """Return the gradient of the mean loss, shaped like `y_pred`; sample_weight [N] as for `calculate`."""
            y_pred, target = self._prepared(y_pred, y_true)
            return self._by_weight(self.gradients(y_pred, target), y_true, sample_weight)

    def mean_gradient(self, y_pred: Array, y_true: Any, sample_weight: Any = None) -> Array:
        """Return the gradient of the weighted mean loss, even if `backward` is user-defined and takes no weights."""
        y_pred, target = self._prepared(y_pred, y_true)
        return self._by_weight(self.slopes(y_pred, target), y_true, sample_weight)

    def _prepared(self, y_pred: Array, y_true: Any) -> tuple[Array, Array]:
        y_pred = self._accept(y_pred)
        return y_pred, self.prepare(y_true, tuple(y_pred.shape), self.backend.dtype_name(y_pred.dtype))

    def _by_weight(self, gradient: Array, y_true: Any, sample_weight: Any) -> Array:
        counts = self._counts(y_true, sample_weight, gradient.shape[0])
        if counts is None:
            return gradient
        factors = weights.normalized(counts, [len(counts)])[:, None]
        return self.weighed(gradient, self.backend.asarray(factors, gradient.dtype))

    def counted(self, y_true: Any) -> np.ndarray | None:
        """Return 1 for each sample that counts and 0 for each to be ignored, float64 [N]; None if all count."""
        return None

    def _counts(self, y_true: Any, sample_weight: Any, samples: int) -> np.ndarray | None:
        """Return the weight of each sample, float64 [N]; None if all count alike."""
        given = None if sample_weight is None else weights.checked(self._host(sample_weight), samples, str(self))
        return weights.product(str(self), given, self.counted(y_true))

    # ---- what a model calls: the same, with targets that are prepared once -------------------------------------------

    def prepare(self, y_true: Any, shape: tuple[int, ...], dtype: str) -> Array:
        """Return y_true, checked against outputs of this shape and type, as an array of the backend."""
        y = self.host_targets(y_true, shape, dtype)
        prepared: Array = self.backend.asarray(y, y.dtype)
        return prepared

    def host_targets(self, y_true: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return the prepared targets as a NumPy array, of int64 or `dtype`."""
        if self.metric == "categorical":
            y = targets.categorical(self._host(y_true), shape[0], shape[1], str(self))
            return y if y.ndim == 1 else host_array(y, dtype)
        if self.metric is None:
            return targets.plain(self._host(y_true), shape, dtype, str(self))
        shares = self.metric in ("binary", "logits")
        return targets.numeric(self._host(y_true), shape, dtype, str(self), shares=shares)

    def losses(self, y_pred: Array, target: Array) -> Array:
        """Return the loss of each sample [N]."""
        out = self._room("output", (y_pred.shape[0],), y_pred)
        self.output = getattr(self.backend, self.operation)(y_pred, target, *self._numbers(), out=out)
        return self.output

    def gradients(self, y_pred: Array, target: Array) -> Array:
        """Return the gradient of the mean loss."""
        out = self._room("dinputs", tuple(y_pred.shape), y_pred)
        self.dinputs = getattr(self.backend, f"{self.operation}_backward")(y_pred, target, *self._numbers(), out=out)
        return self.dinputs

    def both(self, y_pred: Array, target: Array) -> tuple[Array, Array]:
        """Return the loss of each sample [N] and the gradient of their mean."""
        return self.each(y_pred, target), self.slopes(y_pred, target)

    # ---- the same for a user-defined loss, by its `forward` and `backward` -------------------------------------------

    def each(self, y_pred: Array, target: Array) -> Array:
        """Return the loss of each sample [N]."""
        if not self._by_hand("forward", "losses"):
            return self.losses(y_pred, target)
        self.output = self._by_method("forward", "output", y_pred, target, (y_pred.shape[0],))
        return self.output

    def slopes(self, y_pred: Array, target: Array) -> Array:
        """Return the gradient of the mean loss."""
        if not self._by_hand("backward", "gradients"):
            return self.gradients(y_pred, target)
        self.dinputs = self._by_method("backward", "dinputs", y_pred, target, tuple(y_pred.shape))
        return self.dinputs

    def _by_hand(self, name: str, ours: str) -> bool:
        return written(self, name) and not (written(self, ours) or written(self, "both"))

    def _by_method(self, method: str, result: str, y_pred: Array, target: Array, shape: tuple[int, ...]) -> Array:
        """Return the result of a user-defined method, returned or kept as an attribute, in the type of y_pred."""
        try:
            given: Any = getattr(self, method)(y_pred, lent(target, self.backend))
        except ValueError as error:
            refuse_editing(error, self, "the targets")
            raise
        given = self.__dict__.get(result) if given is None else given
        if not self.backend.owns(given) or tuple(given.shape) != shape:
            what = f"{type(given).__name__} {tuple(getattr(given, 'shape', ()))}"
            each = "a loss for each sample" if method == "forward" else "a gradient for each output"
            raise InputError(f"{self}: {method}() returned {what}, expected {each}, an array {shape}")
        own: Array = given if given.dtype == y_pred.dtype else self.backend.asarray(given, y_pred.dtype)
        return own

    def weighed(self, gradient: Array, factors: Array) -> Array:
        """Return a gradient with each sample's row multiplied by its factor; factors [N, 1]."""
        self.dinputs = self.backend.weigh(gradient, factors, out=self._room("weighed", tuple(gradient.shape), gradient))
        return self.dinputs

    def _numbers(self) -> tuple[float, ...]:
        """The loss's own numbers, such as Huber's delta, which its operation takes."""
        return ()

    def scored(self, metric: str | None) -> Scored | None:
        """Return this loss with a metric as an evaluation kernel takes it; None if it is not a single nnx operation."""
        plain = type(self).__module__ == __name__ and hasattr(self, "operation") and not replaced(self)
        return Scored(self.operation, self._numbers(), metric) if plain else None

    def kept_dimensions(self) -> int:
        """Return how many axes targets have that `prepare` leaves unchanged, given the right type and range.

        Distributions are none of these: one-hot rows become class indices.
        """
        return 1 if self.metric == "categorical" else 2

    def apart(self) -> Loss:
        """Return a copy of this loss with its own workspace, for another thread."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__(), _backend=self._backend)
        return other

    def fused_with(self, last: Layer) -> Loss | None:
        """Return a single loss that replaces the last layer and this loss together, or None if there is none."""
        return None

    def _host(self, y: Any) -> Any:
        return self.backend.to_numpy(y) if self.backend.owns(y) else y


def _index(value: Any, what: str) -> int | None:
    return None if value is None else checks.integer(value, what, low=-(2**63))


class CategoricalCrossEntropy(Loss):
    """-sum(y_true * log(y_pred)) for each row of probabilities y_pred [N, C], clipped to [1e-7, 1 - 1e-7].

    y_true: class indices [N], one-hot rows or distributions [N, C], of any number type. In a model whose last layer is
    `Softmax`, the two are computed together, which is faster and keeps the gradient exact.

    Args:
        label_smoothing: a share s that is taken from the target and spread evenly over all C classes: each target t
            becomes (1 - s) * t + s / C. Prepared targets are then always distributions [N, C].
        ignore_index: a label whose samples are left out, as if they were not there, of the mean loss, its gradient and
            the accuracy. Their own loss is 0. None: every label must be a class.

    Raises:
        InputError: an argument or y_true cannot be used.
    """

    operation = "cross_entropy"
    metric = "categorical"
    label_smoothing = Setting(partial(checks.real, high=1.0), default=(0.0,))
    ignore_index = Setting(_index, default=(None,))

    def __init__(self, label_smoothing: float = 0.0, ignore_index: int | None = None) -> None:
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def host_targets(self, y_true: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """See `Loss.host_targets` and `targets.categorical`."""
        y = targets.categorical(self._host(y_true), shape[0], shape[1], str(self), self.ignore_index)
        if self.label_smoothing:
            wanted = np.eye(shape[1], dtype=dtype)[y] if y.ndim == 1 else y
            y = (1 - self.label_smoothing) * wanted + self.label_smoothing / shape[1]
        return y if y.ndim == 1 else host_array(y, dtype)

    def counted(self, y_true: Any) -> np.ndarray | None:
        """See `Loss.counted`."""
        return None if self.ignore_index is None else targets.counted(self._host(y_true), self.ignore_index, str(self))

    def kept_dimensions(self) -> int:
        """See `Loss.kept_dimensions`."""
        return 0 if self.label_smoothing or self.ignore_index is not None else 1

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this loss again, without those that have their default."""
        given = {"label_smoothing": self.label_smoothing or None, "ignore_index": self.ignore_index}
        return {name: value for name, value in given.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value:g}' for name, value in self.config().items())})"

    def fused_with(self, last: Layer) -> Loss | None:
        """Return, for a last layer that is `Softmax`, a `SoftmaxCrossEntropy` that clips as this loss does."""
        return SoftmaxCrossEntropy(clip=CLIP) if as_written(self, CategoricalCrossEntropy, last, Softmax) else None


class BinaryCrossEntropy(Loss):
    """-(t log p + (1 - t) log(1 - p)), averaged over the outputs; p = y_pred, t = y_true, both [N, O] within 0 .. 1.

    p is clipped to [1e-7, 1 - 1e-7]. In a model whose last layer is `Sigmoid`, the two are computed together.
    """

    operation = "binary_cross_entropy"
    metric = "binary"

    def fused_with(self, last: Layer) -> Loss | None:
        """Return, for a last layer that is `Sigmoid`, a `SigmoidCrossEntropy` that clips as this loss does."""
        return SigmoidCrossEntropy(clip=CLIP) if as_written(self, BinaryCrossEntropy, last, Sigmoid) else None


class MeanSquaredError(Loss):
    """(y_pred - y_true)**2, averaged over the outputs: both [N, O]; y_true may be [N] where O is 1."""

    operation = "mean_squared_error"
    metric = "regression"


class MeanAbsoluteError(MeanSquaredError):
    """|y_pred - y_true|, averaged over the outputs: both [N, O]; y_true may be [N] where O is 1."""

    operation = "mean_absolute_error"


class Huber(MeanSquaredError):
    """error**2 / 2 up to |error| = delta, delta * (|error| - delta / 2) beyond, averaged over outputs (Huber, 1964).

    The gradient of an outlier is at most `delta`, so outliers do not dominate as they do with squares. y_pred and
    y_true: as for `MeanSquaredError`.

    Args:
        delta: above 0. Assignable at any time; the next step uses it.
    """

    operation = "huber_loss"
    delta = Setting(partial(checks.real, open_low=True))

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def _numbers(self) -> tuple[float, ...]:
        return (self.delta,)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this loss again."""
        return {"delta": self.delta}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.delta:g})"


class ElementwiseLoss(Loss):
    """The base of a user-defined loss that is a mean over the outputs: write `formula` and `derivative`.

        class LogCosh(nnx.ElementwiseLoss):
            def formula(self, y_pred, y_true):
                error = np.abs(y_pred - y_true)
                return error + np.log1p(np.exp(-2 * error)) - np.log(2)

            def derivative(self, y_pred, y_true):
                return np.tanh(y_pred - y_true)

    Both work on each number by itself, with NumPy's functions; y_pred and y_true are [N, O]. They are compiled as those
    of `Elementwise` are.
    """

    metric = "regression"

    def formula(self, y_pred: Array, y_true: Array) -> Array:
        """Return the cost of each output."""
        raise NotImplementedError(f"{type(self).__name__} has no formula(y_pred, y_true)")

    def derivative(self, y_pred: Array, y_true: Array) -> Array:
        """Return the derivative of `formula` with respect to y_pred."""
        raise NotImplementedError(f"{type(self).__name__} has no derivative(y_pred, y_true)")

    def losses(self, y_pred: Array, target: Array) -> Array:
        """Return the loss of each sample [N]."""
        out = self._room("output", (y_pred.shape[0],), y_pred)
        self.output = self.backend.formula_loss(y_pred, target, self._formula(), out=out)
        return self.output

    def gradients(self, y_pred: Array, target: Array) -> Array:
        """Return the gradient of the mean loss."""
        out = self._room("dinputs", tuple(y_pred.shape), y_pred)
        self.dinputs = self.backend.formula_loss_backward(y_pred, target, self._formula(), out=out)
        return self.dinputs

    def _formula(self) -> Formula:
        return Formula(type(self).__name__, self.formula, self.derivative)


class FusedLoss(Loss):
    """A last activation and its loss in one pass over the logits: faster, and exact where the two apart overflow.

    Args:
        clip: each loss is bounded as if the probability had been clipped to [clip, 1 - clip]; 0 gives the exact loss.
    """

    clip = Setting(partial(checks.real, high=0.5))

    def __init__(self, clip: float = 0.0) -> None:
        self.clip = clip

    def losses(self, y_pred: Array, target: Array) -> Array:
        """Return the loss of each sample [N]."""
        return self.both(y_pred, target)[0]

    def gradients(self, y_pred: Array, target: Array) -> Array:
        """Return the gradient of the mean loss with respect to the logits."""
        return self.both(y_pred, target)[1]

    def both(self, y_pred: Array, target: Array, probabilities: Array | None = None) -> tuple[Array, Array]:
        """Return losses [N] and gradient [N, C] from one operation, which also fills `probabilities` if given."""
        losses = self._room("output", (y_pred.shape[0],), y_pred)
        out = self._room("dinputs", tuple(y_pred.shape), y_pred)
        operation = getattr(self.backend, self.operation)
        self.output, self.dinputs = losses, operation(y_pred, target, losses, probabilities, self.clip, out=out)
        return self.output, self.dinputs

    def _numbers(self) -> tuple[float, ...]:
        return (self.clip,)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this loss again."""
        return {"clip": self.clip}


class SoftmaxCrossEntropy(FusedLoss):
    """Softmax and categorical cross-entropy: takes logits [N, C] and the targets of `CategoricalCrossEntropy`."""

    operation = "softmax_cross_entropy"
    metric = "categorical"


class SigmoidCrossEntropy(FusedLoss):
    """Sigmoid and binary cross-entropy: takes logits [N, O] and the targets of `BinaryCrossEntropy`."""

    operation = "sigmoid_cross_entropy"
    metric = "logits"


def as_written(loss: Loss, kind: type, last: Layer, ending: type) -> bool:
    """Return whether a loss and a last layer are of exactly these classes, with no method replaced."""
    return type(loss) is kind and type(last) is ending and not replaced(loss) and not replaced(last)


def accuracy(y_pred: Any, y_true: Any, sample_weight: Any = None) -> float:
    """Return the share of samples whose largest output is that of the true class.

    Args:
        y_pred: outputs [N, C], or predicted classes [N]. y_true: classes [N] or one-hot rows [N, C].
        sample_weight: the weight of each sample [N]; None: all alike.

    Raises:
        InputError: the numbers of samples differ, there are no samples, a shape is wrong, or a label is no class.
    """
    outputs, wanted = _numbers(y_pred, "y_pred"), _numbers(y_true, "y_true")
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        checks.matrix(outputs.shape, "accuracy", "y_pred")
        wanted = targets.categorical(wanted, len(outputs), outputs.shape[1], "accuracy")
    predicted, labels = _classes(outputs, "y_pred"), _classes(wanted, "y_true")
    if predicted.shape != labels.shape:
        raise InputError(f"accuracy: y_pred has {len(predicted)} samples and y_true {len(labels)}; expected as many")
    if sample_weight is None:
        return float(np.mean(predicted == labels))
    return float(np.average(predicted == labels, weights=weights.checked(sample_weight, len(labels), "accuracy")))


def _numbers(y: Any, name: str) -> np.ndarray:
    return targets.given(y.get() if type(y).__module__.partition(".")[0] == "cupy" else y, f"accuracy: {name}")


def _classes(a: np.ndarray, name: str) -> np.ndarray:
    if a.ndim == 2 and a.shape[1] > 1 and len(a):
        checks.finite(a, "accuracy", name)
        best: np.ndarray = a.argmax(axis=1)
        return best
    a = a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a
    if a.ndim != 1 or not len(a):
        raise InputError(f"accuracy: {name} has shape {a.shape}, expected classes [N] or a column for each class")
    bad = ~np.isfinite(a) | (a != np.floor(a))
    if bad.any():
        raise InputError(f"accuracy: {name} holds {a[bad][0]:g}; expected whole numbers, or a column for each class")
    return a
