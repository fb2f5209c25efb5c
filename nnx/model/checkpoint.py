"""Saving and loading: one safetensors file with the parameters, the optimizer's moments, and all else as JSON.

A file is written whole or not at all, and the same model gives the same bytes. Loading checks every part before it
builds anything, and runs no code from the file.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnx import checks, layers, losses, optimizers
from nnx.backends import resolve
from nnx.datasets.needs import as_path, existing_file
from nnx.errors import FileFormatError, InputError, MissingExtra
from nnx.files import open_file, size_of, write_atomically
from nnx.layers import Layer
from nnx.losses import Loss
from nnx.model.sequential import Sequential
from nnx.optimizers import Optimizer

FORMAT = "nnx-1"
KIND = "a file that model.save() wrote"
LONGEST = 100_000_000  # bytes of a header, in the format itself
LAYERS = {
    kind.__name__: kind
    for kind in (layers.Dense, layers.Dropout, layers.Linear, layers.Softmax, *layers.ELEMENTWISE.values())
}
LOSSES = {
    name: getattr(losses, name)
    for name in (
        "BinaryCrossEntropy", "CategoricalCrossEntropy", "HuberLoss", "MeanAbsoluteError", "MeanSquaredError",
        "SigmoidCrossEntropy", "SoftmaxCrossEntropy",
    )
}  # fmt: skip
OPTIMIZERS = {name: getattr(optimizers, name) for name in ("SGD", "AdaGrad", "Adam", "AdamW", "RMSprop")}


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model to `path`.

    Raises:
        InputError: the model has a layer or a loss of your own (save its `parameters()`), metadata beyond JSON, or
            numbers that are not finite.
        OSError: the file cannot be written; one that was there before is untouched.
        MissingExtra: safetensors is not installed.
    """
    path, text = as_path("save", path), _describe(model)
    tensors = {f"parameters.{name}": _host(model, a) for name, a in model.parameters().items()}
    if model.optimizer is not None:
        tensors |= {f"moments.{name}": _host(model, getattr(model.flat, name)) for name in model.optimizer.moments}
    for name, a in tensors.items():
        checks.finite(a, "save", name)
    header = {"format": FORMAT, "model": text, "crc32": checksum(text, tensors)}
    write_atomically(path, *_sorted(_safetensors().save(tensors, metadata=header)))


def load(path: str | os.PathLike[str], backend: Any = None) -> Sequential:
    """Read a model that `save` wrote, on any backend; training goes on where it stopped.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is truncated, damaged, or no nnx model. InputError: no backend has that name.
        BackendUnavailable: the backend does not work here. MissingExtra: safetensors is not installed.
    """
    path = existing_file("load", path, KIND)
    resolve(backend)  # its errors are not the file's
    header, tensors = _read(path)
    try:
        model = _build(header, tensors, backend)
        _fill(model, header, tensors)
    except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise FileFormatError(f"{path} does not describe a model that this nnx can build: {reason}") from error
    return model


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtra("safetensors", "train", "saving and loading models") from error
    return safetensors.numpy


def _sorted(data: bytes) -> tuple[bytes, memoryview]:
    """Return a file in two parts with the names in its header in order; the library's order is another each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    if len(text) > LONGEST:
        raise InputError(
            f"save: what goes with the arrays has {len(text)} bytes as JSON, expected at most {LONGEST}; "
            "put less into model.metadata"
        )
    return len(text).to_bytes(8, "little") + text, memoryview(data)[end:]


def _host(model: Sequential, a: Any) -> np.ndarray:
    return np.ascontiguousarray(model.backend.to_numpy(a))


def checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    """Return the CRC-32 of a model's description and arrays: a changed byte in either is found."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(np.ascontiguousarray(tensors[name]).data, value)
    return f"{value:08x}"


# ---- what a model is, as JSON ----------------------------------------------------------------------------------------


def _describe(model: Sequential) -> str:
    if not isinstance(model.metadata, dict):
        raise InputError(f"save: model.metadata is {model.metadata!r}; expected a dict of what JSON can hold")
    described = {
        "layers": [_part(layer, LAYERS, f"layer {number}") for number, layer in enumerate(model.layers)],
        "dtype": model.dtype,
        "seed": model.seed,
        "epochs_done": model.epochs_done,
        "metrics": list(model.metrics),
        "metadata": model.metadata,
    }
    if model.optimizer is not None:
        trainer = model._compiled("save")
        trainer.check()  # what it refuses could not be loaded
        described |= {
            "loss": _part(model.loss, LOSSES, "the loss"),
            "optimizer": _part(model.optimizer, OPTIMIZERS, "the optimizer"),
            "iterations": model.optimizer.iterations,
            "precision": trainer.precision,
        }
    try:
        return json.dumps(described, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"save: model.metadata holds what JSON cannot: {error}") from error


