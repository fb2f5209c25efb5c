"""Fitting, evaluating and predicting from rows that are read, from disk or as others make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnx import casting, checks, weights
from nnx.data.ahead import one_ahead
from nnx.data.arrays import Arrays
from nnx.data.iterated import Iterated, given
from nnx.data.source import Source
from nnx.distributed.communicator import Communicator
from nnx.errors import InputError, InputTypeError
from nnx.measures import beside, check_weighable, measured
from nnx.training.converting import Converter
from nnx.training.evaluation import mean_scores, probabilities, tolerance_of
from nnx.training.from_disk import FromDisk
from nnx.training.supply import AsTheyCome, Supply, of_batch

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Read = Source | Iterated
HANDED = 8 << 20  # bytes of rows from disk that are predicted from at once
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

    Where the trainer shares batches with other processes, it is this process's rows that come.

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
        some = _checked(came, convert)
        if class_weight is not None:
            class_weight = _balanced(model, came, convert) if isinstance(class_weight, str) else class_weight
        convert = Converter(model, "fit", class_weight, came.weighted or every > 1)
        if right:
            trainer.set_tolerance(_tolerance(came, convert))
        supply = FromDisk(came, convert, min(batch, came.rows), every, model.seed, shuffle, trainer.shares)
        supply.facts["some of the rows"] = some
        return supply
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
    made = AsTheyCome(came, convert, batch, epoch, "fit", trainer.shares)
    if right:
        trainer.set_tolerance(tolerance_of(made.first[1], *made.first[2:]))
    return made


def facts_of(validation: tuple[Any, ...] | None) -> Any:
    """Return what must be the same on all processes of what is held out: of what is read, where from."""
    if validation is None or not isinstance(validation[0], Source | Iterated):
        return validation
    return validation[0].facts() if isinstance(validation[0], Source) else "batches"


def _checked(came: Source, convert: Converter) -> np.ndarray:
    """Return inputs from all over the files: a column must not become constant where it is cast to the model's type."""
    raw, ready, targets, wanted = [], [], [], []
    for piece in came.read(came.sample()):
        x, target, *_ = convert.all(*piece.arrays, piece.where)
        raw.append(piece.arrays.x)
        ready.append(x)
        targets.append(piece.arrays.y)
        wanted.append(target)
    some = np.concatenate(ready)
    casting.check_lost(some, np.concatenate(raw), None, "fit: x")
    y, target = np.concatenate(targets), np.concatenate(wanted)
    if target.dtype.kind == "f" and y.size == target.size:
        casting.check_lost(target, y.reshape(target.shape), None, "fit: y")
    return some


def _targets(came: Source, convert: Converter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all targets, and what their samples count."""
    for piece in came.blocks(inputs=False):
        yield convert.apart(*piece.arrays, piece.where)


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


class Evaluated(NamedTuple):
    """A block that was evaluated.

    Attributes:
        weight: what its rows count. scores: its means. outputs, targets, weights: of its rows, where they are kept.
    """

    weight: float
    scores: dict[str, float]
    outputs: list[np.ndarray]
    targets: list[np.ndarray]
    weights: list[np.ndarray]


def evaluated(model: Trainable, came: Read, rows: int, comm: Communicator) -> dict[str, float]:
    """Return what `evaluate` does, block by block; each process of `comm` takes some of the blocks.

    Outputs stay in memory only for metrics that need all of them at once.
    """
    if isinstance(came, Source) and came.targets is None:
        raise InputTypeError(f"evaluate: {came} have no targets; expected y too, as evaluate('x.npy', 'y.npy')")
    with comm.sharing():
        mine = dict(_evaluated(model, came, rows, comm))
    found = {number: block for theirs in comm.gather(mine) for number, block in theirs.items()}
    blocks = [found[number] for number in sorted(found)]
    total = sum(block.weight for block in blocks)
    if not total:
        raise InputError("evaluate: there are no samples that count; expected one at least")
    sums = dict[str, float]()
    for block in blocks:
        for name, value in block.scores.items():
            sums[name] = sums.get(name, 0.0) + block.weight * value
    result = {name: value / total for name, value in sums.items()}
    if more := beside(model.metrics):
        outputs, targets = (np.concatenate([a for block in blocks for a in block[i]]) for i in (2, 3))
        weighted = [a for block in blocks for a in block.weights]
        counted = np.concatenate(weighted) if weighted else None
        result |= measured(more, model.loss.metric, targets, outputs, probabilities(model.loss, outputs), counted)
    return result


def _evaluated(model: Trainable, came: Read, rows: int, comm: Communicator) -> Iterator[tuple[int, Evaluated]]:
    """Yield the blocks that are this process's, with their numbers."""
    convert = Converter(model, "evaluate", None, isinstance(came, Source) and came.weighted)
    metric, keep = model.loss.metric if "accuracy" in model.metrics else None, bool(beside(model.metrics))
    tolerance, inference = model._compiled("evaluate").tolerance, model.inference()
    if metric == "regression" and not tolerance and isinstance(came, Source):
        tolerance = _tolerance(came, convert)
    for number, (x, target, *counts) in one_ahead(_own_blocks(came, convert, comm)):
        check_weighable(model.metrics, counts[0] if counts else None)
        if metric == "regression" and not tolerance:
            tolerance = tolerance_of(target)
        if isinstance(came, Iterated) and number % comm.size != comm.rank:
            continue
        factors, outputs = model._factors(counts[0]) if counts else None, list[np.ndarray]()
        there = model.backend.asarray(target, target.dtype.name)
        scores = mean_scores(
            inference, model.loss, metric, tolerance, x, there, rows, factors, outputs if keep else None
        )
        weight = float(counts[0].sum()) if counts else float(len(x))
        yield number, Evaluated(weight, scores, outputs, [target] * keep, counts * keep)


def _own_blocks(came: Read, convert: Converter, comm: Communicator) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield blocks ready for the network, numbered: all batches that others make, this process's blocks on disk."""
    if isinstance(came, Iterated):
        yield from enumerate(of_batch(came, convert, "evaluate", inputs_only=False))
        return
    some = came.blocks_of(comm.rank, comm.size)
    for number, piece in enumerate(came.blocks(some=some), some.start):
        yield number, convert.all(*piece.arrays, piece.where)


def _together(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield rows of several blocks at once: a block of 1 MB by itself is handed over for as long as it is read."""
    some, size = list[np.ndarray](), 0
    for block in blocks:
        some.append(block)
        size += block.nbytes
        if size >= HANDED:
            yield np.concatenate(some)
            some, size = [], 0
    if some:
        yield np.concatenate(some)


def predicted(model: Trainable, came: Read, rows: int) -> np.ndarray:
    """Return what `predict` does."""
    predict, convert = model.inference().predict, Converter(model, "predict")
    if isinstance(came, Iterated):
        inputs: Iterator[np.ndarray] = (x for (x,) in of_batch(came, convert, "predict", inputs_only=True))
    else:
        inputs = _together(convert.inputs(piece.arrays.x, piece.where) for piece in came.blocks())
    parts = [predict(x[i : i + rows]) for x in one_ahead(inputs) for i in range(0, len(x), rows)]
    if not parts:
        raise InputError("predict: there are no batches; expected one at least")
    return np.concatenate(parts)
