"""Launch configurations: grid, block and shared memory of a kernel for a shape.

Every kernel processes its data in strides of the whole grid, so its result is right for any grid, and the plans only
matter for speed. They depend only on shapes, not on the device, so sums are made in the same order on every GPU.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched.

    Attributes:
        kernel: its name. grid: number of blocks. block: threads in a block. shared: bytes of dynamic shared memory.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0


THREADS = 256  # threads in a block, of all kernels
WARP = 32
BLOCKS = 2048  # the most blocks: enough to fill every GPU of today several times over
LONG = 1024  # a row of so many columns or more is the work of a whole block
TILE = 32  # `product`: rows and columns of a block's tile
PARTS = 512  # the most blocks of a two-stage reduction
TILE_COLUMNS = 128  # `column_sums`: columns for each block
ACROSS = 32  # `batch_moments`: columns for each block
BANDS = 32  # `column_sums`: the most rows for its second launch, so few that a thread reads all of its own at once


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _blocks(threads: int, most: int = BLOCKS) -> int:
    return max(1, min(_ceil(threads, THREADS), most))


def elementwise(kernel: str, n: int) -> Launch:
    """Activations, `*_backward` over n elements, optimizers: each thread takes 16 bytes of an array."""
    return Launch(kernel, (_blocks(_ceil(n, 4)),), (THREADS,))


def bias_activation(rows: int, columns: int) -> Launch:
    """Y = activation(y + bias): each thread stays in one column."""
    return Launch("bias_activation", (max(_blocks(_ceil(rows * columns, 4)), _ceil(columns, THREADS)),), (THREADS,))


def lanes(columns: int) -> int:
    """Return how many threads of a warp share a row: the smallest power of two that suffices, at most all."""
    return min(WARP, 1 << max(0, columns - 1).bit_length())


def row_groups(kernel: str, rows: int, columns: int) -> Launch:
    """Kernels that give each row some lanes of a warp: losses, gather_*, cross_entropy_*, tally_labels."""
    return Launch(kernel, (_blocks(rows * lanes(columns), 1 << 16),), (THREADS,))


def softmax_rows(kernel: str, rows: int, columns: int) -> Launch:
    """Kernels that come as `_warp` and `_block`: softmax, softmax_backward, softmax_cross_entropy_{labels,...}."""
    if columns <= LONG:
        return row_groups(f"{kernel}_warp", rows, columns)
    return Launch(f"{kernel}_block", (max(1, min(rows, 1 << 16)),), (THREADS,))


def softmax_jacobian(rows: int, columns: int) -> Launch:
    """The Jacobians: every row of every matrix counts as a row."""
    return row_groups("softmax_jacobian", rows * columns, columns)


def dropout(rows: int, columns: int, kernel: str = "dropout") -> Launch:
    """Dropout, gaussian_noise: each thread takes one random counter, which gives four elements of a row."""
    return Launch(kernel, (_blocks(rows * _ceil(columns, 4), 1 << 14),), (THREADS,))


def product(m: int, n: int, k: int) -> Launch:
    """Each block takes a tile of the result; if tiles are few and sums long, each sum is cut into grid.y `slices`."""
    return Launch("product", (max(1, _ceil(m, TILE) * _ceil(n, TILE)), slices(m, n, k)), (THREADS,))


def slices(m: int, n: int, k: int) -> int:
    """Return into how many slices `product` cuts its sums: if above 1, it needs scratch memory [slices, m, n]."""
    tiles = max(1, _ceil(m, TILE) * _ceil(n, TILE))
    return max(1, min(k // 128, 128 // tiles))


def column_sums(rows: int, columns: int, kernel: str = "column_sums") -> tuple[Launch, ...]:
    """One launch, or two: the first into scratch [bands(rows, columns), columns], the second, column_sums, from there.

    Args:
        kernel: the first of them, column_sums or relu_backward_column_sums.
    """
    tiles, count = max(1, _ceil(columns, TILE_COLUMNS)), bands(rows, columns)
    first = Launch(kernel, (tiles, count), (THREADS,))
    return (first,) if count == 1 else (first, Launch("column_sums", (tiles, 1), (THREADS,)))


def bands(rows: int, columns: int) -> int:
    """Return into how many bands `column_sums` divides the rows: if above 1, the height of the scratch it needs."""
    tiles = max(1, _ceil(columns, TILE_COLUMNS))
    lines = THREADS // max(1, _ceil(min(columns, TILE_COLUMNS), 4))  # rows that a block reads together, in float32
    count = min(rows // (8 * lines), BANDS, PARTS // tiles)
    return count if count >= 4 else 1  # with fewer bands the second launch would cost more than they save


def tally(metric: str, rows: int, columns: int) -> tuple[Launch, ...]:
    """One launch, or two: the first into parts [grid.x, 2] float64, the second, tally_total, from there.

    Args:
        metric: "losses", "labels", "distributions", "above" or "near".
    """
    work = rows if metric == "losses" else rows * columns
    return _two_stages(f"tally_{metric}", "tally_total", work)


def regularize(n: int) -> tuple[Launch, ...]:
    """One launch, or two: the first into parts [grid.x] float64, the second, regularize_total, from there."""
    return _two_stages("regularize", "regularize_total", n)


def clip(n: int) -> tuple[Launch, Launch]:
    """Two launches: the first into parts [grid.x] float64, the second from there."""
    return _two_stages("clip_squares", "", n)[0], elementwise("clip_scale", n)


def batch_moments(columns: int, kernel: str = "batch_moments") -> Launch:
    """Each block takes ACROSS columns: batch_moments, column_means, column_spreads."""
    return Launch(kernel, (max(1, min(_ceil(columns, ACROSS), BLOCKS)),), (THREADS,))


def _two_stages(first: str, second: str, work: int) -> tuple[Launch, ...]:
    """One block for up to 32 numbers per thread, since a second launch would cost more; else two launches."""
    blocks = 1 if work <= 32 * THREADS else _blocks(_ceil(work, 8), PARTS)
    head = Launch(first, (blocks,), (THREADS,))
    return (head,) if blocks == 1 else (head, Launch(second, (1,), (THREADS,)))
