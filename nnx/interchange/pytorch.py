"""PyTorch: reads its modules, state dicts and safetensors files as layers, and returns parameters under its names.

PyTorch keeps a dense layer's weights as [n_neurons, n_inputs], under "NAME.weight", and its biases as [n_neurons].
Gamma and beta of a normalization are called "NAME.weight" and "NAME.bias" too. The momentum of its BatchNorm is 1 minus
ours. Only `to_state_dict` imports PyTorch, to make tensors; a user who passes a module has already imported it.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnx import checks
from nnx.backends.inputs import to_numbers
from nnx.datasets.needs import optional
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.files import existing_file, read_file
from nnx.layers import (
    ELEMENTWISE,
    ELU,
    GELU,
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    Softmax,
)

Array = Any
KIND = "a safetensors file with PyTorch's names"
ACTIVATIONS: dict[str, type[Layer]] = {**ELEMENTWISE, "softmax": Softmax, "linear": Linear}
HALVES = ("float16", "bfloat16", "float32")  # what becomes float32
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # the types that safetensors has for weights
COUNT = "num_batches_tracked"  # which says something where there is no momentum alone
NORMS = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
NAMES = {"weights": "weight", "biases": "bias"} | {name: key for key, name in NORMS.items()}
RUNNING = ("running_mean", "running_var")
GIVE = (
    "give activations=, one name, such as 'relu', for all hidden layers, or a list with one for each dense layer, such "
    "as ['relu', 'relu', None]"
)


def read(source: Any, activations: Any) -> tuple[list[Layer], str]:
    """Return the layers of a module, a state dict or a file, and the type of their parameters.

    Raises:
        InputError: it holds something other than a sequence of dense layers, normalizations and activation functions.
    """
    torch, settings = sys.modules.get("torch"), dict[str, dict[str, Any]]()
    if torch is not None and isinstance(source, torch.nn.Sequential | torch.nn.Linear):
        if activations is not None:
            raise InputError(
                f"from_torch: activations={activations!r}: those of a Sequential are read from it; drop them"
            )
        return _of_modules(torch, source)
    if torch is not None and isinstance(source, torch.nn.Module):
        if activations is None:
            raise InputError(
                f"from_torch: {type(source).__name__} computes what its forward() says, which only a Sequential shows; "
                f"where that is dense layers in a row, {GIVE}"
            )
        settings = _check_kinds(torch, source)
        source = source.state_dict()
    elif isinstance(source, str | os.PathLike):
        source = _of_file(existing_file("from_torch", source, KIND))
    if not isinstance(source, Mapping):
        raise InputTypeError(
            f"from_torch: {type(source).__name__} given; expected a torch.nn.Sequential, a module, its state_dict(), "
            "or the path of a safetensors file"
        )
    return _of_state(source, activations, settings)


# ---- modules ---------------------------------------------------------------------------------------------------------


def _of_modules(torch: Any, module: Any) -> tuple[list[Layer], str]:
    """Return the layers of a Sequential, nested ones included."""
    layers: list[Layer] = []
    types: list[str] = []
    for name, part in _flat(torch, module, ""):
        if type(part) is torch.nn.Flatten and not layers and (part.start_dim, part.end_dim) == (1, -1):
            layers.append(Flatten())
            continue
        if type(part) is torch.nn.Linear:
            weight, bias = _numbers(part.weight, name), None if part.bias is None else _numbers(part.bias, name)
            layers.append(_dense(weight, bias, name))
            types.append(weight.dtype.name)
        elif type(part) in (torch.nn.BatchNorm1d, torch.nn.LayerNorm):
            numbers = {key: _numbers(a, name) for key, a in part.state_dict().items() if key != COUNT}
            layers.append(_norm(numbers, name, _settings(torch, part, name)))
            types += [a.dtype.name for a in numbers.values()]
        else:
            layers.append(_activation(torch, part, name))
    return layers, _type(types)


def _flat(torch: Any, module: Any, prefix: str) -> list[tuple[str, Any]]:
    """Return the modules that a Sequential runs, with their names; refuse hooks and whatever else runs with them."""
    _check_untouched(module, prefix)
    if type(module).forward is not torch.nn.Sequential.forward:
        return [(prefix, module)]
    return [found for name, part in module._modules.items() for found in _flat(torch, part, f"{prefix}{name}.")]


def _check_untouched(module: Any, name: str) -> None:
    """Refuse a module that does something other than what its class says, because of hooks or a changed method."""
    if hasattr(module, "has_uninitialized_params") and module.has_uninitialized_params():
        raise InputError(f"from_torch: module {_named(module, name)} holds no numbers yet; run the module once")
    hooks = module._forward_hooks or module._forward_pre_hooks
    if hooks or "forward" in vars(module):
        what = "forward hooks" if hooks else "a forward() of its own"
        raise InputError(f"from_torch: module {_named(module, name)} has {what}, which nnx would not run; remove it")


def _named(module: Any, name: str) -> str:
    """Return a module's name, if it has one, and its description, on one line."""
    shown = str(module) if not module._modules else f"{module._get_name()}(...)"
    return f"{name.rstrip('.')!r}, {shown}," if name else shown


