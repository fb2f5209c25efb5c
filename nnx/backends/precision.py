"""Precision of float32 matrix products: full, TF32, bf16 or bf16x3. Parameters, sums and all else stay float32."""

from __future__ import annotations

import os
from typing import Any

from nnx.backends.errors import InputError, InputTypeError

# The error of a matrix product from rounding its factors, relative to the sum of the absolute values of its terms. The
# relative error of a factor is at most 2**-10 in TF32, which keeps 10 bits and may truncate, and 2**-8 in bf16, which
# keeps 7 and rounds to nearest. A term has two factors. With bf16x3 each factor is the sum of two bf16 numbers, with an
# error of at most 2**-17, and the product of the two smaller ones, at most 2**-16, is left out.
ERRORS = {"full": 0.0, "tf32": 2e-3, "bf16": 8e-3, "bf16x3": 3.1e-5}
VARIABLE = "NNX_PRECISION"


def check_precision(precision: Any, what: str = "precision") -> str:
    """Return one of "full", "tf32", "bf16" and "bf16x3".

    Raises:
        InputError: it is another word. InputTypeError: it is no text.
    """
    if isinstance(precision, str) and precision in ERRORS:
        return str(precision)
    error = InputError if isinstance(precision, str) else InputTypeError
    raise error(f"{what}={precision!r}: expected one of {', '.join(map(repr, ERRORS))}")


def precision_of_environment() -> str:
    """Return the value of NNX_PRECISION, or "" if it is not set."""
    given = os.environ.get(VARIABLE, "").strip().lower()
    return check_precision(given, VARIABLE) if given else ""
