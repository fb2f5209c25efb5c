"""The CPU kernels: accuracy at the edges, every size, refusals, threads, and what info() says.

Compiled once and kept on disk. That fresh code and loaded code agree is test_kernels_cpu_cold.py's matter.
"""

import os
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from nnx.backends import get_backend, threads
from nnx.backends.numba import sharing, tuning
from nnx.backends.numba.backend import NumbaBackend, create
from nnx.backends.numba.sharing import offer
from nnx.backends.numpy import NumpyBackend
from nnx.backends.operations import Operations
from nnx.errors import BackendUnavailable, InputError
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import Unfit
from nnx.kernels.cpu.jit.simd import OPTIONS
from nnx.kernels.cpu.matmul import gemm
from nnx.kernels.cpu.ops import math
from nnx.kernels.cpu.threads import pool, team
from nnx.kernels.elementwise import FUNCTIONS
from nnx.kernels.losses import LOSSES
from nnx.kernels.philox import dropout_words
from nnx.testing.rounding import assert_within, rounding

pytestmark = pytest.mark.rounding

NUMPY = NumpyBackend()
SHARED = round(1e3 * tuning.derived().woken_us / 0.2)  # numbers of softmax's gradient for which helpers are woken


@pytest.fixture(scope="module")
def numba():
    return create()


# ---- exp, log, tanh --------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def exps(x, y):
    for j in range(x.size):
        y[j] = math.exp(x[j])


@njit(**OPTIONS)
def logs(x, y):
    for j in range(x.size):
        y[j] = math.log(x[j])


@njit(**OPTIONS)
def tanhs(x, y):
    for j in range(x.size):
        y[j] = math.tanh(x[j])


def called(function, x):
    y = np.empty_like(x)
    function(x, y)
    return y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "exact", "x"),
    [
        (exps, np.exp, np.linspace(-86.8, 88.7, 200_001)),
        (logs, np.log, np.exp(np.linspace(-103, 88, 200_001))),
        (tanhs, np.tanh, np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 0, 1000)])),
    ],
    ids=["exp", "log", "tanh"],
)
def test_functions_are_accurate(function, exact, x, dtype):
    x = x.astype(dtype)
    x = x[x != 0]
    with np.errstate(all="ignore"):
        wanted = exact(x.astype(np.float64))
        error = np.abs(called(function, x) / np.where(wanted == 0, 1, wanted) - (wanted != 0))
    assert error.max() < rounding(4 if dtype == "float32" else 10, dtype)  # of those in float64 one is NumPy's


@pytest.mark.parametrize(
    ("function", "exact", "error", "largest"), [(exps, np.exp, 1.2e-7, 86.8), (tanhs, np.tanh, 1.9e-7, 12.0)]
)
def test_exp_and_tanh_err_by_no_more_than_is_said_of_all_numbers(function, exact, error, largest):
    x = np.arange(1 << 23, np.float32(largest).view(np.int32), 1009, np.int32).view(np.float32)
    for numbers in (x, -x):
        wanted = exact(numbers.astype(np.float64))
        assert np.abs(called(function, numbers) / wanted - 1).max() <= error


def test_exp_overflows_where_float32_does_and_tanh_keeps_the_sign_of_zero():
    last = np.float32(88.72283)  # whose exponential is the last number that float32 holds
    x = last.view(np.int32) + np.arange(-2000, 2000, dtype=np.int32)
    y = called(exps, x.view(np.float32))
    assert np.isfinite(y[:2001]).all()
    assert (np.diff(y[:2001]) >= 0).all()
    assert np.isposinf(y[2001:]).all()
    zeros = called(tanhs, np.array([0.0, -0.0], np.float32))
    assert np.signbit(zeros).tolist() == [False, True]
    assert not zeros.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("function", "exact"), [(exps, np.exp), (logs, np.log), (tanhs, np.tanh)])
def test_functions_at_the_edges(function, exact, dtype):
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, 1, 89, -104, 3e38, -3e38], dtype)
    with np.errstate(all="ignore"):
        wanted = exact(x)
    np.testing.assert_allclose(called(function, x), wanted, rtol=rounding(8, dtype), atol=2e-38)


# ---- products --------------------------------------------------------------------------------------------------------

SIZES = st.one_of(st.sampled_from([1, 2, 3, 10, 16, 17, 33, 64, 130]), st.integers(1, 80))


