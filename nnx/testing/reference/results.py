"""Results of an operation, as its reference gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Wanted:
    """A result, the size of what was added up to it (None: its own), and whether it must be met to the last bit."""

    value: Array
    size: Array | None = None
    exact: bool = False


Results = dict[str, Wanted]
