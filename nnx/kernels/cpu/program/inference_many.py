# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Compiled prediction of many rows, `forward_many`: block by block through all layers, on several threads.

It interprets the table of inference.py. Samples stand side by side: a *panel* [width, COLUMNS] holds a number of each
of its samples in every row, so what a layer writes is what the next one reads, nothing is repacked on the way, and an
activation runs over whole vectors. Weights are the other operand, in *strips* of ROWS columns (packing.py). They are
copied anew in each call, since anybody may write weights at any time: in the midst of the first products with them, by
each thread for itself, or, where every thread has several blocks, by whoever comes first, for all. Where there are few
panels, each thread takes some columns of each layer, and has only its own share of the weights to read and pack: on two
threads 96 rows of 784-512-512-10 take 438 us instead of 547 (numba/inference.py says when).

Floor: 2 FLOP a weight and row. One core of an Emerald Rapids does 109 multiply-adds a ns on operands in its first-level
cache, whatever the tile (123 without loads: with more than three loads for eight products it slows its clock);
784-512-512-10 goes through at 103, with two threads at 204.

Each output is made by the same operations in the same order as for a row by itself: a chain of fused multiply-adds that
begins with the bias, or four of them up to WIDTH columns.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.behaved import behaved
from nnx.kernels.cpu.jit.cache import njit, typed
from nnx.kernels.cpu.jit.called import call
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import (
    EXACT,
    IN_ORDER,
    INLINED,
    ONCE,
    OPTIONS,
    PART,
    WIDTH,
    flat,
    larger,
    numbers_at,
    on_stack,
    smaller,
    view,
)
from nnx.kernels.cpu.jit.span import data_of
from nnx.kernels.cpu.matmul.gemm import BLOCK_DEPTH
from nnx.kernels.cpu.matmul.register_tile import (
    EVEN,
    ROWS,
    VECTORS,
    accumulate,
    add,
    elementwise,
    load,
    new_tile,
    rows_of,
    square_tile,
    store,
    transpose,
    unpack,
)
from nnx.kernels.cpu.matmul.register_tile import WIDTH as VECTOR_BYTES
from nnx.kernels.cpu.matmul.register_tile import pack as pack_vectors
from nnx.kernels.cpu.ops.elementwise import RELU, apply_relu
from nnx.kernels.cpu.program.inference import (
    BIASES,
    COLUMNS,
    FUNCTION,
    HEADER,
    KIND,
    NOWHERE,
    PARAMETERS,
    SOFTMAX,
    STAGES,
    WEIGHTS,
    K,
    N,
)
from nnx.kernels.cpu.program.inference_softmax import SIDE_BY_SIDE, softmax_side_by_side
from nnx.kernels.cpu.program.inference_tiles import accumulate_packing
from nnx.kernels.cpu.threads.atomics import atomic_load, atomic_store, replace_if
from nnx.kernels.cpu.threads.team import make_together

PANEL_BYTES = VECTORS * VECTOR_BYTES  # of a row of a panel
NARROW = ROWS // 2 if EVEN else ROWS  # columns of a narrow layer at a time: ten classes are 12 so, and 16 by eights
PIECE = 8  # strips packed side by side: a row of the weights is then read in pieces of some cache lines
WIDE = PIECE * ROWS  # columns of a piece
APART = 2  # numbers of depth left free behind a strip: strips a power of two apart push each other out of the cache
DEPTH = BLOCK_DEPTH  # numbers of depth that are used at a time: what is best for other products is so here
STRIPS = WIDE * (DEPTH + APART)  # numbers that a piece takes
NEW, BEGUN, PACKED = range(3)  # what has become of a piece that threads share
CODE = 0  # in a record of what becomes of outputs: the address of code for it (inference_scores.py)
# Marks, int64 that the threads of a call share: the next block; whether a number is not finite; from MARKS on, pieces.
NEXT, WRONG, MARKS = 0, 16, 32

