"""Instruction table of the persistent kernel (program.cu): a row of sixteen words for each operation of a step.

An operand is a *place*: the address of an array; or, below SHARED_PLACES, a byte of the block's shared memory; or
NOWHERE. Tests compare names and numbers with program.cuh. The kinds of "elementwise" are numbered in
nnx/kernels/elementwise.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.kernels.cuda.launches import Launch

THREADS = 512  # the most threads of its block
AHEAD = 32  # the rates of so many steps are computed at a time
RATES = 10  # numbers for the rates of one step
SHARED_PLACES = 1 << 20
NOWHERE = -1

OPERATIONS = (
    "copy", "load", "labels", "rates", "dense", "dense_backward", "gradient", "elementwise", "dropout", "softmax",
    "softmax_backward", "cross_entropy", "cross_entropy_soft", "argmax", "one_hot", "mean", "regularize", "penalty",
    "update", "end_step", "weigh", "layer_norm", "layer_norm_backward", "sum", "moments", "batch_norm",
    "batch_norm_backward", "gaussian_noise", "squares", "clip", "collect", "average", "columns", "embed", "scatter",
)  # fmt: skip
OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "nadam", "amsgrad", "lion", "accumulate")

NUMBERS = ("kind", "barrier", "inputs", "outputs", "word")
CONSTANTS = ("a", "b", "c")  # float64
PLACES = ("x", "y", "weights", "biases", "out", "also", "hits")
FIELDS = ("op", *NUMBERS, *CONSTANTS, *PLACES)
ROW_BYTES = 8 * len(FIELDS)


def row(op: str, **fields: Any) -> np.ndarray:
    """Return a row: int64 [16]. Numbers and constants that are not given are 0, places are NOWHERE."""
    if op not in OPERATIONS:
        raise ValueError(f"{op!r} is no operation of the persistent kernel: expected one of {', '.join(OPERATIONS)}")
    words = np.zeros(len(FIELDS), np.int64)
    words[FIELDS.index(PLACES[0]) :] = NOWHERE
    words[0] = OPERATIONS.index(op)
    for name, value in fields.items():
        words[FIELDS.index(name)] = np.float64(value).view(np.int64) if name in CONSTANTS else value
    return words


def launch(threads: int, shared: int) -> Launch:
    """Return the launch of one block with so many threads and bytes of shared memory."""
    return Launch("program", (1,), (threads,), shared)
