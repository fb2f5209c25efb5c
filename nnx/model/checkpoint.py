"""Checkpoints: one safetensors file with the parameters, the optimizer's moments, and all else as JSON.

A file is written whole or not at all, and the same model gives the same bytes. Loading checks every part before it
builds anything, and runs no code from the file.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnx import checks, layers, losses, optimizers
from nnx.errors import FileFormatError, InputError, MissingExtra
from nnx.files import as_path, open_file, refuse_other_format, size_of, write_atomically
from nnx.layers import Layer
from nnx.layers.base import kept_shapes
from nnx.layers.blocks import Block
from nnx.losses import Loss
from nnx.measures import Metric, name_of
from nnx.model.custom import NAME, TRAINABLE, Custom, describe
from nnx.optimizers import Optimizer

FORMAT = "nnx-1"
KIND = "a file that model.save() wrote"
PARAMETERS, MOMENTS = "parameters.", "moments."  # prefixes of the names of arrays
TOGETHER = "ensemble"  # key of the list of several models' descriptions; their arrays' names begin with a model's index
LONGEST = 100_000_000  # bytes of the longest header that the format allows
LAYERS = {
    kind.__name__: kind
    for kind in (
        layers.Dense,
        layers.Dropout,
        layers.Linear,
        layers.Softmax,
        *layers.ELEMENTWISE.values(),
        layers.Flatten,
        layers.Residual,
        layers.Concat,
        layers.Embedding,
        layers.LayerNorm,
        layers.BatchNorm,
        layers.GaussianNoise,
    )
}
LOSSES = {
    name: getattr(losses, name)
    for name in (
        "BinaryCrossEntropy", "CategoricalCrossEntropy", "Huber", "MeanAbsoluteError", "MeanSquaredError",
        "SigmoidCrossEntropy", "SoftmaxCrossEntropy",
    )
}  # fmt: skip
OPTIMIZERS = {
    name: getattr(optimizers, name)
    for name in (
        "SGD",
        "AdaGrad",
        "Adam",
        "AdamW",
        "RMSprop",
        "AMSGrad",
        "Lion",
        "Nadam",
    )
}


@dataclass(frozen=True)
class Training:
    """What a file holds of a compiled model's training.

    Attributes:
        loss, optimizer: as the model was compiled with. iterations: how many steps the optimizer has done.
        tolerance: how near to its target a regression's output must be to count as right; 0 before a fit.
        moments: the parts of the flat buffer that belong to the optimizer, by name.
    """

    loss: Loss
    optimizer: Optimizer
    iterations: int
    tolerance: float
    moments: dict[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds of a model.

    Attributes:
        parameters: by name, such as "0.weights".
        training: None if the model was not compiled.
        metrics: names, or user-defined functions.
        functions: the names of user-defined metrics that were saved with the model but not given to `read`.
    """

    layers: Sequence[Layer]
    dtype: str
    seed: int
    epochs_done: int
    metrics: Sequence[Metric]
    metadata: dict[str, Any]
    parameters: dict[str, np.ndarray]
    training: Training | None
    functions: Sequence[str] = ()


def write(path: str | os.PathLike[str], model: Checkpoint | Sequence[Checkpoint]) -> None:
    """Write a model to `path`, or all those of an ensemble.

    Raises:
        InputError: the name has another format's ending, a user-defined layer or loss does not say with which arguments
            to make it again, JSON cannot hold the metadata, or numbers are not finite.
        OSError: the file cannot be written; one that was there before is untouched.
        MissingExtra: safetensors is not installed.
    """
    path = as_path("save", path)
    refuse_other_format(f"save({str(path)!r})", path)
    if isinstance(model, Checkpoint):
        text, tensors = _describe(model), _tensors(model)
    else:
        text = f'{{"{TOGETHER}": [{", ".join(map(_describe, model))}]}}'
        tensors = {f"{i}.{name}": a for i, one in enumerate(model) for name, a in _tensors(one).items()}
    for name, a in tensors.items():
        checks.finite(a, "save", name)
    header = {"format": FORMAT, "model": text, "crc32": checksum(text, tensors)}
    write_atomically(path, *_sorted(_safetensors().save(tensors, metadata=header)))


