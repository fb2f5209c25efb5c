"""Layers: a forward pass that keeps what the backward pass needs."""

from nnx.layers.activations import Activation, Linear, ReLU, Sigmoid, Softmax, Tanh
from nnx.layers.base import Layer, seed
from nnx.layers.dense import Dense
from nnx.layers.dropout import Dropout

__all__ = ["Activation", "Dense", "Dropout", "Layer", "Linear", "ReLU", "Sigmoid", "Softmax", "Tanh", "seed"]
