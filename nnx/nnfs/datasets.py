"""The book's toy data, drawn from NumPy's global generator as the book draws them: the same arrays to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.datasets import draw_spiral, draw_vertical, sine
from nnx.nnfs.precision import default_dtype

Array = Any


def spiral_data(samples: int, classes: int) -> tuple[Array, Array]:
    """Return points on the noisy arms of a spiral (chapter 3).

    Args:
        samples: points for each class. classes: arms.

    Returns:
        X: [samples * classes, 2]. y: [samples * classes] uint8, as in the book (int64 beyond 256 classes).
    """
    return _typed(*draw_spiral(None, samples, classes), classes)


def vertical_data(samples: int, classes: int) -> tuple[Array, Array]:
    """Return points in clusters side by side (chapter 6); arguments and results as for `spiral_data`."""
    return _typed(*draw_vertical(None, samples, classes), classes)


def sine_data(samples: int = 1000) -> tuple[Array, Array]:
    """Return one period of a sine, X and y [samples, 1] float64 (chapter 17)."""
    return sine(samples)


def _typed(x: Array, y: Array, classes: int) -> tuple[Array, Array]:
    """Convert points to the type given to `init`; their values are rounded to float32 in any case."""
    return x.astype(default_dtype(), copy=False), y.astype(np.uint8 if classes <= 256 else np.int64, copy=False)
