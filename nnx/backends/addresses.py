"""Addresses of arrays in memory, by which a recorded step recognises its buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np

Array = Any  # NumPy's or CuPy's
LINE = 64  # bytes
LARGE_PAGE = 1 << 21  # bytes of one, on most systems
first_byte: Any = c_char.from_buffer  # to mypy an array has no buffer


def address(a: Array) -> int:
    """Return where an array begins in memory. A recording asks 90 times; NumPy's own way takes a microsecond each."""
    if type(a) is np.ndarray:
        try:
            return addressof(first_byte(a))
        except (TypeError, ValueError):  # a read-only, non-contiguous or empty array
            pass
    interface = getattr(a, "__cuda_array_interface__", None) or a.__array_interface__
    return int(interface["data"][0])


def on_large_pages(size: int, dtype: Any) -> Array:
    """Return zeros that begin at a large page, if they fill one: so the processor has fewer pages to look up.

    NumPy itself asks for large pages for an array of at least two, but lets it begin anywhere.
    """
    dtype = np.dtype(dtype)
    if size * dtype.itemsize < LARGE_PAGE:
        return np.zeros(size, dtype)
    page = LARGE_PAGE // dtype.itemsize
    room = np.zeros(size + 2 * page, dtype)
    return room[-address(room) % LARGE_PAGE // dtype.itemsize :][:size]


def room(shape: int | Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an empty array that begins at a cache line: vectors across two lines take a quarter longer to write."""
    size = dtype.itemsize * (shape if isinstance(shape, int) else math.prod(shape))
    memory = np.empty(size + LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -address(memory) % LINE)


def same(a: Array | None, b: Array) -> bool:
    """Return whether both are the same array in memory: same address, shape and type."""
    if a is b:
        return True
    return a is not None and a.shape == b.shape and a.dtype == b.dtype and address(a) == address(b)


def form_of(arrays: Sequence[Array]) -> tuple[Any, ...]:
    """Return what a step depends on of NumPy's arrays besides what is in them.

    That is not where they are, but which of them is the first one that begins where one does.
    """
    places = [address(a) for a in arrays]
    return tuple(
        (a.shape, a.dtype, a.flags.c_contiguous, a.flags.aligned, places.index(place))
        for a, place in zip(arrays, places, strict=True)
    )
