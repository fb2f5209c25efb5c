"""Products in parts of bfloat16: the same bits on a unit and without, how exact they are, ugly operands.

`make test-cpus` has none of this: no processor that it stands in for has such a unit, and the plain code that takes its
place is for tests alone; compiling that took longer there than all other kernels.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import nnx
from nnx.backends.numba import structure, tuning
from nnx.backends.numba.backend import NumbaBackend
from nnx.backends.precision import ERRORS
from nnx.errors import InputError
from nnx.kernels.cpu.matmul import amx, amx_packing, tile_registers, tile_units
from nnx.kernels.cpu.matmul.tile_units import AMX, EDGE, IN_MEMORY, VECTORS
from nnx.kernels.cpu.program import compiled
from nnx.kernels.user_warnings import _given
from nnx.testing.rounding import assert_within, rounding

Array = Any
HARDWARE = not tile_units.why_not(AMX)
NEEDED = pytest.mark.skipif(not HARDWARE, reason="no AMX here")


def here(unit: str) -> str:
    """The unit, or the plain code that stands for it where it is not there."""
    return unit + IN_MEMORY if tile_units.why_not(unit) else unit


TILES = [pytest.param(AMX, marks=NEEDED), AMX + IN_MEMORY]
KINDS = [*TILES, here(VECTORS)]
NONE = np.zeros((0, 0), np.float32)
LIMIT = {1: ERRORS["bf16"], 2: ERRORS["bf16x3"], 3: 2.0**-24}  # what is neglected, relative to |a| @ |b|
SHAPES = [(1, 1, 1), (1, 70, 33), (17, 31, 65), (33, 800, 47), (90, 5, 1), (48, 300, 64)]


def product(
    a: Array,
    b: Array,
    bias: Array = NONE,
    active: Array = NONE,
    relu: bool = False,
    parts: int = 3,
    unit: str = AMX + IN_MEMORY,
) -> Array:
    """The product, in the middle of a larger array whose other numbers must stay."""
    (m, n), edge = (a.shape[0], b.shape[1]), np.float32(123)
    around = np.full((m + 2, n + 2), edge)
    c = around[1:-1, 1:-1]
    assert amx.ready(unit)(a, b, c, bias, active, relu, parts)
    around[1:-1, 1:-1], c = edge, c.copy()
    assert (around == edge).all()
    return c


def operands(m: int, k: int, n: int, layout: str = "NN", seed: int = 0, spread: int = 0) -> tuple[Array, Array]:
    """Normal numbers times powers of two up to `spread`; T: contiguous along the columns."""
    random = np.random.default_rng(seed)

    def make(rows: int, columns: int, transposed: bool) -> Array:
        shape = (columns, rows) if transposed else (rows, columns)
        x = (random.normal(size=shape) * 2.0 ** random.integers(-spread, spread + 1, shape)).astype(np.float32)
        return x.T if transposed else x

    return make(m, k, layout[0] == "T"), make(k, n, layout[1] == "T")


def exact(a: Array, b: Array) -> tuple[Array, Array]:
    """The product, and that of all sizes, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b, np.abs(a) @ np.abs(b)


def same(x: Array, y: Array) -> bool:
    """Whether all bits are the same, but for which NaN it is."""
    nans = np.isnan(x)
    return np.array_equal(nans, np.isnan(y)) and np.array_equal(x[~nans].view(np.uint32), y[~nans].view(np.uint32))


# ---- the product -----------------------------------------------------------------------------------------------------


