# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Compiled evaluation: the loss of each sample, and whether it is right, of outputs while they are in the cache.

inference_many.py calls what is here by its address for each block of rows, in place of writing outputs out, and once
more at the end. So `forward_many` is the same code as for predictions, and this is compiled for those who evaluate,
class indices and other targets apart, in less than a second each.

Samples stand side by side in panels [outputs, columns], so every loop is over whole vectors, whatever the loss. Targets
of as many numbers are brought into the same order. Sums over a sample's outputs are made in float64, one number after
the other, those over samples when all are there: the same bits whoever had which block.

Floor: an exponential for each output that is a logit; a logarithm for each sample, or for each output.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.called import address_of
from nnx.kernels.cpu.jit.simd import CALLED, EXACT, IN_ORDER, INLINED, PART, numbers_at, on_stack, smaller, view
from nnx.kernels.cpu.jit.span import Span
from nnx.kernels.cpu.matmul.register_tile import VECTORS, rows_of
from nnx.kernels.cpu.matmul.register_tile import WIDTH as VECTOR_BYTES
from nnx.kernels.cpu.ops.loss_formulas import cost_of, scalar, within
from nnx.kernels.cpu.ops.math import exp, log
from nnx.kernels.cpu.ops.step import DISTRIBUTIONS, LOGITS, NONE, REGRESSION
from nnx.kernels.cpu.ops.traced import made_of
from nnx.kernels.cpu.program.inference_many import all_finite, panel_of_finite
from nnx.kernels.cpu.program.inference_softmax import SIDE_BY_SIDE
from nnx.kernels.elementwise import number_of
from nnx.kernels.losses import LOSSES, PARTS

# The record of a call, int64, some of it read as float64. What is given: the code (CODE, 0: inference_many.py),
# targets, and factors of samples (0: none); how many samples there are, and are added up at a time; outputs of each;
# the loss by its number, or SOFTMAX, two constants of it, and what a sum over outputs is multiplied by; what counts as
# right (step.py), and how near is. Then what comes of it: whether a target is none, and the sums over all samples.
# Behind the record are the losses [ROWS], and what is right [ROWS].
TARGETS, FACTORS, ROWS, RUN, OUTPUTS, KIND, LOW, HIGH, SCALE, METRIC, LIMIT, WRONG, LOSS, RIGHT, RECORD = range(1, 16)
SOFTMAX = -1  # softmax and cross-entropy of logits; of probabilities it is the part "nll"
NLL, LOGIT, YES_OR_NO = map(number_of, ("nll", "logit", "binary"))
COSTS = {number_of(kind): PARTS[kind] for kind in ("nll", "logit", *(loss.part for loss in LOSSES))}

apply_cost = made_of(COSTS)
nll, above, near = scalar("nll"), scalar("above"), scalar("near")


@intrinsic
def columns_of(typing, numbers):
    """How many samples stand side by side, a constant."""
    columns = VECTORS * VECTOR_BYTES * 8 // numbers.dtype.bitwidth
    assert columns <= SIDE_BY_SIDE

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, columns)

    return types.intp(numbers), codegen


@njit(**EXACT)
def find_best(panel, outputs, tops, places):
    """The largest output of each sample, leaving out NaN, and the first place where it stands."""
    columns = columns_of(panel)
    for i in range(columns):
        tops[i], places[i] = panel.dtype.type(-np.inf), panel.dtype.type(0)
    for j in range(outputs):
        place = panel.dtype.type(j)
        for i in range(columns):
            v = panel[j * columns + i]
            larger = v > tops[i]
            tops[i] = v if larger else tops[i]
            places[i] = place if larger else places[i]


@njit(**EXACT)
def logarithms_of_sums(panel, outputs, tops, sums, out):
    """out = log(sum(exp(z - top))) of each sample's logits z."""
    columns, number = columns_of(panel), panel.dtype.type
    for i in range(columns):
        sums[i] = 0.0
    for j in range(outputs):
        for i in range(columns):
            sums[i] += exp(panel[j * columns + i] - tops[i])
    for i in range(columns):
        out[i] = log(number(sums[i]))


