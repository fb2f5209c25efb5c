"""The training recipe (hyperparameters): from the command line, else from a resumed file, else by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nnx import SGD, AdaGrad, Adam, AdamW, AMSGrad, Dense, Dropout, Lion, Nadam, RMSprop, Sequential, Softmax, checks
from nnx.cli.sets import Problem
from nnx.errors import InputError
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import ELEMENTWISE
from nnx.losses import CategoricalCrossEntropy, MeanSquaredError
from nnx.optimizers import Optimizer

OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, float], float]] = {  # class, arguments, usual learning rate
    "adam": (Adam, {}, 0.001),
    "adamw": (AdamW, {}, 0.001),
    "sgd": (SGD, {"momentum": 0.9}, 0.05),
    "rmsprop": (RMSprop, {}, 0.001),
    "adagrad": (AdaGrad, {}, 0.01),
    "nadam": (Nadam, {}, 0.002),
    "amsgrad": (AMSGrad, {}, 0.001),
    "lion": (Lion, {}, 0.0003),
}
ENDS = ("epochs", "patience")  # the parts that only decide when training ends


@dataclass(frozen=True)
class Recipe:
    """Everything except the data that determines the result of training.

    Attributes:
        layers: neurons of each hidden layer. activation: of the hidden layers. dropout: the share dropped after each.
        l2: strength of the penalty on all weights.
        optimizer: a key of OPTIMIZERS. lr: the learning rate. decay: see `Optimizer`.
        clip_norm: the largest norm of all gradients together; 0: no limit.
        batch_size: rows of a step; 0: all of them. seed: of weights, order, dropout masks and held-out rows.
        epochs: the largest number of epochs.
        patience: training ends after so many epochs without a better loss on the validation part; 0: there is no such
            part. A file may be resumed with more epochs and patience, but with no other change.
    """

    layers: tuple[int, ...]
    activation: str = "relu"
    dropout: float = 0.0
    l2: float = 0.0
    optimizer: str = "adam"
    lr: float = 0.001
    decay: float = 0.0
    batch_size: int = 32
    seed: int = 0
    epochs: int = 10
    patience: int = 0
    clip_norm: float = 0.0

    def build(self, problem: Problem, backend: Any) -> Sequential:
        """Return a compiled network for a data set, with the recipe's seed."""
        layers: list[Any] = []
        width, init = problem.x.shape[1], BY_NAME[self.activation].init
        for neurons in self.layers:
            layers += [Dense(width, neurons, weight_l2=self.l2, init=init), ELEMENTWISE[self.activation]()]
            layers += [Dropout(self.dropout)] if self.dropout else []
            width = neurons
        layers.append(Dense(width, problem.outputs, weight_l2=self.l2, init="glorot"))
        classes = problem.metadata.task == "classification"
        model = Sequential(*layers, *([Softmax()] if classes else []), backend=backend, seed=self.seed)
        kind, arguments, _ = OPTIMIZERS[self.optimizer]
        loss = CategoricalCrossEntropy() if classes else MeanSquaredError()
        optimizer = kind(self.lr, decay=self.decay, clip_norm=self.clip_norm or None, **arguments)
        return model.compile(loss, optimizer, metrics=["accuracy"] if classes else [])

    def steps(self, problem: Problem) -> int:
        """Return the number of steps in an epoch."""
        return -(-problem.rows // self._rows(problem))

    def network(self, problem: Problem) -> str:
        """Return the network in words: "64 -> 128 relu -> 10 softmax"."""
        thinned = f" (dropout {self.dropout:g})" if self.dropout else ""
        hidden = [f"{neurons} {self.activation}{thinned}" for neurons in self.layers]
        last = "softmax" if problem.metadata.task == "classification" else "linear"
        return " -> ".join([str(problem.x.shape[1]), *hidden, f"{problem.outputs} {last}"])

    def training(self, problem: Problem) -> str:
        """Return the training in words."""
        steps = self.steps(problem)
        each = f"{steps:,} steps of {self._rows(problem):,} samples" if steps > 1 else "one step, all samples at once"
        stops = self.patience and self.patience < self.epochs
        often = f"up to {self.epochs:,}" if stops else f"{self.epochs:,}"
        return f"{often} epochs of {each}; {self.optimizer}, learning rate {self.lr:g}, seed {self.seed}"

    def ending(self) -> str:
        """Return in words which epoch's parameters are kept; "" if they are the last one's."""
        if not self.patience:
            return ""
        kept = "the epoch with the lowest loss on the rows apart is kept"
        return (
            kept if self.patience >= self.epochs else f"ends after {self.patience} epochs without a better one; {kept}"
        )

    def _rows(self, problem: Problem) -> int:
        return min(self.batch_size or problem.rows, problem.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON data, which `read` takes."""
        return {**asdict(self), "layers": list(self.layers)}


DEFAULTS = {
    "spiral": Recipe((64, 64), l2=1e-4, lr=0.02, decay=1e-3, batch_size=0, epochs=500),
    "digits": Recipe((128, 64), dropout=0.2, lr=0.002, decay=1e-4, epochs=40),
    "mnist": Recipe((128, 128), decay=5e-5, batch_size=128),
    "fashion-mnist": Recipe((128, 128), decay=5e-5, batch_size=128),
}
TABLE = Recipe((64,), lr=0.003, decay=1e-4)  # the rest depends on the number of rows: see _for_table
FEW, MANY = 50, 4000  # training rows; a fifth of fewer than FEW is too small to decide when to stop


def check_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a recipe that were given, those that are not None, after checking them."""
    given = {key: value for key, value in options.items() if value is not None}
    checked(replace(Recipe(()), **given))
    return given


def choose(problem: Problem, given: Mapping[str, Any]) -> Recipe:
    """Return the recipe for a data set: its defaults, replaced by what was given."""
    chosen = dict(given)
    recipe = DEFAULTS.get(problem.name) or _for_table(problem.rows)
    if recipe.patience:
        chosen = _all_epochs(chosen)
    if chosen.get("optimizer", recipe.optimizer) != recipe.optimizer:
        chosen.setdefault("lr", OPTIMIZERS[chosen["optimizer"]][2])
    return replace(recipe, **chosen)


def continued(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a resumed file, with the parts that were given replaced."""
    ends = {key: value for key, value in given.items() if key in ENDS}
    return replace(recipe, **(_all_epochs(ends) if recipe.patience else ends))


def _all_epochs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, with so much patience that all epochs asked for are done; the best is still kept."""
    return {**({"patience": given["epochs"]} if "epochs" in given else {}), **given}


def _for_table(rows: int) -> Recipe:
    """Return a recipe for so many training rows: the fewer there are, the stronger the regularization.

    It was chosen on samples and tables other than those of bench/results/tables.md.
    """
    small = rows < MANY
    return replace(
        TABLE,
        layers=(64,) if small else (64, 32),
        dropout=0.2 if small else 0.1,
        l2=min(0.003, float(f"{2 / rows:.1g}")),
        batch_size=32 if rows < 10_000 else 256,
        epochs=int(min(300, max(20, 3e6 // rows))),
        patience=0 if rows < FEW else 30 if small else 20,
    )


def read(saved: Any) -> Recipe:
    """Return the recipe in a file's metadata.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    try:
        known = {"patience": 0, "clip_norm": 0.0, **saved["recipe"]}  # earlier versions lacked these two
        known = {field.name: known[field.name] for field in fields(Recipe)}
        return checked(replace(Recipe(**known), layers=tuple(known["layers"])))
    except (TypeError, KeyError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"its recipe cannot be read: {reason}") from error


def changes(old: Recipe, given: Mapping[str, Any]) -> list[str]:
    """Return in words the given parts that must not differ from the old recipe but do; epochs and patience may."""
    return [
        f"{_option(key)} is {words(getattr(old, key))} there, {words(value)} here"
        for key, value in given.items()
        if value != getattr(old, key) and not (key in ENDS and bool(value) == bool(getattr(old, key)))
    ]


def checked(recipe: Recipe) -> Recipe:
    """Return the recipe, after checking every number of it."""
    for neurons in recipe.layers:
        checks.integer(neurons, "--layers")
    checks.choice(recipe.activation, "--activation", ELEMENTWISE)
    checks.choice(recipe.optimizer, "--optimizer", OPTIMIZERS)
    checks.real(recipe.dropout, "--dropout", high=1.0)
    checks.real(recipe.l2, "--l2")
    checks.real(recipe.lr, "--lr", open_low=True)
    checks.real(recipe.decay, "--decay")
    checks.real(recipe.clip_norm, "--clip-norm")
    checks.integer(recipe.batch_size, "--batch-size", low=0)
    checks.integer(recipe.epochs, "--epochs")
    checks.integer(recipe.patience, "--patience", low=0)
    if checks.integer(recipe.seed, "--seed", low=0) >= 2**32:
        raise InputError(f"--seed={recipe.seed}: expected a whole number from 0 to {2**32 - 1}")
    return recipe


def check_seeds(seeds: int, first: int) -> None:
    """Check the number of networks, whose seeds begin with the first one."""
    if first + checks.integer(seeds, "--seeds") > 2**32:
        raise InputError(f"--seeds={seeds} from --seed={first} on: expected the last one to be at most {2**32 - 1}")


def parse_layers(text: str) -> tuple[int, ...]:
    """Return the widths in "64,32"; none for "none", a network without hidden layers."""
    if text.strip().lower() == "none":
        return ()
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise InputError(f'--layers={text}: expected whole numbers such as 64,32, each 1 or more, or "none"')
    return widths


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def words(value: Any) -> str:
    """Return a part of a recipe as it is written on the command line."""
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
