"""L-BFGS, the MLP's third solver: SciPy's, on all samples at once. A step of the network gives the gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import minimize

from nnx.errors import NonFiniteError
from nnx.optimizers import SGD, Optimizer
from nnx.output import say
from nnx.sequential import Sequential

Array = Any
CONVERGED = 0  # SciPy's status


def gradient_taker() -> Optimizer:
    """Return an optimizer whose step stores the gradient: its moment v is 0 * v - 1 * g."""
    return SGD(1.0)


class Descent:
    """One run of L-BFGS on a model compiled with `gradient_taker()`.

    Args:
        x, y, weights: all samples. steep: a factor for nnx's loss and gradient. verbose: print each iteration.

    Attributes:
        losses: nnx's loss after each iteration. converged: whether SciPy reported convergence.
    """

    def __init__(self, model: Sequential, x: Array, y: Array, weights: Array, steep: float, verbose: Any) -> None:
        self.model, self.data, self.steep, self.verbose = model, (x, y), steep, verbose
        self.weights = weights
        self.losses: list[float] = []
        self.converged = False
        self._last = math.nan
        self._reached = self._parameters()

    def run(self, iterations: int, calls: int, tol: float) -> None:
        """Minimise until no gradient exceeds `tol`, or up to the number of iterations, or of calls of the loss."""
        options = {"maxiter": iterations, "maxfun": calls, "gtol": tol}
        try:
            result = minimize(
                self._both, self._reached, method="L-BFGS-B", jac=True, callback=self._note, options=options
            )
            self.converged, self._reached = result.status == CONVERGED, result.x
            self.losses = self.losses or [self._last]  # there was nothing to do
        finally:  # the last call may have been a trial, or Ctrl-C may have come
            self._assign(self._reached)
            self.model.flat.first[...] = 0
        if not math.isfinite(result.fun):
            raise NonFiniteError("the loss became nan or infinite; scale inputs and targets to about -1 .. 1")

    def _both(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        """Return loss and gradient. They come from a training step, which is then undone."""
        self._assign(at)
        self.model.flat.first[...] = 0  # 0 times infinity would stay
        self._last = self.model.step(*self.data, sample_weight=self.weights)
        gradient = -self.model.backend.to_numpy(self.model.flat.first).astype(np.float64)
        return self.steep * self._last, self.steep * gradient

    def _note(self, at: np.ndarray) -> None:
        """Keep the parameters and the loss that an iteration reached."""
        self._reached = np.array(at)
        self.losses.append(self._last)
        if self.verbose:
            say(f"iteration {len(self.losses)}: loss {self._last:.6g}")

    def _parameters(self) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(self.model.flat.values), np.float64)

    def _assign(self, values: np.ndarray) -> None:
        self.model.flat.values[...] = self.model.backend.asarray(values, self.model.dtype)
