"""What the classifier and the regressor share: a network that scikit-learn's methods make, train and ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import Any, Self, TypeVar, cast
from warnings import warn

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nnx import weights as weighting
from nnx.callbacks import Callback, EarlyStopping, LearningRateSchedule
from nnx.errors import InputError, NonFiniteError
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import Dense, Dropout, Layer, Linear
from nnx.losses import Loss
from nnx.sequential import Sequential
from nnx.settings import assignable
from nnx.sklearn.arguments import ACTIVATIONS, TOLERANCE, Arguments, read
from nnx.sklearn.convergence import LEAST_RATE, Convergence
from nnx.sklearn.lbfgs import Descent

Array = Any
Method = TypeVar("Method", bound=Callable[..., Any])
# Taken as they are, so that the model sees what a cast to its own type loses.
NUMBERS = [np.float64, np.float32, np.int64, np.uint64]
SPARSE = ["csr", "csc"]
# What a network has for as long as it lives; a dropout too that began with 0, since it has no layers for it.
FIXED = ("hidden_layers", "activation", "dropout", "backend", "dtype", "random_state")


def named(method: Method) -> Method:
    """Let errors name the class, as scikit-learn's do."""

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


def stepwise(estimator: Any) -> bool:
    """Tell whether there is a `partial_fit`: L-BFGS has no single steps."""
    if estimator.solver == "lbfgs":
        raise AttributeError(f"{type(estimator).__name__}: partial_fit does single steps, and solver='lbfgs' has none")
    return True


@dataclass(frozen=True)
class Task:
    """What a network learns.

    Attributes:
        outputs: how many it has. loss: what is minimised. end: layers at its end. activation: the MLP's name for them.
        shown: by how much the MLP's loss is larger than nnx's. steep: and its gradient.
    """

    outputs: int
    loss: type[Loss]
    end: tuple[type[Layer], ...]
    activation: str
    shown: float = 1.0
    steep: float = 1.0

    def losses(self, logs: Mapping[str, Any]) -> Array:
        """Return the MLP's loss from nnx's, of one epoch or, as an array, of many."""
        data, penalty = logs.get("data_loss", logs["loss"]), logs.get("regularization_loss", 0.0)
        return self.shown * np.asarray(data) + self.steep * np.asarray(penalty)


