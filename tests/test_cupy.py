"""The CuPy backend: its own Python on the stand-in for CuPy everywhere, and all of it on a GPU where there is one."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cupy_calls import large, of, plain_calls
from networks import ALIKE, NEAR, NETS, Net, numbers, trained
from test_programs import Swish, always_eager

import nnx
from nnx.backends import BackendUnavailable
from nnx.backends.cupy import backend as cupy
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.backend import CupyBackend, MultiGpuCupyBackend
from nnx.backends.cupy.diagnosis import OLDEST
from nnx.backends.cupy.launch import STREAMS
from nnx.backends.memory import parse_limit, readable
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.operations import Operations
from nnx.backends.recorder import Call
from nnx.errors import DeviceMemoryError, InputError, InputTypeError, NonFiniteError
from nnx.kernels.cuda import KERNELS
from nnx.testing import Report, check_backend, conformance
from nnx.testing.rounding import rounding

if not cuda_on_cpu.missing():
    import fake_cupy
    from fake_cublaslt import FakeLt
    from fake_cupy import machine

Array = Any


def stand_in(**options: Any) -> CupyBackend:
    """A backend on the stand-in, which begins anew."""
    if cuda_on_cpu.missing():
        pytest.skip(str(cuda_on_cpu.missing()))
    machine.reset()
    return CupyBackend(fake_cupy, **options)


def gpu() -> CupyBackend:
    try:
        return nnx.get_backend("cupy")  # type: ignore[return-value]
    except BackendUnavailable as unavailable:
        pytest.skip(f"no GPU: {unavailable.reason}")


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> CupyBackend:
    return stand_in() if request.param == "stand-in" else gpu()


@pytest.fixture
def fake() -> CupyBackend:
    return stand_in()


# ---- conformance, and what runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_it_passes_the_conformance_suite(name: str):
    backend = stand_in() if name == "stand-in" else gpu()
    report = check_backend(backend)
    assert report.operations.keys() == OPERATIONS.keys()
    assert report.replayed > 200
    if name == "stand-in":
        no_kernel_is_left_unused(backend)


def test_every_operation_has_a_kernel_and_says_so(fake: CupyBackend):
    ops = fake.info().ops
    assert "xp" not in ops.values()
    assert ops["softmax"] == "cupy:softmax"
    assert ops["dense"] == ops["dense_gradients"] == "cupy:product/cublas"
    assert fake.info().notes[0].startswith("float32 matrix products: full float32")
    assert "dense layers: nnx's kernel up to 1,048,576 multiply-adds, else cuBLAS" in fake.info().notes[2]


@pytest.mark.parametrize(("rule", "how"), [("own", "cupy:product"), ("blas", "cupy:cublas")])
def test_products_can_be_given_to_one_of_the_two(rule: str, how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_GEMM", rule)
    backend = stand_in()
    assert backend.info().ops["dense"] == how
    x, w, b = of(backend, np.ones((300, 200)), np.ones((200, 100)), np.ones((1, 100)))
    y = backend.dense(x, w, b, "relu")
    assert backend.to_numpy(y).tolist() == np.full((300, 100), 201.0).tolist()
    assert ("cublas" in machine.launched) == (rule == "blas")
    monkeypatch.setenv("NNX_GEMM", "best")
    with pytest.raises(InputError, match="NNX_GEMM='best': expected one of auto, own, blas"):
        stand_in()


def no_kernel_is_left_unused(fake: CupyBackend) -> None:
    """Check that the suite, large operations and trainings together have run all that there are."""
    large(fake)
    trained(NETS["relu"], fake, epochs=2)
    fake.persistent = False
    trained(NETS["relu"], fake, epochs=2)
    machine.cublaslt = FakeLt()
    fake._lt = None
    large(fake.with_precision("bf16"), "float32")
    unused = KERNELS.keys() - machine.launched.keys()
    assert not unused, f"no operation runs {', '.join(sorted(unused))}"


def test_large_shapes_agree_with_numpy(backend: CupyBackend):
    random = np.random.default_rng(1)
    numpy = nnx.get_backend("numpy")
    for shape, classes in (((5, 1500), 1500), ((9000, 3), 3), ((700, 40), 40)):
        x, y = random.normal(size=shape), random.integers(0, classes, shape[0])
        results = []
        for side in (numpy, backend):
            a, t = of(side, x, y)  # type: ignore[arg-type]
            losses, stats, penalty = (side.zeros(n, "float64") for n in (shape[0], 3, 1))
            gradient = side.softmax_cross_entropy(a, t, losses)
            side.tally(losses, a, t, "categorical", 0.0, stats)
            dw, db = side.zeros((shape[1], shape[1]), "float64"), side.zeros((1, shape[1]), "float64")
            side.dense_gradients(a, gradient, dw, db)
            side.regularize(a, gradient, 1e-3, 1e-2, penalty)
            y_, jac = side.softmax(a), side.softmax_backward(side.softmax(a), gradient)
            results.append([side.to_numpy(r) for r in (gradient, losses, stats, dw, db, penalty, y_, jac)])
        for expected, got in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=rounding(9000))  # so many terms


# ---- what a kernel cannot take ---------------------------------------------------------------------------------------


def test_outputs_that_are_not_contiguous_are_written_all_the_same(backend: CupyBackend):
    random = np.random.default_rng(2)
    x, w, b = of(backend, random.normal(size=(6, 4)), random.normal(size=(4, 5)), random.normal(size=(1, 5)))
    for out in (backend.zeros((6, 10), "float64")[:, ::2], backend.zeros((5, 6), "float64").T):
        result = backend.dense(x, w, b, "sigmoid", out=out)
        assert result is out
        expected = 1 / (1 + np.exp(-(backend.to_numpy(x) @ backend.to_numpy(w) + backend.to_numpy(b))))
        np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=rounding(32))
        backend.softmax(result, out=out)
        np.testing.assert_allclose(backend.to_numpy(out).sum(axis=1), 1, rtol=rounding(32))
    wide = backend.zeros((4, 10), "float64")[:, ::2]
    backend.dense_gradients(x, result, wide, backend.zeros((2, 5), "float64")[::2])
    wanted = backend.to_numpy(x).T @ backend.to_numpy(result)
    np.testing.assert_allclose(backend.to_numpy(wide), wanted, rtol=rounding(32), atol=rounding(32))


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("operation", ["dense_backward", "dense_gradients"])
def test_relus_gradient_fused_into_a_dense_layers_is_the_same(operation: str, contiguous: bool, backend: CupyBackend):
    random = np.random.default_rng(6)
    y, dy, x, w = of(backend, *(random.normal(size=shape) for shape in ((7, 5), (7, 5), (7, 4), (4, 5))))
    if not contiguous:
        dy = of(backend, np.ascontiguousarray(backend.to_numpy(dy).T))[0].T
    results = []
    for fused in (True, False):
        through, dx, dw, db = (backend.zeros(shape, "float64") for shape in ((7, 5), (7, 4), (4, 5), (1, 5)))
        operands = {"x": x, "w": w, "dy": through, "dw": dw, "db": db, "out": dx}
        dense = Call(
            operation, {name: operands[name] for name in OPERATIONS[operation].signature.parameters if name in operands}
        )
        if fused:
            backend.relu_and_dense_backward(y, dy, through, dense)
        else:
            backend.relu_backward(y, dy, through)
            getattr(backend, operation)(*dense.operands.values())
        results.append([backend.to_numpy(a) for a in (through, dx, dw, db)])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=rounding(16), atol=rounding(16))
    if backend.cupy.__name__ == "fake_cupy":
        assert machine.launched["relu_backward_column_sums"] == contiguous


MIXED = ["dense", "relu_backward", "softmax_backward", "mean_squared_error", "cross_entropy", "binary_cross_entropy"]


@pytest.mark.parametrize("operation", MIXED)
def test_operands_of_two_types_get_the_default_body(operation: str, backend: CupyBackend):
    """Which computes in the wider one, as NumPy does."""
    random = np.random.default_rng(3)
    shapes = [(5, 4), (4, 4), (1, 4)] if operation == "dense" else [(5, 4), (5, 4)]
    values = [random.random(shape).astype("f4" if i else "f8") for i, shape in enumerate(shapes)]
    got = getattr(backend, operation)(*of(backend, *values))
    expected = getattr(Operations, operation)(SimplyNumpy(), *values)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=rounding(16, "float32"))


class SimplyNumpy(Operations):
    xp = np


def test_optimizers_take_what_is_not_contiguous(backend: CupyBackend):
    random = np.random.default_rng(4)
    p, g, m = (random.normal(size=10) for _ in range(3))
    hyper, counters = np.array([0.1, 1e-3, 0.9, 0, 0, 0]), np.array([3, 0, 3])
    on = of(backend, np.repeat(p, 2), np.repeat(g, 2), np.repeat(m, 2), hyper, counters)
    backend.sgd(*(a[::2] for a in on[:3]), *on[3:])
    nnx.get_backend("numpy").sgd(p, g, m, hyper, counters)
    np.testing.assert_allclose(backend.to_numpy(on[0])[::2], p, rtol=rounding(16))
    np.testing.assert_allclose(backend.to_numpy(on[2])[::2], m, rtol=rounding(16))


def test_shapes_that_do_not_fit_are_refused_before_a_kernel_reads_beyond_them(backend: CupyBackend):
    x, y, w, b = of(backend, np.ones((3, 4)), np.ones((2, 4)), np.ones((5, 4)), np.ones((1, 4)))
    for call in (
        lambda: backend.dense(x, w, b),
        lambda: backend.relu_backward(x, y),
        lambda: backend.softmax_backward(x, y),
        lambda: backend.mean_squared_error(x, y),
        lambda: backend.softmax(x, out=y),
        lambda: backend.dense(x, backend.asarray(np.ones((4, 4))), b, out=y),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - CuPy's words, and NumPy's in the stand-in
            call()
    with pytest.raises(InputTypeError, match=r"dropout: x is int64 \(3,\)"):
        backend.dropout(of(backend, np.arange(3))[0], 0.5, 1, 2, backend.zeros(3, "int64"))


# ---- the steady state ------------------------------------------------------------------------------------------------


def test_nothing_is_allocated_nor_waited_for_where_out_is_given(fake: CupyBackend):
    called = []
    for operation, call in plain_calls(fake):
        if operation == "pool":  # where the host comes in
            continue
        call()  # scratch is made once
        before = machine.launched.total()
        with machine.without("allocation", "host", "copies"):
            call()
        assert machine.launched.total() > before, f"{operation} runs no kernel"
        called.append(operation)
    assert set(called) == OPERATIONS.keys() - {"pool"}


def test_a_replayed_step_neither_allocates_nor_waits(fake: CupyBackend):
    net = NETS["l1 and l2"]
    model, (x, y) = net.model("float32", fake), net.samples()
    _, runner = model._trainer.staged(model._inputs(x, "x"), model._targets(y, model._inputs(x, "x"), "y"))  # type: ignore[union-attr]
    runner.run(1)
    before = machine.launched.total()
    with machine.without("allocation", "host", "copies"):
        runner.run(5)
    assert machine.launched.total() - before == 1  # of the persistent kernel
    assert runner.native


def test_scratch_is_each_streams_own(fake: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    first, again = fake._scratch(10, "float32"), fake._scratch(5, "float32")
    assert fake.address(first) == fake.address(again)
    monkeypatch.setattr(fake_cupy.cuda, "get_current_stream", lambda: fake_cupy.cuda.Stream(ptr=77))
    assert fake.address(fake._scratch(5, "float32")) != fake.address(first)


def test_scratch_of_streams_that_are_gone_is_given_back(fake: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    """Nobody says that they are: those that were used last are kept."""
    numbers = iter([*range(100), 98])
    monkeypatch.setattr(fake_cupy.cuda, "get_current_stream", lambda: fake_cupy.cuda.Stream(ptr=next(numbers)))
    places = [fake._scratch(1000, "float32").data.ptr for _ in range(100)]
    gc.collect()
    assert machine.used[0] <= STREAMS * 8000
    assert fake._scratch(1000, "float32").data.ptr == places[98]


@pytest.mark.parametrize(
    "name", ["NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATION_STRATEGY"]
)
def test_what_changes_products_behind_our_back_is_told(name: str, fake: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    assert not [note for note in fake.info().notes if name in note]
    monkeypatch.setenv(name, "1")
    assert f"{name}=1 changes how cuBLAS multiplies, whatever precision= says" in fake.info().notes


# ---- models ----------------------------------------------------------------------------------------------------------


LONG = ("two dropouts", "l1 and l2", "squares", "binary", "rmsprop", "tail of one")  # 200 steps take the stand-in 2 s


@pytest.mark.parametrize("name", NETS)
def test_replayed_steps_are_eager_ones_and_numpys(name: str, backend: CupyBackend):
    """200 of them, on the stand-in 20 for most networks."""
    net = NETS[name]
    short = backend.cupy.__name__ == "fake_cupy" and name not in LONG
    options = {"epochs": -(-net.epochs // 10)} if short else {}
    model, history = trained(net, backend, **options)
    assert (model.eager_reason, model.replay_reason) == (None, None)
    assert model.optimizer.iterations >= (20 if short else 200)
    with always_eager():
        eager, eager_history = trained(net, backend, **options)
    expected, wanted = trained(net, "numpy", **options)
    np.testing.assert_allclose(numbers(model), numbers(eager), **ALIKE)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)
    for column in wanted:
        np.testing.assert_allclose(history[column], eager_history[column], **ALIKE)
        np.testing.assert_allclose(history[column], wanted[column], **ALIKE)


def test_a_layer_of_ones_own_runs_eagerly_and_trains(backend: CupyBackend):
    """It computes by `xp`, on arrays that are not NumPy's."""
    net = Net(lambda: [nnx.Dense(2, 6), Swish(), nnx.Dense(6, 3), nnx.Softmax()])
    model, history = trained(net, backend, epochs=5)
    expected, wanted = trained(net, "numpy", epochs=5)
    assert "no recorded operation wrote" in str(model.eager_reason)
    np.testing.assert_allclose(history["loss"], wanted["loss"], **ALIKE)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_are_learned_to_numpys_losses(dtype: str, backend: CupyBackend):
    x, y, held_x, held_y = nnx.datasets.digits(split=True)
    histories, predictions = [], []
    for where in ("numpy", backend):
        layers = nnx.Dense(64, 48, weight_l2=1e-4), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(48, 10), nnx.Softmax()
        model = nnx.Sequential(*layers, backend=where, dtype=dtype, seed=3)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01, decay=1e-4))
        histories.append(model.fit(x, y, epochs=3, batch_size=64, validation_data=(held_x, held_y), verbose=0))
        predictions.append(model.predict(held_x, batch_size=100))
        assert model.evaluate(held_x, held_y)["accuracy"] > 0.9
    for column in histories[0]:
        close = ALIKE if dtype == "float64" else NEAR
        np.testing.assert_allclose(histories[1][column], histories[0][column], **close)
    np.testing.assert_allclose(*predictions, atol=1e-10 if dtype == "float64" else 1e-3)


