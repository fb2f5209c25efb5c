"""Chains of layers: how many features go in and come out of layers that run one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nnx.backends.recorder import refuse_editing
from nnx.errors import InputError, InputTypeError
from nnx.layers.activations import Activation, Linear
from nnx.layers.base import Layer
from nnx.layers.dropout import Drawing
from nnx.layers.flatten import Flatten

PASSING = (Activation, Drawing, Flatten, Linear)  # layers with as many outputs as inputs


def chain(layers: Sequence[Layer], who: str = "Sequential", width: int | None = None) -> tuple[int | None, int | None]:
    """Return the numbers of inputs and outputs of a chain; None for any number, or one that is not known.

    Args:
        layers: in order. who: the name to begin errors with. width: the number of inputs, where it is known.

    Raises:
        InputError: a layer does not take as many features as the one before it gives.
    """
    first, passing = width, True
    for number, layer in enumerate(layers):
        try:
            width = layer.output_width(width)
        except InputError as error:
            raise InputError(f"{who}: layer {number}: {error}") from None
        if passing:
            first = first or getattr(layer, "n_inputs", None) or getattr(layer, "n_features", None)
            passing = isinstance(layer, PASSING)
    return first, width


def every(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield each layer, followed by the layers inside it."""
    for layer in layers:
        yield layer
        if layer._holds:
            yield from every([*layer.inner.values()])  # type: ignore[attr-defined]


def output_of(layer: Layer, inputs: Any, training: bool) -> Any:
    """Return what a layer makes of inputs, which may be `lent`.

    Raises:
        InputTypeError: it returned nothing. InputError: it returned more or fewer rows than it was given.
    """
    try:
        output = returned(layer.forward(inputs, training=training), layer, "forward")
    except ValueError as error:
        refuse_editing(error, layer, "its inputs")
        raise
    given, made = getattr(inputs, "shape", None), getattr(output, "shape", None)  # which a list has not
    if given is not None and made is not None and given[:1] != made[:1]:
        raise InputError(
            f"{layer}: forward() returned an array of shape {tuple(made)} for inputs {tuple(given)}; expected a row "
            "for each of theirs"
        )
    return output


def gradient_of(layer: Layer, dvalues: Any) -> Any:
    """Return the gradient of a layer's inputs, given that of its output; see `output_of`."""
    try:
        return returned(layer.backward(dvalues), layer, "backward")
    except ValueError as error:
        refuse_editing(error, layer, "its dvalues")
        raise


def returned(result: Any, layer: Layer, method: str) -> Any:
    """Return `result`, the return value of a layer's method, after checking that it is not None.

    Raises:
        InputTypeError: it is None, as if a user-defined method forgets its `return`, or no array.
    """
    if result is None:
        kept = "output" if method == "forward" else "dinputs"
        raise InputTypeError(f"{layer}: {method}() returned None, expected an array; end it with: return self.{kept}")
    if not hasattr(result, "shape") and not isinstance(result, list):
        raise InputTypeError(f"{layer}: {method}() returned a {type(result).__name__}, expected an array")
    return result
