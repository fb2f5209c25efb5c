"""Reference results: every operation's formula once more, in float64 NumPy, for clarity and not from the code.

Each function takes an operation's operands by name, floats as float64, and returns what the operation must write, by
the name of the operand ("out" for the result). Beside a value stands `size`: the sum of the magnitudes that were added
up to it. Errors are measured against that, because no arithmetic can do better than the rounding of what it adds.
"""

from __future__ import annotations

from collections.abc import Callable

from nnx.testing.reference import activations, blocks, dense, formulas, losses, noise, normalization, optimizers, step
from nnx.testing.reference.results import Results

TOPICS = (dense, activations, losses, normalization, formulas, blocks, noise, step, optimizers)


def formula(operation: str) -> Callable[..., Results]:
    """Return the function that works out an operation; one that there is not is an error that says so."""
    for topic in TOPICS:
        found: Callable[..., Results] | None = getattr(topic, operation, None)
        if found is not None:
            return found
    raise NotImplementedError(
        f"nnx/testing/reference has no function {operation!r}: write the formula there once more, in float64, by which "
        "all backends are judged"
    )