def read(path: Path, custom: Custom) -> tuple[bool, list[Checkpoint]]:
    """Read a file that this version or an earlier one wrote; return whether it is an ensemble, and its models.

    Args:
        path: the file. custom: the user-defined classes.

    Raises:
        InputError: a user-defined class is missing.
        FileFormatError: the file is truncated, damaged, or no nnx model.
        MissingExtra: safetensors is not installed.
    """
    header, tensors = _read(path)
    together = TOGETHER in header
    described = header[TOGETHER] if together else [header]
    custom.check({"layers": described}, path)
    with making_sense(path):
        if not together:
            return False, [_understood(header, tensors, custom)]
        if header.keys() != {TOGETHER} or not isinstance(described, list) or not described:
            raise InputError(f"{TOGETHER} must be a list of models, and nothing beside it")
        parts: list[dict[str, np.ndarray]] = [{} for _ in described]
        for name, a in tensors.items():
            number, _, own = name.partition(".")
            parts[range(len(parts)).index(int(number))][own] = a
        return True, [_understood(one, part, custom) for one, part in zip(described, parts, strict=True)]


@contextmanager
def making_sense(path: Path) -> Iterator[None]:
    """Turn errors from building what a file describes into a FileFormatError that names the file."""
    try:
        yield
    except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise FileFormatError(f"{path} does not describe a model that this nnx can build: {reason}") from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except Exception as error:
        raise MissingExtra("safetensors", "train", "saving models", error) from error
    return safetensors.numpy


def _sorted(data: bytes) -> tuple[bytes, memoryview]:
    """Return a file's header with sorted names, and its arrays: safetensors itself writes names in a random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    if len(text) > LONGEST:
        raise InputError(
            f"save: what goes with the arrays has {len(text)} bytes as JSON, expected at most {LONGEST}; "
            "put less into model.metadata"
        )
    return len(text).to_bytes(8, "little") + text, memoryview(data)[end:]


def checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    """Return the CRC-32 of a model's description and arrays, by which a changed byte is found."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(np.ascontiguousarray(tensors[name]).data, value)
    return f"{value:08x}"


# ---- the description of a model as JSON ------------------------------------------------------------------------------


def _tensors(model: Checkpoint) -> dict[str, np.ndarray]:
    """Return a model's arrays under their names in a file."""
    tensors = {f"{PARAMETERS}{name}": np.ascontiguousarray(a) for name, a in model.parameters.items()}
    if model.training is not None:
        tensors |= {f"{MOMENTS}{name}": np.ascontiguousarray(a) for name, a in model.training.moments.items()}
    return tensors


def _describe(model: Checkpoint) -> str:
    if not isinstance(model.metadata, dict):
        raise InputError(f"save: model.metadata is {model.metadata!r}; expected a dict of what JSON can hold")
    described = {
        "layers": [_part(layer, LAYERS, f"layer {number}") for number, layer in enumerate(model.layers)],
        "dtype": model.dtype,
        "seed": model.seed,
        "epochs_done": model.epochs_done,
        "metrics": [metric for metric in model.metrics if isinstance(metric, str)],
        "metadata": model.metadata,
    }
    if functions := [name_of(metric) for metric in model.metrics if not isinstance(metric, str)]:
        described["functions"] = functions
    training = model.training
    if training is not None:
        described |= {
            "loss": _part(training.loss, LOSSES, "the loss"),
            "optimizer": _part(training.optimizer, OPTIMIZERS, "the optimizer"),
            "iterations": training.iterations,
            "precision": training.tolerance,  # its name in the first version's files
        }
    try:
        return json.dumps(described, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"save: model.metadata holds what JSON cannot: {error}") from error


def _part(part: Layer | Loss | Optimizer, known: dict[str, type], what: str) -> dict[str, Any]:
    if known.get(type(part).__name__) is not type(part):
        described = describe(part, what)
    else:
        config = part.config()
        if isinstance(part, Block):
            config["layers"] = _inner(config["layers"], what)
        described = {"class": type(part).__name__, **config}
    kept = getattr(part, "trainable", True) or isinstance(part, Block)  # a block's layers have it, one by one
    return described if kept else described | {TRAINABLE: False}


def _inner(layers: list[Any], what: str) -> list[Any]:
    """Return descriptions of a block's layers, or of the layers of each of its branches."""
    return [
        _inner(layer, what) if isinstance(layer, list) else _part(layer, LAYERS, f"{what}, within") for layer in layers
    ]


