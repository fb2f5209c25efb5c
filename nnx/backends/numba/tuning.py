"""Choices that depend on the machine: own product or BLAS, rows or lanes, one thread or two.

`nnx warmup` measures them (measuring.py) and saves them as JSON beside the compiled kernels, one file for each
processor and number of threads. Without such a file, or with NNX_TUNE=off, they are derived from the sizes of the
caches and the width of vectors. A file that does not fit is ignored; the reason is given once as a warning, and by
`info()` and `nnx doctor`.

The same file gives the same choices, and these the same bits. Other choices may round differently.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from nnx.backends.environment import tuned
from nnx.backends.processor import model, slug
from nnx.kernels.cpu.caches import KIB, caches
from nnx.kernels.cpu.jit.cache import read, readable, replace, writable
from nnx.kernels.cpu.matmul import gemm
from nnx.kernels.cpu.matmul.register_tile import ROWS, WIDTH
from nnx.kernels.cpu.threads import pool
from nnx.kernels.user_warnings import warn_once

LARGEST = 1 << 16  # the most bytes of a file
SMALL, LARGE = 2e6, 1e8  # multiply-adds of a product


@dataclass(frozen=True)
class Prediction:
    """The costs of prediction on one thread, in ns; those of a weight are for float32.

    Attributes:
        row, weight, far_weight: of a row by itself; of each of its weights; the same if the weights do not fit in the
            second-level cache.
        call, packed, far_packed: of a call for many rows; of packing each weight in it; the same for weights that do
            not fit in that cache.
        among, weight_among: of a row among many, in full panels; of each of its weights.
    """

    row: float
    weight: float
    far_weight: float
    call: float
    packed: float
    far_packed: float
    among: float
    weight_among: float


@dataclass(frozen=True)
class Choices:
    """The choices for this machine.

    Attributes:
        own_products: kinds of products (`kind_of`) that nnx's own kernel does, else BLAS; None: by `gemm.prefer_own`.
        lanes_weights: up to so many weights in the widest layer, a recorded step has its samples in the vector lanes.
        threads_from: from so many multiply-adds on, a recorded step uses two threads; for more, see `pool.useful`.
        share_us: from so many microseconds of work on, Python shares an operation among threads.
        handed_us: the same if compiled code divides the work, and the threads are awake.
        woken_us: the same if the threads sleep.
        split_from: from so many multiply-adds on, a product in full precision is faster split, on AMX.
        prediction: the costs that decide how many rows are predicted one by one, and how threads share more rows.
    """

    own_products: tuple[str, ...] | None
    lanes_weights: int
    threads_from: float
    share_us: float
    handed_us: float
    woken_us: float
    split_from: float
    prediction: Prediction

    @cached_property
    def share(self) -> float:
        """`share_us` in ns, the unit in which work is counted."""
        return 1e3 * self.share_us

    @cached_property
    def handed(self) -> float:
        """`handed_us` in ns, in which operations count their work."""
        return 1e3 * self.handed_us

    @cached_property
    def woken(self) -> float:
        """`woken_us` in ns."""
        return 1e3 * self.woken_us


class Tuning(NamedTuple):
    """Choices, with a text that says where they come from."""

    choices: Choices
    why: str


def current() -> Tuning:
    """Return the choices for the largest number of threads that kernels may use."""
    return _found(pool.limit)


@cache
def _found(threads: int) -> Tuning:
    if not tuned():
        return Tuning(derived(), f"{DERIVED}, because NNX_TUNE=off")
    name, wanted, why = file_name(threads), key(threads), ""
    for place in readable():
        content = read(place, name)
        if content is None:
            continue
        try:
            choices, when = parse(content, wanted)
        except ValueError as error:
            why = f"; {name} is left alone: {error}"  # without the folder, since benchmark reports show this text
            warn_once(f"{place / name} is left alone: {error}; nnx warmup measures again", "choices left alone")
            continue
        return Tuning(choices, f"measured {when} with {threads} thread{'s' * (threads > 1)} ({name})")
    return Tuning(derived(), f"{DERIVED}; nnx warmup measures{why}")


def forget() -> None:
    """Forget the choices, so that the file is read again."""
    _found.cache_clear()


# ---- derived choices -------------------------------------------------------------------------------------------------

DERIVED = (
    f"derived from {caches().l1 // KIB} and {caches().l2 // KIB} KiB of cache a core, and vectors of {WIDTH} bytes"
)


def derived() -> Choices:
    """Return the choices that follow from caches and vectors.

    With samples in lanes the weights are read number by number, which is fast while they are in the first-level cache;
    with vectors of 64 bytes, products by rows are twice as fast, so the limit is half as high. Waking a second thread,
    and waiting for it some six times in a step, costs as much time as some 125000 multiply-adds for each number in a
    vector. The costs of predictions, and the limit for AMX, are those of an Emerald Rapids; with vectors half as wide a
    multiply-add takes twice as long.
    """
    lanes = min(1 << 13, caches().l1 // 4 * 32 // max(32, WIDTH))
    prediction = Prediction(40.0, 0.03, 0.1, 1600.0, 0.05, 0.17, 8.0, 0.0105 * 64 / WIDTH)
    return Choices(None, lanes, 125e3 * WIDTH / 4, 200.0, 4.0, 40.0, 1 << 21, prediction)


# ---- products --------------------------------------------------------------------------------------------------------


def kind_of(m: int, n: int, k: int, itemsize: int, fused: bool) -> str:
    """Return the kind of a product [m, k] by [k, n], which depends on the used share of its tiles, and on its size."""
    if k == 1 and m > 1:  # the gradient of weights for a batch of 1
        return f"float{8 * itemsize}, a column by a row"
    lanes = gemm.LANES[itemsize]
    fill = m * n / ((-(-m // ROWS) * ROWS) * (-(-n // lanes) * lanes))
    work = m * n * k
    size = "small" if work < SMALL else "large" if work >= LARGE and fill >= 0.75 else "middle"
    tiles = "thin" if fill < 0.5 else "half" if fill < 0.75 else "full"
    return f"float{8 * itemsize}, {tiles}, {size}{', fused' if fused else ''}"


def examples(itemsize: int) -> Iterator[tuple[str, tuple[int, int, int, bool]]]:
    """Yield for each kind of product an example (m, n, k, whether bias and ReLU follow), for one number type."""
    lanes, m = gemm.LANES[itemsize], 12 * ROWS
    half, thin = max(1, lanes * 5 // 8), max(1, lanes // 4)
    shapes = [(m, 64, 64), (2 * m, 512, 784), (8 * m, 512, 784), (m, half, 64), (8 * m, half, 1024), (m, thin, 64)]
    for shape in [*shapes, (8 * m, thin, 1024)]:
        for fused in (False, True):
            yield kind_of(*shape, itemsize, fused), (*shape, fused)
    yield kind_of(8 * m, 512, 1, itemsize, False), (8 * m, 512, 1, False)


def prefers_own(m: int, n: int, k: int, itemsize: int, fused: bool) -> bool:
    """Return whether nnx's own kernel, and not BLAS, does the product [m, k] by [k, n]."""
    chosen = current().choices.own_products
    if chosen is None:
        return bool(gemm.prefer_own(m, n, k, itemsize, fused))
    return kind_of(m, n, k, itemsize, fused) in chosen


