"""Other machines than this one: whatever caches, vectors and processors they have, or say that they have.

What is derived for them must fit, choices must make sense, and results are the same numbers.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("numba")

import nnx
from nnx.backends.numba import inference, lowering, measuring, tuning
from nnx.backends.numba.lowering_rows import Rows
from nnx.backends.numba.program import compile_program
from nnx.kernels.cpu.caches import KIB, Caches, sensible
from nnx.kernels.cpu.matmul import amx, gemm
from nnx.kernels.cpu.matmul.tile_units import EDGE
from nnx.kernels.cpu.program import inference_many
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.threads import pool

TOLD = st.dictionaries(  # by a system: bytes by level; some say nothing, or nonsense
    st.sampled_from([1, 2, 3, 4]), st.one_of(st.integers(-1, 1 << 34), st.integers(0, 20).map(lambda n: KIB << n))
)
CACHES = TOLD.map(sensible)
SMALLEST = Caches(8 * KIB, 8 * KIB + 1, 8 * KIB + 1)  # that are believed
TILES = st.sampled_from([(16, 6, 2), (16, 8, 2), (32, 6, 2), (64, 8, 2)])  # bytes of a vector, rows, vectors
CPUS = [1, 2, 3, 6, 64, 192]


# ---- blocks ----------------------------------------------------------------------------------------------------------


@given(CACHES)
@example(sensible({}))
def test_caches_are_of_a_size_that_can_be(cache):
    assert 8 * KIB <= cache.l1 <= 1024 * KIB
    assert cache.l1 < cache.l2 <= cache.l3


@given(CACHES, TILES)
@example(SMALLEST, (64, 8, 2))
@example(Caches(128 * KIB, 256 * KIB, 256 * KIB), (16, 8, 2))
def test_blocks_of_products_fit_their_caches(cache, tile):
    width, rows, vectors = tile
    depth, high = gemm.block_of(cache, width, rows, vectors)
    assert depth > 0
    assert depth % gemm.GRAIN == 0
    assert high > 0
    assert high % rows == 0
    panel = depth * vectors * width
    assert panel <= max(cache.l1 * (4 if width == 64 else 2) // 3, gemm.GRAIN * vectors * width)
    assert depth * high * 4 <= cache.l2 // 3  # in float32; in float64 two thirds


@given(CACHES)
@example(SMALLEST)
def test_blocks_of_steps_fit_their_caches(cache):
    for most in (1 << 16, 1 << 18):
        piece = lowering.piece_of(cache, most)
        assert 0 < piece <= most
        assert piece % lowering.PADDING == 0
        assert piece * 4 <= cache.l2 // 2
    high = amx.rows_of(cache)
    assert high % EDGE == 0
    assert high // EDGE * amx.PANEL * 4 <= max(cache.l2 * 3 // 8, 2 * amx.PANEL * 4)


def test_blocks_of_this_machine_are_whole():
    assert inference.BLOCK > 0
    assert inference_many.STRIPS >= inference_many.PIECE * gemm.ROWS * inference_many.DEPTH
    assert gemm.STRIPS >= (gemm.BLOCK_ROWS + gemm.ROWS) * gemm.BLOCK_DEPTH


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_of_several_blocks_in_every_direction(dtype, monkeypatch):
    """Of this machine's: one whose caches are large has large ones."""
    m, k, n = gemm.BLOCK_ROWS + 5, gemm.BLOCK_DEPTH + 3, 130
    random = np.random.default_rng(0)
    a, b, bias = (random.integers(-8, 9, shape).astype(dtype) for shape in ((m, k), (k, n), (1, n)))
    wanted = a @ b + bias  # whole numbers: exact, in any order
    product = gemm.ready(np.dtype(dtype))
    for x in (a, np.asfortranarray(a)):
        for y in (b, np.asfortranarray(b)):
            c = np.empty((m, n), dtype)
            assert product(x, y, c, bias, c[:0], False, False)
            np.testing.assert_array_equal(c, wanted)


# ---- threads ---------------------------------------------------------------------------------------------------------

WORK = st.floats(0, 1e15)
WORTH = st.one_of(st.floats(0, 1e15), st.just(math.inf))


