"""Instruction table of the compiled step: its columns, its operations, and how it refers to their operands.

A recorded training step becomes an int64 table [rows, COLUMNS], flattened: row 0 is the header, followed by the regions
and then the operations. A region is a part of the step that several threads may share. It consists of BLOCKS of
samples, each of which goes through all operations of the region while it is in the cache; or of TASKS, where each
operation is a piece of work of its own.

An interpreter itself carries out the operations that most steps have. For all others the table holds the address of a
function (called.py), so that only functions that a step needs are compiled.

An operand is a *place*: one int64 with the number of an array in its upper bits, and an index into that array in the
lower ones, so that `place + n` is n numbers further on. The arrays are arguments of the compiled function, so every
address is computed from the array that it belongs to (simd.py says why that matters).
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import Span, data_of, make_matrix, make_span

# ---- places ----------------------------------------------------------------------------------------------------------
SHIFT, OFFSET = 56, (1 << 56) - 1
ARRAYS = 6
WORK, ARENA, INPUTS, TARGETS, WEIGHTS, MORE = (array << SHIFT for array in range(ARRAYS))
NOWHERE = -1  # no operand

# ---- columns ---------------------------------------------------------------------------------------------------------
COLUMNS = 17
# An operation: its code and kind, widths, operands, a range of rows of weights, and the index of its constants.
# STRIDE is 0 for matrices by rows [samples, features]. Otherwise they are by features [features, STRIDE], with the
# samples in the lanes.
OP, KIND, STRIDE, K, N, X, Y, W, B, D, G, R0, R1, COEF, SLOT, UPDATE = range(16)
CODE = 16  # the address of the function that carries it out; 0: the interpreter itself
# The header (row 0). UPDATES is the address of the optimizer's function.
UPDATES = 0
REGIONS, ROWS, M_DELTA, V_DELTA, OPTIMIZER, PENALTIES, LOSSES, HITS = range(1, 9)
SCRATCH, SCRATCH_SIZE, STRIPS, STRIPS_SIZE, THREADS = range(9, 14)
PARTS, U_DELTA = 14, 15  # the number of bfloat16 parts that products on tile registers split operands into
# A region: its kind, its operations, the samples in a block, and the number of its blocks or tasks.
FIRST, LAST, BLOCK, COUNT = range(1, 5)
MOST_REGIONS = 255
ONCE, BLOCKS, TASKS, TASKS_ONCE = range(4)  # ONCE, TASKS_ONCE: blocks or tasks in the first step of a call only
STOP = 4  # no work: the call ends here, within its step, and the next call continues

# ---- operations ------------------------------------------------------------------------------------------------------
# Products of matrices by rows; then operations on samples by rows, by features, and in either layout.
DENSE, DENSE_DX, DENSE_DW = range(3)
PANELS, PANELS_ACROSS = range(3, 5)  # copies a matrix, or its transpose, in the order in which a product reads it
# The same five on tile registers (rows_amx.py); UNSPLIT is the matrix that a product's panels were made from.
SPLIT_DENSE, SPLIT_DX, SPLIT_DW, SPLIT_PANELS, SPLIT_ACROSS = range(5, 10)
UNSPLIT = STRIDE
GATHER, DROPOUT, SOFTMAX, SOFTMAX_BACKWARD, CROSS_ENTROPY, CROSS_ENTROPY_SOFT, ARGMAX, ONE_HOT, ROW_MEAN = range(10, 19)
LANES_DENSE, LANES_DX, LANES_DW, LANES_DB = range(20, 24)
LANES_LOAD, LANES_DROPOUT, LANES_CROSS_ENTROPY, LANES_MEAN, LANES_CLEAR = range(30, 35)
LABELS, ELEMENTWISE, WEIGH = 40, 41, 42  # the kind of the second: nnx/kernels/elementwise.py
COLUMNS_OF, EMBED = 43, 44  # copies some features of one value to another; looks up vectors by their codes
SCATTER = 58  # a task: the gradient of these vectors
BIAS, PARAMETERS = 50, 51  # tasks: the gradient of biases; the update of parameters with a given gradient
# Tasks on a segment of all gradients or parameters: add the gradients of another part of the batch; bound each gradient
# and write the sum of their squares to SLOT; scale the gradients down by the squares in R1 slots from R0 on, and update
# parameters; the mean of parameters.
COLLECT, MEASURE, CLIPPED, AVERAGE = range(52, 56)
OF_ALL = frozenset(range(COLLECT, AVERAGE + 1))
LAYER_NORM, LAYER_NORM_BACKWARD, MOMENTS, BATCH_NORM, BATCH_NORM_BACKWARD = range(60, 65)  # shared_norm.py
MEANS, SPREADS, POOLED = range(65, 68)  # moments of samples that are spread over processes
NOISE = 70
NORMS = frozenset(range(LAYER_NORM, POOLED + 1))
# The operations that each interpreter carries out. Any other makes the losses of this and all later steps NaN.
BY_ROWS = frozenset((*range(DENSE, DENSE_DW + 1), PANELS, PANELS_ACROSS, *range(GATHER, ROW_MEAN + 1)))
BY_ROWS |= {LABELS, ELEMENTWISE, WEIGH, BIAS, PARAMETERS, COLUMNS_OF, EMBED, SCATTER, NOISE} | NORMS | OF_ALL
ON_TILES = BY_ROWS | frozenset(range(SPLIT_DENSE, SPLIT_ACROSS + 1))
IN_LANES = frozenset((*range(LANES_DENSE, LANES_DB + 1), *range(LANES_LOAD, LANES_CLEAR + 1)))
IN_LANES |= {LABELS, ELEMENTWISE, WEIGH, PARAMETERS, COLUMNS_OF, EMBED, SCATTER, NOISE} | NORMS | OF_ALL

DRAWN = -1  # the kind of a dropout whose mask is at W already; otherwise the kind is its layer's number
WITH_RELU = 1  # the kind of a product that also applies ReLU, or the mask of ReLU's gradient

# ---- numbers: float64 that operations read ---------------------------------------------------------------------------
# UNKNOWN is added to each step's loss: 0, or NaN after an unknown operation.
STEP_SIZE, CORRECTION, SHRINK, FINAL, UNKNOWN, FRESH, CONSTANTS = 0, 1, 2, 3, 4, 5, 8
# ---- sync: int64; what several threads write stands on cache lines of its own, the rest is the leader's -------------
TICKET, DONE, PHASE, EXPECTED, AT_REGION, STEPS_LEFT, BEGUN, SYNC = 0, 16, 32, 48, 49, 50, 51, 64


@intrinsic
def part(typing, memory, place, length):
    """`length` numbers from a place on, as a span, without bounds checks or reference counts."""

    def codegen(context, builder, signature, args):
        data = _pointer(context, builder, signature.args[0], args[0], args[1])
        return make_span(context, builder, signature.return_type, data, args[2])

    return Span(memory.dtype.dtype)(memory, types.intp, types.intp), codegen


@intrinsic
def grid(typing, memory, place, rows, columns, row_step, column_step):
    """A matrix [rows, columns] from a place on. The steps are the distances of rows and of columns, in numbers."""

    def codegen(context, builder, signature, args):
        memory, place, rows, columns, *steps = args
        data = _pointer(context, builder, signature.args[0], memory, place)
        return make_matrix(context, builder, kind, data, [rows, columns], steps)

    kind = types.Array(memory.dtype.dtype, 2, "A")
    return kind(memory, *[types.intp] * 5), codegen


def _pointer(context, builder, memory_type, memory, place):
    """The address of a place: the pointer of its array, plus its index."""
    word = place.type
    pointers = [data_of(context, builder, memory_type.dtype, value) for value in cgutils.unpack_tuple(builder, memory)]
    number, pointer = builder.lshr(place, word(SHIFT)), pointers[0]
    for n, other in enumerate(pointers[1:], 1):
        pointer = builder.select(builder.icmp_unsigned("==", number, word(n)), other, pointer)
    return builder.gep(pointer, [builder.and_(place, word(OFFSET))])
