"""What may stand together in a model: layers in a row, and a loss after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnx.errors import InputError, InputTypeError
from nnx.layers import Activation, Dense, Dropout, Layer, Linear, ReLU, Softmax, Tanh
from nnx.losses import BinaryCrossEntropy, CategoricalCrossEntropy, FusedLoss, Loss


def fitting_layers(layers: Sequence[Any]) -> tuple[Layer, ...]:
    """Return the layers given to a model, if each is one, and is in no other place."""
    if len(layers) == 1 and isinstance(layers[0], list | tuple):
        raise InputTypeError("Sequential takes layers one by one: Sequential(*layers), not a list")
    if not layers:
        raise InputError("Sequential(): expected at least one layer, such as Dense(2, 64)")
    for number, layer in enumerate(layers):
        expect_instance(layer, Layer, f"layer {number}", "ReLU()")
        if isinstance(layer, Loss):
            raise InputTypeError(f"layer {number} is {layer}, a loss; give it to compile(loss=...)")
        if any(layer is other for other in layers[:number]):
            raise InputError(f"layer {number}, {layer}, is the same object as an earlier one; make one for each place")
        if layer.in_model:
            raise InputError(
                f"layer {number}, {layer}, belongs to another model; make a new one, or copy.deepcopy(layer)"
            )
    return tuple(layers)


def chain(layers: Sequence[Layer]) -> tuple[int | None, int | None]:
    """Return how many inputs and outputs the layers have together; None where any will do, or it is not known."""
    first, width = None, None
    for number, layer in enumerate(layers):
        try:
            width = layer.output_width(width)
        except InputError as error:
            raise InputError(f"Sequential: layer {number}: {error}") from None
        if all(isinstance(before, Activation | Dropout | Linear) for before in layers[:number]):
            first = first or getattr(layer, "n_inputs", None)
    return first, width


def expect_instance(value: Any, kind: type, what: str, example: str) -> None:
    """Refuse what is no instance of a class of nnx, the class itself above all."""
    if isinstance(value, type) and issubclass(value, kind):
        raise InputTypeError(f"{what} is the class {value.__name__}; give an instance: {value.__name__}(...)")
    if not isinstance(value, kind):
        raise InputTypeError(f"{what} is {value!r}; expected a {kind.__name__}, such as nnx.{example}")


def check_ending(last: Layer, loss: Loss) -> None:
    """Refuse the two mistakes that train without an error, and badly."""
    if isinstance(loss, FusedLoss) and type(last).__name__ in ("Softmax", "Sigmoid"):
        raise InputError(f"compile: {loss} takes logits, but the last layer is {last}; drop that layer")
    if isinstance(loss, CategoricalCrossEntropy | BinaryCrossEntropy) and type(last) in (Dense, Linear, ReLU, Tanh):
        ending = "Softmax()" if isinstance(loss, CategoricalCrossEntropy) else "Sigmoid()"
        raise InputError(f"compile: {loss} takes probabilities, but the last layer is {last}; add {ending}")
    if isinstance(loss, BinaryCrossEntropy) and type(last) is Softmax:
        raise InputError(
            "compile: BinaryCrossEntropy takes independent outputs; after Softmax() use CategoricalCrossEntropy()"
        )
