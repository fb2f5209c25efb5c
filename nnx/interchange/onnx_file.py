"""ONNX files, which may come from anywhere: every part is checked before it is used and before memory is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnx.datasets.needs import optional
from nnx.errors import FileFormatError
from nnx.files import read_file

KIND = "an ONNX file"
DOMAINS = ("", "ai.onnx")
FIELDS = {  # of the types that are read: how many bytes a number has, and where it stands if not in raw_data
    "FLOAT": (4, "float_data"), "DOUBLE": (8, "double_data"), "FLOAT16": (2, "int32_data"),
    "BFLOAT16": (2, "int32_data"), "INT64": (8, "int64_data"), "INT32": (4, "int32_data"),
    "BOOL": (1, "int32_data"),
}  # fmt: skip
GROWTH = 32  # bytes that may be made of each byte of a file: types become wider, and a few arrays are used twice
FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")


class OnnxFile:
    """A parsed file with one graph.

    Attributes:
        path: where the file is, for messages. graph: its graph. opset: the version of the operators that it uses.
        constants: the constant arrays by their names: the initializers, and what `folded` has computed.
    """

    def __init__(self, path: Path) -> None:
        self.onnx, self.path = optional("onnx", "onnx", "from_onnx()"), path
        data = read_file(path, KIND, most=2**31)
        try:
            model = self.onnx.load_model_from_string(data)
        except MemoryError:
            raise
        except Exception as error:  # protobuf has several, of several versions
            raise self.error(f"no ONNX file, or it is truncated or damaged: {error}") from error
        if not model.HasField("graph") or not model.graph.node:
            raise self.error("no ONNX file, or an empty one: it holds no graph with nodes")
        versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
        self.graph, self.opset = model.graph, max(versions, default=1)
        self._room = 2**20 + GROWTH * len(data)
        self.constants: dict[str, np.ndarray] = {}
        if self.graph.sparse_initializer:
            raise self.error("sparse initializers are not read; write dense ones")
        for tensor in self.graph.initializer:
            self.constants[tensor.name] = self.array(tensor, f"initializer {tensor.name!r}")

    def error(self, fact: str) -> FileFormatError:
        """Return the error for a file that has a fault."""
        return FileFormatError(f"{self.path}: {fact}")

    def node_error(self, node: Any, fact: str) -> FileFormatError:
        """Return the error for a node that has a fault."""
        domain = "" if node.domain in DOMAINS else f"{node.domain}."
        return self.error(f"node {node.name or ', '.join(node.output)!r} ({domain}{node.op_type}): {fact}")

    def refusal(self, node: Any, fact: str) -> FileFormatError:
        """Return the error for a node that is valid, but cannot be read by nnx."""
        known = "dense layers, normalizations and activation functions in a row"
        return self.node_error(node, f"{fact}. from_onnx reads {known}")

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def array(self, tensor: Any, what: str) -> np.ndarray:
        """Return a tensor as a NumPy array. Floats smaller than float32 become float32."""
        kinds = self.onnx.TensorProto
        if tensor.data_location == kinds.EXTERNAL or tensor.external_data:
            raise self.error(
                f"{what} lies in another file (external data), which a file from anywhere could make any file of this "
                "machine; write one file, as by onnx.save(onnx.load(path), path, save_as_external_data=False)"
            )
        kind = self.scalar_type(tensor.data_type)
        if kind not in FIELDS:
            raise self.error(f"{what} is {kind}, expected one of {', '.join(FIELDS)}")
        itemsize, field = FIELDS[kind]
        shape = tuple(tensor.dims)
        held = len(tensor.raw_data) / itemsize if tensor.HasField("raw_data") else len(getattr(tensor, field))
        if any(side < 0 for side in shape) or math.prod(shape) != held:
            raise self.error(f"{what} is damaged: its shape is {list(shape)}, but it holds {held:g} numbers")
        a: np.ndarray = self.onnx.numpy_helper.to_array(tensor)
        return a.astype(np.float32) if kind in ("FLOAT16", "BFLOAT16") else a

    def accounted(self, a: np.ndarray) -> np.ndarray:
        """Return an array that was made of others; refuse a small file that would fill the memory with such arrays."""
        self._room -= a.nbytes
        if self._room < 0:
            raise self.error(f"it makes more than {GROWTH} times its size of its constants: it is damaged")
        return a

    def attributes(self, node: Any, **defaults: Any) -> dict[str, Any]:
        """Return a node's attributes, with defaults for those that it lacks; refuse any other attribute.

        Each must be of the type of its default. A default of None stands for a tensor.
        """
        values = dict(defaults)
        for attribute in node.attribute:
            if attribute.name not in defaults or attribute.ref_attr_name:
                raise self.node_error(node, f"attribute {attribute.name!r} is not understood")
            if defaults[attribute.name] is None:
                values[attribute.name] = self.array(attribute.t, f"the value of node {node.name!r}")
                continue
            value = self.onnx.helper.get_attribute_value(attribute)
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            if type(value) is not type(defaults[attribute.name]):
                raise self.node_error(node, f"attribute {attribute.name} is {str(value)[:60]}, of the wrong type")
            values[attribute.name] = value
        return values

    def scalar_type(self, value: int) -> str:
        """Return the name of a numeric type, given by its number in ONNX."""
        names = {number: name for name, number in self.onnx.TensorProto.DataType.items()}
        return str(names.get(value, value))

    def cast_to(self, node: Any) -> str:
        """Return the name of the type that a Cast node converts to."""
        return self.scalar_type(self.attributes(node, to=0, saturate=1, round_mode="up")["to"])
