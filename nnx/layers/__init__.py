"""Layers: a forward pass that keeps what the backward pass needs."""

from nnx.layers import activations
from nnx.layers.activations import *  # noqa: F403 - the names in its __all__
from nnx.layers.activations import Activation, Softmax
from nnx.layers.base import Layer, seed
from nnx.layers.dense import Dense
from nnx.layers.dropout import Dropout

__all__ = ["Dense", "Dropout", "Layer", "seed"]
__all__ += activations.__all__

# Those that act on each number by itself, by the names of their operations.
ELEMENTWISE: dict[str, type[Activation]] = {
    kind().operation: kind for kind in Activation.__subclasses__() if kind is not Softmax
}