class Network(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Dense layers in scikit-learn's hands; a subclass says what they learn."""

    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    t_: int
    _task: Task
    _made_with: Arguments
    _penalty: float  # on the weights of the network
    _no_improvement_count: int  # epochs without improvement, for "adaptive" over calls of partial_fit

    def _take(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of `__init__`, its `locals()`, as scikit-learn wants them: as they are."""
        self.__dict__.update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})

    # ---- training ----------------------------------------------------------------------------------------------------

    @named
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network on X [N, F] and y; return the estimator. Where it fails, nothing of an old fit is left.

        With warm_start=True the network of the last fit is trained on, by an optimizer that begins anew.

        sample_weight [N]: how often each sample counts, also of those held out; see `Sequential.fit`.

        Ctrl-C ends it after the step at hand. What was learned is kept, and KeyboardInterrupt raised, so that a search
        over many fits stops as well.
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
            split = self._split(data, y, arguments, random)
            data, held_out = tuple(split[::2]), split[1::2]
        if not warm:
            self._begin(arguments)
            model = self._network(arguments, X.shape[1], task, seed)
        else:
            model = self.model_
            self._follow(arguments, "fit with warm_start=True")
            model.optimizer = arguments.optimizer(task.steep)
        if arguments.solver == "lbfgs":
            return self._descend(model, arguments, task, *data)
        return self._train(model, arguments, task, data, held_out)

    def _continue(self, arguments: Arguments, X: Array, y: Array, task: Task, weights: Array) -> Self:
        """Train for one more epoch on what was validated and encoded, from the weights there are, if there are any."""
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
            model = self._network(arguments, X.shape[1], task, seed)
        return self._train(model, arguments, task, _together(X, y, weights), once=True)

    def _begin(self, arguments: Arguments) -> None:
        """Forget what earlier fits have counted."""
        self.loss_curve_, self.t_, self._no_improvement_count, self._penalty = [], 0, 0, 0.0
        self.validation_scores_ = self.best_validation_score_ = None
        self._made_with = arguments

    def _follow(self, arguments: Arguments, who: str) -> None:
        """Let the network there is follow what `set_params` changed since the last call, or refuse."""
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
        self._made_with = arguments  # whatever becomes of the training: these are what the network has now

    def _train(
        self, model: Sequential, arguments: Arguments, task: Task, data: tuple[Array, ...], held_out: Array = None,
        once: bool = False,
    ) -> Self:  # fmt: skip
        """Train on X, y and perhaps weights, for one epoch or as many as the arguments say."""
        X, y, *weights = data
        batch = arguments.batch(len(X))
        self._penalize(model, arguments, task, batch, *weights)
        convergence = self._convergence(arguments, task, held_out, once)
        callbacks: list[Callback] = [] if convergence is None else [convergence]
        if arguments.solver == "sgd" and arguments.schedule == "invscaling":
            callbacks.append(LearningRateSchedule(self._falling(arguments, task, model.epochs_done, len(X), once)))
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
        """Train by L-BFGS instead, where an epoch is an iteration."""
        self._penalize(model, arguments, task, len(X), weights)
        descent = Descent(model, X, y, weights, task.steep, self.verbose)
        try:
            descent.run(arguments.epochs, arguments.max_fun, TOLERANCE if arguments.tol is None else arguments.tol)
        finally:
            if descent.losses:
                self.model_, self._task = model, task
                self._note([task.shown * loss for loss in descent.losses], len(X), None)
        if not descent.converged:
            self._warn(
                f"L-BFGS did {len(descent.losses)} iterations in at most max_fun={arguments.max_fun} calls", arguments
            )
        return self

    def _penalize(self, model: Sequential, arguments: Arguments, task: Task, batch: int, weights: Array = None) -> None:
        """Let weights have the penalty that was asked for, where it is another one than before."""
        counted = batch * (1 if weights is None else weights.mean())
        penalty = arguments.l2 + arguments.alpha / (2 * counted * task.steep)
        if penalty != self._penalty:
            for dense in (layer for layer in model.layers if isinstance(layer, Dense)):
                dense.weight_l2 = penalty
            self._penalty = penalty

    def _warn(self, done: str, arguments: Arguments) -> None:
        """Say that a fit ended before it converged."""
        warn(
            f"{type(self).__name__}: {done}, and it has not converged by tol; raise {arguments.names['epochs']} or tol",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _note(self, losses: list[float], samples: int, convergence: Convergence | None) -> None:
        """Set the attributes that tell how training went and what the network is."""
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
            self.best_loss_ = None  # the MLP's way to say that it was not watched
            self.validation_scores_ = (self.validation_scores_ or []) + convergence.scores
            self.best_validation_score_ = convergence.best

    # ---- when it ends ------------------------------------------------------------------------------------------------

    def _convergence(self, arguments: Arguments, task: Task, held_out: Array, once: bool) -> Convergence | None:
        """Return the MLP's rule for the end of a fit, or None where it has no say."""
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

    def _falling(
        self, arguments: Arguments, task: Task, first: int, samples: int, once: bool
    ) -> Callable[[int], float]:
        """Return the learning rate of each epoch for "invscaling": it falls with all samples seen, after each epoch."""
        seen, highest = self.t_, task.steep * arguments.learning_rate

        def rate(epoch: int) -> float:
            begins = epoch == first and not once  # `fit` does, with an optimizer that has seen none
            return float(highest / (1 if begins else seen + (epoch - first) * samples + 1) ** arguments.power_t)

        return rate

    def _split(
        self, data: tuple[Array, ...], y: Array, arguments: Arguments, random: np.random.RandomState
    ) -> list[Array]:
        """Return each array without what is held out, and that: of each class the same share, where it can be."""
        share, by = arguments.held_out, self._strata(y)
        try:
            split = list(train_test_split(*data, test_size=share, random_state=random, stratify=by))
        except ValueError as reason:  # a class with one sample, or fewer samples held out than there are classes
            if by is None or arguments.watched == "score":
                raise InputError(f"validation_fraction={share}: {reason}") from reason
            split = list(train_test_split(*data, test_size=share, random_state=random))
            warn(f"validation_fraction={share}: held out regardless of classes: {reason}", UserWarning, stacklevel=4)
        if arguments.watched == "score" and len(split[1]) < 2:
            raise InputError(
                f"The validation set is too small: validation_fraction={share} of {len(y)} samples; expected 2 "
                "samples at least, to tell scores apart"
            )
        return split

    # ---- the network -------------------------------------------------------------------------------------------------

    def _network(self, arguments: Arguments, features: int, task: Task, seed: int) -> Sequential:
        kind, dropout = ACTIVATIONS[arguments.activation], arguments.dropout
        init = "glorot" if kind is Linear else BY_NAME[arguments.activation].init
        layers: list[Layer] = []
        widths = [features, *arguments.hidden_layers]
        for n_inputs, width in pairwise(widths):
            layers += [Dense(n_inputs, width, init=init), kind()]
            layers += [Dropout(dropout)] if dropout else []
        layers += [Dense(widths[-1], task.outputs, init="glorot"), *(end() for end in task.end)]
        model = Sequential(*layers, backend=arguments.backend, dtype=arguments.dtype, seed=seed)
        return model.compile(task.loss(), arguments.optimizer(task.steep), metrics=[])

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
        self._assign("intercepts_", "biases", [np.reshape(value, (1, -1)) for value in values])

    def _denses(self) -> list[Dense]:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} has no network yet: call fit first")
        return [layer for layer in self.model_.layers if isinstance(layer, Dense)]

    def _parameters(self, name: str) -> tuple[np.ndarray, ...]:
        copies = [np.array(self.model_.backend.to_numpy(getattr(dense, name))) for dense in self._denses()]
        for copy in copies:
            copy.flags.writeable = False  # writing there would change nothing
        return tuple(copies)

    @named
    def _assign(self, attribute: str, name: str, values: Iterable[Any]) -> None:
        denses, values = self._denses(), list(values)
        if len(values) != len(denses):
            raise InputError(f"{attribute}: {len(values)} arrays, expected one for each of {len(denses)} layers")
        for dense, value in zip(denses, values, strict=True):
            setattr(dense, name, value)

    # ---- data --------------------------------------------------------------------------------------------------------

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Array, Array]:
        """Return X [N, F] and y, dense."""
        X, y = validate_data(
            self, X, y, reset=reset, dtype=NUMBERS, accept_sparse=SPARSE, multi_output=True, y_numeric=self._numeric
        )
        return _dense(X), _dense(y)

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, dtype=NUMBERS, accept_sparse=SPARSE)
        return self.model_.predict(_dense(X))

    # ---- what a subclass says ----------------------------------------------------------------------------------------

    _numeric: bool  # whether y holds numbers

    def _encoded(self, y: Array, who: str) -> tuple[Array, Task]:
        """Return targets as the loss takes them, and the task."""
        raise NotImplementedError

    def _strata(self, y: Array) -> Array:
        """Return what each sample is, so that of each kind the same share is held out; or None."""
        return None

    def _score(self, task: Task, outputs: Array, targets: Array, weights: Array = None) -> float:
        """Return the accuracy, or R2, of outputs."""
        raise NotImplementedError

    def _weights(self, sample_weight: Any, targets: Array, task: Task, who: str) -> Array:
        """Return what each sample counts, float64 [N], or None."""
        return None if sample_weight is None else weighting.checked(sample_weight, len(targets), who)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _together(X: Array, y: Array, weights: Array) -> tuple[Array, ...]:
    return (X, y) if weights is None else (X, y, weights)


def _dense(a: Array) -> Array:
    return a.toarray() if issparse(a) else a
