"""Regressor: predicts one number for each sample, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from nnx.arguments import explained
from nnx.errors import InputError
from nnx.losses import MeanSquaredError
from nnx.sklearn.arguments import read
from nnx.sklearn.fitted import named
from nnx.sklearn.network import Network, stepwise
from nnx.sklearn.tasks import Task

Array = Any


class NNRegressor(RegressorMixin, Network):  # type: ignore[misc]
    """A regressor: dense layers and the mean squared error, trained by Adam, SGD or L-BFGS.

    Its arguments and attributes are those of `NNClassifier`, except `class_weight` and `classes_`; scores are R2. y is
    [N], or [N, O] for O numbers each. If y is far from -1 .. 1, scale it with `TransformedTargetRegressor`.

    As in MLPRegressor, `loss_curve_` has half the squared error, and SGD's learning rate applies to that; l2 is the
    penalty added to the whole squared error.

    Args:
        loss: "squared_error", the same as None; "poisson" is refused.
    """

    _numeric = True

    @explained
    def __init__(
        self,
        hidden_layers: int | Sequence[int] = (64,),
        activation: str = "relu",
        learning_rate: float | str = 0.001,
        epochs: int = 200,
        batch_size: int | str = 32,
        l2: float = 0.0,
        dropout: float = 0.0,
        validation_fraction: float = 0.0,
        patience: int = 10,
        backend: Any = None,
        dtype: Any = "float64",
        random_state: Any = None,
        verbose: Any = False,
        *,
        loss: str | None = None,
        shuffle: bool = True,
        warm_start: bool = False,
        hidden_layer_sizes: int | Sequence[int] | None = None,
        solver: str | None = None,
        alpha: float | None = None,
        learning_rate_init: float | None = None,
        power_t: float | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        momentum: float | None = None,
        nesterovs_momentum: bool | None = None,
        early_stopping: bool | None = None,
        beta_1: float | None = None,
        beta_2: float | None = None,
        epsilon: float | None = None,
        n_iter_no_change: float | None = None,
        max_fun: int | None = None,
    ) -> None:
        self._take(locals())

    @available_if(stepwise)  # type: ignore[untyped-decorator]
    @named
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch on X [N, F] and y: see `NNClassifier.partial_fit`."""
        arguments = read(self)
        X, y = self._validated(X, y, reset=not hasattr(self, "model_"))
        targets, task = self._encoded(y, "partial_fit")
        return self._continue(arguments, X, targets, task, self._weights(sample_weight, targets, task, "partial_fit"))

    @named
    def predict(self, X: Any) -> Array:
        """Return the numbers for X [N, F], float64: [N] if there is one for each row, otherwise [N, O]."""
        y = self._outputs(X).astype(np.float64)
        return y[:, 0] if y.shape[1] == 1 else y

    def _encoded(self, y: Array, who: str) -> tuple[Array, Task]:
        if self.loss not in (None, "squared_error"):
            raise InputError(f"{who}: loss={self.loss!r}: expected 'squared_error', the only one here")
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if hasattr(self, "model_") and outputs != self.model_.n_outputs:
            raise InputError(
                f"{who}: y holds {outputs} numbers for each sample, but the network learned {self.model_.n_outputs}"
            )
        return y, Task(outputs, MeanSquaredError, (), "identity", shown=0.5, steep=outputs / 2)

    def _score(self, task: Task, outputs: Array, targets: Array, weights: Array = None) -> float:
        return float(r2_score(targets, outputs, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
