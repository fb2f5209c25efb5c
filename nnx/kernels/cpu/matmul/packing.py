# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""Packing: copies of matrices in the order in which a product reads them.

* A **panel** is a strip of columns of `b`, as wide as a tile, row after row.
* A **strip** is a strip of rows of `a`, as high as a tile, column after column.

Floor: each number read and written once; about 0.2 ns a number in float32. A product that reads them runs at 100
GFLOP/s of one Zen 3 core, one that reads the matrices themselves at 80 to 85: rows far apart share few cache lines and
pages.
"""

from __future__ import annotations

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, larger, smaller
from nnx.kernels.cpu.matmul.register_tile import (
    EVEN,
    ROWS,
    VECTORS,
    WIDTH,
    column_tile,
    load,
    new_tile,
    rows_of,
    square_tile,
    store,
    strip_of,
    transpose,
)

AT_ONCE = 16  # columns of `a` that are copied to all strips before the next ones are
TOGETHER = 8  # rows that are copied to all panels before the next ones are


@njit(**PART)
def panels_from_rows(b, panels, depth, first):
    """Copy `b`, contiguous along its rows, to rows `first` .. of panels that are `depth` rows deep."""
    lanes = WIDTH // b.itemsize
    columns = VECTORS * lanes
    for k in range(0, b.shape[0], TOGETHER):
        for j in range(0, b.shape[1], columns):
            panel = rows_of(panels, j * depth + first * columns, b.shape[0], columns, columns)
            store(load(new_tile(b, TOGETHER, VECTORS), b, k, j), panel, k, 0)


@njit(**PART)
def panels_from_columns(b, panels, depth):
    """Copy the transpose of `b` to whole panels: the rows of `b` become columns."""
    lanes = WIDTH // b.itemsize
    columns = VECTORS * lanes
    n, whole = b.shape[0], depth - depth % lanes
    for j in range(0, n, columns):
        panel = rows_of(panels, j * depth, depth, columns, columns)
        for v in range(VECTORS):
            for k in range(0, whole, lanes):
                store(transpose(load(square_tile(b), b, j + v * lanes, k)), panel, k, v * lanes)
        for k in range(whole, depth):
            for c in range(columns):
                panel[k, c] = b[smaller(j + c, n - 1), k]


# A vector may hold more numbers than a column of a strip: what is written later overwrites what is too much. Hence the
# lower rows come first where a column takes several vectors, and by columns each strip's last one goes by itself, the
# next strip having begun by then; unless vectors come out EVEN.


@njit(**PART)
def pack_strips(a, strips):
    """Copy `a` to strips; rows past the last row repeat it. `strips` needs a vector to spare."""
    if a.strides[1] == a.itemsize:
        strips_from_rows(a, strips)
    else:
        strips_from_columns(a, strips)


@njit(**PART)
def strips_from_rows(a, strips):
    """Copy `a`, contiguous along its rows, to strips."""
    (m, depth), rows, lanes = a.shape, ROWS, WIDTH // a.itemsize
    whole = depth - depth % lanes
    for i in range(0, m, rows):
        columns = rows_of(strips, i * depth, depth, rows + lanes, rows)
        for k in range(0, whole, lanes):
            if lanes % rows == 0:  # a vector has room for as many strips
                if i % lanes == 0:
                    square = transpose(load(square_tile(a), a, i, k))
                    store(strip_of(square, 0), columns, k, 0)
                    if lanes > rows and i + rows < m:
                        second = rows_of(strips, (i + rows) * depth, depth, rows, rows)
                        store(strip_of(square, 1), second, k, 0)
            else:
                for r in range((rows - 1) // lanes * lanes, -1, -lanes):
                    store(transpose(load(square_tile(a), a, i + r, k)), columns, k, r)
        strip_by_numbers(a, i, strips, whole, depth)


@njit(**PART)
def strips_from_columns(a, strips):
    """Copy `a`, contiguous along its columns, to strips: some columns of all strips, then the next.

    One strip after the other takes 1.7 ns a number in place of 0.25: rows that lie a power of two apart push each other
    out of the first-level cache, before the next strip comes for the rest of their lines.
    """
    (m, depth), rows, lanes = a.shape, ROWS, smaller(WIDTH // a.itemsize, ROWS) if EVEN else WIDTH // a.itemsize
    whole, last = m - m % rows, depth if EVEN else larger(depth - 1, 0)
    together = last - last % AT_ONCE
    for k in range(0, together, AT_ONCE):
        for i in range(0, whole, rows):
            columns = rows_of(strips, i * depth, depth, rows + lanes, rows)
            for r in range((rows - 1) // lanes * lanes, -1, -lanes):
                store(load(column_tile(a, AT_ONCE), a.T, k, i + r), columns, k, r)
    for i in range(0, whole, rows):
        columns = rows_of(strips, i * depth, depth, rows + lanes, rows)
        for k in range(together, last):
            for r in range((rows - 1) // lanes * lanes, -1, -lanes):
                store(load(column_tile(a, 1), a.T, k, i + r), columns, k, r)
    for i in range(0, m, rows):
        strip_by_numbers(a, i, strips, last if i < whole else 0, depth)


@njit(**PART)
def strip_by_numbers(a, i, strips, first, last):
    """Copy columns first .. last of one strip, which begins at row `i`, number by number."""
    m, depth = a.shape
    for k in range(first, last):
        for r in range(ROWS):
            strips[i * depth + k * ROWS + r] = a[smaller(i + r, m - 1), k]
