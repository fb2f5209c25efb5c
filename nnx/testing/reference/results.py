"""Results of an operation, as its reference function returns them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Wanted:
    """A result, the size of its terms (None: that of the result), and whether it must be met to the last bit."""

    value: Array
    size: Array | None = None
    exact: bool = False


Results = dict[str, Wanted]
