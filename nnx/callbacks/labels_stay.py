"""Labels of a fit, which no callback may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nnx.callbacks.callback import Callback, Model
from nnx.errors import InputError


class LabelsStay(Callback):
    """Ends a fit whose labels somebody changes: it goes by a copy of them, and would never take notice.

    Args:
        given: labels as `fit` was given them. taken: the copy, int64 [N].
    """

    def __init__(self, given: np.ndarray, taken: np.ndarray) -> None:
        self._given, self._taken = given, taken

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Compare the two."""
        given = self._given.reshape(-1)
        changed = np.flatnonzero(given != self._taken)
        if changed.size:
            row = int(changed[0])
            raise InputError(
                f"fit: y was changed while it trained: row {row} is {given[row]}, was {self._taken[row]}. A fit goes "
                f"by the labels that it was given, and did so up to epoch {epoch + 1}; change them between two fits"
            )


def watched(callbacks: Iterable[Callback], given: object, taken: np.ndarray) -> list[Callback]:
    """Return a fit's callbacks and, since they may change arrays, one that looks after its labels."""
    some = list(callbacks)
    if some and isinstance(given, np.ndarray) and taken.ndim == 1 and given.size == taken.size:
        some.append(LabelsStay(given, taken))
    return some
