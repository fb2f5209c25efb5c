"""Layers: a forward pass that keeps what the backward pass needs."""

from nnx.kernels.elementwise import NAMES
from nnx.layers import activations
from nnx.layers.activations import *  # noqa: F403 - the names in its __all__
from nnx.layers.activations import Activation
from nnx.layers.base import Layer, seed
from nnx.layers.blocks import Concat, Residual
from nnx.layers.dense import Dense
from nnx.layers.dropout import Dropout, GaussianNoise
from nnx.layers.elementwise import Elementwise
from nnx.layers.embedding import Embedding
from nnx.layers.flatten import Flatten
from nnx.layers.normalization import BatchNorm, LayerNorm

__all__ = ["BatchNorm", "Dense", "Dropout", "Elementwise", "GaussianNoise", "Layer", "LayerNorm", "seed"]
__all__ += ["Concat", "Embedding", "Flatten", "Residual"]
__all__ += activations.__all__

# The layers that act on each number by itself, by the names of their operations, in the order of the kernels' table.
_kinds = {kind().operation: kind for kind in Activation.__subclasses__()}
ELEMENTWISE: dict[str, type[Activation]] = {name: _kinds[name] for name in NAMES if name in _kinds}
