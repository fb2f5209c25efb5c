"""Layer list: the layers of a model as a tuple, which also takes what changes a list, and hands it to the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex
from weakref import ref

from nnx.errors import InputError, InputTypeError
from nnx.layers import Layer


class LayerList(tuple[Layer, ...]):
    """The layers that a model has, in order.

    `model.layers[-1] = layer`, `append`, `insert`, `extend`, `pop`, `remove`, `clear` and `del` assign `model.layers`,
    with all the checks and consequences that has. This tuple itself stays as it is; one that is no more what its model
    has changes nothing, and says so.
    """

    _model: ref[Any]

    def __new__(cls, layers: Iterable[Layer], model: Any) -> LayerList:
        """Make the list of a model."""
        made = super().__new__(cls, layers)
        made._model = ref(model)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a plain tuple: a copy belongs to no model."""
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
        """Put another layer, or others, in place of some."""
        changed = list(self)
        if isinstance(place, slice) and isinstance(layer, Layer):
            raise InputTypeError(f"layers[...] = {layer}: several places take a list of layers")
        changed[place] = layer
        self._assign(changed)

    def __delitem__(self, place: SupportsIndex | slice) -> None:
        """Take layers out."""
        changed = list(self)
        del changed[place]
        self._assign(changed)

    def append(self, layer: Layer) -> None:
        """Add a layer behind the last."""
        self._assign([*self, layer])

    def extend(self, layers: Iterable[Layer]) -> None:
        """Add layers behind the last."""
        self._assign([*self, *layers])

    def insert(self, place: SupportsIndex, layer: Layer) -> None:
        """Add a layer before the one at a place."""
        changed = list(self)
        changed.insert(place, layer)
        self._assign(changed)

    def pop(self, place: SupportsIndex = -1) -> Layer:
        """Take a layer out, the last one unless a place is given, and return it."""
        changed = list(self)
        layer = changed.pop(place)
        self._assign(changed)
        return layer

    def remove(self, layer: Layer) -> None:
        """Take a layer out."""
        changed = list(self)
        changed.remove(layer)
        self._assign(changed)

    def clear(self) -> None:
        """Take all layers out, which no model can be without: refused."""
        self._assign([])