def described(choices: Choices) -> Iterable[str]:
    """Yield the choices in words, a line for each."""
    if choices.own_products is not None:
        yield f"own products: {'; '.join(choices.own_products)}"
    yield (
        f"recorded steps: samples in vector lanes up to {choices.lanes_weights} weights in the widest layer, two "
        f"threads from {choices.threads_from:.3g} multiply-adds, n from n*n/2 times as many; operations: from "
        f"{choices.share_us:.3g} us, handed out by compiled code from {choices.handed_us:.3g} us, and from "
        f"{choices.woken_us:.3g} us to those who sleep"
    )
    each = choices.prediction
    yield (
        f"predictions: a row by itself {each.row:.3g} ns and {each.weight:.3g} a weight, {each.far_weight:.3g} from "
        f"afar; many in {each.call:.3g} and {each.packed:.3g} a weight, {each.far_packed:.3g} from afar, and "
        f"{each.among:.3g} a row and {each.weight_among:.3g} a weight of it"
    )


# ---- the file --------------------------------------------------------------------------------------------------------


def key(threads: int) -> dict[str, Any]:
    """Return the facts for which measured choices are valid: versions, processor, threads."""
    package = getattr(sys.modules.get("nnx"), "__version__", "")
    versions = {"nnx": package, "numba": numba.__version__, "numpy": np.__version__}
    return {"cpu": model(), "vector_bytes": WIDTH, "caches": list(caches()), "threads": threads, **versions}


def file_name(threads: int) -> str:
    """Return the name of the file for a number of threads on this processor."""
    return f"tuning-{slug()}-{8 * WIDTH}bit-{threads}.json"


def parse(content: bytes, wanted: dict[str, Any]) -> tuple[Choices, str]:
    """Return the choices in a file, and when they were measured.

    Raises:
        ValueError: it is damaged, or was measured under other conditions than `wanted`; the message says which.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content)} bytes, expected at most {LARGEST}")
    try:
        data = json.loads(content)
        held, given, when = data["for"], data["choices"], str(data["measured"])[:32]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
    if held != wanted:
        known = held if isinstance(held, dict) else {}
        others = [f"{name} is {value}" for name, value in wanted.items() if known.get(name) != value]
        raise ValueError(f"it was measured elsewhere; here {', '.join(others)}")
    return checked(given), when


def checked(given: Any) -> Choices:
    """Return choices read from a file; raise ValueError if one has an impossible value."""
    names = [field.name for field in fields(Choices)]
    if not isinstance(given, dict) or set(given) != set(names):
        raise ValueError(f"its choices are not {', '.join(names)}")
    products = given["own_products"]
    if not isinstance(products, list) or not all(isinstance(kind, str) for kind in products):
        raise ValueError(f"own_products is {str(products)[:60]!r}, expected a list of kinds of products")
    parts, wanted = given["prediction"], [field.name for field in fields(Prediction)]
    if not isinstance(parts, dict) or set(parts) != set(wanted):
        raise ValueError(f"prediction is {str(parts)[:60]!r}, expected ns by name: {', '.join(wanted)}")
    least = {"lanes_weights": 0, "threads_from": 0, "share_us": 1, "handed_us": 1, "woken_us": 1, "split_from": 0}
    for name, value in [*((name, given[name]) for name in least), *parts.items()]:
        lowest = least.get(name, 1e-6)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= 1e15:
            raise ValueError(f"{name} is {str(value)[:60]!r}, expected a number from {lowest} on")
    numbers = {"lanes_weights": int(given["lanes_weights"]), "prediction": Prediction(**parts)}
    return Choices(**{**given, "own_products": tuple(products), **numbers})


def keep(choices: Choices) -> Path:
    """Write measured choices, for the present number of threads, whole or not at all; return the path.

    Raises:
        OSError: it cannot be written; the message says why.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"for": key(pool.limit), "measured": when, "choices": asdict(choices)}, indent=2)
    place = writable()
    if place is None:
        raise OSError("there is no folder for compiled kernels that can be written to")
    file = place / file_name(pool.limit)
    replace(file, text.encode() + b"\n")
    forget()
    return file