def test_a_model_moves_there_and_back_and_goes_on(backend: CupyBackend, tmp_path: Path):
    net = NETS["two dropouts"]
    model, _ = trained(net, "numpy", epochs=2)
    stays = copy.deepcopy(model)
    model.to(backend)
    assert model.backend is backend
    x, y = net.samples()
    for each in (model, stays):
        each.fit(x, y, epochs=2, batch_size=16, verbose=0)
    path = tmp_path / "m.safetensors"
    pytest.importorskip("safetensors")
    model.save(path)
    back = nnx.load(path, backend="numpy")
    there = nnx.load(path, backend=backend)
    for each in (back, stays, there):
        each.fit(x, y, epochs=2, batch_size=16, verbose=0)
    for each in (back, there):
        np.testing.assert_allclose(numbers(each), numbers(stays), **ALIKE)
    assert there.predict(x).shape == (50, 3)


def test_layers_losses_and_checks_by_hand(backend: CupyBackend):
    random = np.random.default_rng(5)
    x, y = random.normal(size=(7, 4)), random.integers(0, 3, 7)
    with nnx.use_backend(backend):
        assert nnx.xp is backend.cupy
        dense, softmax, loss = nnx.Dense(4, 3), nnx.Softmax(), nnx.CategoricalCrossEntropy()
        dense.forward(x)
        softmax.forward(dense.output)
        value = loss.calculate(softmax.output, y)
        loss.backward(softmax.output, y)
        softmax.backward(loss.dinputs)
        dense.backward(softmax.dinputs)
        assert backend.owns(dense.dweights)
        assert softmax.jacobian().shape == (7, 3, 3)
        assert nnx.gradcheck(nnx.Dense(4, 3), x) < 1e-6
        assert nnx.gradcheck(nnx.Tanh(), x) < 1e-6
        assert 0 <= nnx.accuracy(softmax.output, y) <= 1
    p = backend.to_numpy(softmax.output)
    assert value == pytest.approx(-np.log(p[range(7), y]).mean(), rel=1e-5)
    np.testing.assert_allclose(backend.to_numpy(dense.dbiases), (p - np.eye(3)[y]).mean(0, keepdims=True), atol=1e-6)


