"""Attributes of a trained estimator, under the names of scikit-learn's MLP."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Self, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from nnx.errors import InputError, NonFiniteError
from nnx.layers import Dense
from nnx.sequential import Sequential
from nnx.sklearn.convergence import Convergence
from nnx.sklearn.tasks import Task

Array = Any
Method = TypeVar("Method", bound=Callable[..., Any])


def named(method: Method) -> Method:
    """Make error messages name the class, as scikit-learn's do."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (InputError, NonFiniteError) as error:
            name = type(self).__name__
            if not str(error).startswith(name):
                error.args = (f"{name}: {error}",)
            raise

    return cast(Method, call)


class Fitted(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator that has a network after training. The attributes are described in `NNClassifier`."""

    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    t_: int
    _task: Task
    _no_improvement_count: int  # epochs without improvement, for "adaptive" over calls of partial_fit

    def __copy__(self) -> Self:
        """Return an independent copy: training one doesn't change the other."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        if hasattr(self, "model_"):
            copied.model_ = copy.copy(self.model_)
            copied.loss_curve_ = list(self.loss_curve_)
            copied.validation_scores_ = copy.copy(self.validation_scores_)
        return copied

    def _note(self, losses: list[float], samples: int, convergence: Convergence | None) -> None:
        """Set the attributes that describe the training and the network."""
        task = self._task
        self.loss_curve_ += losses
        self.n_iter_, self.t_ = len(losses), self.t_ + samples * len(losses)
        self.loss_: float = self.loss_curve_[-1] if self.loss_curve_ else math.nan
        self.best_loss_: float | None = min(self.loss_curve_, default=math.inf)
        self.n_layers_ = 1 + sum(isinstance(layer, Dense) for layer in self.model_.layers)
        self.n_outputs_, self.out_activation_ = task.outputs, task.activation
        if convergence is None:
            return
        self._no_improvement_count = convergence.waited
        if convergence.score is not None:
            self.best_loss_ = None  # as the MLP does if the loss was not watched
            self.validation_scores_ = (self.validation_scores_ or []) + convergence.scores
            self.best_validation_score_ = convergence.best

    @property
    def coefs_(self) -> tuple[np.ndarray, ...]:
        """The weights of each layer [inputs, outputs], as read-only copies; assign all of them to change them."""
        return self._parameters("weights")

    @coefs_.setter
    def coefs_(self, values: Iterable[Any]) -> None:
        self._assign("coefs_", "weights", values)

    @property
    def intercepts_(self) -> tuple[np.ndarray, ...]:
        """The biases of each layer [outputs], likewise."""
        return tuple(biases[0] for biases in self._parameters("biases"))

    @intercepts_.setter
    def intercepts_(self, values: Iterable[Any]) -> None:
        self._assign("intercepts_", "biases", values)

    def _denses(self) -> list[Dense]:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} has no network yet: call fit first")
        return [layer for layer in self.model_.layers if isinstance(layer, Dense)]

    def _parameters(self, name: str) -> tuple[np.ndarray, ...]:
        arrays = [np.array(self.model_.backend.to_numpy(getattr(dense, name))) for dense in self._denses()]
        for array in arrays:
            array.flags.writeable = False  # writing there would change nothing
        return tuple(arrays)

    @named
    def _assign(self, attribute: str, name: str, values: Iterable[Any]) -> None:
        if not isinstance(values, Iterable):
            raise InputError(f"{attribute}: {values!r:.60} was given, expected an array for each layer")
        denses, values = self._denses(), list(values)
        if len(values) != len(denses):
            raise InputError(f"{attribute}: {len(values)} arrays, expected one for each of {len(denses)} layers")
        # All are checked before any is assigned.
        checked = [dense.checked(name, value) for dense, value in zip(denses, values, strict=True)]
        for dense, value in zip(denses, checked, strict=True):
            setattr(dense, name, value)
