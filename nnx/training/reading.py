"""Evaluation and prediction for rows that are read, from disk or from a function that makes batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnx.data.ahead import one_ahead
from nnx.data.arrays import Arrays
from nnx.data.iterated import Iterated, given
from nnx.data.source import Source
from nnx.distributed.communicator import Communicator
from nnx.errors import InputError, InputTypeError
from nnx.measures import beside, check_weighable, measured
from nnx.training.converting import Converter
from nnx.training.evaluation import PART, probabilities, tolerance_of
from nnx.training.supply import of_batch

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Read = Source | Iterated
HANDED = 8 << 20  # bytes of rows from disk that are predicted in one call


def looked_at(
    model: Trainable, who: str, x: Any, y: Any, sample_weight: Any, label: str | None, batch: int | None
) -> Read | Arrays:
    """Return an object from which rows are read block by block; or arrays, if arrays or only a few rows were given.

    Args:
        model, who, x, y, sample_weight, label: see `given.taken`. batch: rows of a step; None: all.
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
    for piece in came.blocks():  # so that errors name file and row
        if came.targets is None or who == "predict":
            convert.inputs(piece.arrays.x, piece.where)
        else:
            convert.all(*piece.arrays, piece.where)
    return came.load()


def targets_of(came: Source, convert: Converter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all targets and the weights of their samples, block by block."""
    first = next(came.read(np.arange(1)))
    convert.all(*first.arrays, first.where)  # with inputs, from which it learns the number of outputs
    for piece in came.blocks(inputs=False):
        yield convert.apart(*piece.arrays, piece.where)


def tolerance_from(came: Source, convert: Converter) -> float:
    """Return what `tolerance_of` returns for all targets, from each block's sum of squares around its mean."""
    total, mean, squares = 0.0, 0.0, 0.0
    for target, counts in targets_of(came, convert):
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
    """The result of evaluating a block of rows.

    Attributes:
        weight: of all its rows. scores: loss and metrics, by name. outputs, targets, weights: of its rows, if kept.
    """

    weight: float
    scores: dict[str, float]
    outputs: list[np.ndarray]
    targets: list[np.ndarray]
    weights: list[np.ndarray]


def evaluated(model: Trainable, came: Read, rows: int, comm: Communicator) -> dict[str, float]:
    """Return what `evaluate` returns, working block by block; each process of `comm` takes some of the blocks.

    Outputs are kept in memory only for metrics that need all of them at once.
    """
    if isinstance(came, Source) and came.targets is None:
        raise InputTypeError(f"{came.who}: {came} have no targets; expected y too, as evaluate('x.npy', 'y.npy')")
    with comm.sharing():
        mine = dict(_evaluated(model, came, rows, comm))
    found = {number: block for theirs in comm.gather(mine) for number, block in theirs.items()}
    blocks = [found[number] for number in sorted(found)]
    total = sum(block.weight for block in blocks)
    if not total:
        raise InputError(f"{came.who}: there are no samples that count; expected one at least")
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
    """Yield the index and the result of each block that this process takes."""
    convert = Converter(model, came.who, None, isinstance(came, Source) and came.weighted)
    how, tolerance = model.scoring(), model._compiled("evaluate").tolerance
    metric, keep = how.metric, bool(how.more)
    if metric == "regression" and not tolerance and isinstance(came, Source):
        tolerance = tolerance_from(came, convert)
    for number, (x, target, *counts) in one_ahead(_own_blocks(came, convert, comm)):
        check_weighable(model.metrics, counts[0] if counts else None)
        if metric == "regression" and not tolerance:
            tolerance = tolerance_of(target)
        if isinstance(came, Iterated) and number % comm.size != comm.rank:
            continue
        factors, outputs = model._factors(counts[0]) if counts else None, list[np.ndarray]()
        there = model.backend.asarray(target, target.dtype.name)
        scores = how.mean(x, there, rows, tolerance, factors, outputs if keep else None)
        weight = float(counts[0].sum()) if counts else float(len(x))
        yield number, Evaluated(weight, scores, outputs, [target] * keep, counts * keep)


def _own_blocks(came: Read, convert: Converter, comm: Communicator) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield converted blocks with their indices: of files only this process's, of made batches all."""
    if isinstance(came, Iterated):
        yield from enumerate(of_batch(came, convert, came.who, inputs_only=False))
        return
    some = came.blocks_of(comm.rank, comm.size)
    for number, piece in enumerate(came.blocks(some=some), some.start):
        yield number, convert.all(*piece.arrays, piece.where)


def _together(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows of several blocks joined: predicting a single block of 1 MB has as much overhead as reading it."""
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
    """Return what `predict` returns, working block by block."""
    predict, convert = model.inference().predict, Converter(model, "predict")
    if isinstance(came, Iterated):
        inputs: Iterator[np.ndarray] = (x for (x,) in of_batch(came, convert, "predict", inputs_only=True))
    else:
        inputs = _together(convert.inputs(piece.arrays.x, piece.where) for piece in came.blocks())
    parts = [predict(x[i : i + rows]) for x in one_ahead(inputs) for i in range(0, len(x), rows)]
    if not parts:
        raise InputError("predict: there are no batches; expected one at least")
    return np.concatenate(parts)