def test_a_loss_that_explodes_names_the_step(backend: CupyBackend):
    net = Net(lambda: [nnx.Dense(2, 3)], nnx.MeanSquaredError, lambda: nnx.SGD(1e30), data="numbers")
    model = net.model("float32", backend)
    before = numbers(model)
    with pytest.raises(NonFiniteError, match="first numbers that are not finite are in"):
        model.fit(*net.samples(), epochs=20, verbose=0)
    assert before.shape == numbers(model).shape
    assert np.isfinite(numbers(model)).all()


def test_a_pickled_model_comes_back_on_what_works(fake: CupyBackend):
    model, _ = trained(NETS["relu"], fake, epochs=1)
    with nnx.use_backend("numpy"):
        try:
            nnx.get_backend("cupy")
        except BackendUnavailable:
            with pytest.warns(nnx.BackendFallbackWarning):
                back = pickle.loads(pickle.dumps(model))
            np.testing.assert_array_equal(numbers(back), numbers(model))
        else:
            pytest.skip("there is a GPU here")


# ---- arrays, time, memory --------------------------------------------------------------------------------------------


def test_arrays_of_the_other_kind_are_refused(fake: CupyBackend):
    theirs = fake.asarray([1.0])
    with pytest.raises(InputTypeError, match=r"CuPy array \(1,\) was given to a backend on the CPU"):
        nnx.get_backend("numpy").asarray(theirs)
    assert not nnx.get_backend("numpy").owns(theirs)
    assert not fake.owns(np.ones(1))
    with pytest.raises(TypeError):
        fake.relu(np.ones((2, 2)))


