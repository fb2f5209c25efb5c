"""Arguments of the estimators: nnx's names and those of scikit-learn's MLP, checked and converted to one form.

An argument of the MLP that was not given is None. If the same thing is given under both names with different values,
that is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from nnx import checks
from nnx.errors import InputError, InputTypeError
from nnx.layers import ELEMENTWISE, Layer, Linear
from nnx.optimizers import SGD, Adam, Optimizer
from nnx.sklearn.lbfgs import gradient_taker

ACTIVATIONS: dict[str, type[Layer]] = {**ELEMENTWISE, "linear": Linear}
OF_MLP = {"identity": "linear", "logistic": "sigmoid"}
SCHEDULES = ("constant", "invscaling", "adaptive")
AUTO_BATCH = 200  # the batch size of "auto", or all samples if there are fewer
HELD_OUT = 0.1  # the share of the samples, if early_stopping=True is given without one
TOLERANCE = 1e-4  # the tolerance of the MLP's stopping rule, if none is given


@dataclass(frozen=True)
class Arguments:
    """The arguments of an estimator.

    Attributes:
        alpha: the MLP's penalty, `alpha / 2 * sum(w**2)` over the samples of a step, which is added to `l2`.
        batch_size: None for "auto". epsilon: None for Adam's default. patience: a number of epochs, or infinite.
        schedule: how SGD's learning rate changes. held_out: the share of the samples that is held out.
        watched: what can end a fit early. "score" (of held-out samples) and "loss" (in training) by the MLP's rule,
            "val_loss" by `EarlyStopping`; None: nothing.
        names: for each argument with two names, the name under which it was given.
    """

    hidden_layers: tuple[int, ...]
    activation: str
    solver: str
    dropout: float
    backend: Any
    dtype: str
    random_state: Any
    learning_rate: float
    schedule: str
    power_t: float
    momentum: float
    nesterov: bool
    beta_1: float
    beta_2: float
    epsilon: float | None
    l2: float
    alpha: float
    batch_size: int | None
    shuffle: bool
    epochs: int
    patience: float
    tol: float | None
    held_out: float
    watched: str | None
    warm_start: bool
    max_fun: int
    names: Mapping[str, str]

    def batch(self, samples: int) -> int:
        """Return the batch size for a number of samples."""
        return min(self.batch_size or AUTO_BATCH, samples)

    def optimizer(self, steep: float) -> Optimizer:
        """Return the optimizer.

        Args:
            steep: the gradient of the MLP's loss divided by that of nnx's loss. The given learning rate and epsilon are
                meant for the MLP's.
        """
        if self.solver == "lbfgs":
            return gradient_taker()
        if self.solver == "sgd":
            return SGD(self.learning_rate * steep, momentum=self.momentum, nesterov=self.nesterov)
        epsilon = {} if self.epsilon is None else {"epsilon": self.epsilon / steep}
        return Adam(self.learning_rate, beta_1=self.beta_1, beta_2=self.beta_2, **epsilon)


def read(given: Any) -> Arguments:
    """Return an estimator's arguments, checked, including those that only another solver uses."""
    names: dict[str, str] = {}

    def either(ours: str, theirs: str) -> tuple[str, Any]:
        names[ours], value = _either(given, ours, theirs)
        return names[ours], value

    name, sizes = either("hidden_layers", "hidden_layer_sizes")
    if isinstance(sizes, Iterator | Set | Mapping):
        why = "gives its numbers once" if isinstance(sizes, Iterator) else "has no order"
        raise InputTypeError(f"{name}: a {type(sizes).__name__} {why}; give a list of whole numbers, such as [64, 32]")
    several = np.iterable(sizes) and not isinstance(sizes, str)
    hidden_layers = tuple(checks.integer(size, name) for size in (sizes if several else [sizes]))
    activation = checks.choice(given.activation, "activation", [*ACTIVATIONS, *OF_MLP])
    epochs, names["epochs"] = _epochs(given)
    name, patience = either("patience", "n_iter_no_change")
    patience = math.inf if patience == math.inf and name == "n_iter_no_change" else checks.integer(patience, name)
    rate, schedule = _learning_rate(given, names)
    tol = None if given.tol is None else checks.real(given.tol, "tol")
    held_out, watched = _ending(given)
    solver = checks.choice(_or(given.solver, "adam"), "solver", ("adam", "sgd", "lbfgs"))
    _check_solver(given, solver, schedule, watched)
    auto = isinstance(given.batch_size, str) and given.batch_size == "auto"
    return Arguments(
        hidden_layers=hidden_layers,
        activation=OF_MLP.get(activation, activation),
        solver=solver,
        dropout=checks.real(given.dropout, "dropout", high=1.0),
        backend=given.backend,
        dtype=checks.dtype(given.dtype),
        random_state=given.random_state,
        learning_rate=rate,
        schedule=schedule,
        power_t=checks.real(_or(given.power_t, 0.5), "power_t"),
        momentum=checks.real(_or(given.momentum, 0.9), "momentum", high=1.0),
        nesterov=checks.flag(_or(given.nesterovs_momentum, True), "nesterovs_momentum"),
        beta_1=checks.real(_or(given.beta_1, 0.9), "beta_1", high=1.0),
        beta_2=checks.real(_or(given.beta_2, 0.999), "beta_2", high=1.0),
        epsilon=None if given.epsilon is None else checks.real(given.epsilon, "epsilon", open_low=True),
        l2=checks.real(given.l2, "l2"),
        alpha=checks.real(_or(given.alpha, 0.0), "alpha"),
        batch_size=None if auto else checks.integer(given.batch_size, "batch_size"),
        shuffle=checks.flag(given.shuffle, "shuffle"),
        epochs=epochs,
        patience=patience,
        tol=tol,
        held_out=held_out,
        watched=watched,
        warm_start=checks.flag(given.warm_start, "warm_start"),
        max_fun=checks.integer(_or(given.max_fun, 15000), "max_fun"),
        names=names,
    )


