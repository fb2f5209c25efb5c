"""Saving and loading the book's models (chapter 22), without the pickles that the book writes.

A pickle runs any code that it contains when it is loaded; so none is read here. Parameters are written in NumPy's .npz
format, and whole models in the format of `nnx.Sequential.save`, so that `nnx.load(path, backend="auto")` opens them on
any backend. If writing fails, an older file stays as it was. An optimizer's state is written in the type of the
weights: if dropout or float64 targets made a part of it float64, as they do in the book, that part is rounded.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import nnx
from nnx.backends import Backend, get_backend
from nnx.datasets.archive import open_archive
from nnx.errors import FileFormatError, InputError
from nnx.files import as_path, existing_file, open_file, write_atomically
from nnx.nnfs.accuracy import Accuracy_Categorical, Accuracy_Regression
from nnx.nnfs.activations import Activation_Linear, Activation_ReLU, Activation_Sigmoid, Activation_Softmax
from nnx.nnfs.layers import Layer_Dense, Layer_Dropout
from nnx.nnfs.losses import (
    Loss_BinaryCrossentropy,
    Loss_CategoricalCrossentropy,
    Loss_MeanAbsoluteError,
    Loss_MeanSquaredError,
)
from nnx.nnfs.optimizers import Optimizer_Adagrad, Optimizer_Adam, Optimizer_RMSprop, Optimizer_SGD

Array = Any
Model = TypeVar("Model")
PathLike = str | os.PathLike[str]

# The book's classes, and their counterparts in nnx.
ACTIVATIONS: dict[type, type] = {
    Activation_Linear: nnx.Linear,
    Activation_ReLU: nnx.ReLU,
    Activation_Sigmoid: nnx.Sigmoid,
    Activation_Softmax: nnx.Softmax,
}
LOSSES: dict[type, type] = {
    Loss_BinaryCrossentropy: nnx.BinaryCrossEntropy,
    Loss_CategoricalCrossentropy: nnx.CategoricalCrossEntropy,
    Loss_MeanAbsoluteError: nnx.MeanAbsoluteError,
    Loss_MeanSquaredError: nnx.MeanSquaredError,
}
OPTIMIZERS: dict[type, type] = {
    Optimizer_Adagrad: nnx.AdaGrad,
    Optimizer_Adam: nnx.Adam,
    Optimizer_RMSprop: nnx.RMSprop,
    Optimizer_SGD: nnx.SGD,
}
PENALTIES = {f"{name}_{norm}": f"{name}_regularizer_{norm}" for name in ("weight", "bias") for norm in ("l1", "l2")}
PLACES = {"momentums": "first", "cache": "second"}  # an optimizer's state on a layer, and its part of nnx's flat buffer


# ---- parameters ------------------------------------------------------------------------------------------------------


def save_parameters(parameters: Iterable[tuple[Array, Array]], path: PathLike) -> None:
    """Write layers' weights and biases as "0.weights", "0.biases", ...; raise OSError if the file cannot be written."""
    path, data = as_path("save_parameters", path), io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:  # numpy.savez puts the time into it
        for number, pair in enumerate(parameters):
            for name, array in zip(("weights", "biases"), pair, strict=True):
                with archive.open(zipfile.ZipInfo(f"{number}.{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    write_atomically(path, data.getbuffer())


def load_parameters(path: PathLike) -> list[tuple[Array, Array]]:
    """Return layers' weights and biases from a file.

    Raises:
        FileNotFoundError: there is no such file. FileFormatError: `save_parameters` did not write it, or it is damaged.
    """
    path = _readable(path, "save_parameters()")
    try:
        with open_archive(path, "a file that save_parameters() wrote") as archive:
            names = [(f"{number}.weights", f"{number}.biases") for number in range((len(archive.names) + 1) // 2)]
            return [
                (archive.array(weights) + 0.0, archive.array(biases) + 0.0) for weights, biases in names
            ]  # numbers, or TypeError
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is no file of parameters, or is damaged: {error}") from error


def _readable(path: PathLike, writer: str) -> Path:
    """Refuse anything that isn't a file, and pickles, with messages that say so."""
    path = existing_file("load", path, f"a file that {writer} wrote")
    with open_file(path, f"a file that {writer} wrote") as file:
        start = file.read(1)
    if start == b"\x80":
        raise FileFormatError(
            f"{path} is a pickle, as the book's own code writes: it could run any code, so it is not read. Where you "
            f"trust it, open it with that code, give its arrays to set_parameters(), and save again by {writer}"
        )
    return path


# ---- whole models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The parts of a book's model; loss, accuracy and optimizer are None if they were not set."""

    layers: list[Any]
    loss: Any
    accuracy: Any
    optimizer: Any


def save(model: Parts, path: PathLike) -> None:
    """Write a model.

    Raises:
        InputError: a part is a class of your own. OSError: the file cannot be written; an old one is untouched.
        MissingExtra: safetensors is not installed.
    """
    to_sequential(model, get_backend("numpy")).save(path)


def load(path: PathLike, build: Callable[[Parts], Model]) -> Model:
    """Read a model, built from its parts.

    Raises:
        FileNotFoundError: there is no such file. MissingExtra: safetensors is not installed.
        FileFormatError: the file is damaged, or holds no model that the book has classes for.
    """
    path = _readable(path, "save()")
    sequential = nnx.load(path, backend="numpy")
    try:
        return build(from_sequential(sequential))
    except (InputError, AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} does not hold a model of the book's classes: {error}") from error


def to_sequential(model: Parts, backend: Backend, seed: int = 0) -> nnx.Sequential:
    """Return a model as an `nnx.Sequential`, with the optimizer's state; the seed is for its dropout masks."""
    if model.optimizer is not None and model.loss is None:
        raise InputError("Model.save: the model has an optimizer, but no loss; give it by set(loss=...)")
    dtype = next((layer.dtype for layer in model.layers if hasattr(layer, "weights")), "float32")
    sequential = nnx.Sequential(*[_to_layer(layer) for layer in model.layers], backend=backend, dtype=dtype, seed=seed)
    accuracy = model.accuracy
    if accuracy is not None and type(accuracy) not in (Accuracy_Categorical, Accuracy_Regression):
        raise InputError(
            f"Model.save: the accuracy is a {type(accuracy).__name__}, a class of your own, which a file cannot "
            "hold; use save_parameters(), or set another accuracy first"
        )
    precision = getattr(accuracy, "precision", None)
    sequential.metadata["nnfs"] = {
        "loss": None if model.loss is None else _partner(LOSSES, model.loss).__name__,
        "accuracy": None if accuracy is None else type(accuracy).__name__,
        "binary": getattr(accuracy, "binary", False),
        "precision": None if precision is None else float(precision),
    }
    if model.optimizer is not None:
        optimizer = _partner(OPTIMIZERS, model.optimizer)(model.optimizer.learning_rate)
        numbers = {name: getattr(model.optimizer, name) for name in optimizer.config()}
        if not model.optimizer.decay:  # then the script may set the current rate
            numbers["learning_rate"] = model.optimizer.current_learning_rate
        sequential.compile(_partner(LOSSES, model.loss)(), type(optimizer)(**numbers))
        sequential.resume(model.optimizer.iterations, float(precision or 0))
        for layer, name, view in states(model.layers, model.optimizer, sequential):
            view[...] = getattr(layer, name, 0)
    return sequential


def from_sequential(sequential: nnx.Sequential) -> Parts:
    """Return the parts of a book's model that equals an `nnx.Sequential`, with the optimizer's state."""
    named = sequential.metadata.get("nnfs") or _named(sequential)
    layers: list[Any] = [_from_layer(part) for part in sequential.layers]
    loss: Any = None
    accuracy: Any = None
    optimizer: Any = None
    if named["loss"] is not None:
        loss = {partner.__name__: own for own, partner in LOSSES.items()}[named["loss"]]()
    if named["accuracy"] == "Accuracy_Categorical":
        accuracy = Accuracy_Categorical(binary=bool(named["binary"]))
    elif named["accuracy"] is not None:
        accuracy = Accuracy_Regression()
        accuracy.precision = named["precision"]
    if sequential.optimizer is not None:
        optimizer = _own(OPTIMIZERS, sequential.optimizer)(**sequential.optimizer.config())
        optimizer.iterations = sequential.optimizer.iterations
        if optimizer.iterations:
            for layer, name, view in states(layers, optimizer, sequential):
                setattr(layer, name, view.copy())
    return Parts(layers, loss, accuracy, optimizer)


def _named(sequential: nnx.Sequential) -> dict[str, Any]:
    """Return the loss and accuracy that fit a model which was not made with the book's classes."""
    loss = sequential.loss
    if loss is None:
        return {"loss": None, "accuracy": None}
    accuracy = "Accuracy_Regression" if loss.metric == "regression" else "Accuracy_Categorical"
    return {"loss": type(loss).__name__, "accuracy": accuracy, "binary": loss.metric == "binary", "precision": None}


def states(layers: list[Any], optimizer: Any, sequential: nnx.Sequential) -> Iterator[tuple[Any, str, np.ndarray]]:
    """Yield, for each state of the optimizer, its layer, the attribute's name, and its view in nnx's flat buffer."""
    for moment in optimizer.moments:
        views = iter(sequential.flat.views(getattr(sequential.flat, PLACES[moment])))
        for layer in (layer for layer in layers if hasattr(layer, "weights")):
            for prefix in ("weight", "bias"):
                yield layer, f"{prefix}_{moment}", next(views)


def _to_layer(layer: Any) -> nnx.Layer:
    if type(layer) is Layer_Dense:
        strengths = {name: getattr(layer, own) for name, own in PENALTIES.items()}
        n_inputs, n_neurons = layer.weights.shape
        dense = nnx.Dense(n_inputs, n_neurons, **strengths)
        dense.weights, dense.biases = layer.weights, layer.biases
        return dense
    if type(layer) is Layer_Dropout:
        return nnx.Dropout(1 - layer.rate)
    activation: nnx.Layer = _partner(ACTIVATIONS, layer)()
    return activation


def _from_layer(part: nnx.Layer) -> Any:
    if isinstance(part, nnx.Dropout):
        return Layer_Dropout(part.rate)
    if not isinstance(part, nnx.Dense):
        return _own(ACTIVATIONS, part)()
    layer = Layer_Dense.__new__(Layer_Dense)  # __init__ would draw from the script's random numbers
    layer.dtype = part.dtype or "float32"
    layer.weights, layer.biases = np.array(part.weights), np.array(part.biases)
    for name, own in PENALTIES.items():
        setattr(layer, own, getattr(part, name))
    return layer


def _partner(table: dict[type, type], part: Any) -> Any:
    if type(part) not in table:
        raise InputError(
            f"Model.save: {type(part).__name__} is a class of your own, which a file cannot hold; use save_parameters()"
        )
    return table[type(part)]


def _own(table: dict[type, type], partner: Any) -> Any:
    for own, kind in table.items():
        if kind is type(partner):
            return own
    raise InputError(f"the book has no {type(partner).__name__}")
