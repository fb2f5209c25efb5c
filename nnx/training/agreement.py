"""Agreement test: does the replayed step do the same as the eager one?

Two ways to add up the same numbers differ by rounding errors. Where a gradient consists of nothing else, as behind a
saturated tanh, Adam may even move in another direction. So if a replayed step ends elsewhere than the eager one, the
effect of rounding on each gradient is measured, by running the recorded operations with each result off by a rounding
error, and only that much difference is allowed.
"""

from __future__ import annotations

from itertools import pairwise
from math import isclose, isnan, sqrt
from typing import Any

import numpy as np

from nnx.backends.precision import ERRORS
from nnx.backends.recorder import Program, Recorder, Rounded
from nnx.errors import NotReplayable
from nnx.training.step import TrainingStep

State = tuple[Any, Any, Any]  # as `TrainingStep.state` returns it

# How far a replayed step may be from the eager one without a closer look: the relative error of the loss, and the
# distance of the parameters (and, later, of each gradient) relative to how far they moved. A step that computes
# something else is far above both.
LOSS_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
PATH_TOLERANCE = 0.02
EPSILON = {name: float(np.finfo(name).eps) for name in LOSS_TOLERANCE}
MARGIN = 10  # rounding may have so many times the effect that was measured
TRIALS = 4  # how often it is measured, if once is not enough: a number near a kink may fall to either side of it


def check_agreement(
    step: TrainingStep, recorder: Recorder, before: State, eager: State, eager_loss: float, part: bool = False
) -> None:
    """Raise NotReplayable if the replayed step, just run, did not do the same as the eager step.

    Args:
        step: in the state in which the replay ended. recorder: holds the operations of the eager step.
        before: the state from which both began. eager, eager_loss: state and loss in which the eager step ended.
        part: whether the step updates no parameters, see `TrainingStep.step`.
    """
    start, wanted, got = (kept(step, state) for state in (before, eager, step.state()))
    tolerance = LOSS_TOLERANCE[step.flat.dtype]
    loss = step.last_loss()
    both_nan = isnan(loss) and isnan(eager_loss)
    same_loss = both_nan or isclose(loss, eager_loss, rel_tol=tolerance, abs_tol=tolerance)
    if same_loss and (near(got, wanted, start, step) or not np.isfinite(np.linalg.norm(wanted - start))):
        return
    if not rounding_explains(step, recorder, before, eager, part):
        raise NotReplayable(
            "a replayed step differs from the eager one: a layer changes a buffer in place, or keeps numbers of "
            "its own from step to step"
        )


def near(a: np.ndarray, b: np.ndarray, start: np.ndarray, step: TrainingStep) -> bool:
    """Return whether two steps from the same start ended at the same place, up to rounding.

    Parameters, moments, statistics and all other parts are compared one by one, since their sizes differ widely.
    """
    size_of_all, beyond = step.flat.size, 3 * step.flat.size + step.flat.statistics.shape[0]
    ends = [*(size_of_all * part for part in range(4)), *range(beyond, len(a), size_of_all), len(a)]
    off, way = a - b, b - start
    for first, last in pairwise(ends):
        allowed = PATH_TOLERANCE * length(way[first:last]) + EPSILON[step.flat.dtype] * length(b[first:last])
        if not length(off[first:last]) <= allowed:
            return False
    return True


def rounding_explains(step: TrainingStep, recorder: Recorder, before: State, eager: State, part: bool) -> bool:
    """Return whether rounding explains why the replay ended elsewhere than the eager step.

    Three things must hold: the eager step did nothing but its recorded operations; the replay moved the parameters as
    its own gradients say; and these gradients are those of the eager step up to rounding.
    """
    flat, start = step.flat, kept(step, before)
    got, gradients, statistics = kept(step, step.state()), step.copy_of(flat.gradients), step.copy_of(flat.statistics)
    replayed, loss = gradients_of(step), step.last_loss()

    step.restore(before)
    flat.gradients[...], flat.statistics[...] = gradients, statistics
    if step.accumulating and not part:
        flat.held[...] = 0  # its contents are in the gradients
    step.move(recorder.by, part)
    if not near(got, kept(step, step.state()), start, step):
        return False

    step.restore(before)
    Program(recorder.by, recorder.calls).run(1)
    if not near(kept(step, eager), kept(step, step.state()), start, step):
        return False

    wanted, wanted_loss = gradients_of(step), step.last_loss()
    errors = [abs(loss - wanted_loss), *map(distance, replayed, wanted)]
    allowed = [LOSS_TOLERANCE[flat.dtype] * abs(wanted_loss), *(PATH_TOLERANCE * np.linalg.norm(a) for a in wanted)]
    unit = max(EPSILON[flat.dtype], ERRORS[step.backend.precision] * (flat.dtype == "float32"))
    rounded, noise = Rounded(recorder, unit), np.zeros(len(errors))
    for _ in range(TRIALS):
        step.restore(before)
        rounded.nudge(flat.values)
        rounded.run(1)
        trial = [abs(step.last_loss() - wanted_loss), *map(distance, gradients_of(step), wanted)]
        noise = np.maximum(noise, trial)
        if bool(np.all(np.array(errors) <= np.array(allowed) + MARGIN * noise)):
            return True
    return False


def kept(step: TrainingStep, state: State) -> np.ndarray:
    """Return in float64 all of a state that belongs to the parameters."""
    return np.concatenate([numbers(step, part) for part in (state[0], state[2])])


def numbers(step: TrainingStep, a: Any) -> np.ndarray:
    """Return an array of the step's backend in float64, as a copy."""
    return np.array(step.backend.to_numpy(a), np.float64)


def gradients_of(step: TrainingStep) -> list[np.ndarray]:
    """Return the gradient of each parameter, and the value of each statistic."""
    return [numbers(step, a) for a in step.flat.views(step.flat.gradients) + step.flat.statistic_views()]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Euclidean distance of two arrays."""
    return length((a - b).reshape(-1))


def length(a: np.ndarray) -> float:
    """Return the norm of a flat array; faster than NumPy's function, which checks more."""
    return sqrt(a @ a)
