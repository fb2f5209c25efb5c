"""Error tables of docs/precision.md: what products are off by, in each precision, on each unit that this CPU has.

`python bench/precision.py` prints Markdown: the largest error and the root of the mean of squares, in 2**-24 of
|a| @ |b|, against float64. It takes ten seconds, and some more the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnx.backends.numba.backend import PARTS
from nnx.kernels.cpu.matmul import amx, gemm, tile_units

Array = Any
ROWS, COLUMNS, DEPTH = 256, 256, 784
NOTHING = np.zeros((0, 0), np.float32)


def distributions() -> Iterator[tuple[str, Array, Array]]:
    """Yield operands that are hard in one way each, with a name."""
    random = np.random.default_rng(0)

    def normal(rows: int, columns: int, spread: int = 0) -> Array:
        scale = 2.0 ** random.integers(-spread, spread + 1, (rows, columns))
        return (random.normal(size=(rows, columns)) * scale).astype(np.float32)

    def alike(value: float) -> tuple[Array, Array]:
        return np.full((ROWS, DEPTH), value, np.float32), np.full((DEPTH, COLUMNS), value, np.float32)

    yield "normal, 32 deep", normal(ROWS, 32), normal(32, COLUMNS)
    a, b = normal(ROWS, DEPTH), normal(DEPTH, COLUMNS)
    yield "normal", a, b
    yield "normal, 4096 deep", normal(ROWS, 4096), normal(4096, COLUMNS)
    unit = random.random((ROWS, 4096), np.float32), random.random((4096, COLUMNS), np.float32)
    yield "uniform from 0 to 1, 4096 deep", *unit
    yield "exponents spread over 60 bits", normal(ROWS, DEPTH, 30), normal(DEPTH, COLUMNS, 30)
    yield "all halfway between two numbers of bfloat16", *alike(1 + 2.0**-8)
    yield "what is left out near its bound, of one sign", *alike(1 + 2.0**-8 - 2.0**-17 - 2.0**-23)
    half, other = normal(ROWS, DEPTH // 2), normal(DEPTH // 2, COLUMNS)
    yield "pairs that all but cancel", np.hstack([half, half * np.float32(-1 - 2.0**-12)]), np.vstack([other, other])
    yield "rows from 1e-20 to 1e10", a * np.logspace(-20, 10, ROWS, dtype=np.float32)[:, None], b
    tiny = a.copy()
    tiny[::2] *= np.float32(1e-33)
    yield "every other row near 1e-33", tiny, b
    yield "subnormal numbers, near 1e-42", a * np.float32(1e-42), b * np.float32(1e10)
    yield "products near 1e-38", a * np.float32(1e-19), b * np.float32(1e-19)


def ways() -> dict[str, Callable[[Array, Array], Array]]:
    """Return what multiplies here, by name."""

    def split(unit: str, parts: int) -> Callable[[Array, Array], Array]:
        def product(a: Array, b: Array) -> Array:
            c = np.empty((len(a), b.shape[1]), np.float32)
            assert amx.ready(unit)(a, b, c, NOTHING, NOTHING, False, parts)
            return c

        return product

    def in_vectors(a: Array, b: Array) -> Array:
        c = np.empty((len(a), b.shape[1]), np.float32)
        assert gemm.ready(np.dtype("float32"))(a, b, c, NOTHING, NOTHING, False, False)
        return c

    units = [unit for unit in tile_units.IN_PROCESSOR if not tile_units.why_not(unit)]
    made = {
        f"{name}, {unit}": split(unit, parts)
        for unit in units
        for name, parts in PARTS.items()
        if name != "full" or unit == tile_units.AMX  # elsewhere that is multiplied in vectors of float32
    }
    return {**made, "full, in vectors": in_vectors, "OpenBLAS": np.matmul}


def shown(error: float) -> str:
    """Return an error in two digits."""
    return f"{float(f'{error:.2g}'):,.0f}" if error >= 10 else f"{error:.1f}" if error >= 0.95 else f"{error:.2g}"


def main() -> None:
    """Print the table."""
    chosen = ways()
    print("| operands |", " | ".join(chosen), "|")
    print("|---" * (1 + len(chosen)) + "|")
    for name, a, b in distributions():
        wanted, sizes = (x.astype(np.float64) @ y.astype(np.float64) for x, y in ((a, b), (np.abs(a), np.abs(b))))
        cells = []
        for way in chosen.values():
            off = np.abs(way(a, b) - wanted) / sizes * 2.0**24
            cells.append(f"{shown(off.max())} / {shown(np.sqrt(np.mean(off**2)))}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