def roundings(k: int, parts: int, unit: str) -> int:
    """How often a sum of k products is rounded."""
    if unit.startswith(AMX):
        return 2 + 7 * min(k, 256) // 32 + k // 256
    return len(tile_registers.PRODUCTS[parts]) * min(k, amx.DEPTH // parts) + k // (amx.DEPTH // parts)


@pytest.mark.parametrize("unit", KINDS)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_products_of_any_shape_and_layout_are_within_their_bound(parts: int, unit: str):
    for m, k, n in SHAPES:
        for layout in ("NN", "NT", "TN", "TT"):
            a, b = operands(m, k, n, layout)
            wanted, sizes = exact(a, b)
            bound = LIMIT[parts] + rounding(roundings(k, parts, unit), "float32")
            assert_within(product(a, b, parts=parts, unit=unit), wanted, bound * sizes)


@NEEDED
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_registers_in_memory_give_the_bits_that_amx_gives(parts: int):
    random = np.random.default_rng(parts)
    for trial in range(24):
        m, k, n = (int(size) for size in random.integers(1, 90, 3))
        a, b = operands(m, k, n, ("NN", "NT", "TN")[trial % 3], trial, (0, 10, 30, 60)[trial % 4])
        if trial % 5 == 4:
            a, b = a * np.float32(2.0**-60), b * np.float32(2.0**-62)  # products that float32 does not hold
        if trial % 7 == 3:
            a, b = a * np.float32(2.0**50), b * np.float32(2.0**40)  # sums that AMX does not
        assert same(*(product(a, b, parts=parts, unit=unit) for unit in (AMX, AMX + IN_MEMORY)))


def parts_of(x: Array, count: int) -> list[Array]:
    """Numbers split into parts of bfloat16."""
    rest, parts = x * np.float32(amx_packing.SCALE), []
    for part in range(count):
        bits = rest.view(np.uint32)
        half = np.uint32(0x7FFF) + (bits >> 16 & 1) if count == 1 else np.uint32(0x8000 if part < 2 else 0)
        parts.append((bits + half & np.uint32(0xFFFF0000)).view(np.float32))
        rest = rest - parts[-1]
    return parts


def flushed(x: Array) -> Array:
    """Zero where float32 has no full number of digits."""
    return np.where(np.abs(x) < 2.0**-126, x * 0, x).astype(np.float32)


def pair_after_pair(a: Array, b: Array, parts: int) -> Array:
    """The product as VDPBF16PS's description has it: of two products the upper one first, each fused to the sum.

    A product of two numbers of bfloat16 is exact in float64; so, or nearly, is the sum, and rounding twice changes no
    bit: of 16 digits, none lies where it could.
    """
    k = a.shape[1]
    at_once = -(-k // (-(-k // (amx.DEPTH // parts)) * EDGE)) * EDGE  # blocks as equal as pieces of 32 allow
    padded = -(-k // EDGE) * EDGE
    left = parts_of(np.pad(a, ((0, 0), (0, padded - k))), parts)
    right = parts_of(np.pad(b, ((0, padded - k), (0, 0))), parts)
    c = np.zeros((len(a), b.shape[1]), np.float32)
    for first in range(0, padded, at_once):
        sums = np.zeros_like(c)
        for group in range(first, min(first + at_once, padded), EDGE):
            for of_a, of_b in tile_registers.PRODUCTS[parts]:
                for word in range(group, group + EDGE // 2):
                    for depth in (word + EDGE // 2, word):
                        factors = flushed(left[of_a][:, depth, None]), flushed(right[of_b][depth])
                        sums = flushed(sums.astype(np.float64) + np.multiply(*factors, dtype=np.float64))
        c = c + sums * np.float32(amx_packing.SCALE**-2)
    return c


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_products_on_vectors_are_rounded_pair_after_pair(parts: int):
    for trial, (m, k, n) in enumerate([(33, 70, 40), (8, 1000, 33), (16, 40, 32), (5, 900, 3)]):
        a, b = operands(m, k, n, "NT"[trial % 2] * 2, trial, (0, 20)[trial // 2])
        if trial == 2:
            a, b = a * np.float32(2.0**-60), b * np.float32(2.0**-100)  # sums below 2**-126, even scaled
        assert same(product(a, b, parts=parts, unit=here(VECTORS)), pair_after_pair(a, b, parts))


def one_by_one(a: Array, b: Array) -> Array:
    """The product in float32, one rounded product after the other added to the sum: the same on every processor."""
    c = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        c += a[:, k, None] * b[k]
    return c


def distributions() -> dict[str, tuple[Array, Array]]:
    """Operands that are hard in one way each."""
    random, (a, b) = np.random.default_rng(1), operands(24, 600, 32)
    tiny, rows = a.copy(), np.logspace(-20, 10, 24, dtype=np.float32)[:, None]
    tiny[::2] *= np.float32(1e-33)
    worst = np.float32(1 + 2.0**-8 - 2.0**-17 - 2.0**-23)  # all that is neglected is near its bound, and of one sign
    return {
        "normal": (a, b),
        "uniform": (random.random((24, 900), np.float32), random.random((900, 32), np.float32)),
        "exponents spread over 60 bits": operands(24, 600, 32, spread=30),
        "neglected parts near their bound": (np.full((24, 600), worst), np.full((600, 32), worst)),
        "rows from 1e-20 to 1e10": (a * rows, b),
        "every other row near 1e-33": (tiny, b),
        "subnormal numbers": (a * np.float32(1e-42), b * np.float32(1e10)),
        "subnormal products": (a * np.float32(1e-19), b * np.float32(1e-19)),
        "huge beside tiny": (a * np.float32(1e30), b * np.float32(1e-25)),
    }


@pytest.mark.parametrize("unit", TILES)
@pytest.mark.parametrize("name", distributions())
def test_six_products_are_no_less_exact_than_float32(name: str, unit: str):
    a, b = distributions()[name]
    wanted, sizes = exact(a, b)
    smallest = 2.0**-150 * a.shape[1] / sizes.max()  # float32 itself holds nothing smaller

    def error(c: Array) -> float:
        return float(np.max(np.abs(c - wanted) / sizes))

    assert error(product(a, b, unit=unit)) <= error(one_by_one(a, b)) + smallest


@pytest.mark.parametrize("unit", KINDS)
def test_bias_relu_and_mask_come_last(unit: str):
    random, (a, b) = np.random.default_rng(0), operands(45, 300, 70)
    bias, active = random.normal(size=(1, 70)).astype(np.float32), random.normal(size=(45, 70)).astype(np.float32)
    plain, zero = product(a, b, unit=unit), np.float32(0)
    assert same(product(a, b, bias, relu=True, unit=unit), np.maximum(plain + bias, zero))
    assert same(product(a, b, active=active, unit=unit), np.where(active > 0, plain, zero))


@pytest.mark.parametrize("unit", KINDS)
@pytest.mark.parametrize("ugly", [np.inf, -np.inf, np.nan, 3.4e38, -3.3965e38])
def test_what_bfloat16_cannot_hold_is_multiplied_in_float32(ugly: float, unit: str):
    for parts in (1, 3):
        a, b = operands(40, 600, 40)
        a[3, 7] = ugly
        with np.errstate(all="ignore"):
            expected = a @ b
            wanted, sizes = exact(a, b)
        c = product(a, b, parts=parts, unit=unit)
        assert np.array_equal(np.isnan(c), np.isnan(expected))
        assert np.array_equal(np.isinf(c), np.isinf(expected))
        finite = np.isfinite(expected)
        assert_within(c[finite], wanted[finite], rounding(600, "float32") * sizes[finite])


@pytest.mark.parametrize("unit", KINDS)
def test_what_comes_out_of_a_row_does_not_depend_on_how_many_there_are(unit: str):
    for parts, k in ((3, 600), (2, 784)):
        a, b = operands(272, k, 33)
        whole, alone = product(a, b, parts=parts, unit=unit), product(a[:40], b, parts=parts, unit=unit)
        assert same(whole[:40], alone)


@pytest.mark.parametrize("unit", KINDS)
def test_empty_and_shared_operands(unit: str):
    for m, k, n in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        c = product(np.ones((m, k), np.float32), np.ones((k, n), np.float32), unit=unit)
        assert c.shape == (m, n)
        assert not c[: m if k == 0 else 0].any()
    square = np.ones((8, 8), np.float32)
    assert not amx.ready(unit)(square, square, square, NONE, NONE, False, 3)
    assert (square == 1).all()
    with pytest.raises(ValueError, match="shapes do not fit"):
        amx.ready(unit)(square, square[:4], square, NONE, NONE, False, 3)


@NEEDED
def test_each_thread_has_registers_of_its_own():
    a, b = operands(96, 700, 96)
    expected, wrong = product(a, b, unit=AMX), []

    def work() -> None:
        wrong.extend(1 for _ in range(50) if not same(product(a, b, unit=AMX), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- permission ------------------------------------------------------------------------------------------------------


def test_without_permission_nobody_gets_code_for_amx(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "the system says no")
    for unit in (AMX, VECTORS):
        for hand_out in (partial(amx.ready.__wrapped__, unit), partial(compiled.ready, "float32", "rows", unit)):
            with pytest.raises(RuntimeError, match="the system says no"):
                hand_out()
    backend = NumbaBackend()
    assert backend.unit is None
    assert any("without AMX: the system says no" in note for note in backend.info().notes)


ASKED = """
import numpy as np
from nnx.kernels.cpu.matmul import amx
a = np.arange(70 * 90, dtype=np.float32).reshape(70, 90) / 7
c, none = np.empty((70, 70), np.float32), np.zeros((0, 0), np.float32)
amx.ready("AMX")(a, a.T, c, none, none, False, 3)
print(c.tobytes().hex()[-200:])
"""


@NEEDED
def test_a_process_that_finds_the_code_on_disk_asks_too_and_gives_the_same_bits():
    a = np.arange(70 * 90, dtype=np.float32).reshape(70, 90) / 7
    expected = product(a, a.T, unit=AMX).tobytes().hex()[-200:]
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NumbaBackend:
    """With split products of all sizes, on AMX or the unit that a test names, or what stands for it; steps by rows."""
    monkeypatch.setenv("NNX_PROGRAM", "rows")
    monkeypatch.setattr(amx, "LEAST", 1)
    monkeypatch.setattr(NumbaBackend, "split_from", 1.0)
    made = NumbaBackend()
    made.use_unit(here(getattr(request, "param", AMX)))
    return made


@pytest.mark.parametrize(
    ("backend", "precision"),
    [(AMX, "full"), (AMX, "bf16x3"), (AMX, "bf16"), (VECTORS, "bf16x3"), (VECTORS, "bf16")],
    indirect=["backend"],
)
def test_dense_layers_multiply_in_the_precision_that_was_asked_for(backend: NumbaBackend, precision: str):
    chosen = backend.with_precision(precision)
    random = np.random.default_rng(2)
    x, w, b, dy = (random.normal(size=shape).astype(np.float32) for shape in ((40, 70), (70, 50), (1, 50), (40, 50)))
    dw, db = np.empty_like(w), np.empty_like(b)
    for got, (left, right, added) in (
        (chosen.dense(x, w, b), (x, w, b)),
        (chosen.dense_backward(x, w, dy, dw, db), (dy, w.T, 0)),
        (dw, (x.T, dy, 0)),
    ):
        wanted, sizes = exact(left, right)
        off = np.abs(got - (wanted + added)) / (sizes + np.abs(added))
        assert off.max() <= ERRORS[precision] + rounding(72, "float32")
        if precision != "full":
            assert off.max() > ERRORS[precision] / 100  # it does round


def share_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two threads work on recorded steps of any size."""
    found = tuning.Tuning(replace(tuning.derived(), threads_from=0.0), "chosen here")
    monkeypatch.setattr(tuning, "_found", lambda threads: found)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("backend", "precision"), [(AMX, "full"), (AMX, "bf16"), (VECTORS, "bf16")], indirect=["backend"]
)
def test_recorded_steps_on_tiles_are_those_of_float64(
    backend: NumbaBackend, precision: str, threads: int, monkeypatch: pytest.MonkeyPatch
):
    share_every_step(monkeypatch)
    monkeypatch.setattr(NumbaBackend, "threads", lambda self: threads)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(75, 70)), random.integers(0, 10, 75)
    ends = {}
    for name, where, dtype in (("tiles", backend.with_precision(precision), "float32"), ("exact", "numpy", "float64")):
        layers = nnx.Dense(70, 90), nnx.ReLU(), nnx.Dense(90, 33, weight_l2=1e-3), nnx.ReLU(), nnx.Dense(33, 10)
        model = nnx.Sequential(*layers, nnx.Softmax(), backend=where, dtype=dtype, seed=1)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.5, momentum=0.5))
        begin = np.concatenate([np.ravel(a) for a in model.parameters().values()]).astype(np.float64)
        model.steps(x.astype(dtype), y, 6)
        assert model.eager_reason is None
        ends[name] = np.concatenate([np.ravel(a) for a in model.parameters().values()])
        if name == "tiles":
            assert f"on {backend.unit}," in model.summary().replace("\n    ", " ")
    way = np.linalg.norm(ends["exact"] - begin)
    off = np.linalg.norm(ends["tiles"] - ends["exact"]) / way
    # Six steps, three products deep, each of up to 90 terms, and as many roundings of what lies in between.
    assert off <= 6 * 3 * (ERRORS[precision] + rounding(90, "float32"))
    assert precision == "full" or off > ERRORS[precision] / 100


def test_one_thread_and_two_end_with_the_same_bits(backend: NumbaBackend, monkeypatch: pytest.MonkeyPatch):
    share_every_step(monkeypatch)
    x, y = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32), np.arange(300) % 10
    ends = []
    for threads in (1, 2):
        monkeypatch.setattr(NumbaBackend, "threads", lambda self, threads=threads: threads)
        model = nnx.Sequential(nnx.Dense(70, 90), nnx.ReLU(), nnx.Dense(90, 10), nnx.Softmax(), backend=backend)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
        model.steps(x, y, 5)
        ends.append(np.concatenate([np.ravel(a) for a in model.parameters().values()]))
    assert same(*ends)


def test_a_summary_tells_where_narrow_layers_are_not_on_tiles(backend: NumbaBackend, monkeypatch: pytest.MonkeyPatch):
    for least, shown in ((1, "numba:amx\n"), (16, "numba:amx/gemm\n")):
        monkeypatch.setattr(amx, "LEAST", least)
        monkeypatch.setattr(structure, "_templates", {})
        model = nnx.Sequential(nnx.Dense(70, 90), nnx.ReLU(), nnx.Dense(90, 10), nnx.Softmax(), backend=backend)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
        model.steps(np.ones((40, 70), np.float32), np.arange(40) % 10, 2)
        assert shown in model.summary()


def test_more_samples_than_a_run_are_added_up_in_runs_on_tiles_too(backend: NumbaBackend):
    x = np.ones((8192 + 40, 33), np.float32)
    target = np.zeros((len(x), 1), np.float32)
    model = nnx.Sequential(nnx.Dense(33, 1), backend=backend, seed=0)
    model.compile(nnx.MeanSquaredError(), nnx.SGD(0.01))
    weights = model.layers[0].weights.astype(np.float64).copy()
    model.steps(x, target, 1)
    assert "on AMX" in model.summary()
    wanted = weights - 0.01 * 2 * weights.sum()  # the gradient of each weight is 2 * output, the same for every sample
    np.testing.assert_allclose(model.layers[0].weights, wanted, rtol=rounding(200, "float32"))


def test_info_says_what_products_run_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "")
    for rule, shown, told in (("", "numba:amx/gemm/blas", "on AMX, six products"), ("blas", "numba:blas", "NNX_GEMM=")):
        monkeypatch.setenv("NNX_GEMM", rule)
        info = NumbaBackend().info()
        assert info.ops["dense"] == shown
        assert any(told in note for note in info.notes)
    low = NumbaBackend().with_precision("bf16").info()
    assert low.ops["dense"] == "numba:amx/blas"
    assert any("rounded to bf16" in note for note in low.notes)


def test_layers_are_on_tiles_by_their_size_alone():
    full = tuning.derived().split_from
    assert not amx.prefer_amx(128, 10, 512, full)
    assert amx.prefer_amx(64, 512, 784, full)
    assert not amx.prefer_amx(64, 64, 64, full)
    assert amx.prefer_amx(64, 64, 64, amx.WORK[1])


def test_precision_is_refused_with_the_reason_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_AMX", "0")
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "this CPU has none")
    backend, why = NumbaBackend(), "needs AMX or AVX512_BF16, and NNX_AMX=0; this CPU has none; say 'full'"
    for precision in ("bf16", "bf16x3"):
        with pytest.raises(InputError, match=rf"precision='{precision}'.*{why}"):
            nnx.Sequential(nnx.Dense(2, 3), backend=backend, precision=precision)
        with pytest.raises(InputError, match="full precision only; say 'full', or use backend='numba'"):
            nnx.Sequential(nnx.Dense(2, 3), backend="numpy", precision=precision)
    with pytest.raises(InputError, match=r"precision='tf32'.*it is for GPUs"):
        nnx.Sequential(nnx.Dense(2, 3), backend=backend, precision="tf32")
    with pytest.raises(InputError, match="expected one of 'full', 'tf32', 'bf16', 'bf16x3'"):
        nnx.Sequential(nnx.Dense(2, 3), backend=backend, precision="fp8")
    assert nnx.Sequential(nnx.Dense(2, 3), backend=backend, precision="full").backend is backend


def test_without_amx_a_lower_precision_is_multiplied_by_vectors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "this CPU has none" if unit == AMX else "")
    backend = NumbaBackend()
    assert backend.unit == VECTORS
    assert backend.info().ops["dense"] == "numba:gemm/blas"  # in full precision
    (note,) = (note for note in backend.info().notes if note.startswith("large float32 products"))
    assert note.endswith('without AMX: this CPU has none; precision="bf16" multiplies on AVX512_BF16')
    low = backend.with_precision("bf16").info()
    assert low.ops["dense"] == "numba:avx512_bf16/gemm/blas"
    (note,) = (note for note in low.notes if note.startswith("large float32 products"))
    assert note.endswith(
        "on AVX512_BF16, rounded to bf16, 8 bits, from 2.62e+05 multiply-adds; without AMX: this CPU has none"
    )
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "")
    monkeypatch.setenv("NNX_AMX", "0")
    assert NumbaBackend().unit == VECTORS


def test_a_lower_precision_is_for_float32(backend: NumbaBackend):
    with pytest.raises(InputError, match="rounds float32 products, and dtype='float64'"):
        nnx.Sequential(nnx.Dense(2, 3), backend=backend, precision="bf16", dtype="float64")


def test_the_variable_is_heeded_where_it_can_be_and_told_of_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_PRECISION", "bf16")
    monkeypatch.setenv("NNX_AMX", "0")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(tile_units, "why_not", lambda unit: "this CPU has none")
        without = NumbaBackend()
    assert without.precision == "full"
    assert any("NNX_PRECISION=bf16 is not heeded: it needs AMX or AVX512" in n for n in without.info().notes)
    if HARDWARE:
        monkeypatch.setenv("NNX_AMX", "1")
        assert NumbaBackend().precision == "bf16"
    monkeypatch.setenv("NNX_AMX", "perhaps")
    with pytest.raises(InputError, match="NNX_AMX='perhaps': expected 1 or 0"):
        NumbaBackend()


def test_a_pickle_is_opened_in_full_precision_where_its_own_cannot_be_had(
    backend: NumbaBackend, monkeypatch: pytest.MonkeyPatch
):
    low = nnx.Sequential(nnx.Dense(70, 50), backend=backend, precision="bf16", seed=0)
    pickled, x = pickle.dumps(low), np.ones((2, 70), np.float32)
    monkeypatch.setattr(NumbaBackend, "_cannot", lambda self, precision: "it needs AMX, and this CPU has none")
    with pytest.warns(RuntimeWarning, match="goes on in full precision: precision='bf16'.*this CPU has none"):
        opened = pickle.loads(pickled)
    _given.pop("a lower precision")
    assert opened.backend.precision == "full"
    np.testing.assert_array_equal(opened.predict(x), low.predict(x))  # of few rows in full precision either way


def test_models_in_two_precisions_keep_theirs(backend: NumbaBackend):
    low = nnx.Sequential(nnx.Dense(70, 50), backend=backend, precision="bf16", seed=0)
    full = nnx.Sequential(nnx.Dense(70, 50), backend=low.backend, precision="full", seed=0)
    x = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)
    off = np.abs(low.predict(x) - full.predict(x))
    assert 0 < off.max() < 1
    if HARDWARE:
        assert copy.deepcopy(low).backend.precision == "bf16"
