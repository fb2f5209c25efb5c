"""Reference results: the formula of every operation in float64 NumPy, written for clarity and not taken from the code.

Each function takes an operation's operands by name, floats as float64, and returns the correct contents of what the
operation writes, by the name of the operand ("out" for the result). Each value comes with its `size`: the sum of the
magnitudes that were added to obtain it. Errors are measured relative to the size, because no arithmetic is more exact
than the rounding of its terms.
"""

from __future__ import annotations

from collections.abc import Callable

from nnx.testing.reference import activations, blocks, dense, formulas, losses, noise, normalization, optimizers, step
from nnx.testing.reference.results import Results

TOPICS = (dense, activations, losses, normalization, formulas, blocks, noise, step, optimizers)


def formula(operation: str) -> Callable[..., Results]:
    """Return the reference function of an operation; raise an error if there is none."""
    for topic in TOPICS:
        found: Callable[..., Results] | None = getattr(topic, operation, None)
        if found is not None:
            return found
    raise NotImplementedError(
        f"nnx/testing/reference has no function {operation!r}: write the formula there once more, in float64, by which "
        "all backends are judged"
    )
