"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn: real data without a download."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from nnx.errors import InputTypeError

from .needs import optional

X = NDArray[np.float32]
Y = NDArray[np.int64]


@overload
def digits(split: Literal[True] = True) -> tuple[X, Y, X, Y]: ...
@overload
def digits(split: Literal[False]) -> tuple[X, Y]: ...
@overload
def digits(split: bool) -> tuple[X, Y, X, Y] | tuple[X, Y]: ...


def digits(split: bool = True) -> tuple[X, Y, X, Y] | tuple[X, Y]:
    """Return 1797 handwritten digits, as `x: [N, 64] float32` from 0 (paper) to 1 (ink) and `y: [N] int64`, 0 to 9.

    The split is always the same: shuffled once, with each digit's share equal in both parts to within one sample. The
    same 13 people wrote both parts, so the test says little about other people's handwriting.

    Args:
        split: whether to split into 1437 samples for training and 360 for the test.

    Returns:
        (x_train, y_train, x_test, y_test); or (x, y), in scikit-learn's order, when `split` is False.

    Raises:
        MissingExtra: scikit-learn is not installed.
        InputTypeError: `split` is not a boolean.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
    """
    if not isinstance(split, bool):
        raise InputTypeError(f"digits(split={split!r}): split is a {type(split).__name__}, expected True or False")
    bundle: Any = optional("sklearn.datasets", "train", "the digits data set").load_digits()
    x = (bundle.data / 16).astype(np.float32)  # a pixel is a number of dark dots, 0 to 16
    y = bundle.target.astype(np.int64)
    if not split:
        return x, y
    order = np.random.RandomState(0).permutation(len(y))
    # After sorting by digit, every fifth sample makes a fifth of each digit.
    test = np.zeros(len(y), dtype=bool)
    test[np.argsort(y[order], kind="stable")[::5]] = True
    return x[order[~test]], y[order[~test]], x[order[test]], y[order[test]]
