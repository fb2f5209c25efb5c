"""Operands that are unaligned, in another byte order, read-only, or share memory with the result: NumPy's numbers."""

from __future__ import annotations

import inspect
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

import nnx
from nnx.backends.numba.backend import create
from nnx.backends.numba.sharing import offer
from nnx.backends.operation_table import OPERATIONS
from nnx.kernels.cpu.threads import pool
from nnx.testing.cases import CASES, Maker
from nnx.testing.compare import CLASS, compare

DTYPES = ["float32", "float64"]


def unaligned(a):
    """Return a copy that begins one byte past where its numbers should."""
    memory = np.empty(a.nbytes + 1, np.uint8)
    odd = memory[1:].view(a.dtype).reshape(a.shape)
    odd[...] = a
    return odd


def foreign(a):
    """Return a copy in the byte order that is not this machine's."""
    return a.astype(a.dtype.newbyteorder())


def frozen(a):
    """Return a copy that is read-only."""
    odd = a.copy()
    odd.flags.writeable = False
    return odd


@pytest.fixture(scope="module")
def seen():
    """Have Numba see unaligned arrays: from then on it takes the other byte order for this machine's.

    Of float64 it sees the other byte order first, which it refuses: from then on no unaligned array is known to it.
    """

    @numba.njit
    def look(a):
        return a.size

    for kind, first in (("float32", unaligned), ("float64", foreign), ("int64", unaligned)):
        for shape in ((3,), (2, 3), (2, 3, 3)):
            with suppress(numba.errors.NumbaError):
                look(first(np.zeros(shape, kind)))


def few(operation, dtype):
    """Every third case of an operation, as plain and as ugly as they come."""
    return list(CASES[operation](Maker(dtype)))[::3]


def check(backend, case, dtype, operands):
    if case.operation == "gather_rows":
        operands = {"out": np.empty(case.out, case.operands["source"].dtype)} | operands
    got = operands | {"out": getattr(backend, case.operation)(**operands)}
    for name, wanted in case.wanted.items():
        compare(np.asarray(got[name]), wanted, CLASS[case.operation], dtype, f"{case.operation}, {case.name}: {name}")


@pytest.mark.parametrize("odd", [unaligned, foreign, frozen])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", CASES)
def test_operands_that_numba_takes_for_others(operation, dtype, odd, seen):
    backend, written = create(), OPERATIONS[operation].writes
    for case in few(operation, dtype):
        arrays = [name for name, a in case.operands.items() if isinstance(a, np.ndarray)]
        for one in arrays:
            if odd is frozen and one in written:
                continue
            operands = {name: case.operands[name].copy() for name in arrays}
            check(backend, case, dtype, case.operands | operands | {one: odd(case.operands[one])})


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_refuses_what_it_would_misread(dtype, seen):
    kernels = create().kernels
    kernel, more = kernels.elementwise.forward, (kernels.pool.board_at, 1, 1, 0.0)
    x, y = np.ones((2, 3), dtype), np.zeros((2, 3), dtype)
    for odd in (unaligned(x), foreign(x)):
        assert not offer(kernel, odd, y, *more)
        assert not offer(kernel, x, odd, *more)
        assert not y.any()
    assert kernel(x, y, *more)
    assert y.all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_models_read_every_array_as_numpy_does(dtype, seen):
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 5)).astype(dtype), random.integers(0, 3, 40)
    layers = nnx.Dense(5, 32), nnx.ReLU(), nnx.Dense(32, 3), nnx.Softmax()
    model = nnx.Sequential(*layers, backend="numba", dtype=dtype)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.01))
    few, many, scores = model.predict(x[:2]), model.predict(x), model.evaluate(x, labels)
    losses = model.fit(x, labels, epochs=2, batch_size=7, verbose=0)["loss"]
    for odd in (unaligned, foreign, frozen):
        twin = nnx.Sequential(
            nnx.Dense(5, 32), nnx.ReLU(), nnx.Dense(32, 3), nnx.Softmax(), backend="numba", dtype=dtype
        )
        twin.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.01))
        np.testing.assert_array_equal(twin.predict(odd(x[:2])), few)
        np.testing.assert_array_equal(twin.predict(odd(x)), many)
        assert twin.evaluate(odd(x), odd(labels)) == scores
        assert twin.fit(odd(x), odd(labels), epochs=2, batch_size=7, verbose=0)["loss"] == losses


# ---- a result that overlaps an operand -------------------------------------------------------------------------------

SHIFTS = (1, -1, 3, -5)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = pool.limit
    pool.set_limit(request.param)
    yield
    pool.set_limit(before)


def over(operand, shape, shift):
    """Return a copy of an operand, and room for a result that begins `shift` numbers further on."""
    size = max(operand.size, int(np.prod(shape)))
    memory = np.zeros(size + 2 * abs(shift), operand.dtype)
    first = abs(shift)
    moved = memory[first : first + operand.size].reshape(operand.shape)
    moved[...] = operand
    return moved, memory[first + shift :][: int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", [name for name, spec in OPERATIONS.items() if "out" in spec.writes])
def test_a_result_over_an_operand_is_numpys(operation, dtype):
    backend, parameters = create(), inspect.signature(getattr(create(), operation)).parameters
    for number, case in enumerate(few(operation, dtype)):
        kinds = {name: a.dtype for name, a in case.operands.items() if isinstance(a, np.ndarray)}
        first = next(iter(kinds.values()))
        reads = [name for name in OPERATIONS[operation].reads if name not in OPERATIONS[operation].writes]
        for one in (name for name in reads if kinds.get(name) == first and name in parameters):
            for shift in (0, SHIFTS[number % 4]):
                operands = {name: a.copy() for name, a in case.operands.items() if name in kinds}
                operands[one], out = over(case.operands[one], case.out, shift)
                check(backend, case, dtype, case.operands | operands | {"out": out})


def test_a_large_result_over_an_operand_is_numpys(threads):
    backend, judge, random = create(), nnx.backends.resolve("numpy").backend, np.random.default_rng(0)
    base = random.normal(size=(3, 600_000)).astype(np.float32)
    operations = {"relu": 1, "tanh": 1, "softmax": 1, "relu_backward": 2, "mean_squared_error_backward": 2}
    for operation, count in operations.items():
        for shift in (1, -1, 300_000, -300_000):  # within a thread's share, and as far as the other's
            for place in range(count):
                operands = [a[:500_000].reshape(500, 1000).copy() for a in base[:count]]
                wanted = getattr(judge, operation)(*operands)
                operands[place], out = over(operands[place], (500, 1000), shift)
                getattr(backend, operation)(*operands, out=out)
                np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-6)


def test_a_product_over_an_operand_is_numpys(threads):
    random = np.random.default_rng(0)
    for rule in ("own", "blas"):
        backend = create()
        backend.gemm_rule = rule
        for n, i, o in ((5, 4, 3), (200, 300, 400)):
            x, w, b = (random.normal(size=shape).astype(np.float32) for shape in ((n, i), (i, o), (1, o)))
            wanted = x.astype(float) @ w + b
            for place in range(3):
                operands = [x, w, b]
                operands[place], out = over(operands[place], (n, o), 2)
                np.testing.assert_allclose(backend.dense(*operands, out=out), wanted, rtol=1e-3, atol=1e-3)
