"""The data that `fit`, `evaluate` and `predict` are given: arrays, or rows to be read, told apart quickly."""

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
    """Return the given data as `Arrays`, or as an object from which rows are read.

    Args:
        model: the model. who: the call, for messages. x, y, sample_weight, label: as given to `Sequential.fit`.
        batch: rows of a step; None: all.

    Raises:
        InputError: the data are neither arrays nor anything that rows can be read from.
    """
    if are_arrays(x, y, label):
        return Arrays(x, y, sample_weight)
    from nnx.training.reading import looked_at  # here, since arrays need no module that reads files

    return looked_at(model, who, x, y, sample_weight, label, batch)
