"""Gradient check against finite differences, in float64: is `backward` the derivative of `forward`?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx import checks
from nnx.backends import get_backend
from nnx.backends.base import host_array
from nnx.errors import InputError, InputTypeError
from nnx.layers import Embedding, Flatten, Layer
from nnx.layers.chain import every
from nnx.layers.dropout import Drawing
from nnx.layers.embedding import fronts
from nnx.losses import Loss
from nnx.sequential import Sequential

STEP = 1e-6  # in float64 the truncation error (1e-12) and the rounding error (1e-10) are then both small
ROUNDED = 8 * 2.0**-53  # relative error that the last additions may leave in the value that is differentiated
NUMBERS = 200  # at most so many numbers of each array are checked
TWICE = 2  # how often gradients are computed: one that is added to the last one is right the first time


def gradcheck(model: Sequential | Layer | Loss, x: Any, y: Any = None, sample_weight: Any = None) -> float:
    """Return the worst relative error of any gradient, against finite differences: below 1e-6 if `backward` is right.

    A copy in float64 on the NumPy backend is checked; the given object stays as it is. The error of one number is
    |analytic - numeric| / max(|analytic|, |numeric|, s), where s is the largest gradient in its array. So rounding
    errors in gradients near 0 do not count, nor an array whose gradients are all 0, as those of biases before
    BatchNorm. Of arrays with more than 200 numbers a sample is checked.

    Keep the inputs away from kinks, such as exactly 0 at a ReLU, and from probabilities below 1e-7: there the loss is
    clipped to a constant, as in the book, while its gradient is not 0.

    Args:
        model: a compiled model (its loss with the penalties is differentiated); a layer; or a loss.
        x: inputs [N, I]; for a loss its y_pred. y: targets, for a model or a loss.
        sample_weight: the weight of each sample [N], for a model or a loss.

    Raises:
        InputError: y is missing, the model is not compiled, or a weight cannot be used.
    """
    x = np.array(host_array(x, "float64", "gradcheck: x"))
    first = model.layers[0] if isinstance(model, Sequential) else model
    if x.ndim > 2 and isinstance(first, Flatten):
        x = x.reshape(len(x), -1)
    checks.matrix(x.shape, "gradcheck", "x")
    checks.finite(x, "gradcheck", "x")
    for layer in fronts(model.layers if isinstance(model, Sequential) else [model]):
        if isinstance(layer, Embedding) and x.shape[1] == layer.n_inputs:
            layer.check_codes(x, "gradcheck: x")
    if isinstance(model, Sequential):
        return _check_model(model, x, y, sample_weight)
    if isinstance(model, Loss):
        return _check_loss(model, x, y, sample_weight)
    if isinstance(model, Layer):
        if sample_weight is not None:
            raise InputError(f"gradcheck: sample_weight was given, but {model} is a layer, which weighs no samples")
        return _check_layer(model, x)
    raise InputTypeError(f"gradcheck: {model!r} was given; expected a model, a layer or a loss")


def _check_model(model: Sequential, x: np.ndarray, y: Any, sample_weight: Any) -> float:
    if model.loss is None:
        raise InputError("gradcheck: the model has no loss yet; call model.compile(loss=..., optimizer=...) first")
    if y is None:
        raise InputError("gradcheck: y is missing; give the targets of x")
    net = copy.deepcopy(model).to("numpy", "float64")
    for layer in net.layers:
        _leave_kinks(layer)
    trainer, target = net._compiled("gradcheck"), net._targets(y, x, "gradcheck")
    counts = net._weights(y, target, "gradcheck", sample_weight)
    factors = np.ones((len(x), 1)) if counts is None else net._factors(counts)

    def forward() -> np.ndarray:
        outputs = x.copy()  # a layer may edit it
        for layer in trainer.layers:
            outputs = layer.forward(outputs, training=True)
        return outputs

    def loss() -> float:
        outputs = forward()
        trainer.loss.both(outputs, target)
        for layer in net.layers:
            if layer.strengths():
                layer.backward_parameters(np.zeros_like(layer.output))
        return float(np.mean(factors[:, 0] * trainer.loss.output) + net.penalties.sum())

    for _ in range(TWICE):
        dvalues = trainer.loss.weighed(trainer.loss.both(forward(), target)[1], factors)
        for layer in reversed(trainer.layers):
            dvalues = layer.backward(dvalues)
    pairs = [pair for layer in net.layers for pair in _pairs(layer)]
    pairs += _numbers(x, dvalues.copy(), net._layers)
    return max(_worst(loss, values, gradient) for values, gradient in pairs)


def _check_loss(loss: Loss, x: np.ndarray, y: Any, sample_weight: Any) -> float:
    if y is None:
        raise InputError("gradcheck: y is missing; give the targets of x")
    checked = copy.deepcopy(loss)
    checked.backend = get_backend("numpy")
    weights = () if sample_weight is None else (sample_weight,)
    gradient = np.array(checked.mean_gradient(x, y, *weights))
    return _worst(lambda: checked.calculate(x, y, *weights), x, gradient)


def _check_layer(layer: Layer, x: np.ndarray) -> float:
    """Check a layer: differentiate the sum of its outputs, each times a fixed random number, plus its penalties."""
    checked = copy.deepcopy(layer)
    checked.backend, checked.dtype = get_backend("numpy"), "float64" if checked.shapes else None
    weights = np.random.default_rng(0).standard_normal(checked.forward(x.copy(), training=True).shape)
    for each in every([checked]):  # after the first forward, by which layers in a block forget whose steps they count
        if isinstance(each, Drawing):
            each.hold()
    _leave_kinks(checked)

    def value() -> float:
        total = float(np.sum(checked.forward(x.copy(), training=True) * weights))
        if checked.strengths():
            checked.backward_parameters(np.zeros_like(weights))
            total += sum(float(penalty[0]) for penalty in checked.penalties.values())
        return total

    for _ in range(TWICE):
        checked.forward(x.copy(), training=True)
        dinputs = checked.backward(weights.copy()).copy()
    pairs = [*_numbers(x, dinputs, [checked]), *_pairs(checked)]
    return max(_worst(value, values, gradient) for values, gradient in pairs)


def _numbers(x: np.ndarray, gradient: np.ndarray, layers: Sequence[Layer]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the inputs with their gradient, without the columns that hold an embedding's codes."""
    codes = {column for layer in fronts(layers) if isinstance(layer, Embedding) for column in layer.columns}
    numbers = [column for column in range(x.shape[1]) if column not in codes]
    return [(x, gradient)] if not codes else [(x[:, i : i + 1], gradient[:, i : i + 1]) for i in numbers]


