"""Evaluation on the CPU: a forward pass with its loss in one compiled function, for `NumbaBackend.compile_scores`."""

from __future__ import annotations

import numpy as np

from nnx.backends.addresses import address
from nnx.backends.inference import Forward, Scored
from nnx.backends.numba.inference import Many, alone, as_integer
from nnx.kernels.cpu.ops.step import METRICS
from nnx.kernels.cpu.program import inference as f
from nnx.kernels.cpu.program import inference_scores as s
from nnx.kernels.cpu.program.inference_many import CODE
from nnx.kernels.elementwise import number_of
from nnx.kernels.losses import LOSSES, bounds

SAVED = 2e4  # ns that a loss and a tally by themselves take, most of it Python's
AT_ONCE = 1 << 16  # rows at most whose results are kept until they are added up, in 1 MB
LABELS = np.dtype(np.int64)


def compile_scores(forward: Forward, loss: Scored) -> Compiled | None:
    """Return a function that evaluates; None where no rows are predicted in blocks, or there is no kernel of the loss.

    Args:
        forward: what `compile_forward` returned.
    """
    many: Many | None = getattr(forward, "many", None)
    constants = constants_of(loss)
    if many is None or constants is None or loss.metric not in METRICS:
        return None
    return Compiled(forward, many, constants, METRICS[loss.metric])


def constants_of(loss: Scored) -> tuple[int, float, float, bool] | None:
    """Return a loss as the kernels know it: its number, two constants, whether it is a mean over a sample's outputs."""
    if loss.operation == "cross_entropy":
        return s.NLL, 0.0, 0.0, False
    if loss.operation in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        low, high = bounds(*loss.numbers)
        softmax = loss.operation == "softmax_cross_entropy"
        return (s.SOFTMAX, low, high, False) if softmax else (s.LOGIT, low, high, True)
    row = next((row for row in LOSSES if row.name == loss.operation), None)
    return None if row is None else (number_of(row.part), 0.0, loss.numbers[0] if loss.numbers else 0.0, True)


class Compiled:
    """Evaluates: see `nnx.backends.inference.Scores`. Any number of Python's threads may call it at once."""

    def __init__(self, forward: Forward, many: Many, constants: tuple[int, float, float, bool], metric: int) -> None:
        table, parameters = forward.alive  # type: ignore[attr-defined]
        self._forward, self._many = forward, many  # the one keeps alive what the other has the address of
        self._classes = constants[0] in (s.NLL, s.SOFTMAX)
        self.inputs, self.outputs = int(table[f.HEADER + f.K]), int(table[-f.COLUMNS + f.N])
        self.dtype = parameters.dtype
        self._record = np.zeros(s.RECORD, np.int64)
        self._record[s.OUTPUTS], self._record[s.KIND], self._record[s.METRIC] = self.outputs, constants[0], metric
        share = 1 / self.outputs if constants[3] else 1.0
        for place, number in (s.LOW, constants[1]), (s.HIGH, constants[2]), (s.SCALE, share):
            self._record[place] = as_integer(number)
        row, panel = alone(int(table[f.SIZE]), parameters.itemsize), many.packing + many.columns * many.cost
        self.few = max(0, min(forward.few, int((panel - SAVED) / row)))  # type: ignore[attr-defined]
        self.at_once = min(many.at_once, AT_ONCE)
        self._codes: dict[bool, int] = {}

    def __call__(
        self, x: np.ndarray, target: np.ndarray, factors: np.ndarray | None, tolerance: float, run: int
    ) -> tuple[float, float] | None:
        """Return the sums over all samples of losses and of what is right, or None."""
        rows, labels = len(x), target.ndim == 1
        if not self._numbers(x, rows, self.inputs) or not self._fits(target, rows, labels):
            return None
        if not (factors is None or self._numbers(factors, rows, 1)):
            return None
        x = x if x.flags.writeable else x.copy()  # compiled code takes no array that is read-only
        at_once = min(rows, self.at_once // run * run or self.at_once)
        record = np.empty(s.RECORD + 2 * at_once, np.int64)  # with room for results
        record[: s.RECORD] = self._record
        sums = record.view(np.float64)
        record[CODE] = self._codes.get(labels) or self._code(labels)
        record[s.RUN], sums[s.LIMIT] = run, tolerance
        targets, weights, place = address(target), 0 if factors is None else address(factors), address(record)
        for first in range(0, rows, at_once):
            some = x[first : first + at_once]
            record[s.TARGETS] = targets + first * target.strides[0]
            record[s.FACTORS] = weights and weights + first * self.dtype.itemsize
            record[s.ROWS] = len(some)
            if not self._many.handed_over(some, place) or record[s.WRONG]:
                return None
        return float(sums[s.LOSS]), float(sums[s.RIGHT])

    def _fits(self, target: np.ndarray, rows: int, labels: bool) -> bool:
        """Tell the same of targets."""
        if not labels:
            return self._numbers(target, rows, self.outputs)
        flags = target.flags
        return self._classes and target.dtype == LABELS and len(target) == rows and flags.c_contiguous and flags.aligned

    def _numbers(self, a: np.ndarray, rows: int, columns: int) -> bool:
        """Tell whether compiled code takes a matrix as it is."""
        flags = a.flags
        return a.shape == (rows, columns) and a.dtype == self.dtype and flags.c_contiguous and flags.aligned

    def _code(self, labels: bool) -> int:
        found = self._codes[labels] = s.code(self.dtype, labels)
        return found