@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_a_timer_counts_what_happens_in_its_block(name: str):
    backend = stand_in() if name == "cupy" else nnx.get_backend(name)
    x = backend.zeros((500, 500), "float64")
    with backend.timer() as timer:
        for _ in range(3):
            x = backend.tanh(x)
    assert 0 < timer.seconds < 60


def test_memory_of_a_cpu_is_the_processs():
    found = nnx.memory("numpy")
    assert found.device == "cpu"
    if found.used is not None:
        assert 1 << 20 < found.used == found.held
        assert found.free is not None
        assert found.total is not None
        assert found.used < found.total
    assert nnx.release("numpy") == 0
    assert str(nnx.backends.memory.Memory("x", 1, 2048)) == "x: 1 B used, 2.0 KiB held; unknown of unknown free"


def test_memory_is_the_pools_and_release_gives_it_back(backend: CupyBackend):
    with nnx.use_backend(backend):
        gc.collect()
        nnx.release()
        before = nnx.memory()
        a = backend.zeros((1000, 1000))
        held = nnx.memory()
        assert held.used is not None
        assert before.used is not None
        assert held.used - before.used >= 4_000_000
        del a
        assert nnx.memory().used == before.used
        assert nnx.release() >= 4_000_000
        assert nnx.memory().total == held.total
    assert backend.device in str(held)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("", None), (0, None), ("0", None), (1000, 1000), ("1000", 1000), ("2 GB", 2_000_000_000),
     ("1.5GiB", 3 << 29), ("512 mib", 512 << 20), ("50%", 500), ("100 %", 1000), ("7kb", 7000)],
    ids=repr,
)  # fmt: skip
def test_limits_are_read(given: Any, expected: int | None):
    assert parse_limit(given, 1000, "limit") == expected


