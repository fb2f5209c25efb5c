"""Fitting, evaluating and predicting from rows that are read, from disk or as others make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx import casting, checks, weights
from nnx.data.ahead import one_ahead
from nnx.data.arrays import Arrays
from nnx.data.iterated import Iterated, given
from nnx.data.source import Source
from nnx.errors import InputError, InputTypeError
from nnx.measures import beside, check_weighable, measured
from nnx.training.converting import Converter
from nnx.training.evaluation import mean_scores, probabilities, tolerance_of
from nnx.training.supply import AsTheyCome, FromDisk, Supply, of_batch

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Read = Source | Iterated
PART = 250  # of a standard deviation: how near a number must be to count as right (chapter 17)


def taken(
    model: Trainable, x: Any, y: Any, sample_weight: Any, label: str | None, who: str, batch: int | None = 0
) -> Read | Arrays:
    """Return what is to be read block by block, or arrays: those given, or read where they are few.

    Args:
        batch: rows of a step; None: all.
    """
    came = given(x, y, sample_weight, label, who)
    if came is None or isinstance(came, Iterated):
        return Arrays(x, y, sample_weight) if came is None else came
    came.fit_window(np.dtype(model.dtype).itemsize * (came.width + 1))
    few = came.rows <= came.window
    if isinstance(x, np.memmap) and (few or batch is None):
        return Arrays(x, y, sample_weight)
    if not few:
        if batch is None:
            raise InputError(
                f"{who}: {came} do not fit into memory, and batch_size=None takes all of them in one step; give "
                "batch_size, such as 256"
            )
        return came
    convert = Converter(model, who, None, came.weighted)
    for piece in came.blocks():  # for errors that say in which file it is, and which row
        if came.targets is None or who == "predict":
            convert.inputs(piece.arrays.x, piece.where)
        else:
            convert.all(*piece.arrays, piece.where)
    return came.load()


# ---- training --------------------------------------------------------------------------------------------------------


def held_apart(came: Read, share: float, validation_data: Any) -> tuple[Source, Source]:
    """Return rows to train on, and the last ones, to be held out."""
    from nnx.training.fit import first_held_out

    if isinstance(came, Iterated):
        raise InputError(
            f"fit: validation_split={share!r}: batches come one after another, and nobody knows which are the last; "
            "give validation_data"
        )
    first = first_held_out(share, validation_data, came.rows)
    return came.part(0, first), came.part(first, came.rows)


def supply_of(
    model: Trainable, came: Read, epoch: int, epochs: int, batch: int | None, shuffle: bool, class_weight: Any,
    every: int,
) -> Supply:  # fmt: skip
    """Return what rows come from, after a look at some of them; it sets what counts as a right number, too.

    Args:
        every: how many batches make one update.
    """
    if class_weight is not None and not isinstance(class_weight, Mapping):
        checks.choice(class_weight, "fit: class_weight", [weights.BALANCED])
    trainer = model._compiled("fit")
    right = model.loss.metric == "regression" and trainer.metric is not None
    if isinstance(came, Source):
        assert batch is not None
        if came.targets is None:
            raise InputTypeError(f"fit: {came} have no targets; expected y too, as fit('x.npy', 'y.npy')")
        convert = Converter(model, "fit", None, came.weighted)
        _check_some(came, convert)
        if class_weight is not None:
            class_weight = _balanced(model, came, convert) if isinstance(class_weight, str) else class_weight
        convert = Converter(model, "fit", class_weight, came.weighted or every > 1)
        if right:
            trainer.set_tolerance(_tolerance(came, convert))
        return FromDisk(came, convert, min(batch, came.rows), every, model.seed, shuffle)
    came.check_epochs(epochs)
    if every > 1:
        raise InputError(
            f"fit: accumulate={every}: batches come one after another, and nobody knows which is an epoch's last; give "
            "a larger batch_size"
        )
    if isinstance(class_weight, str):
        raise InputError(
            "fit: class_weight='balanced' goes by how often each class is there, and batches come one after another; "
            "give a weight for each class, {0: 1.0, 1: 5.0}"
        )
    convert = Converter(model, "fit", class_weight)
    convert.unseen = True
    made = AsTheyCome(came, convert, batch, epoch, "fit")
    if right:
        trainer.set_tolerance(tolerance_of(made.first[1], *made.first[2:]))
    return made


def _check_some(came: Source, convert: Converter) -> None:
    """Look at rows all over the files: a column may become constant where it is cast to the model's type."""
    raw, ready, targets, wanted = [], [], [], []
    for piece in came.read(came.sample()):
        x, target, *_ = convert.all(*piece.arrays, piece.where)
        raw.append(piece.arrays.x)
        ready.append(x)
        targets.append(piece.arrays.y)
        wanted.append(target)
    casting.check_lost(np.concatenate(ready), np.concatenate(raw), None, "fit: x")
    y, target = np.concatenate(targets), np.concatenate(wanted)
    if target.dtype.kind == "f" and y.size == target.size:
        casting.check_lost(target, y.reshape(target.shape), None, "fit: y")


