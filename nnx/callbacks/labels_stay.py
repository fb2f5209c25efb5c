"""A check that the labels given to a fit are not changed while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nnx.callbacks.callback import Callback, Model
from nnx.errors import InputError


class LabelsStay(Callback):
    """End a fit with an error if its labels are changed: it trains on a copy of them, so a change has no effect.

    Args:
        given: the labels as given to `fit`. taken: the copy, int64 [N].
    """

    def __init__(self, given: np.ndarray, taken: np.ndarray) -> None:
        self._given, self._taken = given, taken

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Raise InputError if the labels differ from the copy."""
        given = self._given.reshape(-1)
        changed = np.flatnonzero(given != self._taken)
        if changed.size:
            row = int(changed[0])
            raise InputError(
                f"fit: y was changed while it trained: row {row} is {given[row]}, was {self._taken[row]}. A fit goes "
                f"by the labels that it was given, and did so up to epoch {epoch + 1}; change them between two fits"
            )


def watched(callbacks: Iterable[Callback], given: object, taken: np.ndarray) -> list[Callback]:
    """Return a fit's callbacks and, if there are any, since they may change arrays, a `LabelsStay`."""
    some = list(callbacks)
    if some and isinstance(given, np.ndarray) and taken.ndim == 1 and given.size == taken.size:
        some.append(LabelsStay(given, taken))
    return some