@pytest.mark.parametrize("given", ["lots", "-1", "8 GB!", "101%", "0%", "1e9", True, "gb", "8 gigs"])
def test_what_is_no_limit_is_refused(given: Any):
    with pytest.raises(InputError, match="expected"):
        parse_limit(given, 1000, "limit")


def test_sizes_in_words():
    words = [readable(n) for n in (None, 0, 1023, 1024, 5 << 20, 3 << 30, 1 << 50)]
    assert words == ["unknown", "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 GiB", "1024.0 TiB"]


def test_the_limit_is_the_pools(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_GPU_MEMORY_LIMIT", "25%")
    backend = stand_in()
    assert backend.gpu_memory_limit == machine.limit[0] == 1 << 28
    assert "memory limit: 256.0 MiB" in backend.info().notes[1]
    backend.gpu_memory_limit = None
    assert backend.gpu_memory_limit is None
    assert stand_in(gpu_memory_limit="1 MB").memory().limit == 1_000_000
    monkeypatch.setenv("NNX_GPU_MEMORY_LIMIT", "much")
    with pytest.raises(InputError, match="NNX_GPU_MEMORY_LIMIT='much': expected bytes"):
        stand_in()


def test_running_out_of_memory_says_who_has_it_and_what_to_do():
    backend = stand_in(gpu_memory_limit="1 MiB")
    kept = backend.zeros(100_000)
    for ask in (
        lambda: backend.zeros(1 << 20),
        lambda: backend.empty(1 << 20),
        lambda: backend.asarray(np.zeros(1 << 20, np.float32)),
    ):
        with pytest.raises(DeviceMemoryError) as raised:
            ask()
        text = str(raised.value)
        for words in (
            "no room on cuda:0 (Stand-in): 390.6 KiB used", "limit 1.0 MiB", "of 1.0 GiB free", "asked for 4.0 MiB",
            "batch_size", "nnx.release()", "NNX_GPU_MEMORY_LIMIT", "nvidia-smi",
        ):  # fmt: skip
            assert words in text, text
    assert isinstance(raised.value, MemoryError)
    assert isinstance(raised.value.__cause__, fake_cupy.OutOfMemoryError)
    model = nnx.Sequential(nnx.Dense(4, 4), backend=backend).compile(nnx.MeanSquaredError(), nnx.SGD(0.1))
    with pytest.raises(DeviceMemoryError, match="smaller batch_size"):
        model.fit(np.zeros((100_000, 4)), np.zeros((100_000, 4)), verbose=0)
    model.fit(np.ones((10, 4)), np.ones((10, 4)), verbose=0)
    assert backend.to_numpy(kept).sum() == 0


# ---- several GPUs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def second() -> CupyBackend:
    """The backend on the second of two GPUs, while the first is the current one."""
    stand_in()
    machine.reset(devices=2)
    return MultiGpuCupyBackend(fake_cupy, 1)


def test_the_second_gpu_conforms_while_the_first_is_current(second: CupyBackend):
    """Its code over `xp` needs `active()`; its operations do not. Where one runs is the same for both types."""
    with second.active(), np.errstate(all="ignore"):
        for what, check in conformance.checks(second, Report(second.name)):
            if not what.endswith("float64"):
                check()
    x = second.asarray(np.ones((4, 3)))
    assert (second.device, x.device.id, machine.current) == ("cuda:1 (Stand-in)", 1, 0)
    y = second.softmax(x, out=second.empty((4, 3), "float64"))
    assert second.to_numpy(y).tolist() == np.full((4, 3), 1 / 3).tolist()
    assert (second.memory().used or 0) > 0
    assert machine.used[0] == 0
    assert machine.current == 0


def test_a_model_trains_on_the_second_gpu(second: CupyBackend):
    net = NETS["two dropouts"]
    model, history = trained(net, second, epochs=3, validation_data=net.samples())
    expected, wanted = trained(net, "numpy", epochs=3, validation_data=net.samples())
    assert machine.used[0] == 0
    assert model.eager_reason is None
    np.testing.assert_allclose(history["val_loss"], wanted["val_loss"], **ALIKE)
    np.testing.assert_allclose(model.predict(net.samples()[0]), expected.predict(net.samples()[0]), **ALIKE)
    model.step(*net.samples())
    model.set_parameters(expected.parameters())
    model.layers[0].biases = np.ones((1, 6))
    model.to("numpy").to(second)
    assert machine.current == 0


def test_an_array_of_another_gpu_is_refused(second: CupyBackend):
    first = MultiGpuCupyBackend(fake_cupy, 0)
    a = first.asarray([1.0])
    assert first.owns(a)
    assert not second.owns(a)
    with pytest.raises(InputTypeError, match=r"array \(1,\) on GPU 0 was given to the backend on GPU 1.*'cupy:0'"):
        second.asarray(a)


def test_guarded_operations_keep_their_signatures():
    for name, spec in OPERATIONS.items():
        assert inspect.signature(getattr(MultiGpuCupyBackend, name)) == inspect.signature(getattr(CupyBackend, name))
        assert [*inspect.signature(getattr(CupyBackend, name)).parameters] == [*spec.signature.parameters]


@pytest.mark.parametrize("way", ["persistent", "graphs", "operations"])
def test_a_gpu_that_breaks_down_is_told_and_never_answered_for(way: str, fake: CupyBackend):
    """An error that sticks is no reason to do the same by other means, which would fail too, or give old numbers."""
    fake.persistent, fake.graphs = way == "persistent", way != "operations"
    model, (x, y) = NETS["relu"].model("float32", fake), NETS["relu"].samples()
    model.steps(x, y, 3)
    for _ in range(5):
        model.predict(x)
    machine.breaks = 1
    for call in (lambda: model.steps(x, y, 5), lambda: model.predict(x), lambda: model.evaluate(x, y)):
        with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
            call()


# ---- making one ------------------------------------------------------------------------------------------------------


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine on which driver and CuPy are there, the latter the stand-in."""
    stand_in()
    driver = SimpleNamespace(found=cuda_driver.Driver("libcuda.so.1", (13, 1), 0, ("Stand-in",)))
    monkeypatch.setattr(cuda_driver, "ask", lambda: driver.found)
    monkeypatch.setattr(cupy, "load", lambda: fake_cupy)
    return driver


def test_create_gives_the_gpu_that_was_asked_for(works: SimpleNamespace):
    assert type(cupy.create()) is CupyBackend
    assert cupy.create("0", precision="full").precision == "full"
    machine.reset(devices=3)
    backend = cupy.create("2")
    assert isinstance(backend, MultiGpuCupyBackend)
    assert backend.device.startswith("cuda:2 ")
    assert cupy.create(gpu_memory_limit="50%").gpu_memory_limit == 1 << 29


@pytest.mark.parametrize(
    ("devices", "reason"),
    [(1, "there is no GPU 5: GPU 0 is what CUDA sees"), (2, "there is no GPU 5: GPUs 0 to 1 are what CUDA sees")],
)
def test_a_gpu_that_is_not_there_is_told(works: SimpleNamespace, devices: int, reason: str):
    machine.reset(devices=devices)
    with pytest.raises(BackendUnavailable) as raised:
        cupy.create("5")
    assert (raised.value.name, raised.value.reason) == ("cupy:5", reason)
    assert "CUDA_VISIBLE_DEVICES" in raised.value.remedy


class CompileException(Exception):
    """As CuPy's."""


@pytest.mark.parametrize(
    ("where", "error", "reason"),
    [
        ("RawModule", CompileException("dense.cu(3): error: identifier is undefined"), "a kernel does not compile"),
        ("RawModule", RuntimeError('Failure finding "libnvrtc.so"'), "NVRTC, which compiles kernels, is missing"),
        ("matmul", ImportError("libcublas.so.13: cannot open"), "cuBLAS, which multiplies matrices, is missing"),
        ("asarray", fake_cupy.OutOfMemoryError(512, 0) if not cuda_on_cpu.missing() else None, "no room on cuda:0"),
    ],
    ids=["kernel", "nvrtc", "cublas", "memory"],
)
def test_what_fails_in_the_probe_is_a_reason(
    works: SimpleNamespace, where: str, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
):
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(fake_cupy, where, fails)
    with pytest.raises(BackendUnavailable) as raised:
        cupy.create().probe()
    assert reason in raised.value.reason
    assert raised.value.remedy


def test_wrong_numbers_are_a_reason(works: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fake_cupy, "matmul", lambda a, b, out=None: fake_cupy.zeros((1, 1)))
    with pytest.raises(BackendUnavailable, match=r"\[1 2\] @ \[3 4\] gave \[\[0.0\]\]"):
        cupy.create().probe()


@pytest.mark.parametrize("version", ["13.6.0", "14.0.1", "9.2"])
def test_a_cupy_that_is_too_old_is_told_with_the_remedy(
    works: SimpleNamespace, version: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_cupy, "__version__", version)
    with pytest.raises(BackendUnavailable) as raised:
        cupy.create()
    assert raised.value.reason == f"CuPy {version} is too old: nnx needs 14.1"
    assert re.fullmatch(r'Run `pip install "cupy-cuda1[23]x>=14\.1"`\.', raised.value.remedy)


def test_the_oldest_cupy_is_that_of_the_extras():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"cupy-cuda1[23]x>=([\d.]+)", text)) == {"{}.{}".format(*OLDEST)}