without_negative = elementwise(  # ReLU as everywhere else in a prediction: -0 and NaN stay what they are
    lambda builder, x, y, zero: builder.select(builder.fcmp_ordered("<", y, zero), zero, x)
)


@intrinsic
def copy_column(typing, target, at, source, start):
    """ROWS numbers from `source[start]` on to `target[at]`: LLVM does not see that the two are apart."""

    def codegen(context, builder, signature, args):
        def place(which):
            kind = signature.args[which]
            column = ir.VectorType(context.get_value_type(kind.dtype), ROWS)
            data = builder.gep(data_of(context, builder, kind, args[which]), [args[which + 1]])
            return builder.bitcast(data, column.as_pointer())

        size = source.dtype.bitwidth // 8
        builder.store(builder.load(place(2), align=size), place(0), align=size)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


# ---- weights ---------------------------------------------------------------------------------------------------------


@njit(**ONCE)
def pack(values, w, n, j0, j1, k0, depth, memory, strips, tall):
    """Rows k0 .. k0 + depth of columns j0 .. j1 of weights [., n] to strips, each `tall` rows deep, the first of them.

    What is past the last column repeats it.
    """
    whole = j0 + (j1 - j0) // ROWS * ROWS
    for k in range(depth):
        source, target = w + (k0 + k) * n, strips + k * ROWS
        for j in range(j0, whole, ROWS):
            copy_column(memory, target + (j - j0) * tall, values, source + j)
        if whole < j1:
            for r in range(ROWS):
                memory[target + (whole - j0) * tall + r] = values[source + smaller(whole + r, j1 - 1)]


@njit(**INLINED)
def tall_of(depth):
    """How far the strips of so many numbers of depth are apart, in numbers of depth: an even number."""
    return (depth + 1) // 2 * 2 + APART


@njit(**INLINED)
def packed_size(table, at):
    """How many numbers a layer's strips take; 0 for a layer that has none."""
    n = table[at + N]
    packed = table[at + WEIGHTS] != NOWHERE and n > WIDTH
    return (n + ROWS - 1) // ROWS * ROWS * tall_of(table[at + K]) if packed else 0


@njit(**INLINED)
def pieces_of(k, n):
    """How many pieces the strips of a layer [k, n] are: by columns, and by blocks of depth."""
    return (n + WIDE - 1) // WIDE * ((k + DEPTH - 1) // DEPTH)


@njit(**INLINED)
def state_of(marks, at):
    """What has become of a piece: PACKED; NEW, and now BEGUN by this thread; or BEGUN by another."""
    found = atomic_load(marks, at)
    if found == NEW and not replace_if(marks, at, NEW, BEGUN):
        return BEGUN
    return found


# ---- layers ----------------------------------------------------------------------------------------------------------


@njit(**EXACT)
def biases_of(empty, biases, i, ones, columns):
    """A tile with a bias in each row: one product, for made of scalars it takes 784-512-512-10 5% longer."""
    return accumulate(empty, biases, i, ones, 0, False, ones, 0, columns, 1, ones, 0, 0)


@njit(**IN_ORDER)
def narrow_layer(values, w, b, k, n, memory, source, out, ones):
    """out [n, columns] = W' x + b of one panel, by four sums, as in `narrow_product`; W is read where it stands."""
    columns, quarter = out.shape[1], k // 4
    empty, biases = new_tile(out, NARROW, VECTORS), rows_of(values, b, 1, n, n).T
    for i in range(0, n, NARROW):
        even = pair = empty
        for q in range(4):
            some = rows_of(values, w + q * n, quarter, n, 4 * n).T
            tile = biases_of(empty, biases, i, ones, columns) if q == 0 else empty
            at = source + q * columns
            tile = accumulate(tile, some, i, memory, 0, False, memory, at, 4 * columns, quarter, memory, 0, 0)
            if q == 0:
                rest, left = rows_of(values, w + 4 * quarter * n, k - 4 * quarter, n, n).T, k - 4 * quarter
                at = source + 4 * quarter * columns
                tile = accumulate(tile, rest, i, memory, 0, False, memory, at, columns, left, memory, 0, 0)
            if q % 2 == 0:
                even = tile
            elif q == 1:
                pair = add(even, tile)
            else:
                store(add(pair, add(even, tile)), out, i, 0)