def _activation(torch: Any, part: Any, name: str) -> Layer:
    """Return the layer that does the same as a module without parameters."""
    nn, kind = torch.nn, type(part)
    plain = {
        nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.SiLU: "silu", nn.Mish: "mish",
        nn.Identity: "linear",
    }  # fmt: skip
    if kind in plain:
        return ACTIVATIONS[plain[kind]]()
    if kind is nn.LeakyReLU:
        return LeakyReLU(part.negative_slope)
    if kind is nn.ELU:
        return ELU(part.alpha)
    if kind is nn.GELU:
        return GELU(part.approximate)
    if kind is nn.Softplus and part.beta == 1 and part.threshold >= 15:  # from where on it is x, within 3e-7
        return ACTIVATIONS["softplus"]()
    if kind is nn.Softmax and part.dim in (1, -1, None):
        return Softmax()
    if kind is nn.Dropout:
        return Dropout(part.p)
    raise InputError(
        f"from_torch: for module {_named(part, name)} nnx has no layer; expected Linear, BatchNorm1d, LayerNorm, "
        f"{', '.join(kind.__name__ for kind in plain)}, LeakyReLU, ELU, GELU, Softplus(beta=1, threshold=20), "
        "Softmax(dim=1), Dropout, or a Flatten at the front"
    )