def _pairs(layer: Layer) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each trained parameter with a copy of its gradient."""
    moved = [name for name, trained in layer.trained().items() if trained]
    return [(layer.parameter(name), layer.gradient(name).copy()) for name in moved]


def _leave_kinks(layer: Layer) -> None:
    """Move parameters off 0 where an L1 penalty has its kink, as at freshly made biases."""
    for name, (l1, _) in layer.strengths().items():
        values = layer.parameter(name)
        values[...] = np.where((values == 0) & (l1 > 0), 0.01, values)


def _worst(value: Callable[[], float], at: np.ndarray, gradient: np.ndarray) -> float:
    """Return the worst relative error over the numbers of `at`; each is changed, and put back, by itself."""
    numbers = np.arange(at.size)
    if at.size > NUMBERS:
        numbers = np.random.default_rng(0).choice(at.size, NUMBERS, replace=False)
    scale, worst = max(float(np.max(np.abs(gradient))), 1e-12), 0.0
    for i in numbers:
        place = np.unravel_index(i, at.shape)
        before = at[place]
        step = STEP * max(1.0, abs(before))
        at[place] = before + step
        above = value()
        at[place] = before - step
        below = value()
        at[place] = before
        numeric, analytic = (above - below) / (2 * step), float(gradient[place])
        off = max(0.0, abs(numeric - analytic) - ROUNDED * max(abs(above), abs(below)) / step)
        error = off / max(abs(numeric), abs(analytic), scale) if np.isfinite(numeric + analytic) else math.inf
        worst = max(worst, error if np.isfinite(error) else math.inf)
    return worst if np.isfinite(gradient).all() else math.inf
