"""Tolerances, and the comparison of a backend's results with the correct ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnx.kernels.elementwise import FUNCTIONS
from nnx.testing.reference.results import Wanted
from nnx.testing.rounding import rounding

# By how many successive roundings a result may be wrong, relative to the size of what was summed (reference.Wanted).
# The roundings are counted, so the tolerances hold for any order of summation and any processor, but are too small for
# a lower precision: in float32 "sum" is 2e-5, and TF32 is wrong by 5e-4.
ROUNDINGS = {
    "exact": 0,  # numbers are chosen, moved or counted, never calculated
    "rounded": 16,  # a few additions, products and quotients in a row
    "function": 64,  # and an exp, log or tanh, which libraries give to a few units in the last place
    "sum": 400,  # and up to 300 terms
    "steps": 200 * 15 + 1000,  # 200 steps of an optimizer, and 1 - beta_2**t, which loses three digits at first
    "program": 9 * 50 * 10,  # 9 steps of 50, each built on the last; 10 is the most that was measured
}
CLASSES = {
    "exact": "relu relu_backward gather_rows",
    "rounded": "regularize sigmoid_backward tanh_backward softmax_jacobian cross_entropy_backward dropout weigh add "
    "put_columns take_columns embed "
    "binary_cross_entropy_backward mean_squared_error_backward mean_absolute_error_backward huber_loss_backward "
    "apply_formula apply_formula_backward formula_loss_backward",
    "sum": "dense dense_backward dense_gradients softmax softmax_backward cross_entropy softmax_cross_entropy "
    "binary_cross_entropy sigmoid_cross_entropy mean_squared_error mean_absolute_error huber_loss tally weighted_tally "
    "end_step dense_dinputs embed_gradients formula_loss",
    "steps": "sgd adagrad rmsprop adam nadam amsgrad lion accumulate",
}
CLASSES["rounded"] += " collect average fixed_norm pool pooled_norm batch_norm_backward fixed_norm_backward"
CLASSES["function"] = "gaussian_noise"
CLASSES["sum"] += " clip layer_norm layer_norm_backward norm_gradients batch_norm column_means column_spreads"
CLASS = {operation: "function" for row in FUNCTIONS for operation in (row.name, row.gradient)}
CLASS |= {operation: name for name, operations in CLASSES.items() for operation in operations.split()}
DTYPES = ("float32", "float64")
TINY = 1e-30  # smaller numbers may be flushed to 0


@dataclass
class Report:
    """What `check_backend` checked.

    Attributes:
        backend: its name.
        operations: how many calls of each operation were compared. replayed: how many of all calls were recordings.
        worst: for each operation, its largest error divided by the tolerance.
    """

    backend: str
    operations: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    worst: dict[str, float] = field(default_factory=dict)

    def add(self, operation: str, error: float) -> None:
        """Count one comparison."""
        self.operations[operation] = self.operations.get(operation, 0) + 1
        self.worst[operation] = max(self.worst.get(operation, 0.0), error)

    @property
    def cases(self) -> int:
        """The number of all calls that were compared."""
        return sum(self.operations.values())

    def __str__(self) -> str:
        worst = max(self.worst, key=lambda operation: self.worst[operation])
        return (
            f"{self.backend}: {len(self.operations)} operations, {self.cases} cases, {self.replayed} of them replayed; "
            f"the largest error is {self.worst[worst]:.0%} of the one tolerated ({worst})"
        )


def compare(got: np.ndarray, wanted: Wanted, kind: str, dtype: str, what: str) -> float:
    """Return the largest error divided by the tolerance for that class; raise AssertionError if that is above 1."""
    tolerance = 0.0 if wanted.exact else rounding(ROUNDINGS[kind], dtype)
    want = wanted.value.astype(np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if got.size == 0:
        return 0.0
    got = got.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(got - want) / ((np.abs(want) if wanted.size is None else wanted.size) + TINY)
    error[np.isnan(error)] = np.inf
    error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0
    place = np.unravel_index(int(error.argmax()), error.shape)
    worst = float(error[place])
    assert worst <= tolerance, (
        f"{what}: relative error {worst:.3g} at {[int(i) for i in place]}, {got[place]:.9g} instead of "
        f"{want[place]:.9g}; tolerated {tolerance:.3g} ({kind})"
    )
    return worst / tolerance if tolerance else 0.0


def unchanged(now: np.ndarray, before: np.ndarray) -> bool:
    """Tell whether two arrays have the same type, shape and bits."""
    same = (now.dtype, now.shape) == (before.dtype, before.shape)
    return same and np.ascontiguousarray(now).tobytes() == np.ascontiguousarray(before).tobytes()
