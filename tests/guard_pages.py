"""Arrays that border on a page which nobody may touch: who reads or writes beyond them ends the process."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
NO_ACCESS, READ = 0, 1  # PROT_NONE and PROT_READ


class GuardPages:
    """Makes arrays whose last byte, or first, borders on such a page.

    Args:
        side: "end" or "start".
    """

    def __init__(self, side: str = "end") -> None:
        self.side = side
        self._libc = ctypes.CDLL(None, use_errno=True)

    def empty(self, shape: int | Sequence[int], dtype: Any = "float64") -> np.ndarray:
        """Return an array of bytes 0xFF: nan as floats, -1 as integers."""
        shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
        count = math.prod(shape) * dtype.itemsize
        body = max(1, -(-count // PAGE)) * PAGE
        memory = np.frombuffer(mmap.mmap(-1, body + 2 * PAGE), np.uint8)  # which keeps the map alive
        memory[PAGE : PAGE + body] = 0xFF
        for first in (0, PAGE + body):
            self._protect(memory[first : first + PAGE], NO_ACCESS)
        begin = PAGE + (body - count if self.side == "end" else 0)
        return memory[begin : begin + count].view(dtype).reshape(shape)

    def zeros(self, shape: int | Sequence[int], dtype: Any = "float64") -> np.ndarray:
        """Return an array of zeros."""
        a = self.empty(shape, dtype)
        a[...] = 0
        return a

    def copy(self, a: np.ndarray) -> np.ndarray:
        """Return a copy of an array."""
        guarded = self.empty(a.shape, a.dtype)
        guarded[...] = a
        return guarded

    def frozen(self, a: np.ndarray) -> np.ndarray:
        """Return a copy of an array in memory that nobody may write to, whatever its flags say."""
        guarded = self.copy(a)
        begin = guarded.__array_interface__["data"][0] // PAGE * PAGE
        end = -(-(guarded.__array_interface__["data"][0] + guarded.nbytes) // PAGE) * PAGE
        self._protect(np.frombuffer((ctypes.c_ubyte * (end - begin)).from_address(begin), np.uint8), READ)
        return guarded

    def _protect(self, pages: np.ndarray, access: int) -> None:
        begin = ctypes.c_void_p(pages.__array_interface__["data"][0])
        if self._libc.mprotect(begin, ctypes.c_size_t(pages.nbytes), access):
            raise OSError(ctypes.get_errno(), "mprotect")