@given(m=SIZES, k=SIZES, n=SIZES, flags=st.tuples(*[st.booleans()] * 6), dtype=st.sampled_from(["float32", "float64"]))
def test_the_own_product_is_right_for_every_size(m, k, n, flags, dtype):
    transpose_a, transpose_b, with_bias, relu, masked, accumulate = flags
    random = np.random.default_rng(m * 10_000 + k * 100 + n)
    a, b = random.normal(size=(m, k)).astype(dtype), random.normal(size=(k, n)).astype(dtype)
    a = np.asfortranarray(a) if transpose_a else a
    b = np.asfortranarray(b) if transpose_b else b
    around = np.full((m + 2, n), np.nan, dtype)
    c = around[1:-1]
    c[...] = random.normal(size=(m, n))
    bias = random.normal(size=(1 if with_bias else 0, n)).astype(dtype)
    active = random.normal(size=(m if masked else 0, n)).astype(dtype)
    wanted = a.astype(np.float64) @ b + (c if accumulate else 0) + (bias if with_bias else 0)
    size = (
        np.abs(a).astype(np.float64) @ np.abs(b) + (np.abs(c) if accumulate else 0) + (np.abs(bias) if with_bias else 0)
    )
    wanted = np.maximum(wanted, 0) if relu else wanted
    wanted = np.where(active > 0, wanted, 0) if masked else wanted
    gemm.ready(np.dtype(dtype))(a, b, c, bias, active, relu, accumulate)
    assert_within(c, wanted, 2 * rounding(k + 2, dtype) * size)  # what is wanted is rounded too
    assert np.isnan(around[[0, -1]]).all()  # nothing was written outside


@pytest.mark.parametrize("rule", ["own", "blas"])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(1, 784, 10), (1, 3, 1), (3, 1, 2), (130, 70, 200), (600, 130, 300)])
def test_dense_is_the_same_by_either_product(shape, activation, rule, two_threads):
    backend = create()
    backend.gemm_rule = rule
    n, i, o = shape
    random = np.random.default_rng(3)
    x, w, b = (random.normal(size=size).astype(np.float32) for size in ((n, i), (i, o), (1, o)))
    wanted = NUMPY.dense(x, w, b, activation)
    steepest = 2 * rounding(i + 8, "float32") * (np.abs(x) @ np.abs(w) + np.abs(b))  # no activation is steeper than 1
    assert_within(backend.dense(x, w, b, activation), wanted, steepest)
    dw, db, dw_, db_ = np.empty_like(w), np.empty_like(b), np.empty_like(w), np.empty_like(b)
    dx, dx_ = backend.dense_backward(x, w, wanted, dw, db), NUMPY.dense_backward(x, w, wanted, dw_, db_)
    for got, want, left, right in (
        (dx, dx_, wanted, w.T), (dw, dw_, x.T, wanted), (db, db_, np.ones((1, n), np.float32), wanted),
    ):  # fmt: skip
        assert_within(got, want, 2 * rounding(left.shape[1], "float32") * (np.abs(left) @ np.abs(right)))


def test_dense_without_a_bound_blas(monkeypatch, numba):
    monkeypatch.setattr(numba, "bound", False)
    x, w, b = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32), -np.ones((1, 2), np.float32)
    assert (numba.dense(x, w, b, "relu") == 2).all()


def test_the_rule_is_shown_and_can_be_overridden(monkeypatch):
    monkeypatch.setenv("NNX_AMX", "0")
    for rule, shown in (("own", "numba:gemm"), ("blas", "numba:blas"), ("", "numba:gemm/blas")):
        monkeypatch.setenv("NNX_GEMM", rule)
        assert create().info().ops["dense"] == shown
    monkeypatch.setenv("NNX_GEMM", "fast")
    with pytest.raises(InputError, match="NNX_GEMM='fast': expected one of auto, own, blas"):
        create()