def _part(part: Layer | Loss | Optimizer, known: dict[str, type], what: str) -> dict[str, Any]:
    if known.get(type(part).__name__) is not type(part):
        raise InputError(
            f"save: {what} is {part}, a class of your own, which a file cannot hold; save model.parameters() instead, "
            "and give them to set_parameters() of a model built alike"
        )
    return {"class": type(part).__name__, **part.config()}


def _make(described: dict[str, Any], known: dict[str, Any]) -> Any:
    arguments = dict(described)
    name = arguments.pop("class")
    if name not in known:
        raise InputError(f"{name!r} is none of {', '.join(known)}")
    return known[name](**arguments)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    safetensors = _safetensors()
    with open_file(path, KIND) as file:
        metadata = _metadata(path, file)
        file.seek(0)
        data = file.read(size_of(file))
    try:
        tensors = safetensors.load(data)
    except MemoryError:
        raise
    except Exception as error:  # the library has an error type of its own, and numpy may object to a shape
        raise FileFormatError(f"{path} ({len(data)} bytes) is no safetensors file, or is truncated: {error}") from error
    if metadata.get("crc32") != checksum(metadata["model"], tensors):
        raise FileFormatError(f"{path} is damaged: its checksum is not that of its contents")
    try:
        header = json.loads(metadata["model"], parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: the description of the model is missing or damaged: {error}") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: the description of the model is damaged: expected an object")
    return header, tensors


def _metadata(path: Path, file: BinaryIO) -> dict[str, str]:
    """Return what a file's header says besides its arrays, after checking that these are all that follows it."""
    size = size_of(file)
    length = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= length <= min(size - 8, LONGEST):
            raise ValueError(f"its header is said to have {length} bytes")
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"its header is that of {8 + length + end} bytes")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{path} ({size} bytes) is no safetensors file, or is truncated: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        given = metadata.get("format") if isinstance(metadata, dict) else metadata
        raise FileFormatError(
            f"{path} is a safetensors file, but no nnx model: its format is {given!r}, expected {FORMAT!r}"
        )
    if not isinstance(metadata.get("model"), str):
        raise FileFormatError(f"{path}: the description of the model is missing")
    return metadata


def _finite(text: str) -> float:
    """Return a number of JSON, which has no infinity, but may have 1e999."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _build(header: dict[str, Any], tensors: dict[str, np.ndarray], backend: Any) -> Sequential:
    parts = [_make(layer, LAYERS) for layer in header["layers"]]
    expected = {f"parameters.{i}.{name}": shape for i, part in enumerate(parts) for name, shape in part.shapes.items()}
    found = {name: a.shape for name, a in tensors.items() if not name.startswith("moments.")}
    if found != expected:  # asked before anything of that size is allocated
        raise InputError(f"the arrays are {found}, but the layers need {expected}")
    model = Sequential(*parts, backend=backend, dtype=header["dtype"], seed=header["seed"])
    if not isinstance(header["metrics"], list) or not isinstance(header["metadata"], dict):
        raise InputError("metrics must be a list, and metadata an object")
    if "optimizer" in header:
        loss, optimizer = _make(header["loss"], LOSSES), _make(header["optimizer"], OPTIMIZERS)
        model.compile(loss, optimizer, metrics=header["metrics"])
    return model


def _fill(model: Sequential, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    moments = () if model.optimizer is None else model.optimizer.moments
    expected = {f"moments.{name}": (model.flat.size,) for name in moments}
    found = {name: a.shape for name, a in tensors.items() if name.startswith("moments.")}
    if found != expected:
        raise InputError(f"the optimizer's arrays are {found}, expected {expected}")
    if any(a.dtype.name != model.dtype for a in tensors.values()):
        raise InputError(f"the arrays are not all {model.dtype}")
    for name, a in tensors.items():
        checks.finite(a, "the file", name)
    model.epochs_done, model.metadata = _count(header, "epochs_done"), header["metadata"]
    model.set_parameters({name: tensors[f"parameters.{name}"] for name in model.parameters()})
    for name in moments:
        getattr(model.flat, name)[...] = model.backend.asarray(tensors[f"moments.{name}"], model.dtype)
    if model.optimizer is not None:
        model.resume(_count(header, "iterations"), checks.real(header["precision"], "precision"))


def _count(header: dict[str, Any], name: str) -> int:
    number = checks.integer(header[name], name, low=0)
    if number >= 2**62:  # no training takes that long, and counters are int64
        raise InputError(f"{name}={number}: expected a number below 2**62")
    return number