@pytest.mark.parametrize("name", ["astype", "asarray", "matrix_transpose", "matmul", "sum", "empty", "zeros"])
def test_a_cupy_on_which_a_step_fails_is_not_taken(works: SimpleNamespace, name: str, monkeypatch: pytest.MonkeyPatch):
    """What older ones lack is tried: a function, or for asarray a keyword."""
    backend = cupy.create()

    def fails(*args: Any, **kwargs: Any) -> Any:
        if name != "asarray" or "copy" in kwargs:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        return asarray(*args, **kwargs)

    asarray = fake_cupy.asarray
    monkeypatch.setattr(fake_cupy, name, fails, raising=False)
    with pytest.raises(BackendUnavailable, match=f"the GPU cannot be used .*{name}"):
        backend.probe()


def test_a_backend_is_probed_once(works: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    choosing, probe, probed = importlib.import_module("nnx.backends.resolve"), CupyBackend.probe, []
    monkeypatch.setattr(CupyBackend, "probe", lambda self: probed.append(probe(self)))
    choosing._load.cache_clear()
    try:
        assert isinstance(choosing._load("cupy"), CupyBackend)
    finally:
        choosing._load.cache_clear()
    assert len(probed) == 1


def test_a_wrong_option_is_no_missing_gpu(works: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_PRECISION", "perhaps")
    with pytest.raises(InputError, match="NNX_PRECISION='perhaps': expected one of 'full', 'tf32', 'bf16'"):
        cupy.create()


def test_metrics_and_onnx_files_are_the_same_as_on_a_cpu(backend: CupyBackend, tmp_path: Path):
    def misses(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        return float(np.sum(y_pred.argmax(axis=1) != y_true))

    pytest.importorskip("onnx")
    x, y = nnx.datasets.spiral(30, 3)
    order = np.random.default_rng(0).permutation(len(x))
    results = []
    for each in (backend, nnx.get_backend("numpy")):
        model = nnx.Sequential(nnx.Dense(2, 8), nnx.SiLU(), nnx.Dense(8, 3), nnx.Softmax(), backend=each)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05), metrics=["accuracy", "f1", "auc", misses])
        model.to_onnx(tmp_path / f"{each.name}.onnx")
        results.append(model.fit(x[order], y[order], 2, batch_size=16, validation_split=0.2, verbose=0))
    assert (tmp_path / "cupy.onnx").read_bytes() == (tmp_path / "numpy.onnx").read_bytes()
    ours, theirs = results
    assert list(ours) == list(theirs)
    assert ours["val_f1"] == pytest.approx(theirs["val_f1"], abs=0.2)  # one sample near a border makes a difference
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)
    assert ours["val_misses"] == [round((1 - share) * 18) for share in ours["val_accuracy"]]
