"""Constants of ONNX graphs. Exporters leave nodes whose inputs are all constant; those are computed while reading."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.interchange.onnx_file import FLOATS, OnnxFile

FOLDED = ("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Constant")
TYPES = {
    "DOUBLE": np.float64,
    "INT64": np.int64,
    "INT32": np.int32,
    **dict.fromkeys(FLOATS[:1] + FLOATS[2:], np.float32),
}


def folded(file: OnnxFile, node: Any, given: list[np.ndarray]) -> np.ndarray:
    """Return the result of a node whose inputs are all constant. Its operator is one of FOLDED."""
    if node.op_type == "Constant":
        return _constant(file, node)
    if not given:
        raise file.refusal(node, "has no input")
    a = given[0]
    if node.op_type == "Transpose":
        perm = file.attributes(node, perm=[])["perm"] or list(range(a.ndim))[::-1]
        if sorted(perm) != list(range(a.ndim)):
            raise file.refusal(node, f"perm={perm} for {a.ndim} axes")
        return a.transpose(perm)
    if node.op_type == "Cast":
        kind = file.cast_to(node)
        if kind not in TYPES:
            raise file.refusal(node, f"makes {kind} of constants")
        return a.astype(TYPES[kind])
    return a if node.op_type == "Identity" else _reshaped(file, node, given)


def _constant(file: OnnxFile, node: Any) -> np.ndarray:
    values = file.attributes(node, value=None, value_float=0.0, value_int=0, value_floats=[], value_ints=[])
    names = [attribute.name for attribute in node.attribute]
    if len(names) != 1:
        raise file.refusal(node, "expected one value")
    value = values[names[0]]
    return value if isinstance(value, np.ndarray) else np.array(value, np.float32 if "float" in names[0] else np.int64)


def _reshaped(file: OnnxFile, node: Any, given: list[np.ndarray]) -> np.ndarray:
    """Return constants in another shape: with axes of length 1 added or removed, or in any shape of the same size."""
    a, sides = given[0], tuple(int(side) for side in given[1].reshape(-1)) if given[1:] else None
    if node.op_type == "Reshape":
        allow = file.attributes(node, allowzero=0)["allowzero"]
        if sides is None or (not allow and 0 in sides[a.ndim :]):
            raise file.refusal(node, f"makes {list(sides or ())} of {list(a.shape)}")
        return a.reshape([side or (side if allow else a.shape[k]) for k, side in enumerate(sides)])
    axes = tuple(file.attributes(node, axes=[])["axes"]) or sides  # an attribute until opset 13
    if node.op_type == "Squeeze":
        return np.squeeze(a, axes)  # without axes: all of length 1
    if axes is None:
        raise file.refusal(node, "has no axes")
    return np.expand_dims(a, axes)
