"""Metadata about the data that a network was trained on, saved in its file: names of columns and classes, scaling."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nnx.checks import choice
from nnx.datasets.preparation import Preparation
from nnx.ensemble import Ensemble
from nnx.errors import InputError
from nnx.metrics import unit_for
from nnx.sequential import Sequential

KEY = "card"  # the key in files, in all versions


@dataclass(frozen=True)
class Metadata:
    """How to interpret a network's inputs and outputs.

    Attributes:
        task: "classification" or "regression".
        columns: the inputs' names; empty if they have none, and are found by position.
        classes: the classes' names, by output.
        mean, std: of each input in training, [F]; the network gets (input - mean) / std. Empty: inputs are not scaled.
        target: mean and standard deviation of the targets; the network's output is (number - mean) / deviation.
        limits: the smallest and the largest input in training, before scaling.
        preparation: how a table's columns become inputs; None if they are numbers already.
    """

    task: str
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target: tuple[float, float] = (0.0, 1.0)
    limits: tuple[float, float] | None = None
    preparation: Preparation | None = None

    def fitted(self, x: np.ndarray, y: np.ndarray) -> Metadata:
        """Return it with the scale of some training data: x [N, F], and y [N, 1] for regression."""
        target = _spread(y) if self.task == "regression" else ((0.0,), (1.0,))
        mean, std = _spread(x)
        if self.preparation is not None:  # features that are 0 or 1 are not scaled
            measured = self.preparation.measured
            mean = tuple(m if own else 0.0 for m, own in zip(mean, measured, strict=True))
            std = tuple(s if own else 1.0 for s, own in zip(std, measured, strict=True))
        return replace(self, mean=mean, std=std, target=(target[0][0], target[1][0]))

    def of(
        self, mean: tuple[float, ...], std: tuple[float, ...], target: tuple[float, float], limits: tuple[float, float]
    ) -> Metadata:
        """Return a copy with the given scale."""
        return replace(self, mean=mean, std=std, target=target, limits=limits)

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [N, F] scaled for the network; centred in float64, before they are rounded to float32."""
        if not self.mean:
            return x
        with np.errstate(over="ignore"):  # a file may hold any scale; predict refuses results that are not finite
            return ((x.astype(np.float64) - self.mean) / self.std).astype(np.float32)

    def scale_target(self, y: np.ndarray) -> np.ndarray:
        """Return targets [N, 1] in the network's units; classes as they are."""
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
        """Return it as JSON data."""
        prepared = None if self.preparation is None else self.preparation.to_json()
        return {**asdict(replace(self, preparation=None)), "preparation": prepared}


def networks(model: Sequential | Ensemble) -> list[Sequential]:
    """Return the networks of an ensemble, or a single network as a list."""
    return list(model) if isinstance(model, Ensemble) else [model]


def metadata_of(model: Sequential) -> Metadata:
    """Return a model's metadata; made up from its layers if it was not trained by the command line.

    Raises:
        InputError: the metadata in the file do not fit the network.
    """
    if KEY not in model.metadata:
        last = type(model.layers[-1]).__name__
        fused = type(model.loss).__name__ == "SoftmaxCrossEntropy"
        return Metadata("classification" if last == "Softmax" or fused else "regression")
    try:
        metadata = _parse(model.metadata[KEY])
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise InputError(f"the description of inputs and outputs cannot be read: {error}") from error
    for name, values, width in (
        ("columns", metadata.columns, model.n_inputs),
        ("mean", metadata.mean, model.n_inputs),
        ("std", metadata.std, model.n_inputs),
        ("features", () if metadata.preparation is None else metadata.preparation.features, model.n_inputs),
        ("classes", metadata.classes, model.n_outputs),
    ):
        if values and len(values) != width:
            raise InputError(f"the file describes {len(values)} {name}, but the network has {width}")
    return metadata


def _parse(given: dict[str, Any]) -> Metadata:
    numbers = {name: tuple(float(v) for v in given[name]) for name in ("mean", "std", "target")}
    if not np.isfinite(sum(numbers.values(), ())).all() or 0 in numbers["std"]:
        raise ValueError("mean and std must be finite, and std not 0")
    if len(numbers["mean"]) != len(numbers["std"]):
        raise ValueError("there must be a mean for each std")
    centre, spread = numbers["target"]
    limits, prepared = given["limits"], given.get("preparation")  # missing in files of earlier versions
    return Metadata(
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
    """Return mean and standard deviation of each column; the deviation of a constant column is given as 1."""
    units = np.array(list(map(unit_for, np.maximum(a.max(axis=0), -a.min(axis=0)).tolist())))
    a = a if (units == 1).all() else a / units
    mean, std = (of(a, axis=0, dtype=np.float64) * units for of in (np.mean, np.std))
    return tuple(mean.tolist()), tuple(constant(mean, std, a.dtype == np.float64).tolist())


def constant(mean: np.ndarray, std: np.ndarray, exact: bool) -> np.ndarray:
    """Return standard deviations, but 1 where they are no more than rounding errors; `exact`: of float64 data."""
    least = (64 * np.finfo(np.float64).eps if exact else 1e-7) * np.abs(mean)
    return np.where(std > least, std, 1.0)
