"""Models made of what other libraries have: ONNX files, PyTorch's modules and state dicts."""

from __future__ import annotations

import os
from typing import Any

from nnx.backends import resolve
from nnx.backends.resolve import Wish
from nnx.files import existing_file
from nnx.sequential import Sequential


def from_onnx(path: str | os.PathLike[str], backend: Wish = None) -> Sequential:
    """Read a network of dense layers and activation functions from an ONNX file that another library wrote.

    By which operators it is written does not matter, as long as layers stand in a row: docs/interchange.md says what
    is taken. The model is float64 where its weights are, else float32; half precision
    becomes float32. It is not compiled: call `compile` to train it on.

    Args:
        path: one file, with all weights in it. backend: see `Sequential`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is damaged, or holds something else; the message names the node.
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

    The model is float64 where the weights are, else float32; half precision becomes float32. It is not compiled: call
    `compile` to train it on.

    Args:
        source: a torch.nn.Sequential, nested ones too, whose activation functions are read from it; any other module of
            dense layers in a row; its state_dict(), in the order in which layers are run; or the path of a safetensors
            file of one, whose layers are taken in the natural order of their names (fc2 before fc10).
        activations: what comes after each dense layer, but for a Sequential: a list of names, such as "relu", of layers
            and None; or one of these, for all layers but the last. "softmax" and "linear" are names too.
        backend: see `Sequential`.

    Raises:
        InputError: there is something else in it, such as a convolution; the message names it.
        FileFormatError: the file is damaged. FileNotFoundError: there is none. BackendUnavailable: see `Sequential`.
    """
    from nnx.interchange import pytorch

    layers, dtype = pytorch.read(source, activations)
    return Sequential(*layers, backend=backend, dtype=dtype)