def _make(described: dict[str, Any], known: dict[str, Any], custom: Custom, base: type) -> Any:
    arguments = dict(described)
    trained = arguments.pop(TRAINABLE, True) if base is Layer else True
    if NAME in arguments:
        made = custom.make(arguments, base)
    else:
        name = arguments.pop("class")
        if name not in known:
            raise InputError(f"{name!r} is none of {', '.join(known)}")
        inner = _made(arguments.pop("layers", []), custom) if base is Layer else []
        made = known[name](*inner, **arguments)
    if trained is not True:
        made.trainable = trained
    return made


def _made(described: list[Any], custom: Custom) -> list[Any]:
    """Make a block's layers, or the layers of each of its branches, from their descriptions."""
    return [_made(each, custom) if isinstance(each, list) else _make(each, LAYERS, custom, Layer) for each in described]


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
    """Return the metadata in a file's header, after checking that nothing but the arrays follows the header."""
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
    """Return a number of JSON, refusing those like 1e999 that become infinite."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _understood(header: dict[str, Any], tensors: dict[str, np.ndarray], custom: Custom) -> Checkpoint:
    """Return the checkpoint that a description and its arrays stand for, after checking that they fit each other."""
    parts = [_make(layer, LAYERS, custom, Layer) for layer in header["layers"]]
    moments = {name.removeprefix(MOMENTS): a for name, a in tensors.items() if name.startswith(MOMENTS)}
    kept = [kept_shapes(part) for part in parts]
    expected = {f"{PARAMETERS}{i}.{name}": shape for i, one in enumerate(kept) for name, shape in one.items()}
    found = {name: a.shape for name, a in tensors.items() if not name.startswith(MOMENTS)}
    if found != expected:  # checked before anything of that size is allocated
        raise InputError(f"the arrays are {_some(found, expected)}, but the layers need {_some(expected, found)}")
    dtype = checks.dtype(header["dtype"])
    if any(a.dtype.name != dtype for a in tensors.values()):
        raise InputError(f"the arrays are not all {dtype}")
    for name, a in tensors.items():
        checks.finite(a, "the file", name)
    if not isinstance(header["metrics"], list) or not isinstance(header["metadata"], dict):
        raise InputError("metrics must be a list, and metadata an object")
    functions = header.get("functions", [])
    if not isinstance(functions, list) or not all(isinstance(name, str) and name.isidentifier() for name in functions):
        raise InputError("functions must be a list of Python's names")  # messages show them
    return Checkpoint(
        layers=parts,
        dtype=dtype,
        seed=header["seed"],
        epochs_done=_count(header, "epochs_done"),
        metrics=[*header["metrics"], *(custom[name] for name in functions if name in custom)],
        metadata=header["metadata"],
        parameters={name.removeprefix(PARAMETERS): tensors[name] for name in expected},
        training=_training(header, moments, custom),
        functions=[name for name in functions if name not in custom],
    )


def _some(shapes: dict[str, tuple[int, ...]], others: dict[str, tuple[int, ...]]) -> str:
    """Return as text the first of `shapes` that is not the same in `others`."""
    differing = [f"{name} {shape}" for name, shape in shapes.items() if others.get(name) != shape]
    return ", ".join(differing[:3]) + f" and {len(differing) - 3} more" * (len(differing) > 3) or "no others"


def _training(header: dict[str, Any], moments: dict[str, np.ndarray], custom: Custom) -> Training | None:
    names: tuple[str, ...] = ()
    training = None
    if "optimizer" in header:
        loss = _make(header["loss"], LOSSES, custom, Loss)
        optimizer = _make(header["optimizer"], OPTIMIZERS, custom, Optimizer)
        names = optimizer.moments
        tolerance = checks.real(header["precision"], "precision")
        training = Training(loss, optimizer, _count(header, "iterations"), tolerance, moments)
    if moments.keys() != set(names):
        raise InputError(f"the optimizer's arrays are {', '.join(moments)}; expected {', '.join(names)}")
    return training


def _count(header: dict[str, Any], name: str) -> int:
    number = checks.integer(header[name], name, low=0)
    if number >= 2**62:  # no training takes that long, and counters are int64
        raise InputError(f"{name}={number}: expected a number below 2**62")
    return number