# ---- dropout ---------------------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 40), columns=st.one_of(st.integers(1, 40), st.sampled_from([1023, 1024, 1025, 2100])))
def test_dropout_takes_the_words_of_philox(rows, columns):
    seed, step, layer, rate = 2**40 + 7, 5, 2, 0.3
    x = np.ones((rows, columns), np.float32)
    counters = np.array([step, 0, 0])
    words = dropout_words(np, rows, columns, np.array(step, np.uint64), layer, seed)
    kept = create().dropout(x, rate, seed, layer, counters) != 0
    assert np.array_equal(kept, words >= int(rate * 2**32))


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_no_kernel_is_compiled_for_what_it_should_refuse(numba):
    kernel = numba.kernels.softmax.forward
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    numba.softmax(x)
    known = list(kernel.signatures)
    for odd in (x.T, x[:, ::2], frozen, x[::-1], np.asfortranarray(x), x.astype(">f4"), x.astype(np.float16)):
        assert not offer(kernel, odd, np.empty(odd.shape, odd.dtype), pool.board_at, 1)
        close = rounding(2, "float16") if odd.dtype == np.float16 else rounding(64, "float32")
        np.testing.assert_allclose(numba.softmax(odd), NUMPY.softmax(odd), rtol=close)
    for odd in ([[1.0]], None, x[0], x.astype(np.float64)):
        with pytest.raises(Unfit):
            kernel(odd, x, pool.board_at, 1)
    assert kernel.signatures == known
    assert not kernel(x, np.empty((4, 5), np.float32), pool.board_at, 1)


@pytest.mark.parametrize("operation", ["softmax", "relu", "sigmoid", "tanh"])
def test_in_place(operation, numba):
    x = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    wanted = getattr(NUMPY, operation)(x)
    assert getattr(numba, operation)(x, out=x) is x
    np.testing.assert_allclose(x, wanted, rtol=rounding(64, "float32"))  # a sum of 30, and exps of two libraries


def softmax_backward_bound(y, dy):
    """How far y * (dy - sum(y * dy)) may be off for its roundings."""
    products = np.abs(y).astype(np.float64) * np.abs(dy)
    return rounding(y.shape[1] + 3, y.dtype) * (products + np.abs(y) * products.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [*range(1, 19), 127, 128, 300])
def test_softmax_backward_of_every_width(columns, dtype, numba):
    random, judge = np.random.default_rng(columns), NumpyBackend()
    for rows in (*range(1, 20), 101):
        y, dy = (random.random((rows, columns)).astype(dtype) for _ in range(2))
        if rows == 19:
            y[3, -1], dy[5, 0], dy[7] = np.nan, np.inf, 1e30
        around = np.full(rows * columns + 40, 7, dtype)
        out = around[20:-20].reshape(rows, columns)
        with np.errstate(all="ignore"):
            wanted = judge.softmax_backward(y, dy)
            bound = 2 * softmax_backward_bound(y, dy)
        numba.softmax_backward(y, dy, out=out)
        assert_within(out, wanted, bound)
        assert (around[:20] == 7).all()
        assert (around[-20:] == 7).all()
        for place in (0, 1):  # over an operand
            operands = [y.copy(), dy.copy()]
            assert_within(numba.softmax_backward(*operands, out=operands[place]), wanted, bound)


def test_labels_and_rows_that_are_not_there_touch_no_memory(numba):
    logits, losses = np.zeros((3, 4), np.float32), np.empty(3, np.float32)
    numba.softmax_cross_entropy(logits, np.array([0, 4, -1]), losses)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1:]).all()
    out = np.empty((2, 4), np.float32)
    numba.gather_rows(np.arange(12, dtype=np.float32).reshape(3, 4), np.array([7, -7]), np.zeros(3, np.int64), out)
    assert out[:, 0].tolist() == [8, 0]


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_threads(numba):
    random = np.random.default_rng(1)
    x, dy = (random.normal(size=(700, 1100)).astype(np.float32) for _ in range(2))
    counters, labels = np.array([3, 0, 0]), random.integers(0, 1100, 700)
    flat = [np.abs(random.normal(size=900_001)).astype(np.float32) for _ in range(4)]
    hyper = np.array([0.01, 0.1, 0.9, 0.999, 1e-7, 0.01])

    def everything():
        y = numba.softmax(x)
        losses, p = np.empty(700, np.float32), [a.copy() for a in flat]
        gradient = numba.softmax_cross_entropy(x, labels, losses)
        numba.adam(*p, hyper, counters)
        long = numba.tanh(x.reshape(1, -1))
        return [y, numba.softmax_backward(y, dy), losses, gradient, numba.dropout(x, 0.5, 1, 1, counters), long, *p]

    before = pool.limit
    try:
        pool.set_limit(1)
        alone = everything()
        pool.set_limit(3)
        shared = everything()
    finally:
        pool.set_limit(before)
    for a, b in zip(alone, shared, strict=True):
        assert np.array_equal(a, b)


