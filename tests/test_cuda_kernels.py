"""The CUDA kernels, on the CPU (cuda_on_cpu.py), on ugly operands, in any order of threads, against float64 NumPy.

What every kernel must stand is in cuda_proofs.py. Here: that it is right, on the planned grid and on one block, on
aligned arrays and on others; that the order of threads changes no bit; that it stays within its arrays; and that the
table of kernels is that of the `.cu` files. (The emulation's own tests: test_cuda_on_cpu.py.)
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import neg

import numpy as np
import pytest
from cuda_on_cpu import CpuModule, missing, run_sanitized, sanitizer, signatures
from cuda_proofs import BITS, OPTIMIZERS, PROOFS, Run, column_sums, fused, module, prove_bfloat16, rows_launch

from nnx.backends.array_math import math_of
from nnx.backends.numpy import NumpyBackend
from nnx.backends.operations import Operations
from nnx.kernels import cuda
from nnx.kernels.cuda import ACTIVATIONS, FILES, KERNELS, Launch, formulas, options, source
from nnx.kernels.cuda.formulas import HEADERS
from nnx.kernels.cuda.launches import TILE_COLUMNS
from nnx.kernels.cuda.sources import FOLDER
from nnx.kernels.cuda.written import function
from nnx.kernels.elementwise import KINDS
from nnx.kernels.philox import dropout_words, keep_threshold
from nnx.kernels.step_state import BETA_1, STEP
from nnx.testing import cases
from nnx.testing.compare import CLASS, compare
from nnx.testing.optimizers import OPTIMIZERS as HYPERS
from nnx.testing.optimizers import cancels
from nnx.testing.reference import dense, optimizers
from nnx.testing.reference.results import Wanted
from nnx.testing.rounding import rounding

DTYPES = ("float32", "float64")
# Rows that are shorter than a warp, as long, longer, and more than a block has threads; batches of one, and of many.
SHAPES = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (2, 31), (3, 32), (2, 33), (70, 5), (2, 1000))

if missing() is not None:
    pytest.skip(str(missing()), allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile all files at once: it is most of the time that these tests take, the first time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda what: module(*what), [(file, dtype) for file in FILES for dtype in DTYPES]))


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for topic in vars(cases).values():
        if hasattr(topic, "SHAPES"):
            monkeypatch.setattr(topic, "SHAPES", SHAPES)


# ---- the table -------------------------------------------------------------------------------------------------------


def test_every_file_is_in_the_table():
    assert {path.name for path in FOLDER.glob("*.cu")} == set(FILES)


def test_every_header_is_part_of_a_kernel_and_stands_in_it_once():
    for header in (*(path.name for path in FOLDER.glob("*.cuh")), *HEADERS):
        counts = {source(file).count(f'#line 1 "{header}"') for file in FILES}
        assert counts in ({1}, {0, 1}), header


@pytest.mark.parametrize("file", FILES)
def test_the_table_says_what_the_file_says(file: str):
    table = {kernel.name: kernel.signature for kernel in KERNELS.values() if kernel.file == file}
    assert signatures(source(file)) == table


def test_every_kernel_has_a_proof():
    """But `program`, whose proofs are whole steps (test_cupy_persistent.py)."""
    proven = {kernel for proof in PROOFS.values() for kernel in proof.kernels} | {*OPTIMIZERS, *BITS, "program"}
    assert proven == {name for file in FILES for name in signatures(source(file))}


def test_numbers_of_the_files_are_those_of_python():
    from nnx.kernels import step_state
    from nnx.kernels.cuda import launches

    header, dense = (FOLDER / "common.cuh").read_text(), source("dense.cu")
    assert f"#define THREADS {launches.THREADS} " in header
    assert f"#define TILE {launches.TILE} " in dense
    for names in (
        "STEP, CURSOR, DONE",
        "LEARNING_RATE, DECAY, BETA_1, BETA_2, EPSILON, WEIGHT_DECAY, MOMENTUM_DECAY",
        "LOSS, HITS, PENALTY",
    ):
        assert f"enum {{ {names}" in header
        assert [getattr(step_state, name) for name in names.split(", ")] == list(range(len(names.split(", "))))


def test_arguments_are_of_the_parameters_types():
    given = KERNELS["dropout"].arguments("float32", "x", "y", 2, 3, "counters", 2**64 - 1, 4, 2**32 - 1, 0.1)
    assert [type(value).__name__ for value in given[2:4]] == ["int64", "int64"]
    assert [type(value).__name__ for value in given[5:]] == ["uint64", "uint64", "uint32", "float32"]
    assert KERNELS["product"].arguments("float64", *([None] * 4), *range(6))[2] == np.uintp(0)
    with pytest.raises(TypeError, match=r"relu_forward: 1 arguments given, expected \(const REAL\* x"):
        KERNELS["relu_forward"].arguments("float32", 1)


# ---- right, whatever the grid, the order and the place ---------------------------------------------------------------


def results(run: Run, operation: str) -> Iterator[tuple[str, cases.Case, dict[str, np.ndarray]]]:
    """Every case of an operation, with what the kernels wrote, and what it was."""
    for case in cases.CASES[operation](cases.Maker(run.dtype)):
        what = f"{operation}, {case.name}, {run}"
        operands = case.operands | ({"rows": case.out[0]} if operation == "gather_rows" and case.out else {})
        for written in PROOFS[operation].run(run, operands):
            yield what, case, written
        run.check_guards(what)


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", PROOFS)
def test_kernels_are_right_and_the_order_of_threads_changes_no_bit(operation: str, dtype: str):
    plain, shuffled, crowded = Run(dtype), Run(dtype, seed=11), Run(dtype, crowded=True, shift=1, seed=3)
    runs = (results(run, operation) for run in (plain, shuffled, crowded))
    for (what, case, one), (_, _, other), (where, _, by_one_block) in zip(*runs, strict=True):
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), f"{what}: {name}"
            compare(one[name], case.wanted[name], CLASS[operation], dtype, f"{what}: {name}")
            compare(by_one_block[name], case.wanted[name], CLASS[operation], dtype, f"{where}: {name}")
    assert plain.kernels >= set(PROOFS[operation].kernels)  # it runs what it is said to prove


# ---- long rows, NaN, labels that are none ----------------------------------------------------------------------------


class Judge(NumpyBackend):
    """The default bodies of all operations."""


for name in dir(Operations):
    if not name.startswith("__"):
        setattr(Judge, name, getattr(Operations, name))
judge = Judge()
# Sums of 1500 terms.
TIGHT = {dtype: {"rtol": rounding(1600, dtype), "atol": rounding(16, dtype)} for dtype in DTYPES}


def wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1024, 1025, 5000])
def test_long_rows(columns: int, dtype: str):
    make, shape = cases.Maker(dtype), (2, columns)
    run, labels = Run(dtype, seed=5), np.array([columns - 1, 3])
    for _, x in make.logits(shape):
        y, dx, dy = run.write(shape), run.write(shape), make.normal(*shape)
        run(cuda.softmax_rows("softmax", *shape), x, y, *shape)
        np.testing.assert_allclose(y, judge.softmax(wide(x)), **TIGHT[dtype])
        run(cuda.softmax_rows("softmax_backward", *shape), y, dy, dx, *shape)
        np.testing.assert_allclose(dx, judge.softmax_backward(wide(y), wide(dy)), **TIGHT[dtype])
        for target in (labels, np.eye(columns, dtype=dtype)[labels]):
            kind = "labels" if target.ndim == 1 else "distributions"
            launch = cuda.softmax_rows(f"softmax_cross_entropy_{kind}", *shape)
            got = fused(run, launch, {"logits": x, "target": target})
            losses, p = np.empty(2), np.empty(shape)
            with np.errstate(all="ignore"):
                gradient = judge.softmax_cross_entropy(wide(x), target if target.ndim == 1 else wide(target), losses, p)
            np.testing.assert_allclose(got["losses"], losses, **TIGHT[dtype])
            np.testing.assert_allclose(got["probabilities"], p, **TIGHT[dtype])
            np.testing.assert_allclose(got["out"], gradient, **TIGHT[dtype])
    run.check_guards("long rows")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("team", ["warp", "block"])
@pytest.mark.parametrize("columns", [1, 3, 40, 300])
def test_nan_fills_its_own_row_and_no_other(columns: int, team: str, dtype: str):
    x = cases.Maker(dtype).normal(9, columns)
    x[1, 0], x[4, -1], x[6, columns // 2], x[7] = np.nan, np.nan, np.inf, -np.inf
    y, run = np.empty_like(x), Run(dtype)
    run(rows_launch(f"softmax_{team}", *x.shape), x, y, *x.shape)
    given = {"logits": x, "target": np.zeros(9, np.int64)}
    got = fused(run, rows_launch(f"softmax_cross_entropy_labels_{team}", *x.shape), given)
    losses, p = np.empty(9), np.empty(x.shape)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, judge.softmax(wide(x)), rtol=rounding(340, dtype))
        gradient = judge.softmax_cross_entropy(wide(x), given["target"], losses, p)
    np.testing.assert_allclose(got["probabilities"], p, rtol=rounding(340, dtype))
    np.testing.assert_allclose(got["out"], gradient, rtol=rounding(340, dtype), atol=rounding(2, dtype))
    np.testing.assert_allclose(got["losses"], losses, rtol=rounding(340, dtype), atol=rounding(16, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_label_that_is_no_class_makes_its_loss_nan(label: int, dtype: str):
    p, run = np.full((3, 3), 1 / 3, dtype), Run(dtype)
    target, losses = np.array([0, label, 2]), run.write(3)
    for kernel in ("cross_entropy_labels", "softmax_cross_entropy_labels_warp", "softmax_cross_entropy_labels_block"):
        if kernel == "cross_entropy_labels":
            run(cuda.row_groups(kernel, 3, 3), p, target, losses, 3, 3)
        else:
            losses = fused(run, rows_launch(kernel, 3, 3), {"logits": p, "target": target})["losses"]
        assert np.isnan(losses).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_output_is_the_one_numpy_finds(dtype: str):
    """The first of equals, NaN before all numbers, -inf alone."""
    x = cases.Maker(dtype).normal(40, 37).round(0)
    x[1], x[2], x[3, 5], x[4, [7, 3]] = -np.inf, 0, np.nan, np.nan
    stats, parts, run = np.zeros(3), np.zeros((2, 2)), Run(dtype, seed=4)
    target, losses = x.argmax(axis=1), np.ones(40, dtype)
    for wanted in (40, 39):
        run(Launch("tally_labels", (2,), (256,)), losses, None, x, target, parts, stats, 40, 37)
        run(Launch("tally_total", (1,), (256,)), parts, stats, 2, 40, 1)
        assert stats.tolist() == [1, wanted, 0]
        target[9] = (target[9] + 1) % 37


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_stages_as_planned(dtype: str):
    """Sizes at which the plans themselves take several blocks, bands and slices."""
    make, run = cases.Maker(dtype), Run(dtype, seed=2)
    w, dw = make.normal(9001), make.normal(9001)
    wanted = dense.regularize(wide(w), wide(dw), 0.1, 0.2)["penalty"]
    first, second = cuda.regularize(w.size)
    parts, penalty = run.write(first.grid, np.float64), run.write(1, np.float64)
    run(first, w, dw, parts, penalty, w.size, 0.1, 0.2)
    run(second, parts, penalty, first.grid[0])
    compare(penalty, wanted, "sum", dtype, "penalty")

    outputs, target, losses = make.normal(3001, 3), make.random.integers(0, 3, 3001), make.normal(3001)
    first, second = cuda.tally("labels", 3001, 3)
    parts, stats = run.write((*first.grid, 2), np.float64), run.write(3, np.float64, [0, 0, 0])
    run(first, losses, None, outputs, target, parts, stats, 3001, 3)
    run(second, parts, stats, first.grid[0], 3001, 1)
    assert stats[1] == (outputs.argmax(axis=1) == target).sum()
    np.testing.assert_allclose(stats[0], wide(losses).mean(), rtol=rounding(losses.size), atol=1e-15)

    a, b = make.normal(700, 40), make.normal(700, 3)
    count = cuda.slices(40, 3, 700)
    assert count > 1
    parts, c = run.write((count, 40, 3)), run.write((40, 3))
    run(cuda.product(40, 3, 700), a, b, None, parts, 40, 3, 700, 1, 0, ACTIVATIONS[None])
    run(cuda.column_sums(count, 120)[-1], parts, c, count, 120)
    size = np.abs(wide(a)).T @ np.abs(wide(b))
    compare(c, Wanted(wide(a).T @ wide(b), size), "sum", dtype, "product in slices")
    run.check_guards("two stages")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 4, 10, 32, 127, 128, 130, 260])
def test_column_sums_of_every_shape(columns: int, dtype: str):
    """As planned, with rows that a thread reads by eights and the rest of them; the same bits wherever arrays begin."""
    make = cases.Maker(dtype)
    for rows in (1, 7, 70, 600):
        x, y = make.normal(rows, columns), make.normal(rows, columns)
        masked, found = np.where(y > 0, x, 0), []
        for shift, seed in ((0, 0), (1, 5)):
            run = Run(dtype, shift=shift, seed=seed)
            bands, dx = cuda.bands(rows, columns), run.write(x.shape)
            there, gradient = run.read(x), (run.read(y), run.read(x), dx)
            found.append(column_sums(run, "column_sums", (there,), rows, columns, bands))
            found.append(column_sums(run, "relu_backward_column_sums", gradient, rows, columns, bands))
            np.testing.assert_array_equal(dx, masked)
            run.check_guards(f"{rows} x {columns}, {shift}")
        for got, terms in zip(found, (x, masked, x, masked), strict=True):
            compare(got[0], Wanted(wide(terms).sum(axis=0), np.abs(wide(terms)).sum(axis=0)), "sum", dtype, f"{rows}")
        assert [a.tobytes() for a in found[:2]] == [a.tobytes() for a in found[2:]]


def test_column_sums_leave_few_rows_to_the_second_launch():
    """Each of its threads then has them all on their way at once."""
    for rows, columns in ((8192, 512), (8192, 10), (128, 512), (1 << 20, 2048), (100_000, 3)):
        first, *second = cuda.column_sums(rows, columns)
        assert first.grid[1] == cuda.bands(rows, columns) <= 32
        assert first.grid[0] * 128 >= columns
        assert bool(second) == (first.grid[1] > 1)
    assert cuda.bands(8192, 512) == 32
    assert f"#define TILE_COLUMNS {TILE_COLUMNS}" in source("dense.cu")


@pytest.mark.parametrize("columns", [1, 3, 10, 256, 257, 1000])
@pytest.mark.parametrize("rows", [1, 9, 257, 20000])
def test_plans_are_launchable(rows: int, columns: int):
    launches = [
        *cuda.column_sums(rows, columns),
        *cuda.tally("labels", rows, columns),
        *cuda.regularize(rows * columns),
        cuda.product(rows, columns, rows),
        cuda.product(columns, columns, rows),
        cuda.softmax_rows("softmax", rows, columns),
        cuda.softmax_jacobian(rows, columns),
        cuda.bias_activation(rows, columns),
        cuda.dropout(rows, columns),
        cuda.elementwise("relu_forward", rows * columns),
    ]
    for launch in launches:
        assert launch.kernel in KERNELS
        assert 0 < launch.grid[0] < 2**31
        assert all(0 < size <= 65535 for size in launch.grid[1:])
        assert launch.block == (256,)
    assert (cuda.bands(rows, columns) > 1) == (len(cuda.column_sums(rows, columns)) == 2)


@pytest.mark.parametrize("columns", [300, 1000])
def test_more_columns_than_threads(columns: int):
    """One block of 256 threads adds a bias to more columns than that, each by itself or four at once."""
    make, run = cases.Maker("float32"), Run("float32")
    for shift in (0, 1):
        y, bias = make.normal(3, columns + shift), make.normal(1, columns + shift)
        wanted = y + bias
        run(Launch("bias_activation", (1,), (256,)), y, bias, *y.shape, ACTIVATIONS[None])
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("kind", [-2, len(KINDS), KINDS.index("leaky_relu"), KINDS.index("square")])
def test_a_kind_that_no_dense_layer_applies_stops_the_kernel(kind: int):
    run, x = Run("float32"), np.ones((2, 2), np.float32)
    with pytest.raises(RuntimeError, match="__trap"):
        run(cuda.product(2, 2, 2), x, x, None, run.write((2, 2)), 2, 2, 2, 0, 0, kind)
    with pytest.raises(RuntimeError, match="__trap"):
        run(cuda.bias_activation(2, 2), run.write((2, 2)), x[:1], 2, 2, kind)


# ---- formulas as C text ----------------------------------------------------------------------------------------------

# Each is exact in whole numbers and their halves, so that only a wrong order, sign or choice makes another result.
WRITTEN = {
    "differences": lambda m, x, y: x - (y - (x - 3)) - -2,
    "quotients": lambda m, x, y: 8 / (2 / (4 / (x * x + 1))) * 0.5 + y,
    "signs": lambda m, x, y: -(-x - -y) * -(x + y) - neg(neg(-x)),
    "choices": lambda m, x, y: m.where(m.where(x < 0, y, 1) > 0, m.where(y <= 0, 2, x), x) - m.where(x > y, 0.5, -y),
    "answers": lambda m, x, y: m.where((x > 0) == (y > 0), 1, m.where((x >= 1) & (y != -1), 2, x)),
    "shared": lambda m, x, y: ((z := abs(x) + y) - 1) * z + m.where(z == 3, z, 1 - z),
    "long": lambda m, x, y: sum(((k * x + y) * (x - k) for k in range(20)), start=x),
    "constants": lambda m, x, y: m.where(x > 0, math.nan, m.where(y > 0, -math.inf, y)),
    "large": lambda m, x, y: m.where(x > y, 1e30, y) * -1e12,
    "types": lambda m, x, y: x * (32 if m.single(x) else 64) + y,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_c_text_computes_what_numpy_does(dtype: str):
    x, y = (a.ravel() for a in np.mgrid[-3:4, -3:4].astype(dtype))
    text = (FOLDER / "common.cuh").read_text()
    for name, formula in WRITTEN.items():
        definition, _ = function(f"{name}_of", formula, ("x", "y"))
        text += f"""{definition}
        extern "C" __global__ void run_{name}(const REAL* x, const REAL* y, REAL* out) {{
          out[threadIdx.x] = {name}_of(x[threadIdx.x], y[threadIdx.x]);
        }}
        """
    compiled = CpuModule.of_text(text, options(dtype))
    for name, formula in WRITTEN.items():
        got = np.empty_like(x)
        compiled.kernel(f"run_{name}")((1,), (x.size,), (x, y, got))
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(got, formula(math_of(np), x, y), name)


def test_what_is_used_twice_is_worked_out_once_and_lines_are_short():
    for text, _ in formulas.WRITTEN.values():
        calls = re.findall(r"exponential\([^;]*?\)", text)
        assert len(calls) == len(set(calls)) or "constexpr" in text
        assert max(map(len, text.splitlines())) <= 120


# ---- dropout and optimizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_takes_the_words_of_numpy(dtype: str):
    """To the integer: the rate is set to the word of each element in turn, and to the one above."""
    shape, seed, layer, step = (5, 11), 2**40 + 7, 3, 2**31 + 5
    words = dropout_words(np, *shape, np.array(step, np.uint64), layer, seed)
    x, y, counters, run = np.ones(shape, dtype), np.empty(shape, dtype), np.array([step, 0, 0]), Run(dtype)
    for word in words.flat[:]:
        for threshold in (int(word), int(word) + 1):
            run(cuda.dropout(*shape), x, y, *shape, counters, seed, layer, threshold, 2)
            np.testing.assert_array_equal(y, np.where(words >= threshold, 2, 0))
    assert keep_threshold(0.25) == 2**30


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_over_steps(name: str, shift: int, dtype: str):
    """The device itself moves the step on, between launches of always the same arguments."""
    for hyper in HYPERS[name]:
        outcomes = [optimize(name, np.array(hyper), shift, dtype, seed, crowded=seed > 0) for seed in (0, 6)]
        assert outcomes[0] == outcomes[1]


MOMENTS = {"adagrad": "v", "rmsprop": "v", "adam": "mv", "nadam": "mv", "amsgrad": "mvu"}


def optimize(name: str, hyper: np.ndarray, shift: int, dtype: str, seed: int, crowded: bool) -> list[bytes]:
    size, steps, random = 1027, 12, np.random.default_rng(1)
    run = Run(dtype, seed=seed, crowded=crowded, shift=shift)
    start, scales = random.normal(size=size).astype(dtype), 10.0 ** random.integers(-12, 4, size)
    arrays = {"p": run.write(size, values=start)}
    arrays |= {moment: run.write(size, values=0) for moment in MOMENTS.get(name, "m")}
    counters, gradient = run.write(3, np.int64, [0, 0, 0]), run.write(size)
    stats, history = run.write(3, np.float64, [0, 0, 0]), run.write((4, 3), np.float64)
    exact = {"p": wide(start), "m": np.zeros(size), "v": np.zeros(size), "u": np.zeros(size)}
    way = {key: np.abs(values) for key, values in exact.items()}
    for step in range(steps):
        gradient[...] = random.normal(size=size) * scales
        if name == "lion":  # whose sign rounding must not decide
            gradient[...] = np.where(cancels(exact["m"], gradient, hyper[BETA_1]), exact["m"], gradient)
        before = {key: values.copy() for key, values in exact.items()}
        p, *moments = arrays.values()
        run.walk(cuda.elementwise(name, size), p, gradient, *moments, hyper, counters, size)
        run(Launch("end_step", (1,), (32,)), stats, np.zeros(0), 0, history, 4, counters, 7)
        optimizers.descend(name, exact["p"], wide(gradient), exact["m"], exact["v"], hyper, step, exact["u"])
        for key, values in exact.items():
            way[key] += np.abs(values - before[key])
    assert counters[STEP] == steps
    run.check_guards(name)
    for key, got in arrays.items():
        compare(got, Wanted(exact[key], way[key]), "steps", dtype, f"{name}, {hyper}: {key}")
    return [array.tobytes() for array in arrays.values()]


def test_an_optimizer_late_in_training():
    """Beta to the power of a million is nothing, and the correction 1."""
    hyper, counters = np.array([0.1, 0.0, 0.9, 0.999, 1e-7, 0.0]), np.array([10**6, 0, 0])
    got = [np.ones(5) for _ in range(4)]
    Run("float64")(Launch("adam", (1,), (256,)), *got, hyper, counters, 5)
    wanted = [np.ones(5) for _ in range(4)]
    judge.adam(*wanted, hyper, counters)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=rounding(64))


# ---- bit for bit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1])
def test_bfloat16_is_the_nearest_and_even(shift: int):
    for run in (Run("float32", shift=shift), Run("float32", crowded=True, shift=shift, seed=4)):
        prove_bfloat16(run)


# ---- within the arrays -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sanitizer() is None, reason="g++ has no address sanitizer (libasan)")
def test_kernels_stay_within_their_arrays():
    """Under the address sanitizer, which sees what is read beyond an array too."""
    done = run_sanitized("""
from concurrent.futures import ThreadPoolExecutor
from operator import neg
import cuda_proofs, test_cuda_kernels as tests
from nnx.kernels.cuda import FILES
with ThreadPoolExecutor() as pool:
    list(pool.map(lambda file: cuda_proofs.module(file, "float32", "address"), FILES))
for operation in cuda_proofs.PROOFS:
    count = len(list(tests.results(cuda_proofs.Run("float32", sanitize="address"), operation)))
    print(operation, count)
""")
    assert done.returncode == 0, done.stderr[-5000:]
    assert len(done.stdout.splitlines()) == len(PROOFS)
