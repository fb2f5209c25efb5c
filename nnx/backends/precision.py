"""Precision of float32 matrix products: full, TF32 or bf16. Parameters, activations, sums and all else stay float32."""

from __future__ import annotations

from typing import Any

from nnx.backends.errors import InputError, InputTypeError

# By how much a product may be off for its rounding of factors, relative to the sum of its terms' sizes. A factor is off
# by at most 2**-10 in TF32, which has 10 bits behind the point and may cut the others off, and by 2**-8 in bf16, which
# has 7 and is rounded to nearest. A term has two factors.
ERRORS = {"full": 0.0, "tf32": 2e-3, "bf16": 8e-3}


def check_precision(precision: Any, what: str = "precision") -> str:
    """Return one of "full", "tf32" and "bf16".

    Raises:
        InputError: it is another word. InputTypeError: it is none.
    """
    if isinstance(precision, str) and precision in ERRORS:
        return str(precision)
    error = InputError if isinstance(precision, str) else InputTypeError
    raise error(f"{what}={precision!r}: expected one of {', '.join(map(repr, ERRORS))}")
