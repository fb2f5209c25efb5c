"""The optional package that ONNX files are written and read with."""

from __future__ import annotations

from typing import Any

from nnx.errors import MissingExtra


def onnx_package(call: str) -> Any:
    """Import onnx.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", f"{call}()") from error
    return onnx