@given(WORK, WORTH)
@example(0.0, 0.0)
@example(1.0, math.inf)
def test_no_more_threads_take_part_than_are_worth_it(work, worth):
    threads = pool.useful(work, worth)
    assert threads >= 1
    assert (threads > 1) == (work >= worth)

    def takes(some):
        return work / some + (some - 1) * max(worth, 1.0) / 2

    if threads > 2:
        assert work / threads >= worth  # each has as much to do as two are worth
        assert takes(threads) <= takes(2) <= work * (1 + 1e-12)
    assert pool.useful(2 * work, worth) >= threads


def test_a_hundred_times_the_work_is_worth_ten_times_the_threads():
    assert [pool.useful(work, 2.0) for work in (1.9, 2.0, 9.0, 100.0, 900.0)] == [1, 2, 3, 10, 30]


@pytest.fixture
def processors(monkeypatch):
    """Return what lets kernels take as many threads as if there were so many processors, started anew."""
    nnx.get_backend("numba")
    before, just_now = pool.limit, pool._just_now
    monkeypatch.setattr(pool, "helpers", pool.Helpers())

    def have(count):
        monkeypatch.setattr(pool, "helpers", pool.Helpers())
        pool.set_limit(count)
        return pool.helpers

    yield have
    pool.set_limit(before, just_now)


def test_a_small_operation_costs_no_more_threads_on_many_processors(processors, monkeypatch):
    """Neither are more started, nor more woken up, nor does it come in more parts."""
    started = []
    monkeypatch.setattr(pool.affinity, "start", lambda *work, name: started.append(name) or len(started))
    backend, choices = nnx.get_backend("numba"), tuning.derived()
    work = 1e3 * choices.woken_us
    most = set()
    for count in (2, 64, 192):
        started.clear()
        helpers = processors(count)
        x = np.ones((round(work / 0.8) + 1, 1), np.float32)
        assert np.all(backend.softmax(x) == 1)
        assert 1 <= len(started) <= pool.useful(work, 1e3 * choices.handed_us) - 1
        assert helpers.queue.qsize() == 0  # nobody slept
        helpers.asleep.extend(range(1, count))
        board, parts = backend._share(work)
        assert board == pool.board_at
        most.add(parts)
        woken = helpers.queue.qsize()
        assert woken == min(count, pool.useful(work, 1e3 * choices.handed_us)) - 1
        assert pool.board[pool.HELPERS] == count - 1
    assert len(most) <= 2


@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_a_step_is_the_same_numbers_for_any_number_of_processors(family):
    backend, ends = nnx.get_backend("numba"), []
    for count in CPUS:
        calls = measuring.recorded(backend, 150, (70, 33, 5), "float32")
        program = compile_program(backend, calls, family, count)
        regions = program.table[1 : 1 + program.table[0, t.REGIONS]]
        for kind, first, last, block, parts in regions[:, [t.OP, t.FIRST, t.LAST, t.BLOCK, t.COUNT]]:
            assert parts >= 1
            if kind == t.BLOCKS:  # they cover all samples once, and none is empty
                assert block % (Rows.grain if family == "rows" else 32) == 0
                assert (parts - 1) * block < 150 <= parts * block
            elif kind == t.TASKS:
                assert parts == last - first
        program.run(3)
        arena = next(call.operands["p"].copy() for call in calls if call.name == "adam")
        ends.append(arena)
    assert np.isfinite(ends[0]).all()
    assert all(np.array_equal(end, ends[0]) for end in ends)


def test_a_step_takes_no_more_threads_than_are_worth_it(monkeypatch):
    backend = nnx.get_backend("numba")
    calls = measuring.recorded(backend, 64, (8, 16, 4), "float32")  # 36864 multiply-adds
    found = []
    for worth in (4e4, 36864.0, 1e4, 1e3):
        choices = tuning.Tuning(replace(tuning.derived(), threads_from=worth), "chosen here")
        monkeypatch.setattr(tuning, "_found", lambda threads, choices=choices: choices)
        monkeypatch.setattr(type(backend), "threads", lambda self: 192)
        found.append(compile_program(backend, calls).threads)
    assert found == [1, 2, 2, 8]


