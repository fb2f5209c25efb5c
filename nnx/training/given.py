"""Data as `fit`, `evaluate` and `predict` are given them: arrays, or rows that are read, told apart at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx.data.arrays import Arrays, are_arrays

if TYPE_CHECKING:
    from nnx.training.reading import Read
    from nnx.training.trainable import Trainable


def taken(
    model: Trainable, who: str, x: Any, y: Any = None, sample_weight: Any = None, label: str | None = None,
    batch: int | None = 0,
) -> Read | Arrays:  # fmt: skip
    """Return what was given as `Arrays`, or as what is to be read.

    Args:
        batch: rows of a step; None: all.
    """
    if are_arrays(x, y, label):
        return Arrays(x, y, sample_weight)
    from nnx.training.reading import looked_at  # here: whoever has arrays needs none of what reads files

    return looked_at(model, who, x, y, sample_weight, label, batch)
