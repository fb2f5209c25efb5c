"""Operands of CUDA kernels: which arrays a kernel can take as they are, and copies or default bodies for all others.

A kernel takes contiguous arrays of one float type whose shapes fit, because it knows no strides and would misread the
bits of another type. So inputs that are not contiguous are copied first; the result is written to a temporary array if
`out` is not suitable; and operands of other types or shapes go to the default body, which accepts everything or says
what is wrong. With contiguous operands and `out` nothing is allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.cupy.device import CudaDevice
from nnx.kernels.cuda.kernel import REALS

Array = Any
FLOAT64, INT64 = np.dtype("float64"), np.dtype("int64")
KINDS = {np.dtype(name): name for name in REALS}


class CudaOperands(CudaDevice):
    """Helpers with which every operation begins and ends."""

    def _kind(self, *arrays: Array) -> str | None:
        """Return "float32" or "float64" if all arrays are of that type and not empty, else None."""
        kind = KINDS.get(arrays[0].dtype)
        return kind if kind and all(a.dtype == arrays[0].dtype and a.size for a in arrays) else None

    def _target_kind(self, target: Array, outputs: Array) -> str | None:
        """Return "labels" or "distributions", whichever the targets are; None if neither."""
        if target.dtype == INT64 and target.shape == outputs.shape[:1]:
            return "labels"
        return "distributions" if target.shape == outputs.shape and target.dtype == outputs.dtype else None

    def _read(self, a: Array) -> Array:
        return a if a.flags.c_contiguous else self.cupy.ascontiguousarray(a)

    def _output(self, out: Array | None, shape: tuple[int, ...], like: Array) -> Array:
        """Return an array that a kernel can write to: `out` itself if that is suitable."""
        if out is not None and writable(out, shape, like.dtype):
            return out
        return self.cupy.empty(shape, like.dtype)

    def _deliver(self, result: Array, out: Array | None) -> Array:
        if out is None or result is out:
            return result
        out[...] = result
        return out


def writable(a: Array, shape: tuple[int, ...], dtype: Any) -> bool:
    """Return whether a kernel can write to an array as it is."""
    return bool(a.shape == shape and a.dtype == dtype and a.flags.c_contiguous)


def as_they_are(dtype: Any, *arrays: Array) -> bool:
    """Return whether a kernel can read arrays without a copy: they have this type and are contiguous."""
    return all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)