def test_helpers_are_called_for_as_much_work_as_is_worth_waking_them(monkeypatch, processors):
    """A step's time is estimated by what a multiply-add was measured to take, not by what it takes elsewhere."""
    backend = nnx.get_backend("numba")
    processors(2)
    calls, derived = measuring.recorded(backend, 64, (8, 16, 4), "float32"), tuning.derived()
    work, called = 36864 * 2e-3, []  # us, at 1 ns for each of its multiply-adds, and as much for what is around
    for ns, worth in ((1.0, work - 1), (1.0, work + 1), (4.0, work + 1)):
        prediction = replace(derived.prediction, weight_among=ns)
        choices = tuning.Tuning(replace(derived, threads_from=1e4, share_us=worth, prediction=prediction), "here")
        monkeypatch.setattr(tuning, "_found", lambda threads, choices=choices: choices)
        monkeypatch.setattr(type(backend), "threads", lambda self: 2)
        program = compile_program(backend, calls)
        monkeypatch.setattr(pool.helpers, "assist", lambda program, wanted: called.append(wanted))
        called.clear()
        program.run(1)
        assert called == ([] if ns == 1 and worth > work else [1])


# ---- the file of choices ---------------------------------------------------------------------------------------------


def test_the_same_file_gives_the_same_bits_and_so_does_none(tmp_path, monkeypatch):
    """With choices that differ from those that are derived, so that it is seen that they are taken."""
    nnx.get_backend("numba")
    monkeypatch.setattr(tuning, "readable", lambda: [tmp_path])
    monkeypatch.setattr(tuning, "writable", lambda: tmp_path)

    def trained():
        tuning.forget()
        model = nnx.Sequential(nnx.Dense(20, 30), nnx.ReLU(), nnx.Dense(30, 5), nnx.Softmax(), backend="numba", seed=1)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
        x = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
        model.fit(x, np.arange(200) % 5, epochs=3, batch_size=64, verbose=0)
        return model.summary(), model.flat.values.tobytes()

    try:
        off = [trained(), trained()]
        monkeypatch.delenv("NNX_TUNE")
        tuning.keep(replace(tuning.derived(), own_products=(), lanes_weights=0))
        found = [trained(), trained()]
        monkeypatch.setenv("NNX_TUNE", "off")
        off.append(trained())
    finally:
        monkeypatch.setenv("NNX_TUNE", "off")
        tuning.forget()
    assert len(set(off)) == len(set(found)) == 1
    assert "lanes" in off[0][0]
    assert "rows" in found[0][0]


WAYS = "a folder", "a link to nothing", "not text", "bytes in between", "twice the same name"


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_cannot_be_one_is_as_none(way, tmp_path, monkeypatch):
    nnx.get_backend("numba")
    monkeypatch.setattr(tuning, "readable", lambda: [tmp_path])
    monkeypatch.setattr(tuning, "writable", lambda: tmp_path)
    monkeypatch.delenv("NNX_TUNE")
    monkeypatch.setattr(tuning, "warn_once", lambda *said: None)
    try:
        file = tuning.keep(replace(tuning.derived(), own_products=(), lanes_weights=7))
        text = file.read_text()
        if way == "a folder":
            file.unlink()
            file.mkdir()
        elif way == "a link to nothing":
            file.unlink()
            file.symlink_to(tmp_path / "nowhere")
        elif way == "not text":
            file.write_bytes(b"\xff" + text.encode())
        elif way == "bytes in between":
            file.write_bytes(text.encode().replace(b"7", b"7\x00", 1))
        else:
            file.write_text(text.replace('"lanes_weights": 7', '"lanes_weights": 7, "lanes_weights": 1e999'))
        tuning.forget()
        assert tuning.current().choices == tuning.derived()
    finally:
        monkeypatch.setenv("NNX_TUNE", "off")
        tuning.forget()


@pytest.mark.parametrize("columns", [2, 3, 4, 7, 10, 16, 300])
def test_softmaxs_gradient_is_the_same_bits_for_any_number_of_threads(columns: int, monkeypatch: pytest.MonkeyPatch):
    backend = nnx.get_backend("numba")
    y = np.random.default_rng(0).standard_normal((400_000 // columns, columns)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(backend.kernels.pool, "limit", threads)
        results.append(backend.softmax_backward(y, y))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