def _targets(came: Source, convert: Converter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all targets, and what their samples count."""
    for piece in came.blocks(inputs=False):
        x, y, given = piece.arrays
        target = convert.targets(y, x, piece.where)
        yield target, convert.weights(given, y, target, piece.where)


def _balanced(model: Trainable, came: Source, convert: Converter) -> dict[int, float]:
    """Return a weight for each class by which they count alike; see `weights.of_classes`."""
    counts = np.zeros(model.n_outputs or 1)
    for target, _ in _targets(came, convert):
        labels, classes = model._classes(target, "fit")
        counts = np.resize(counts, max(len(classes), 2)) if len(counts) < len(classes) else counts
        counts += np.bincount(labels, minlength=len(counts))
    present = np.count_nonzero(counts)
    return {label: float(counts.sum() / (present * max(count, 1))) for label, count in enumerate(counts)}


def _tolerance(came: Source, convert: Converter) -> float:
    """Return what `tolerance_of` does, of all targets: sums of squares around each block's mean, put together."""
    total, mean, squares = 0.0, 0.0, 0.0
    for target, counts in _targets(came, convert):
        weight = counts.sum() * target.shape[1]
        if weight:
            here = float(counts @ target.sum(axis=1, dtype=np.float64)) / weight
            squares += float(counts @ ((target - here) ** 2).sum(axis=1)) + (here - mean) ** 2 * total * weight / (
                total + weight
            )
            mean += (here - mean) * weight / (total + weight)
            total += weight
    return float(np.sqrt(squares / total)) / PART if total else 0.0


# ---- evaluation and prediction ---------------------------------------------------------------------------------------


def _converted(came: Read, convert: Converter, who: str, inputs_only: bool = False) -> Iterator[list[np.ndarray]]:
    """Yield rows ready for the network, block by block."""
    if isinstance(came, Iterated):
        yield from of_batch(came, convert, who, inputs_only)
        return
    for piece in came.blocks():
        if inputs_only:
            yield [convert.inputs(piece.arrays.x, piece.where)]
        else:
            yield convert.all(*piece.arrays, piece.where)


def evaluated(model: Trainable, came: Read, rows: int) -> dict[str, float]:
    """Return what `evaluate` does. Outputs stay in memory only for metrics that need all of them at once."""
    if isinstance(came, Source) and came.targets is None:
        raise InputTypeError(f"evaluate: {came} have no targets; expected y too, as evaluate('x.npy', 'y.npy')")
    convert = Converter(model, "evaluate", None, isinstance(came, Source) and came.weighted)
    metric, more = model.loss.metric if "accuracy" in model.metrics else None, beside(model.metrics)
    tolerance = model._compiled("evaluate").tolerance
    if metric == "regression" and not tolerance and isinstance(came, Source):
        tolerance = _tolerance(came, convert)
    inference, total, sums = model.inference(), 0.0, dict[str, float]()
    outputs, wanted, counted = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for x, target, *counts in one_ahead(_converted(came, convert, "evaluate")):
        check_weighable(model.metrics, counts[0] if counts else None)
        if metric == "regression" and not tolerance:
            tolerance = tolerance_of(target)
        factors = model._factors(counts[0]) if counts else None
        there = model.backend.asarray(target, target.dtype.name)
        scores = mean_scores(
            inference, model.loss, metric, tolerance, x, there, rows, factors, outputs if more else None
        )
        weight = float(counts[0].sum()) if counts else float(len(x))
        total += weight
        for name, value in scores.items():
            sums[name] = sums.get(name, 0.0) + weight * value
        if more:
            wanted.append(target)
            counted += counts
    if not total:
        raise InputError("evaluate: there are no samples that count; expected one at least")
    result = {name: value / total for name, value in sums.items()}
    if more:
        put_out, targets = np.concatenate(outputs), np.concatenate(wanted)
        weighted = np.concatenate(counted) if counted else None
        result |= measured(more, model.loss.metric, targets, put_out, probabilities(model.loss, put_out), weighted)
    return result


def predicted(model: Trainable, came: Read, rows: int) -> np.ndarray:
    """Return what `predict` does."""
    predict, convert = model.inference().predict, Converter(model, "predict")
    parts = [
        predict(x[i : i + rows])
        for (x,) in one_ahead(_converted(came, convert, "predict", inputs_only=True))
        for i in range(0, len(x), rows)
    ]
    if not parts:
        raise InputError("predict: there are no batches; expected one at least")
    return np.concatenate(parts)