def at_once(calls):
    """Make all calls, each in a thread of its own; none may hang."""
    workers = [threading.Thread(target=call) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert not any(worker.is_alive() for worker in workers)


def test_several_python_threads_at_once(numba, two_threads):
    x = np.random.default_rng(1).normal(size=(600, 1000)).astype(np.float32)
    wanted, wrong = numba.softmax(x), []

    def work():
        wrong.extend(n for n in range(10) if not np.array_equal(numba.softmax(x), wanted))

    at_once([work] * 4)
    assert not wrong


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 10, 16, 17, 127, 128, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_of_rows_meet_without_a_gap(columns, dtype, numba, two_threads):
    random = np.random.default_rng(columns)
    rows = SHARED // columns + 7
    x, dy = (random.normal(size=(rows, columns)).astype(dtype) for _ in range(2))
    y = numba.softmax(x, np.full_like(x, np.nan))
    np.testing.assert_allclose(y, NUMPY.softmax(x), rtol=2 * rounding(columns + 20, dtype))  # exponents of up to 10
    wanted, bound, own = NUMPY.softmax_backward(y, dy), 2 * softmax_backward_bound(y, dy), dy.copy()
    assert_within(numba.softmax_backward(y, dy, np.full_like(x, np.nan)), wanted, bound)
    assert_within(numba.softmax_backward(y, own, own), wanted, bound)


def test_several_python_threads_lead_one_team(numba, two_threads):
    y, dy = np.random.default_rng(1).normal(size=(2, 300, 1000)).astype(np.float32)
    assert y.size >= SHARED
    wanted, bound, wrong = NUMPY.softmax_backward(y, dy), 2 * softmax_backward_bound(y, dy), []

    def work(first):
        for n in range(first, 300, 3):  # every operation has operands and a number of parts of its own
            rows = 300 - n if 300 - n >= 200 else 300
            dx = numba.softmax_backward(y[:rows], dy[:rows])
            wrong.extend([n] if not (np.abs(dx - wanted[:rows]) <= bound[:rows]).all() else [])

    at_once([partial(work, first) for first in range(3)])
    assert not wrong
    assert pool.board[team.LEADER] == 0


def test_a_team_that_is_led_already_leaves_others_to_themselves(numba, two_threads):
    y, dy = np.random.default_rng(1).normal(size=(2, 300, 1000)).astype(np.float32)
    wanted, drawn = numba.softmax_backward(y, dy), pool.board[team.TICKET]
    pool.board[team.LEADER] = 1
    try:
        assert np.array_equal(numba.softmax_backward(y, dy), wanted)
        assert pool.board[team.TICKET] == drawn
    finally:
        pool.board[team.LEADER] = 0
    assert np.array_equal(numba.softmax_backward(y, dy), wanted)
    assert pool.board[team.TICKET] != drawn


def test_workers_who_sleep_are_woken_for_much_work_or_for_little_that_comes_twice(monkeypatch):
    times = iter([10.0, 20.0, 20.0 + pool.AWAKE / 2])
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(pool, "limit", 2)
    monkeypatch.setattr(pool, "_small", 0.0)
    monkeypatch.setattr(pool, "helpers", SimpleNamespace(asleep=[1]))
    assert [pool.worth_help(5.0, waking=10.0) for _ in range(3)] == [False, False, True]
    assert pool.worth_help(10.0, waking=10.0)
    pool.helpers.asleep.clear()
    assert pool.worth_help(5.0, waking=10.0)
    monkeypatch.setattr(pool, "limit", 1)
    assert not pool.worth_help(10.0, waking=10.0)


def test_workers_are_looked_after_once_in_a_while_by_each_thread_and_where_one_is_missing(monkeypatch):
    """Not at each call: that takes as long as a small operation."""
    called, now = [], [10.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(pool, "limit", 2)
    monkeypatch.setattr(pool, "_just_now", None)
    monkeypatch.setattr(pool, "_until", 0.0)
    monkeypatch.setattr(pool, "_ready_until", 0.0)
    helpers = SimpleNamespace(asleep=[], watching=[1], summoned=0, gather=lambda wanted: called.append(wanted) or 0)
    monkeypatch.setattr(pool, "helpers", helpers)
    monkeypatch.setattr(pool, "_ready_for", 0)
    for _ in range(3):
        assert pool.summon(2)
    assert len(called) == 1
    now[0] += 2 * pool.SOON
    pool.summon(2)
    assert len(called) == 2
    helpers.watching.clear()
    pool.summon(2)
    assert len(called) == 3
    helpers.watching.append(1)
    other = threading.Thread(target=pool.summon, args=(2,))
    other.start()
    other.join(600)
    assert len(called) == 4
    assert helpers.summoned == 6


def test_little_work_is_helped_by_who_is_awake_whoever_sleeps(monkeypatch):
    called, now = [], [10.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for name, value in {"limit": 2, "_just_now": None, "_until": 0.0, "_ready_until": 0.0, "_small": 0.0}.items():
        monkeypatch.setattr(pool, name, value)
    helpers = SimpleNamespace(asleep=[1], watching=[], summoned=0, gather=lambda wanted: called.append(wanted) or 0)
    monkeypatch.setattr(pool, "helpers", helpers)
    monkeypatch.setattr(pool, "_ready_for", 0)
    assert not pool.summon(2, work=5.0, waking=10.0)
    assert called == []  # nobody was woken up
    assert pool.summon(2, work=10.0, waking=10.0)
    assert called == [1]
    helpers.watching.append(2)
    now[0] += pool.SOON / 2
    assert pool.summon(2, work=5.0, waking=10.0)
    assert called == [1]
    monkeypatch.setattr(pool, "limit", 1)
    assert not pool.summon(2)


def test_an_error_in_a_part_reaches_the_caller(two_threads):
    def fail():
        raise ValueError("a part")

    with pytest.raises(ValueError, match="a part"):
        pool.run([fail, lambda: None])
    done = []
    pool.run([lambda: done.append(1)] * 20)
    assert len(done) == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(numba, two_threads):
    x = np.random.default_rng(1).normal(size=(600, 1000)).astype(np.float32)
    wanted = numba.softmax(x)  # has the pool's thread started
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if np.array_equal(numba.softmax(x), wanted) else 1)
        finally:
            os._exit(2)
    for _ in range(6000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.1)
    else:
        os.kill(child, 9)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_set_threads(monkeypatch, numba):
    try:
        assert threads.set_threads(1) == 1
        assert numba.info().threads == 1
        monkeypatch.setattr(threads, "usable", lambda: 4)
        assert threads.set_threads(2) == 2
        assert pool.limit == pool.allowed() == 2
        for wrong in (0, -1):
            with pytest.raises(InputError, match="at least 1"):
                threads.set_threads(wrong)
        for wrong in (1.5, "2", True):
            with pytest.raises(InputError, match="whole number"):
                threads.set_threads(wrong)
    finally:
        threads.set_threads(None)
    monkeypatch.setenv("NNX_THREADS", "3")
    assert made_anew().info().threads == 3
    monkeypatch.setenv("NNX_THREADS", "many")
    with pytest.raises(InputError, match="NNX_THREADS='many'"):
        made_anew()
    monkeypatch.delenv("NNX_THREADS")
    threads.set_threads(None)


def made_anew():
    import_module("nnx.backends.resolve")._load.cache_clear()  # the package's own `resolve` is the function
    return get_backend("numba")


# ---- facts -----------------------------------------------------------------------------------------------------------


def test_info_names_what_exists(numba):
    info = numba.info()
    assert {"numba", "llvmlite", "numpy"} <= info.versions.keys()
    assert any("threads" in note for note in info.notes)
    assert any("dense layers" in note for note in info.notes)
    for operation, implementation in info.ops.items():
        where, _, name = implementation.partition(":")
        if "." in name:
            module, kernel = name.split(".")
            assert where == "numba"
            assert hasattr(getattr(numba.kernels, module), kernel), f"{operation}: there is no {implementation}"
        assert getattr(NumbaBackend, operation) is not getattr(NumpyBackend, operation) or where in ("numpy", "xp")


def test_a_device_is_refused():
    with pytest.raises(BackendUnavailable, match="the CPU is one device"):
        create("1")


def test_switched_off(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(BackendUnavailable, match="NUMBA_DISABLE_JIT is set"):
        create()


def test_numba_missing_or_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendUnavailable, match=r"Numba is not installed\. Run `pip install") as missing:
        create()
    assert missing.value.name == "numba"
    monkeypatch.undo()

    def broken(self):
        raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 9.0.")

    monkeypatch.setattr(NumbaBackend, "__init__", broken)
    with pytest.raises(BackendUnavailable, match=r"Numba needs NumPy 2\.4 or less"):
        create()


def test_info_names_whose_operation_runs(numba, monkeypatch):
    for name in ("square", "halve"):  # operations that Numba has no kernel for, and NumPy has one of
        monkeypatch.setattr(Operations, name, lambda self, x: x, raising=False)
    monkeypatch.setattr(NumpyBackend, "square", lambda self, x: x * x, raising=False)
    names = {op: numba.implementation(op) for op in ("softmax", "square", "halve")}
    assert names == {"softmax": "numba:softmax.forward", "square": "numpy:square", "halve": "xp"}


def shared_calls(backend, rows=37, columns=50):
    """Every operation whose kernel hands out its parts, by name, with what it writes."""
    random = np.random.default_rng(0)
    x, d = (random.random((rows, columns), np.float32) for _ in range(2))
    hyper, counters = np.array([0.1, 0.0, 0.9, 0.999, 1e-7, 0.0, 4e-3]), np.zeros(3, np.int64)
    for row in FUNCTIONS:
        yield row.name, lambda row=row: [getattr(backend, row.name)(x, *row.given(row.default))]
        yield row.gradient, lambda row=row: [getattr(backend, row.gradient)(x, d, *row.given(row.default))]
    for row in LOSSES:
        yield row.name, lambda row=row: [getattr(backend, row.name)(x, d, *row.given(1.0))]
        yield row.gradient, lambda row=row: [getattr(backend, row.gradient)(x, d, *row.given(1.0))]
    labels = np.arange(rows) % columns
    for name, target in (("softmax", labels), ("softmax", d), ("sigmoid", d)):
        for kept in (np.empty_like(x), None):

            def both(name=f"{name}_cross_entropy", target=target, kept=kept):
                losses = np.empty(rows, x.dtype)
                gradient = getattr(backend, name)(x, target, losses, kept, 1e-7)
                return [losses, gradient, *([] if kept is None else [kept.copy()])]

            yield f"{name}, {target.ndim}, {kept is None}", both
    order = random.permutation(rows)
    yield "gather_rows", lambda: [backend.gather_rows(x, order, counters, np.empty_like(x))]
    yield "dropout", lambda: [backend.dropout(x, 0.5, 7, 3, counters)]
    for name, moments in {"sgd": 1, "adagrad": 1, "rmsprop": 1, "adam": 2, "nadam": 2, "amsgrad": 3, "lion": 1}.items():

        def step(name=name, moments=moments):
            arrays = [x.ravel().copy(), *(d.ravel().copy() for _ in range(1 + moments))]
            getattr(backend, name)(*arrays, hyper, counters)
            return arrays

        yield name, step


def test_what_several_threads_share_has_the_bits_of_one(monkeypatch):
    """Parts are handed out from the first number on here; the last one is smaller than the others."""
    backend = create()

    def share_from(us):
        found = tuning.Tuning(replace(tuning.derived(), handed_us=us), "chosen here")
        monkeypatch.setattr(tuning, "_found", lambda threads: found)

    monkeypatch.setattr(sharing, "LITTLE", 0)
    share_from(np.inf)
    alone = {name: call() for name, call in shared_calls(backend)}
    share_from(0.0)
    monkeypatch.setattr(backend.kernels.pool, "limit", max(2, backend.kernels.pool.limit))
    for name, call in shared_calls(backend):
        for wanted, found in zip(alone[name], call(), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=name)


def test_a_helper_that_gives_up_just_as_a_kernel_begins_looks_again(monkeypatch):
    """It would sleep through the kernel: whoever began it saw nobody asleep to be woken up."""
    helpers, served, ended = pool.Helpers(), [], threading.Event()

    def serve(board, number, *_):
        if number == 77:  # not one of the process's own
            served.append(len(helpers.asleep))
            helpers.summoned += len(served) < 3

    def end():
        ended.set()
        raise SystemExit

    monkeypatch.setattr(pool, "serve", serve)
    helpers.queue.put(end)

    def helping():
        with suppress(SystemExit):
            helpers._serve(77, True)

    helper = threading.Thread(target=helping)
    helper.start()
    helper.join(600)
    assert ended.is_set()
    assert served == [0, 0, 0]
