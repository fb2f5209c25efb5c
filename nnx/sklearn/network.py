"""Base of the classifier and the regressor: a network with scikit-learn's methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from warnings import warn

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nnx import weights as weighting
from nnx.backends.base import real_numbers, unmasked
from nnx.backends.inputs import frame_columns
from nnx.callbacks import Callback, EarlyStopping, LearningRateSchedule
from nnx.errors import InputError, InputTypeError
from nnx.layers import Dense, Dropout
from nnx.sequential import Sequential
from nnx.settings import assignable
from nnx.sklearn.arguments import TOLERANCE, Arguments, read
from nnx.sklearn.convergence import LEAST_RATE, Convergence, falling, hold_out
from nnx.sklearn.fitted import Fitted, named
from nnx.sklearn.lbfgs import Descent
from nnx.sklearn.tasks import Task, build

Array = Any
# Taken as they are, so that the model sees what a cast to its own type loses.
NUMBERS = [np.float64, np.float32, np.int64, np.uint64]
SPARSE = ["csr", "csc"]
# What a network has for as long as it lives; a dropout too that began with 0, since it has no layers for it.
FIXED = ("hidden_layers", "activation", "dropout", "backend", "dtype", "random_state")


def stepwise(estimator: Any) -> bool:
    """Tell whether the estimator has a `partial_fit`: with L-BFGS, which has no single steps, it has none."""
    if estimator.solver == "lbfgs":
        raise AttributeError(f"{type(estimator).__name__}: partial_fit does single steps, and solver='lbfgs' has none")
    return True


class Network(Fitted):
    """Dense layers with scikit-learn's methods. A subclass defines the task."""

    _made_with: Arguments
    _penalty: float  # on the weights of the network

    def _take(self, arguments: dict[str, Any]) -> None:
        """Store the arguments of `__init__`, given as its `locals()`, unchanged, as scikit-learn requires."""
        self.__dict__.update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})

    # ---- training ----------------------------------------------------------------------------------------------------

    @named
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network on X [N, F] and y; return the estimator. If that fails, nothing of an old fit is left.

        With warm_start=True the network of the last fit is trained further, with a new optimizer.

        sample_weight [N]: how often each sample counts, held-out ones included; see `Sequential.fit`.

        Ctrl-C ends training after the current step. What was learned is kept, and KeyboardInterrupt is raised, so that
        a search over many fits stops as well.
        """
        warm = bool(self.warm_start) and hasattr(self, "model_")
        if not warm:
            self.__dict__.pop("model_", None)
        arguments = read(self)
        X, y = self._validated(X, y, reset=not warm)
        targets, task = self._encoded(y, "fit" if not warm else "fit with warm_start=True")
        weights = self._weights(sample_weight, targets, task, "fit")
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))  # also for a warm start, so that the same samples are held out again
        data, held_out = _together(X, targets, weights), None
        if arguments.held_out:
            data, held_out = hold_out(data, self._strata(y), arguments, random)
        if not warm:
            self._begin(arguments)
            model = build(arguments, X.shape[1], task, seed)
        else:
            model = self.model_
            self._follow(arguments, "fit with warm_start=True")
            model.optimizer = arguments.optimizer(task.steep)
        if arguments.solver == "lbfgs":
            return self._descend(model, arguments, task, *data)
        return self._train(model, arguments, task, data, held_out)

    def _continue(self, arguments: Arguments, X: Array, y: Array, task: Task, weights: Array) -> Self:
        """Train for one more epoch on validated data, starting from the present weights if there are any."""
        if arguments.watched == "score":
            raise InputError(
                "partial_fit does not support early_stopping=True, since it does one epoch, and holds out no samples; "
                "call fit, or give early_stopping=False"
            )
        if hasattr(self, "model_"):
            model = self.model_
            self._follow(arguments, "partial_fit")
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self._begin(arguments)
            model = build(arguments, X.shape[1], task, seed)
        return self._train(model, arguments, task, _together(X, y, weights), once=True)

    def _begin(self, arguments: Arguments) -> None:
        """Reset the counts of earlier fits."""
        self.loss_curve_, self.t_, self._no_improvement_count, self._penalty = [], 0, 0, 0.0
        self.validation_scores_ = self.best_validation_score_ = None
        self._made_with = arguments

    def _follow(self, arguments: Arguments, who: str) -> None:
        """Apply what `set_params` has changed since the last call to the present network, or refuse."""
        made, model = self._made_with, self.model_
        dropouts = [layer for layer in model.layers if isinstance(layer, Dropout)]
        fixed = [name for name in FIXED if name != "dropout" or not dropouts]
        fixed += ["solver"] if who == "partial_fit" else []
        for name in fixed:
            value, before = getattr(arguments, name), getattr(made, name)
            if value != before:
                raise InputError(
                    f"{who}: {arguments.names.get(name, name)}={value!r}, but the network was made with {before!r}; "
                    "set it back, or call fit with warm_start=False, which makes a new network"
                )
        for dropout in dropouts if made.dropout != arguments.dropout else []:
            dropout.rate = arguments.dropout
        if arguments.solver == made.solver:
            before, wanted = made.optimizer(self._task.steep), arguments.optimizer(self._task.steep)
            for name in assignable(type(wanted)):
                fell = name == "learning_rate" and made.schedule != arguments.schedule
                if fell or getattr(before, name) != getattr(wanted, name):
                    setattr(model.optimizer, name, getattr(wanted, name))
        self._made_with = arguments  # even if training fails, the network has these from now on

    def _train(
        self, model: Sequential, arguments: Arguments, task: Task, data: tuple[Array, ...], held_out: Array = None,
        once: bool = False,
    ) -> Self:  # fmt: skip
        """Train on X, y and perhaps weights, for one epoch or the number that the arguments say."""
        X, y, *weights = data
        batch = arguments.batch(len(X))
        self._penalize(model, arguments, task, batch, *weights)
        convergence = self._convergence(arguments, task, held_out, once)
        callbacks: list[Callback] = [] if convergence is None else [convergence]
        if arguments.solver == "sgd" and arguments.schedule == "invscaling":
            highest = task.steep * arguments.learning_rate
            rate = falling(highest, arguments.power_t, model.epochs_done, self.t_, len(X), once)
            callbacks.append(LearningRateSchedule(rate))
        if arguments.watched == "val_loss" and not once:
            patience = int(min(arguments.patience, arguments.epochs))
            callbacks.append(EarlyStopping(patience=patience, min_delta=arguments.tol or 0.0))
        history = model.fit(
            X, y, 1 if once else arguments.epochs, batch, shuffle=arguments.shuffle, callbacks=callbacks,
            validation_data=held_out if arguments.watched == "val_loss" else None,
            verbose=self.verbose, sample_weight=weights[0] if weights else None,
        )  # fmt: skip
        self.model_, self._task = model, task
        self._note([] if not history else task.losses(history).tolist(), len(X), convergence)
        if history.interrupted:
            raise KeyboardInterrupt
        if convergence is not None and not (convergence.ended or once):
            self._warn(f"all {history.epochs} epochs are done", arguments)
        return self

    def _descend(
        self, model: Sequential, arguments: Arguments, task: Task, X: Array, y: Array, weights: Array = None
    ) -> Self:
        """Train by L-BFGS, where an epoch is an iteration."""
        self._penalize(model, arguments, task, len(X), weights)
        descent = Descent(model, X, y, weights, task.steep, self.verbose)
        try:
            descent.run(arguments.epochs, arguments.max_fun, TOLERANCE if arguments.tol is None else arguments.tol)
        except KeyboardInterrupt:
            if descent.losses:
                self._keep(model, task, descent, len(X))
            raise
        self._keep(model, task, descent, len(X))
        if not descent.converged:
            self._warn(
                f"L-BFGS did {len(descent.losses)} iterations in at most max_fun={arguments.max_fun} calls", arguments
            )
        return self

    def _keep(self, model: Sequential, task: Task, descent: Descent, samples: int) -> None:
        """Take over the result of L-BFGS."""
        self.model_, self._task = model, task
        self._note([task.shown * loss for loss in descent.losses], samples, None)

    def _penalize(self, model: Sequential, arguments: Arguments, task: Task, batch: int, weights: Array = None) -> None:
        """Set the penalty of the weights that was asked for, if it has changed."""
        counted = batch * (1 if weights is None else weights.mean() or 1)  # nothing but 0 is refused by the model
        penalty = arguments.l2 + arguments.alpha / (2 * counted * task.steep)
        if penalty != self._penalty:
            for dense in (layer for layer in model.layers if isinstance(layer, Dense)):
                dense.weight_l2 = penalty
            self._penalty = penalty

    def _warn(self, done: str, arguments: Arguments) -> None:
        """Warn that a fit ended before it converged."""
        warn(
            f"{type(self).__name__}: {done}, and it has not converged by tol; raise {arguments.names['epochs']} or tol",
            ConvergenceWarning,
            stacklevel=5,
        )

    # ---- when it ends ------------------------------------------------------------------------------------------------

    def _convergence(self, arguments: Arguments, task: Task, held_out: Array, once: bool) -> Convergence | None:
        """Return the MLP's rule for the end of a fit, or None if it doesn't apply."""
        adaptive = arguments.solver == "sgd" and arguments.schedule == "adaptive"
        if arguments.watched not in ("score", "loss") or (once and not adaptive):
            return None
        tol = TOLERANCE if arguments.tol is None else arguments.tol
        lowest = LEAST_RATE * task.steep if adaptive else None
        waited = self._no_improvement_count if once else 0
        if arguments.watched == "loss":
            best = min(self.loss_curve_, default=math.inf)
            return Convergence(arguments.patience, tol, best, task.losses, None, lowest, waited)
        x, *wanted = held_out

        def score(model: Sequential) -> float:
            return self._score(task, model.predict(x), *wanted)

        before = -math.inf if self.best_validation_score_ is None else self.best_validation_score_
        return Convergence(arguments.patience, tol, before, task.losses, score, lowest, waited)

    # ---- data --------------------------------------------------------------------------------------------------------

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Array, Array]:
        """Return X [N, F] and y as checked dense arrays."""
        X, y = unmasked(X, "X: "), unmasked(y, "y: ")
        with _explaining(X):
            X, y = validate_data(
                self, X, y, reset=reset, dtype=NUMBERS, accept_sparse=SPARSE, multi_output=True,
                y_numeric=self._numeric,
            )  # fmt: skip
        return _dense(X), _dense(y)

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        X = unmasked(X, "X: ")
        with _explaining(X):
            X = validate_data(self, X, reset=False, dtype=NUMBERS, accept_sparse=SPARSE)
        return self.model_.predict(_dense(X))

    # ---- what a subclass says ----------------------------------------------------------------------------------------

    _numeric: bool  # whether y holds numbers

    def _encoded(self, y: Array, who: str) -> tuple[Array, Task]:
        """Return targets in the form that the loss takes, and the task."""
        raise NotImplementedError

    def _strata(self, y: Array) -> Array:
        """Return the class of each sample, so that the same share of each is held out; or None."""
        return None

    def _score(self, task: Task, outputs: Array, targets: Array, weights: Array = None) -> float:
        """Return the accuracy, or R2, of outputs."""
        raise NotImplementedError

    def _weights(self, sample_weight: Any, targets: Array, task: Task, who: str) -> Array:
        """Return the weight of each sample, float64 [N], or None."""
        return None if sample_weight is None else weighting.checked(sample_weight, len(targets), who)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@contextmanager
def _explaining(X: Any) -> Iterator[None]:
    """Name the words and dates in X that scikit-learn refuses, and dates that it would take for large numbers."""
    dtypes = (getattr(X, "dtype", None), *getattr(X, "dtypes", ()))
    foreign = not hasattr(X, "iloc") and frame_columns(X) is not None  # polars' and pyarrow's say it in other ways
    if foreign or {"m", "M"} & {getattr(dtype, "kind", "") for dtype in dtypes}:
        real_numbers(X, "X")
    try:
        yield
    except (TypeError, ValueError) as error:
        if not issparse(X):
            try:
                real_numbers(X, "X")
            except InputTypeError as clearer:
                raise InputTypeError(f"{clearer} ({str(error).partition('. ')[0]})") from error
        raise


def _together(X: Array, y: Array, weights: Array) -> tuple[Array, ...]:
    return (X, y) if weights is None else (X, y, weights)


def _dense(a: Array) -> Array:
    return a.toarray() if issparse(a) else a
