"""Layer list: a model's layers as a tuple that also has a list's methods, which assign changed layers to the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex
from weakref import ref

from nnx.errors import InputError, InputTypeError
from nnx.layers import Layer


class LayerList(tuple[Layer, ...]):
    """The layers of a model, in order.

    `model.layers[-1] = layer`, `append`, `insert`, `extend`, `pop`, `remove`, `clear` and `del` assign a new list to
    `model.layers`, with all checks and consequences of that. This tuple itself never changes; if the model has other
    layers by now, an attempt to change this one raises InputError.
    """

    _model: ref[Any]

    def __new__(cls, layers: Iterable[Layer], model: Any) -> LayerList:
        """Make the layer list of `model`."""
        made = super().__new__(cls, layers)
        made._model = ref(model)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a plain tuple: a copy belongs to no model."""
        return tuple, (list(self),)

    def _assign(self, changed: list[Layer]) -> None:
        model = self._model()
        if model is None:
            raise InputError("these layers are those of a model that is no more; make a new Sequential(*layers)")
        if tuple(self) != model._layers:
            raise InputError(
                "these are the layers that the model had; it has others by now, and changing these would drop them: "
                "change model.layers itself"
            )
        model.layers = changed

    def __setitem__(self, place: SupportsIndex | slice, layer: Any) -> None:
        """Replace a layer, or the layers of a slice."""
        changed = list(self)
        if isinstance(place, slice) and isinstance(layer, Layer):
            raise InputTypeError(f"layers[...] = {layer}: several places take a list of layers")
        changed[place] = layer
        self._assign(changed)

    def __delitem__(self, place: SupportsIndex | slice) -> None:
        """Remove a layer, or the layers of a slice."""
        changed = list(self)
        del changed[place]
        self._assign(changed)

    def append(self, layer: Layer) -> None:
        """Add a layer at the end."""
        self._assign([*self, layer])

    def extend(self, layers: Iterable[Layer]) -> None:
        """Add layers at the end."""
        self._assign([*self, *layers])

    def insert(self, place: SupportsIndex, layer: Layer) -> None:
        """Add a layer before the one at `place`."""
        changed = list(self)
        changed.insert(place, layer)
        self._assign(changed)

    def pop(self, place: SupportsIndex = -1) -> Layer:
        """Remove the layer at `place`, the last one by default, and return it."""
        changed = list(self)
        layer = changed.pop(place)
        self._assign(changed)
        return layer

    def remove(self, layer: Layer) -> None:
        """Remove a layer."""
        changed = list(self)
        changed.remove(layer)
        self._assign(changed)

    def clear(self) -> None:
        """Raise InputError: a model must have at least one layer."""
        self._assign([])