@njit(**IN_ORDER)
def score_labels(record, panel, labels, losses, rights):
    """Losses of one panel's samples, as many as there are labels, and 1 where the label's output is the largest.

    Returns:
        Whether every label is a class.
    """
    words, constants, columns = numbers_at(record, np.int64), numbers_at(record, np.float64), columns_of(panel)
    number, outputs, logits = panel.dtype.type, words[OUTPUTS], words[KIND] == SOFTMAX
    low, high = number(constants[LOW]), number(constants[HIGH])
    wanted, found, tops, places, logs = (
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
    )
    sums, unknown = on_stack(np.float64, SIDE_BY_SIDE), 0
    for i in range(columns):
        wanted[i], found[i] = number(-1), number(np.nan)
    for i in range(len(labels)):
        label = labels[i]
        unknown += label < 0 or label >= outputs
        wanted[i] = number(label)
    for j in range(outputs):
        place = number(j)
        for i in range(columns):
            found[i] = panel[j * columns + i] if wanted[i] == place else found[i]
    find_best(panel, outputs, tops, places)
    if logits:
        logarithms_of_sums(panel, outputs, tops, sums, logs)
        for i in range(columns):
            logs[i] = within(cost_of(logs[i], found[i], tops[i]), low, high)
    else:
        for i in range(columns):
            logs[i] = nll(found[i], number(1))
    for i in range(len(labels)):
        losses[i] = logs[i]
        rights[i] = places[i] == wanted[i] and found[i] == tops[i]
    return unknown == 0


@njit(**IN_ORDER)
def count_right(record, panel, target, rights):
    """The share of each sample's outputs that are right, or whether its largest is where the target's largest is."""
    metric, outputs = numbers_at(record, np.int64)[METRIC], numbers_at(record, np.int64)[OUTPUTS]
    number, columns, count = panel.dtype.type, columns_of(panel), len(rights)
    tops, places, others = (
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
    )
    if metric == DISTRIBUTIONS:
        find_best(panel, outputs, tops, places)
        find_best(target, outputs, tops, others)
        for i in range(count):
            rights[i] = places[i] == others[i]
        return
    limit = number(numbers_at(record, np.float64)[LIMIT])
    level, near_it = number(0) if metric == LOGITS else number(0.5), metric == REGRESSION
    for i in range(columns):
        tops[i] = number(0)
    for j in range(outputs):
        for i in range(columns):
            x, t = panel[j * columns + i], target[j * columns + i]
            tops[i] += near(x, t, limit) if near_it else above(x, t, level)
    for i in range(count):
        rights[i] = np.float64(tops[i]) / outputs


@njit(**IN_ORDER)
def score_numbers(record, panel, target, losses):
    """Losses of one panel's samples by targets that stand as the outputs do. The panel is used up."""
    words, constants, columns = numbers_at(record, np.int64), numbers_at(record, np.float64), columns_of(panel)
    number, outputs, kind = panel.dtype.type, words[OUTPUTS], words[KIND]
    tops, places, logs = (
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
        on_stack(panel.dtype, SIDE_BY_SIDE),
    )
    sums, zero = on_stack(np.float64, SIDE_BY_SIDE), number(0)
    low, high = number(constants[LOW]), number(constants[HIGH])
    if kind == SOFTMAX:
        find_best(panel, outputs, tops, places)
        logarithms_of_sums(panel, outputs, tops, sums, logs)
        for j in range(outputs):
            for i in range(columns):
                at = j * columns + i
                share = target[at]
                cost = share * within(cost_of(logs[i], panel[at], tops[i]), low, high)
                panel[at] = cost if share > zero else zero  # one with logit -inf costs nothing unless it is wanted
    else:
        apply_cost(kind, panel, target, panel, constants[LOW], constants[HIGH])
    for i in range(columns):
        sums[i] = 0.0
    for j in range(outputs):
        for i in range(columns):
            sums[i] += panel[j * columns + i]
    for i in range(len(losses)):
        losses[i] = sums[i] * constants[SCALE]