@njit(**EXACT)
def wide_tile(empty, out, i, begin, relu, biases, ones, memory, strip, tall, at, depth, values, first, n):
    """Row i of `out` and those after it: a chain goes on, or begins with the biases; perhaps it ends with ReLU.

    Args:
        tall: how far the next strip is, which is fetched meanwhile, in numbers of depth.
        first: where the weights begin, which are packed meanwhile, or NOWHERE: they are already.
    """
    columns, soon, share = out.shape[1], strip + ROWS * tall, ROWS * out.itemsize
    tile = biases_of(empty, biases, i, ones, columns) if begin else load(empty, out, i, 0)
    if first == NOWHERE:
        tile = accumulate(tile, out, i, memory, strip, True, memory, at, columns, depth, memory, soon, share)
    else:
        tile = accumulate_packing(tile, values, first, n, memory, strip, at, depth)
    if relu:
        tile = without_negative(tile, tile)
    store(tile, out, i, 0)


@njit(**{**IN_ORDER, "literals": False})
def wide_layer(
    values, w, b, k, n, begin, end, memory, source, target, rows, own, shared, marks, mark, turn, relu, ones, x
):  # fmt: skip
    """Columns begin .. end of W' x + b of the panels of some rows, one chain for each number, and ReLU.

    Args:
        source, target: where the panels begin. own: where there is room for a piece of this thread's.
        shared: where all pieces of the layer lie which threads share, or NOWHERE. marks, mark: what has become of them.
        turn: with which piece to begin: what one core has just fetched another gets slowly.
    """
    columns, blocks = VECTORS * (VECTOR_BYTES // x.itemsize), larger(1, (k + DEPTH - 1) // DEPTH)
    biases, step = rows_of(values, b, 1, n, n).T, (k + blocks - 1) // blocks
    panels, pieces = (rows + columns - 1) // columns, (end - begin + WIDE - 1) // WIDE
    empty, slim = new_tile(x, ROWS, VECTORS), new_tile(x, ROWS, 1)  # of rows that one vector holds
    for k0 in range(0, larger(k, 1), larger(step, 1)):
        depth = smaller(step, k - k0)
        cut = relu and k0 + depth >= k
        for number in range(turn, turn + pieces):
            j0 = begin + number % pieces * WIDE
            j1, at = smaller(j0 + WIDE, end), mark + number % pieces
            state = NEW if shared == NOWHERE else state_of(marks, at)
            if shared == NOWHERE or state == BEGUN:
                first, tall = own, tall_of(depth)
            else:
                first, tall = shared + j0 * tall_of(k) + k0 * ROWS, tall_of(k)
            if state != PACKED:
                last = j0 + (j1 - j0) // ROWS * ROWS
                pack(values, w, n, last, j1, k0, depth, memory, first + (last - j0) * tall, tall)
            for p in range(panels):
                out = rows_of(memory, target + p * n * columns, n, columns, columns)
                panel, fresh = source + (p * k + k0) * columns, p == 0 and state != PACKED
                for i in range(j0, j1, ROWS):
                    strip = first + (i - j0) * tall
                    place = w + k0 * n + i if fresh and i + ROWS <= j1 else NOWHERE
                    if rows * VECTORS <= columns:
                        wide_tile(
                            slim, out, i, k0 == 0, cut, biases, ones, memory, strip, tall, panel, depth, values, place,
                            n,
                        )  # fmt: skip
                    else:
                        wide_tile(
                            empty, out, i, k0 == 0, cut, biases, ones, memory, strip, tall, panel, depth, values, place,
                            n,
                        )  # fmt: skip
            if shared != NOWHERE and state == NEW:
                atomic_store(marks, at, PACKED)
        mark += pieces


@intrinsic
def wrong_in(typing, tile, sums):
    """Add 0 to the lanes of a tile of one row for each finite number of a tile, and NaN for any other."""

    def codegen(context, builder, signature, args):
        chains = [*unpack(builder, args[1]), tile.zero, tile.zero, tile.zero]
        for n, numbers in enumerate(unpack(builder, args[0])):
            product = builder.fmul(numbers, tile.zero, flags=("contract",))
            chains[n % 4] = builder.fadd(product, chains[n % 4], flags=("contract",))
        one, two = builder.fadd(*chains[:2]), builder.fadd(*chains[2:])
        return pack_vectors(builder, [builder.fadd(one, two)])

    return sums(tile, sums), codegen


@intrinsic
def total_of(typing, sums):
    """The sum of the lanes of a tile of one row."""

    def codegen(context, builder, signature, args):
        (vector,) = unpack(builder, args[0])
        lanes = [builder.extract_element(vector, ir.IntType(32)(n)) for n in range(sums.lanes)]
        return reduce(builder.fadd, lanes)

    return sums.dtype(sums), codegen


@njit(**INLINED)
def all_finite(x, first, count):
    """Whether numbers are."""
    zero = x.dtype.type(0)
    wrong = zero
    for j in range(first, first + count):
        wrong += x[j] * zero  # 0, or NaN
    return wrong == zero


@njit(**EXACT)
def panel_of_finite(rows, panel):
    """The transpose of `rows` to a panel, the last of them repeated; False if a number in whole tiles is not finite."""
    (n, k), lanes, columns = rows.shape, VECTOR_BYTES // panel.itemsize, panel.shape[1]
    whole, sums = k - k % lanes, new_tile(panel, 1, 1)
    for c in range(0, columns, lanes):
        for j in range(0, whole, lanes):
            numbers = load(square_tile(rows), rows, c, j)
            sums = wrong_in(numbers, sums)
            store(transpose(numbers), panel, j, c)
    for j in range(whole, k):
        for c in range(columns):
            panel[j, c] = rows[smaller(c, n - 1), j]
    return total_of(sums) == panel.dtype.type(0)


# ---- blocks of rows --------------------------------------------------------------------------------------------------


@njit(**ONCE)
def inputs_of(x, r0, rows, memory, a):
    """Rows r0 .. r0 + rows of x as panels, from number `a` of `memory` on; False if a number is not finite."""
    k, columns = x.shape[1], VECTORS * (VECTOR_BYTES // x.itemsize)
    if k % (VECTOR_BYTES // x.itemsize) > 0 and not all_finite(flat(x), r0 * k, rows * k):
        return False
    for i in range(0, rows, columns):
        some = rows_of(flat(x), (r0 + i) * k, smaller(columns, rows - i), k, k)
        if not panel_of_finite(some, rows_of(memory, a + i * k, k, columns, columns)):
            return False
    return True


@njit(**PART)
def columns_share(operands, number):
    """Some columns of a layer, and ReLU; which of them is as in inference.py.

    Of a network's inputs each number makes panels of its own: what another thread has written comes from the cache of
    another core, and slowly.
    """
    values, w, b, k, n, memory, source, target, rows, own, relu, ones, x, step, other, fresh, apart, marks = operands
    begin = (n - 1) // step * step - number * step if other else number * step
    end = smaller(n, begin + step)
    if fresh:
        source += number * apart
        if not inputs_of(x, 0, rows, memory, source):
            marks[WRONG] = 1
    own += number * apart
    wide_layer(
        values, w, b, k, n, begin, end, memory, source, target, rows, own, NOWHERE, marks, 0, 0, relu, ones, x
    )  # fmt: skip


columns_together = make_together(columns_share)


@njit(**PART)
def predict_block(
    place, x, out, r0, rows, memory, a, b, own, shared, ones, board, marks, together, number, threads, record
):  # fmt: skip
    """Rows r0 .. r0 + rows through all layers; or `marks` say that a number is not finite.

    Args:
        a, b: two buffers in `memory`. own, shared: see `wide_layer`. together: whether threads share layers' columns.
        number, threads: which thread this is of how many. record: see `forward_many`.
    """
    table, constants = numbers_at(place, np.int64), numbers_at(place, np.float64)
    values, columns = numbers_at(table[PARAMETERS], x.dtype), VECTORS * (VECTOR_BYTES // x.itemsize)
    panels, apart, other, mark = (rows + columns - 1) // columns, 2 * (b - a) + STRIPS, False, MARKS
    fresh = together and table[HEADER + WEIGHTS] != NOWHERE and table[HEADER + N] > WIDTH
    if not fresh and not inputs_of(x, r0, rows, memory, a):
        marks[WRONG] = 1
    for at in range(HEADER, HEADER + table[STAGES] * COLUMNS, COLUMNS):
        k, n, w, kind = table[at + K], table[at + N], table[at + WEIGHTS], table[at + KIND]
        bias, fused = table[at + BIASES], False
        if w != NOWHERE and n <= WIDTH:
            for p in range(0, panels * columns, columns):
                narrow_layer(
                    values, w, bias, k, n, memory, a + p * k, rows_of(memory, b + p * n, n, columns, columns), ones
                )
        elif w != NOWHERE:
            fused = kind == RELU
            if together:
                step = ((n + threads - 1) // threads + ROWS - 1) // ROWS * ROWS
                operands = (
                    values, w, bias, k, n, memory, a, b, rows, own, fused, ones, x, step, other, fresh, apart, marks,
                )  # fmt: skip
                columns_together(board, operands, (n + step - 1) // step)
                other, fresh = not other, False
            else:
                turn = number * ((n + WIDE - 1) // WIDE) // threads
                wide_layer(
                    values, w, bias, k, n, 0, n, memory, a, b, rows, own, shared, marks, mark, turn, fused, ones, x
                )  # fmt: skip
                if shared != NOWHERE:
                    shared, mark = shared + packed_size(table, at), mark + pieces_of(k, n)
        if w != NOWHERE:
            a, b = b, a
        if kind == SOFTMAX:
            for p in range(0, panels * columns, columns):
                softmax_side_by_side(view(memory, a + p * n, columns * n), n, columns)
        elif kind == RELU and not fused:
            numbers = view(memory, a, panels * columns * n)
            apply_relu(RELU, numbers, numbers, numbers, 0.0, 0.0)
        elif table[at + FUNCTION] != 0:
            for p in range(0, panels * columns, columns):
                some, spare = view(memory, a + p * n, columns * n), view(memory, b, columns * n)
                call(table[at + FUNCTION], some, spare, n, columns, values, table, constants, at)
        if marks[WRONG] != 0:
            return
    if record != 0:
        n = table[HEADER + (table[STAGES] - 1) * COLUMNS + N]
        hand_over(record, view(memory, a, panels * columns * n), view(memory, b, columns * n), r0, rows, 0)
        return
    for p in range(0, panels * columns, columns):
        unpack_panel(rows_of(memory, a + p * out.shape[1], out.shape[1], columns, columns), out, r0 + p, rows - p)


@njit(**ONCE)
def hand_over(record, panels, spare, r0, rows, number):
    """Call a record's code for the outputs of a block, with room for one panel more; or, number 1, when all is done."""
    call(numbers_at(record, np.int64)[CODE], record, panels, spare, r0, rows, number)


@njit(**PART)
def unpack_panel(panel, out, r0, rows):
    """The transpose of a panel to rows of `out`."""
    n, columns = panel.shape
    result, lanes = rows_of(flat(out), r0 * n, smaller(columns, rows), n, n), VECTOR_BYTES // out.itemsize
    for i in range(0, result.shape[0], lanes):
        for j in range(0, n, lanes):
            store(transpose(load(square_tile(panel), panel, j, i)), result, i, j)


@njit(**ONCE)
def rows_share(operands, number):
    """Take blocks of rows until none is left, with buffers that belong to this number alone."""
    place, x, out, memory, marks, blocks, room, shared, buffers, board, threads, record = operands
    ones = on_stack(x.dtype, SIDE_BY_SIDE)
    for i in range(SIDE_BY_SIDE):
        ones[i] = 1
    rows, a = x.shape[0], buffers + number * (2 * room + STRIPS)
    columns = VECTORS * (VECTOR_BYTES // x.itemsize)
    panels = (rows + columns - 1) // columns
    while marks[WRONG] == 0:
        index = atomic_load(marks, NEXT)
        if index >= blocks:
            return
        if replace_if(marks, NEXT, index, index + 1):
            r0, end = index * panels // blocks * columns, (index + 1) * panels // blocks * columns
            count, own, together = smaller(end, rows) - r0, a + 2 * room, blocks == 1 and threads > 1
            predict_block(
                place, x, out, r0, count, memory, a, a + room, own, shared, ones, board, marks, together, number,
                threads, record,
            )  # fmt: skip


rows_together = make_together(rows_share)


@takes("mmvi")
@njit(**OPTIONS)
def forward_many(x, out, memory, marks, board, place, blocks, room, strips, threads, record):
    """out [N, O] = the network's outputs for x [N, I]; False, with `out` left half done, if it does not take these.

    Args:
        x: finite numbers. memory: `memory_of` numbers. marks: MARKS int64, and one for each piece; like `memory` of
            this call alone.
        board: where that of the threads lies which may help: see team.py. place: where the table lies; see `forward`.
        blocks: among how many the panels are shared evenly. Of one that holds all rows threads share the columns.
        room: numbers of the largest block in its widest layer.
        strips: how many numbers all packed weights take, or 0: each thread packs them for itself.
        threads: how many may take part.
        record: 0, or where that of code lies which takes the outputs in place of `out` (inference_scores.py).
    """
    table = numbers_at(place, np.int64)
    last = HEADER + (table[STAGES] - 1) * COLUMNS
    if not behaved(x, out, memory) or x.shape[0] != out.shape[0] or not x.size:
        return False
    if x.shape[1] != table[HEADER + K] or (record == 0 and out.shape[1] != table[last + N]):
        return False
    marks[NEXT], marks[WRONG] = 0, 0
    numbers, first = flat(memory), -memory.ctypes.data % 64 // x.itemsize  # from a cache line on
    shared = first if strips > 0 else NOWHERE
    if strips > 0:
        for at in range(MARKS, marks.size):
            marks[at] = NEW
    operands = place, x, out, numbers, flat(marks), blocks, room, shared, first + strips, board, threads, record
    if blocks == 1:
        rows_share(operands, 0)
    else:
        rows_together(board, operands, threads)
    if record != 0:
        hand_over(record, numbers, numbers, 0, x.shape[0], 1)
    return marks[WRONG] == 0


def memory_of(room: int, strips: int, threads: int) -> int:
    """How many numbers `forward_many` needs."""
    return strips + threads * (2 * room + STRIPS) + 64


def ready(dtype: Any) -> Any:
    """Return `forward_many`, compiled for one number type or read from the disk."""
    number = types.float32 if np.dtype(dtype).itemsize == 4 else types.float64
    matrix = number[:, ::1]
    return typed(forward_many, matrix, matrix, number[::1], types.int64[::1], *[types.int64] * 7)
