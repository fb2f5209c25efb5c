"""What a network must be told to be used: kept in the model's metadata, so that a file is enough to predict with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nnx.checks import choice
from nnx.datasets.preparation import Preparation
from nnx.errors import InputError
from nnx.model.sequential import Sequential

KEY = "card"


@dataclass(frozen=True)
class Card:
    """How to read inputs and outputs.

    Attributes:
        task: "classification" or "regression".
        columns: the inputs' names; empty where they have none, and are taken by position.
        classes: the classes' names, by output.
        mean, std: of each input in training, [F] each; inputs are taken minus mean, over std. Empty: as they are.
        target: mean and standard deviation of the numbers learned: what the network puts out is in these units.
        limits: the smallest and the largest input in training, before scaling.
        preparation: how a table's columns become inputs; None where they are numbers already.
    """

    task: str
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target: tuple[float, float] = (0.0, 1.0)
    limits: tuple[float, float] | None = None
    preparation: Preparation | None = None

    def fitted(self, x: np.ndarray, y: np.ndarray) -> Card:
        """Return this card with the scale of some training data: x [N, F], and y [N, 1] for regression."""
        target = _spread(y) if self.task == "regression" else ((0.0,), (1.0,))
        mean, std = _spread(x)
        if self.preparation is not None:  # what is 0 or 1 stays that
            measured = self.preparation.measured
            mean = tuple(m if own else 0.0 for m, own in zip(mean, measured, strict=True))
            std = tuple(s if own else 1.0 for s, own in zip(std, measured, strict=True))
        return replace(self, mean=mean, std=std, target=(target[0][0], target[1][0]))

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [N, F] as the network takes them: centred in float64, before they are rounded."""
        if not self.mean:
            return x
        with np.errstate(over="ignore"):  # by a card that others wrote; predict refuses what is not finite
            return ((x.astype(np.float64) - self.mean) / self.std).astype(np.float32)

    def scale_target(self, y: np.ndarray) -> np.ndarray:
        """Return the numbers to learn [N, 1] in the network's units; classes as they are."""
        if self.task != "regression":
            return y
        return ((y.astype(np.float64) - self.target[0]) / self.target[1]).astype(np.float32)

    def unscale_target(self, outputs: np.ndarray) -> np.ndarray:
        """Return the network's outputs [N, O] in the units of the data: float64."""
        return np.asarray(outputs.astype(np.float64) * self.target[1] + self.target[0])

    def class_names(self, outputs: int) -> tuple[str, ...]:
        """Return the name of each class."""
        return self.classes or tuple(map(str, range(outputs)))

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON holds it."""
        prepared = None if self.preparation is None else self.preparation.to_json()
        return {**asdict(replace(self, preparation=None)), "preparation": prepared}


def card_of(model: Sequential) -> Card:
    """Return a model's card, or one made up from the layers where it was not trained on the command line.

    Raises:
        InputError: the card does not fit the network.
    """
    if KEY not in model.metadata:
        last = type(model.layers[-1]).__name__
        fused = type(model.loss).__name__ == "SoftmaxCrossEntropy"
        return Card("classification" if last == "Softmax" or fused else "regression")
    try:
        card = _parse(model.metadata[KEY])
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise InputError(f"the description of inputs and outputs cannot be read: {error}") from error
    for name, values, width in (
        ("columns", card.columns, model.n_inputs),
        ("mean", card.mean, model.n_inputs),
        ("std", card.std, model.n_inputs),
        ("features", () if card.preparation is None else card.preparation.features, model.n_inputs),
        ("classes", card.classes, model.n_outputs),
    ):
        if values and len(values) != width:
            raise InputError(f"the file describes {len(values)} {name}, but the network has {width}")
    return card


def _parse(given: dict[str, Any]) -> Card:
    numbers = {name: tuple(float(v) for v in given[name]) for name in ("mean", "std", "target")}
    if not np.isfinite(sum(numbers.values(), ())).all() or 0 in numbers["std"]:
        raise ValueError("mean and std must be finite, and std not 0")
    if len(numbers["mean"]) != len(numbers["std"]):
        raise ValueError("there must be a mean for each std")
    centre, spread = numbers["target"]
    limits, prepared = given["limits"], given.get("preparation")  # which files of earlier versions do not have
    return Card(
        choice(given["task"], "task", ("classification", "regression")),
        tuple(map(str, given["columns"])),
        tuple(map(str, given["classes"])),
        numbers["mean"],
        numbers["std"],
        (centre, spread),
        None if limits is None else (float(limits[0]), float(limits[1])),
        None if prepared is None else Preparation.read(prepared),
    )


def _spread(a: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each column; 1 where a column is the same everywhere."""
    mean, std = a.mean(axis=0, dtype=np.float64), a.std(axis=0, dtype=np.float64)
    # What rounding leaves of a constant is no spread.
    least = (64 * np.finfo(np.float64).eps if a.dtype == np.float64 else 1e-7) * np.abs(mean)
    return tuple(mean.tolist()), tuple(np.where(std > least, std, 1.0).tolist())