def _check_kinds(torch: Any, module: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of normalizations by their names.

    Refuse a module in which any other part than these and Linear has parameters or buffers, or in which hooks run.
    """
    found = {}
    for name, part in module.named_modules():
        if part is not module:
            _check_untouched(part, name)
        if type(part) in (torch.nn.BatchNorm1d, torch.nn.LayerNorm):
            found[name] = _settings(torch, part, name)
        elif type(part) is not torch.nn.Linear and (part._parameters or part._buffers):
            raise InputError(
                f"from_torch: module {_named(part, name)} has parameters; expected them in Linear, BatchNorm1d and "
                "LayerNorm alone"
            )
    return found


# ---- normalization ---------------------------------------------------------------------------------------------------


def _settings(torch: Any, part: Any, name: str) -> dict[str, Any]:
    """Return the settings of a normalization that its state dict doesn't hold."""
    if type(part) is torch.nn.LayerNorm:
        if len(part.normalized_shape) != 1:
            raise InputError(f"from_torch: module {_named(part, name)} normalizes several axes; expected one")
        return {"n_features": part.normalized_shape[0], "epsilon": part.eps}
    if part.momentum is None or not part.track_running_stats:
        raise InputError(
            f"from_torch: module {_named(part, name)} averages over all batches, or keeps no running statistics; "
            "expected a momentum, and track_running_stats=True"
        )
    return {"n_features": part.num_features, "epsilon": part.eps, "momentum": 1 - part.momentum}


def _norm(part: Mapping[str, np.ndarray], name: str, settings: Mapping[str, Any]) -> LayerNorm | BatchNorm:
    """Return the layer for a normalization's numbers. Whatever is missing keeps its initial value."""
    kind = BatchNorm if part.keys() & {*RUNNING} else LayerNorm
    numbers = dict(settings)
    width = numbers.pop("n_features", max((a.size for a in part.values()), default=0))
    layer = kind(width, **numbers)
    if kind is BatchNorm and not part.keys() >= {*RUNNING}:
        raise InputError(
            f"from_torch: {name.rstrip('.')!r}, a BatchNorm, has {', '.join(part)}, expected both of {RUNNING}"
        )
    for key, a in part.items():
        if a.shape != (width,):
            raise InputError(
                f"from_torch: '{name.rstrip('.')}.{key}' has shape {list(a.shape)}, expected [{width}], as all of them"
            )
        layer.assign(NORMS[key], a.reshape(1, -1))
    return layer


# ---- state dicts -----------------------------------------------------------------------------------------------------


def _of_state(
    state: Mapping[Any, Any], activations: Any, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Layer], str]:
    """Return dense layers, each followed by its normalizations and then by its activation function.

    Args:
        settings: the settings of the normalizations, by their names, if they are known.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.items():
        name, _, kind = str(key).rpartition(".")
        if kind == COUNT:
            continue
        if kind not in NORMS:
            inner = f". If it is a state dict, give that: [{key!r}]" if isinstance(value, Mapping) else ""
            raise InputError(f"from_torch: {key!r} is no weight and no bias of a Linear, {_guess()}{inner}")
        parts.setdefault(name, {})[kind] = _numbers(value, str(key))
    if not parts:
        raise InputError("from_torch: the state dict is empty; expected names such as '0.weight' and '0.bias'")
    _check_order(list(parts))
    groups: list[list[Layer]] = [[]]  # what stands before the first dense layer, then each of these with what follows
    width = None
    for name, part in parts.items():
        norm = bool(part.keys() & {*RUNNING}) or part.get("weight", np.empty(())).ndim == 1
        if not norm and "weight" not in part:
            raise InputError(f"from_torch: there is '{name}.bias', but no '{name}.weight'")
        layer = _norm(part, name, settings.get(name, {})) if norm else _dense(part["weight"], part.get("bias"), name)
        takes = layer.n_inputs if isinstance(layer, Dense) else layer.n_features
        if width not in (None, takes):
            raise InputError(
                f"from_torch: {name!r} takes {takes} inputs, the one before it gives {width}: the order is "
                f"{', '.join(parts)}: give a dict in the order in which they are run"
            )
        width = layer.output_width(takes)
        if not norm:
            groups.append([])
        groups[-1].append(layer)
    front, *denses = groups
    if not denses:
        raise InputError(
            f"from_torch: there is no dense layer beside {', '.join(parts)}, as of a BatchNorm or LayerNorm"
        )
    layers = front
    for group, function in zip(denses, _functions(activations, len(denses)), strict=True):
        layers += group if function is None else [*group, function]
    return layers, _type([a.dtype.name for part in parts.values() for a in part.values()])


def _check_order(names: list[str]) -> None:
    """Refuse names in alphabetical order if their numbers say another: some readers of files sort names that way."""
    if names == sorted(names) != sorted(names, key=natural):
        raise InputError(
            f"from_torch: the state dict is in alphabetical order: {', '.join(names)}; give a dict in the order in "
            "which they are run, or the path of a safetensors file, of which layers are taken by their numbers"
        )


def _functions(activations: Any, denses: int) -> list[Layer | None]:
    """Return the activation function after each dense layer; None for none."""
    if activations is None and denses > 1:
        raise InputError(f"from_torch: a state dict does not say what comes between dense layers; {GIVE}")
    if activations is None or isinstance(activations, str | Layer):
        activations = [*[activations] * (denses - 1), None]
    if not isinstance(activations, Sequence) or len(activations) not in (denses, denses - 1):
        raise InputError(f"from_torch: activations={activations!r} for {denses} dense layers; {GIVE}")
    return [_function(each) for each in [*activations, None][:denses]]


def _function(given: Any) -> Layer | None:
    """Return an activation function that is given by its name, or as a layer, which is copied."""
    if given is None:
        return None
    if isinstance(given, Activation | Linear | Dropout | GaussianNoise):
        return type(given)(**given.config())
    if given == "gelu_tanh":
        return GELU("tanh")
    return ACTIVATIONS[checks.choice(given, "from_torch: an activation", [*ACTIVATIONS, "gelu_tanh"])]()


def _guess() -> str:
    """Return the end of a message about a name that is not read: what is expected."""
    return "which are all that is read; expected dense layers with normalization and activation functions between them"


# ---- files -----------------------------------------------------------------------------------------------------------


def _of_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, in the natural order of their names; the file's order means nothing."""
    safetensors = optional("safetensors", "train", "reading safetensors files")  # whose numpy part knows no bfloat16
    data = read_file(path, KIND)
    try:
        found: dict[str, dict[str, Any]] = dict(safetensors.deserialize(data))
    except MemoryError:
        raise
    except Exception as error:  # the library has an error type of its own
        raise FileFormatError(
            f"{path} ({len(data)} bytes) is no safetensors file, or is truncated: {error}. Of a file of torch.save() "
            "give the state dict, torch.load(path, weights_only=True)"
        ) from error
    return {name: _stored(path, name, found[name]) for name in sorted(found, key=natural)}


