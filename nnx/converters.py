"""Conversion of other libraries' networks into models: ONNX files, PyTorch's modules and state dicts."""

from __future__ import annotations

import os
from typing import Any

from nnx.backends import resolve
from nnx.backends.resolve import Wish
from nnx.files import existing_file
from nnx.sequential import Sequential


def from_onnx(path: str | os.PathLike[str], backend: Wish = None) -> Sequential:
    """Read a network of dense layers and activation functions from an ONNX file that another library wrote.

    Whichever operators an exporter wrote a layer with, it is recognised, as long as the layers form a single chain:
    docs/interchange.md says what is supported. The model is float64 if the file's weights are, else float32 (half
    precision too). It is not compiled: call `compile` before you train it further.

    Args:
        path: one file, with all weights in it. backend: see `Sequential`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is damaged, or holds something unsupported; the message names the node.
        BackendUnavailable: the backend does not work here. MissingExtra: onnx is not installed.
    """
    from nnx.interchange import onnx_file, onnx_reader
    from nnx.model.checkpoint import making_sense

    path = existing_file("from_onnx", path, onnx_file.KIND)
    resolve(backend)  # its errors are not the file's
    layers, dtype = onnx_reader.read(path)
    with making_sense(path):
        return Sequential(*layers, backend=backend, dtype=dtype)


def from_torch(source: Any, activations: Any = None, backend: Wish = None) -> Sequential:
    """Make a model of a PyTorch network of dense layers and activation functions; PyTorch itself is not imported.

    The model is float64 if the weights are, else float32 (half precision too). It is not compiled: call `compile`
    before you train it further.

    Args:
        source: a torch.nn.Sequential, also a nested one, from which the activation functions are read too. Or any
            other module of dense layers in a row; its state_dict(), in the order in which the layers run; or the path
            of a safetensors file of a state_dict, whose layers are sorted by name, numbers as numbers (fc2 before
            fc10).
        activations: what follows each dense layer, unless source is a Sequential: a list of names such as "relu",
            layers, or None for nothing; or a single one of these, which then follows every layer but the last.
            "softmax" and "linear" are names too.
        backend: see `Sequential`.

    Raises:
        InputError: it holds a layer that nnx does not have, such as a convolution; the message names it.
        FileFormatError: the file is damaged. FileNotFoundError: there is no such file.
        BackendUnavailable: the backend does not work here.
    """
    from nnx.interchange import pytorch

    layers, dtype = pytorch.read(source, activations)
    return Sequential(*layers, backend=backend, dtype=dtype)