def _check_solver(given: Any, solver: str, schedule: str, watched: str | None) -> None:
    """Refuse arguments that contradict the solver. Other solvers' numbers are allowed: a search may leave them set."""
    if solver == "lbfgs" and (given.dropout or watched in ("score", "val_loss")):
        what = f"dropout={given.dropout!r}" if given.dropout else "early stopping by samples held out"
        raise InputError(
            f"solver='lbfgs' and {what}: L-BFGS needs the same loss at every call, and ends where its gradient is "
            "below tol; give one of them"
        )
    if solver == "sgd" and schedule == "adaptive" and watched == "val_loss":
        raise InputError(
            "learning_rate='adaptive' goes by the score of samples held out, or by the loss in training; with "
            f"validation_fraction={given.validation_fraction!r} say early_stopping=True or False"
        )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _default(given: Any, name: str) -> Any:
    """Return the default of an argument."""
    parameters = (signature(kind.__init__).parameters for kind in type(given).__mro__)  # type: ignore[misc]
    return next(own[name].default for own in parameters if name in own)


def _either(given: Any, ours: str, theirs: str) -> tuple[str, Any]:
    """Return the name, of two, under which an argument was given, and its value."""
    value, other = getattr(given, ours), getattr(given, theirs)
    if other is None:
        return ours, value
    if not np.array_equal(value, other) and not np.array_equal(value, _default(given, ours)):
        raise InputError(f"{ours}={value!r} and {theirs}={other!r} say the same thing differently; give one of them")
    return theirs, other


def _epochs(given: Any) -> tuple[int, str]:
    """Return the largest number of epochs, and the argument that it comes from.

    scikit-learn's own checks set max_iter whatever else an estimator was given, so fewer epochs are not refused.
    """
    epochs = checks.integer(given.epochs, "epochs")
    if given.max_iter is None:
        return epochs, "epochs"
    most = checks.integer(given.max_iter, "max_iter")
    if epochs == _default(given, "epochs") or epochs == most:
        return most, "max_iter"
    if epochs > most:
        raise InputError(f"epochs={epochs} are more than max_iter={most} allows; give one of them")
    return epochs, "epochs"


def _learning_rate(given: Any, names: dict[str, str]) -> tuple[float, str]:
    """Return the learning rate, and its schedule."""
    if not isinstance(given.learning_rate, str):
        names["learning_rate"], rate = _either(given, "learning_rate", "learning_rate_init")
        return checks.real(rate, names["learning_rate"], open_low=True), "constant"
    if given.learning_rate not in SCHEDULES:
        raise InputError(
            f"learning_rate={given.learning_rate!r}: expected a number above 0, or one of "
            f"{', '.join(map(repr, SCHEDULES))}, which begin with learning_rate_init"
        )
    rate = _or(given.learning_rate_init, _default(given, "learning_rate"))
    names["learning_rate"] = "learning_rate_init"
    return checks.real(rate, "learning_rate_init", open_low=True), given.learning_rate


def _ending(given: Any) -> tuple[float, str | None]:
    """Return the share of samples to hold out, and the quantity that can end a fit early."""
    share = checks.real(given.validation_fraction, "validation_fraction", high=1.0)
    early = given.early_stopping
    if early is not None and checks.flag(early, "early_stopping"):
        return share or HELD_OUT, "score"
    if early is None and share:
        return share, "val_loss"
    rule = (given.max_iter, given.tol, given.n_iter_no_change, early)
    by_rule = any(value is not None for value in rule) or given.learning_rate == "adaptive"
    return 0.0, "loss" if by_rule else None