@njit(**EXACT)
def all_shares(target, outputs, count):
    """Whether targets of so many samples are within 0 .. 1."""
    columns, outside = columns_of(target), 0
    for j in range(outputs):
        for i in range(count):
            t = target[j * columns + i]
            outside += t < 0 or t > 1
    return outside == 0


@njit(**INLINED)
def results_of(record):
    """Losses and what is right, of all samples."""
    rows, numbers = numbers_at(record, np.int64)[ROWS], numbers_at(record, np.float64)
    return view(numbers, RECORD, rows), view(numbers, RECORD + rows, rows)


@njit(**PART)
def add_up(record, factors):
    """Add all samples to the sums, each times its factor, if it has one: 0 leaves out whatever stands there."""
    words, numbers = numbers_at(record, np.int64), numbers_at(record, np.float64)
    rows, (losses, rights) = words[ROWS], results_of(record)
    for first in range(0, rows, words[RUN]):
        loss, right, end = 0.0, 0.0, smaller(first + words[RUN], rows)
        if words[FACTORS] == 0:
            for s in range(first, end):
                loss += losses[s]
                right += rights[s]
        else:
            for s in range(first, end):
                factor = np.float64(factors[s])
                loss += losses[s] * factor if factor != 0.0 else 0.0
                right += rights[s] * factor if factor != 0.0 else 0.0
        numbers[LOSS] += loss
        numbers[RIGHT] += right


# ---- what `forward_many` calls: number 0 for a block of outputs, number 1 when all have been there -------------------


@njit(**CALLED)
def of_labels(record, panels, spare, r0, rows, number):
    """Targets are class indices."""
    words, columns = numbers_at(record, np.int64), columns_of(panels)
    if number == 1:
        add_up(record, numbers_at(words[FACTORS], panels.dtype))
        return
    labels, outputs, (losses, rights) = numbers_at(words[TARGETS], np.int64), words[OUTPUTS], results_of(record)
    for p in range(0, rows, columns):
        count, at = smaller(columns, rows - p), r0 + p
        panel, wanted = view(panels, p * outputs, columns * outputs), view(labels, at, count)
        if not score_labels(record, panel, wanted, view(losses, at, count), view(rights, at, count)):
            words[WRONG] = 1


@njit(**CALLED)
def of_numbers(record, panels, spare, r0, rows, number):
    """Targets are as many numbers as there are outputs."""
    words, columns = numbers_at(record, np.int64), columns_of(panels)
    if number == 1:
        add_up(record, numbers_at(words[FACTORS], panels.dtype))
        return
    targets, outputs, (losses, rights) = numbers_at(words[TARGETS], panels.dtype), words[OUTPUTS], results_of(record)
    within_one = words[KIND] == LOGIT or words[KIND] == YES_OR_NO
    for p in range(0, rows, columns):
        count, at = smaller(columns, rows - p), r0 + p
        panel, target = view(panels, p * outputs, columns * outputs), view(spare, 0, columns * outputs)
        given = rows_of(targets, at * outputs, count, outputs, outputs)
        good = panel_of_finite(given, rows_of(spare, 0, outputs, columns, columns))
        good = good and all_finite(targets, at * outputs, count * outputs)
        if not good or (within_one and not all_shares(target, outputs, count)):
            words[WRONG] = 1
        if words[METRIC] != NONE:
            count_right(record, panel, target, view(rights, at, count))
        score_numbers(record, panel, target, view(losses, at, count))


def code(dtype: Any, labels: bool) -> int:
    """Return a record's code, compiled for one type of outputs and one kind of targets, or read from the disk."""
    numbers = Span(types.float32 if np.dtype(dtype).itemsize == 4 else types.float64)
    return address_of(of_labels if labels else of_numbers, types.int64, numbers, numbers, *[types.int64] * 3)