def _stored(path: Path, name: str, tensor: dict[str, Any]) -> np.ndarray:
    kind = tensor["dtype"]
    if kind not in STORED:
        raise FileFormatError(f"{path}: {name!r} is {kind}; expected one of {', '.join(STORED)}")
    a = np.frombuffer(tensor["data"], STORED[kind]).reshape(tensor["shape"])
    if kind == "BF16":  # the upper half of a float32
        return (a.astype(np.uint32) << 16).view(np.float32)
    return a.astype(a.dtype.newbyteorder("="), copy=False)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names with numbers in their natural order: "fc2" before "fc10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


# ---- both ways -------------------------------------------------------------------------------------------------------


def _numbers(tensor: Any, name: str) -> np.ndarray:
    """Return a tensor as an array, detached from its gradient, and copied if it is on a GPU."""
    if hasattr(tensor, "detach"):
        if tensor.is_meta or type(tensor).__name__.startswith("Uninitialized"):
            raise InputError(f"from_torch: {name.rstrip('.')!r} holds no numbers yet; run the module once")
        tensor = tensor.detach().cpu()
    a = to_numbers(tensor, f"from_torch: {name.rstrip('.')!r}: ", "")
    if a.dtype.kind != "f":
        raise InputTypeError(f"from_torch: {name!r} is {a.dtype}; expected floats (quantized networks are not read)")
    return a


def _dense(weight: np.ndarray, bias: np.ndarray | None, name: str) -> Dense:
    name = name.rstrip(".")
    if weight.ndim != 2:
        kind = {3: "as of a Conv1d", 4: "as of a Conv2d", 5: "as of a Conv3d"}
        raise InputError(
            f"from_torch: {name!r} has a weight of shape {list(weight.shape)}, {kind.get(weight.ndim, '')}; expected "
            "[n_neurons, n_inputs] of a Linear"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"from_torch: {name!r}: bias {list(bias.shape)} does not fit weight {list(weight.shape)}")
    if math.prod(weight.shape) == 0:
        raise InputError(f"from_torch: {name!r} has a weight of shape {list(weight.shape)}; expected no side of 0")
    layer = Dense(weight.shape[1], weight.shape[0], init=weight.T)
    layer.biases = np.zeros((1, len(weight))) if bias is None else bias.reshape(1, -1)
    return layer


def _type(types: Sequence[str]) -> str:
    return "float32" if set(types) <= set(HALVES) else "float64"


def to_state_dict(layers: Sequence[Layer], parameters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the layers' parameters as PyTorch tensors, with the names that they have in the same Sequential there."""
    for number, layer in enumerate(layers):
        if layer.shapes and type(layer) not in (Dense, BatchNorm, LayerNorm):
            raise InputError(
                f"to_torch_state_dict: layer {number} is {layer}; expected parameters in Dense, BatchNorm and "
                "LayerNorm alone"
            )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "to_torch_state_dict() makes torch's tensors, and torch is not installed: pip install torch; parameters() "
            "has the same numbers, weights as [n_inputs, n_neurons]"
        ) from error
    state = {}
    for name, a in parameters.items():
        place, _, part = name.partition(".")
        array = np.array((a.T if part == "weights" else a.reshape(-1)), order="C")
        state[f"{place}.{NAMES[part]}"] = torch.from_numpy(array)
        if part == RUNNING[-1]:
            state[f"{place}.{COUNT}"] = torch.from_numpy(np.array(0, np.int64))
    return state
