"""A recorded step as one CUDA graph, on the stand-in for CuPy: what it does and keeps, and each way it can fail."""

from __future__ import annotations

import ctypes
import gc
import itertools
import signal
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
import networks
from cupy_calls import of
from fake_cublaslt import FakeLt
from fake_cupy import machine
from networks import ALIKE, NETS, Net, numbers, trained

import nnx
from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.cupy.matmul import cublaslt, cublaslt_products
from nnx.backends.cupy.matmul.cublaslt import HeuristicResult, Lt, LtError, alignment
from nnx.backends.cupy.matmul.cublaslt_products import GraphProducts, NotCaptured
from nnx.backends.cupy.programs import graph as cuda_graph
from nnx.backends.cupy.programs.graph import GraphProgram, carried_state
from nnx.distributed.communicator import Communicator
from nnx.distributed.nccl import Nccl
from nnx.distributed.shares import Shares
from nnx.errors import InputError
from nnx.kernels.cuda import ACTIVATIONS
from nnx.kernels.elementwise import FUNCTIONS, NAMES, Elementwise
from nnx.testing.rounding import rounding
from nnx.training import shared, together

Array = Any


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a backend on the stand-in, which begins anew. What cuBLASLt names first is taken: test_cupy_tuning.py."""
    monkeypatch.setenv("NNX_TUNE", "off")

    def make(gemm: str = "auto", graph: bool = True, lt: FakeLt | None = None) -> CupyBackend:
        machine.reset()
        machine.cublaslt = lt
        monkeypatch.setenv("NNX_GEMM", gemm)
        monkeypatch.setenv("NNX_GRAPH", "1" if graph else "0")
        monkeypatch.setenv("NNX_PERSISTENT", "0")
        return CupyBackend(fake_cupy)

    return make


def recorded(net: Net, backend: CupyBackend) -> tuple[nnx.Sequential, GraphProgram]:
    """A model, and its step on all samples as a program that has run once, for the model's own comparison."""
    model, (x, y) = net.model("float64", backend), net.samples()
    inputs = model._inputs(x, "x")
    _, program = model._trainer.staged(inputs, model._targets(y, inputs, "y"))  # type: ignore[union-attr]
    assert isinstance(program, GraphProgram)
    return model, program


# ---- the same numbers ------------------------------------------------------------------------------------------------

LONG = ("relu", "two dropouts", "l1 and l2", "tail of one", "sgd with momentum", "rmsprop")


@pytest.mark.parametrize("gemm", ["auto", "blas"])
@pytest.mark.parametrize("name", LONG)
def test_200_launched_steps_are_200_steps_of_single_operations(name: str, gemm: str, make: Any):
    """With the last batch of each epoch smaller, which is a graph of its own."""
    net = NETS[name]
    lt = FakeLt()
    model, history = trained(net, make(gemm, lt=lt))
    assert (model.eager_reason, model.replay_reason, lt.complaints, lt.open) == (None, None, [], 0)
    assert machine.graphs["launch"] >= model.optimizer.iterations >= 200
    assert machine.graphs["begin"] == machine.graphs["end"] == (1 if net.rows % (net.batch or net.rows) == 0 else 2)
    assert bool(lt.multiplied) == (gemm == "blas")
    one_by_one, expected = trained(net, make(gemm, graph=False))
    assert not machine.graphs
    np.testing.assert_allclose(numbers(model), numbers(one_by_one), **ALIKE)
    for column in expected:
        np.testing.assert_allclose(history[column], expected[column], **ALIKE)


@pytest.mark.parametrize("name", NETS)
def test_every_network_becomes_graphs(name: str, make: Any):
    lt = FakeLt()
    model, _ = trained(NETS[name], make("blas", lt=lt), epochs=2)
    expected, _ = trained(NETS[name], "numpy", epochs=2)
    assert (model.eager_reason, model.replay_reason, lt.complaints) == (None, None, [])
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_a_launch_runs_no_python_for_its_operations_and_asks_for_nothing(make: Any):
    _, program = recorded(NETS["l1 and l2"], make())
    before, launches = machine.launched.total(), machine.graphs["launch"]
    with machine.without("allocation", "host", "copies"):
        program.run(50)
    assert (machine.launched.total(), machine.graphs["launch"]) == (before, launches + 50)
    assert program.native
    program.run(0)
    assert machine.graphs["launch"] == launches + 50


def test_the_run_before_the_capture_leaves_nothing_behind(make: Any):
    model, program = recorded(NETS["two dropouts"], make())
    before = numbers(model)
    cuda_graph.StepGraph(model.backend, program.calls, program.calls)  # type: ignore[arg-type]
    np.testing.assert_array_equal(numbers(model), before)
    assert model.backend.to_numpy(model._trainer.counters).tolist() == [0, 0, 0]  # type: ignore[union-attr]


def test_what_a_step_changes_for_the_next_is_parameters_moments_and_counters(make: Any):
    model, program = recorded(NETS["relu"], make())
    state = {model.backend.address(a): a.size for a in carried_state(model.backend, program.calls)}  # type: ignore[arg-type]
    trainer: Any = model._trainer
    for array in (trainer.counters, *(getattr(model.flat, name) for name in ("values", "first", "second"))):
        assert state[model.backend.address(array)] >= array.size
    assert model.backend.address(trainer.history) not in state


def test_graphs_can_be_had_off(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make(graph=False)
    assert "one operation at a time, by NNX_GRAPH=0" in backend.info().notes[3]
    monkeypatch.setenv("NNX_GRAPH", "sometimes")
    with pytest.raises(InputError, match="NNX_GRAPH='sometimes': expected 1 or 0"):
        CupyBackend(fake_cupy)


@pytest.mark.gpu
def test_on_a_gpu_a_step_with_large_products_is_one_graph():
    """Those of cuBLASLt where it is there; and a ReLU in its epilogue lets NaN through, as all others here do."""
    try:
        backend: Any = nnx.get_backend("cupy")
    except nnx.errors.BackendUnavailable as unavailable:
        pytest.skip(f"no GPU: {unavailable.reason}")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2500, 256)), random.integers(0, 10, 2500)
    models = []
    for where in (backend, "numpy"):
        layers = nnx.Dense(256, 256, weight_l2=1e-4), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(256, 10), nnx.Softmax()
        model = nnx.Sequential(*layers, backend=where, dtype="float64", seed=3)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01)).fit(x, y, epochs=20, batch_size=512, verbose=0)
        models.append(model)
    assert (models[0].eager_reason, models[0].replay_reason) == (None, None)
    np.testing.assert_allclose(numbers(models[0]), numbers(models[1]), rtol=1e-5, atol=1e-7)
    assert not isinstance(backend.lt(), str), backend.lt()
    products = GraphProducts(backend.lt())
    a, b, bias = (backend.asarray(np.ones(shape), "float32") for shape in ((64, 32), (32, 48), (1, 48)))
    a[3, 5] = np.nan
    products(backend, "float32", a, b, c := backend.zeros((64, 48)), bias, ACTIVATIONS["relu"])
    got = backend.to_numpy(c)
    assert np.isnan(got[3]).all()
    assert (got[4] == 33).all()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("row", FUNCTIONS, ids=NAMES)
def test_a_dense_layer_and_its_activation_are_one_operation(row: Elementwise, graph: bool, make: Any):
    """But for the steps that are recorded, of both sizes; and not if the gradient needs its input, or it a number."""
    net = networks.FUNCTIONS[row.name]
    model, _ = trained(net, make(graph=graph), epochs=3)
    assert model.replay_reason is None
    assert (machine.launched[f"{row.name}_forward"] == 2) == (row.of == "y" and not row.parameter)
    expected, _ = trained(net, "numpy", epochs=3)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_not_where_somebody_else_reads_what_the_dense_layer_made(make: Any):
    backend = make()
    x, w, b = of(backend, np.full((4, 3), -1.0), np.ones((3, 2)), np.ones((1, 2)))
    z, y, again, dy = of(backend, *(np.zeros((4, 2)) for _ in range(4)))
    recorder = backend.record([x, w, b, dy])
    recorder.dense(x, w, b, out=z)
    recorder.relu(z, out=y)
    recorder.tanh_backward(z[:2], dy[:2], out=again[:2])
    z[...] = 7
    program = backend.compile(recorder)
    program.run(1)
    assert (backend.to_numpy(z)[0, 0], backend.to_numpy(y)[0, 0]) == (-2, 0)
    assert machine.launched["relu_forward"] == 3  # recorded, tried, captured


# ---- streams and memory ----------------------------------------------------------------------------------------------


def test_a_step_runs_in_the_order_of_the_callers_stream_whichever_it_is(make: Any):
    """Uploads, steps and reads: the stand-in refuses what nothing orders."""
    net = NETS["dropout"]
    expected, _ = trained(net, "numpy", epochs=4)
    backend = make()
    fake_cupy.cuda.Device().synchronize()
    with fake_cupy.cuda.Stream():
        model, _ = trained(net, backend, epochs=2)
        fake_cupy.cuda.Device().synchronize()
    model.fit(*net.samples(), epochs=2, batch_size=net.batch, verbose=0)
    for _ in range(2):
        expected.step(*net.samples())
        model.step(*net.samples())
    assert model.replay_reason is None
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


@pytest.mark.parametrize("where", ["before", "after"])
def test_without_either_of_its_two_waits_that_would_be_a_race(where: str, make: Any, monkeypatch: pytest.MonkeyPatch):
    model, program = recorded(NETS["relu"], make())
    wait = fake_cupy.Stream.wait_event

    def skip(stream: Any, event: Any) -> None:
        if (stream is program._graph._stream) != (where == "before"):  # type: ignore[union-attr]
            wait(stream, event)

    monkeypatch.setattr(fake_cupy.Stream, "wait_event", skip)
    if where == "before":
        model.backend.zeros(3)[...] = 1
        program.run(1)
        assert "a race" in str(program.reason)
    else:
        program.run(1)
        with pytest.raises(AssertionError, match="a race"):
            model.backend.to_numpy(model.flat.state)


WIDE = Net(lambda: [nnx.Dense(2, 40), nnx.ReLU(), nnx.Dense(40, 3), nnx.Softmax()], rows=300, batch=300)


def test_all_that_a_graph_uses_lives_as_long_as_it_does(make: Any):
    backend = make("blas", lt=FakeLt(workspace=5000))
    own = make_scratch(backend)
    model, program = recorded(WIDE, backend)
    scratch = program._graph._scratch._arrays  # type: ignore[union-attr]
    assert scratch["uint8"].size >= 5000
    backend.release()
    make_scratch(backend, 100_000)
    gc.collect()
    program.run(3)
    assert program.native
    del model
    gc.collect()
    program.run(3)
    assert (program.reason, own) == (None, 1000)
    used = backend.memory().used
    del program, scratch
    gc.collect()
    assert backend.memory().used < used


def make_scratch(backend: CupyBackend, size: int = 1000) -> int:
    return int(backend._scratch(size, "float64").size)


def test_scratch_of_a_graph_is_its_own_and_no_larger_than_it_must_be(make: Any):
    backend = make("own")
    _, program = recorded(WIDE, backend)
    own = program._graph._scratch  # type: ignore[union-attr]
    assert own(1, "float64").data.ptr != backend._scratch(1, "float64").data.ptr
    assert own._arrays["float64"].size == 2 * 40 * 3  # the weights' gradient of the last layer, in two slices


def test_a_graph_lives_beside_another_and_beside_single_operations(make: Any):
    backend = make("own")
    nets = [NETS["relu"], WIDE]
    together = [net.model("float64", backend) for net in nets]
    x = backend.asarray(np.random.default_rng(0).normal(size=(700, 40)))
    for _ in range(5):
        for model, net in zip(together, nets, strict=True):
            model.step(*net.samples())
            backend.dense_gradients(x, x, backend.empty((40, 40), "float64"), backend.empty((1, 40), "float64"))
    assert machine.graphs["begin"] == 2
    for model, net in zip(together, nets, strict=True):
        alone = net.model("float64", "numpy")
        for _ in range(5):
            alone.step(*net.samples())
        np.testing.assert_allclose(numbers(model), numbers(alone), **ALIKE)
        assert model.replay_reason is None


def test_an_operation_that_needs_memory_makes_no_graph(make: Any):
    """The weights' gradient goes to columns of something wider, which no kernel can write to."""
    backend = make()
    x, dy, dw, db = of(backend, np.ones((4, 3)), np.ones((4, 2)), np.zeros((3, 4)), np.zeros((1, 2)))
    recorder = backend.record([x, dy])
    recorder.dense_gradients(x, dy, dw[:, ::2], db)
    program = backend.compile(recorder)
    program.run(3)
    assert "capturing it failed (RuntimeError: an operation allocates 48 bytes" in str(program.reason)
    assert backend.to_numpy(dw)[:, ::2].tolist() == [[4, 4]] * 3
    assert machine.captured is None


# ---- failures --------------------------------------------------------------------------------------------------------

STAGES = {
    "begin": "beginning the capture failed", "node": "capturing it failed", "end": "making a graph of it failed",
    "instantiate": "making a graph of it failed", "upload": "uploading it failed", "launch": "launching it failed",
}  # fmt: skip


@pytest.mark.parametrize(("name", "time"), [*((name, 1) for name in STAGES), ("node", 9), ("launch", 8), ("begin", 2)])
def test_a_stage_that_fails_is_a_reason_and_costs_no_numbers(name: str, time: int, make: Any):
    net = NETS["two dropouts"]
    backend = make()
    machine.faults[name] = time
    model, _ = trained(net, backend, epochs=5)
    reason = f"{STAGES[name]} (RuntimeError: cudaErrorUnknown: {name} fails, as it was told to)"
    assert (model.eager_reason, model.replay_reason) == (None, reason)
    assert f"a recorded step runs one operation at a time, because {reason}" in backend.info().notes
    summary = " ".join(model.summary().split())  # it folds long lines
    assert f"steps are replayed one operation at a time: {reason}" in summary
    assert "one operation after the other" in summary.partition("training steps: ")[2]
    assert machine.captured is None
    assert not machine.streams
    expected, _ = trained(net, "numpy", epochs=5)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)
    machine.faults.clear()
    model.fit(*net.samples(), epochs=1, batch_size=net.batch, verbose=0)
    assert model.replay_reason is None  # nothing is left of it


@pytest.mark.parametrize("time", range(1, 15))
def test_events_that_fail_cost_no_numbers_either(time: int, make: Any):
    """Two for each run, and for each capture: what is already launched is waited for."""
    net = NETS["two dropouts"]
    backend = make()
    machine.faults["event"] = time
    model, _ = trained(net, backend, epochs=5)
    assert "cudaErrorUnknown: event fails" in str(model.replay_reason)
    expected, _ = trained(net, "numpy", epochs=5)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_a_run_before_the_capture_that_fails_is_undone(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make()
    adam, seen = CupyBackend.adam, []

    def fails(self: CupyBackend, *operands: Any) -> None:
        adam(self, *operands)
        if self.products is not None:
            seen.append(1)
            raise RuntimeError("too hot\nto handle")

    monkeypatch.setattr(CupyBackend, "adam", fails)
    model, _ = trained(NETS["relu"], backend, epochs=3)
    assert (model.replay_reason, len(seen)) == ("running it once before failed (RuntimeError: too hot)", 2)
    expected, _ = trained(NETS["relu"], "numpy", epochs=3)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_ctrl_c_in_a_capture_leaves_none_open(make: Any, monkeypatch: pytest.MonkeyPatch):
    model = NETS["relu"].model("float64", make())

    def interrupt(name: str) -> None:
        if name == "node":
            raise KeyboardInterrupt

    monkeypatch.setattr(machine, "stage", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.step(*NETS["relu"].samples())
    assert machine.captured is None
    assert not machine.streams


def test_ctrl_c_between_chunks_ends_a_fit_that_can_go_on(make: Any, monkeypatch: pytest.MonkeyPatch):
    net, backend = NETS["dropout"], make()
    model = net.model("float64", backend)
    launch = fake_cupy.Graph.launch

    def pressed(graph: Any, stream: Any = None) -> None:
        launch(graph, stream)
        if machine.graphs["launch"] == 20:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fake_cupy.Graph, "launch", pressed)
    history = model.fit(*net.samples(), epochs=10_000, batch_size=net.batch, verbose=0)
    assert history.interrupted
    steps = model.optimizer.iterations
    assert 18 <= steps == machine.graphs["launch"] - 2
    expected = net.model("float64", "numpy")
    expected.fit(*net.samples(), epochs=-(-steps // 4), batch_size=net.batch, verbose=0)
    if steps % 4 == 0:
        np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)
    model.fit(*net.samples(), epochs=1, batch_size=net.batch, verbose=0)
    assert (model.optimizer.iterations, model.replay_reason) == (steps + 4, None)


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["heuristics", "matmul"])
@pytest.mark.parametrize("time", [1, 3])
def test_a_product_that_cublaslt_cannot_do_is_nnxs_kernels(fault: str, time: int, make: Any):
    """In the "auto" rule, with every product counted as a large one."""
    lt = FakeLt()
    backend = make(lt=lt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnx.backends.cupy.matmul.dispatch.SMALL", 0)
        machine.faults[fault] = time
        model, _ = trained(NETS["tanh"], backend, epochs=3)
    assert (model.replay_reason, lt.complaints, lt.open) == (None, [], 0)
    words = {"heuristics": "AlgoGetHeuristic: internal error", "matmul": "cublasLtMatmul: execution failed"}[fault]
    assert any(words in note for note in backend.info().notes)
    expected, _ = trained(NETS["tanh"], "numpy", epochs=3)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_a_product_that_fails_in_the_capture_makes_no_graph(make: Any):
    """Each is tried once and run once before; those of the capture come after."""
    backend = make("blas", lt=FakeLt())
    machine.faults["matmul"] = 11
    model, _ = trained(NETS["tanh"], backend, epochs=3)
    assert "capturing it failed (LtError: cublasLtMatmul: execution failed (status 13))" in str(model.replay_reason)
    assert machine.captured is None
    expected, _ = trained(NETS["tanh"], "numpy", epochs=3)
    np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


def test_without_cublaslt_nnxs_kernel_does_so_much_and_no_more(make: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnx.backends.cupy.matmul.dispatch.SMALL", 0)
    backend = make()
    assert "no graph beyond 67,108,864 multiply-adds of them a step, because the stand-in" in backend.info().notes[3]
    model, _ = trained(NETS["relu"], backend, epochs=1)
    assert model.replay_reason is None
    monkeypatch.setattr(cublaslt_products, "MOST_OWN_WORK", 500)
    model, _ = trained(NETS["relu"], backend, epochs=1)
    assert "its products need cuBLAS, which cannot be captured" in str(model.replay_reason)
    assert "the stand-in has no cuBLASLt" in str(model.replay_reason)
    assert machine.launched["cublas"] > 0
    model, _ = trained(NETS["relu"], make("own"), epochs=1)
    assert model.replay_reason is None
    model, _ = trained(NETS["relu"], make("blas"), epochs=1)
    assert "which cannot be captured" in str(model.replay_reason)


def arranged(backend: CupyBackend, a: np.ndarray, by_columns: bool, offset: int) -> Array:
    """An array that stands by rows or by columns, `offset` numbers into a larger one."""
    flat = backend.zeros(a.size + offset, a.dtype)[offset:]
    view = flat.reshape(a.shape[::-1]).T if by_columns else flat.reshape(a.shape)
    view[...] = backend.asarray(a)
    return view


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flips", [*itertools.product((False, True), repeat=2)])
def test_products_of_all_layouts_offsets_and_epilogues(dtype: str, flips: tuple[bool, bool], make: Any):
    lt = FakeLt()
    backend = make("blas", lt=lt)
    random = np.random.default_rng(7)
    products = GraphProducts(backend.lt())
    a, b, bias = (random.normal(size=shape).astype(dtype) for shape in ((5, 7), (7, 3), (1, 3)))
    for offset, activation in itertools.product((0, 1, 4), (None, "relu", "sigmoid", "tanh")):
        left, right = arranged(backend, a, flips[0], offset), arranged(backend, b, flips[1], offset)
        c, added = arranged(backend, np.zeros((5, 3), dtype), False, offset), arranged(backend, bias, False, offset)
        products(backend, dtype, left, right, c, added, ACTIVATIONS[activation])
        total = a @ b + bias
        act = {None: lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh,
               "sigmoid": lambda x: 1 / (1 + np.exp(-x))}[activation]  # fmt: skip
        close = {"rtol": rounding(160, "float32"), "atol": rounding(16, "float32")}  # short sums
        np.testing.assert_allclose(backend.to_numpy(c), act(total), **close)
        products(backend, dtype, left, right, c, None, 0)
        np.testing.assert_allclose(backend.to_numpy(c), a @ b, **close)
    assert (lt.complaints, products.notes) == ([], [])
    assert {epilogue for epilogue, _ in lt.multiplied} == {1, 4, 6}
    assert lt.asked.total() < 30  # one question for each kind
    products.close()
    assert lt.open == 0


def test_an_epilogue_that_is_not_there_is_a_kernel_of_its_own(make: Any):
    lt = FakeLt(without=(4, 6), workspace=0)
    backend = make("blas", lt=lt)
    products = GraphProducts(backend.lt())
    a, b, bias = of(backend, np.ones((5, 7)), np.ones((7, 3)), np.full((1, 3), -9.0))
    c = backend.zeros((5, 3), "float64")
    for activation, expected in ((None, -2), ("relu", 0)):
        products(backend, "float64", a, b, c, bias, ACTIVATIONS[activation])
        assert backend.to_numpy(c).tolist() == [[expected] * 3] * 5
    assert machine.launched["bias_activation"] == 2
    assert {epilogue for epilogue, _ in lt.multiplied} == {1}
    assert "cublasLtMatmulAlgoGetHeuristic: not supported (status 15)" in products.notes


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_weights_and_biases_are_one_product_where_there_is_one(fused: bool, make: Any):
    """Where ReLU's gradient adds the columns up on its way there is nothing left to do."""
    for name in ("tanh", "relu"):
        lt = FakeLt(all_gradients=fused)
        model, _ = trained(NETS[name], make("blas", lt=lt), epochs=3)
        assert (model.replay_reason, lt.complaints, lt.open) == (None, [], 0)
        assert any(epilogue == 256 for epilogue, _ in lt.multiplied) == fused
        eager = 2 * 2  # of both layers, in the steps that were recorded, of both sizes
        assert (machine.launched["column_sums"] > eager) == (not fused)
        assert (machine.launched["relu_backward_column_sums"] > 0) == (name == "relu")
        expected, _ = trained(NETS[name], "numpy", epochs=3)
        np.testing.assert_allclose(numbers(model), numbers(expected), **ALIKE)


@pytest.mark.parametrize("offset", [0, 1, 4])
@pytest.mark.parametrize("by_columns", [False, True])
def test_column_sums_of_all_layouts_and_offsets(by_columns: bool, offset: int, make: Any):
    lt = FakeLt(all_gradients=True)
    backend = make("blas", lt=lt)
    products, random = GraphProducts(backend.lt()), np.random.default_rng(8)
    x, dy = random.normal(size=(9, 5)), random.normal(size=(9, 3))
    left, right = arranged(backend, x, by_columns, offset), arranged(backend, dy, by_columns, offset)
    dw, db = backend.zeros((5, 3), "float64"), arranged(backend, np.zeros((1, 3)), False, offset)
    done = products.with_column_sums(backend, "float64", left.T, right, dw, db)
    assert done == (offset != 1)  # sums that begin anywhere are a kernel's
    if done:
        np.testing.assert_allclose(backend.to_numpy(dw), x.T @ dy)
        np.testing.assert_allclose(backend.to_numpy(db)[0], dy.sum(0))
    assert lt.complaints == []


def test_what_is_asked_of_cublaslt_is_asked_before_the_capture(make: Any):
    backend = make("blas", lt=FakeLt())
    products = GraphProducts(backend.lt())
    a = backend.asarray(np.ones((4, 4)))
    with fake_cupy.cuda.Stream() as stream:
        fake_cupy.cuda.Device().synchronize()
        stream.begin_capture()
        with pytest.raises(NotCaptured, match="AlgoGetHeuristic: internal error"):
            products(backend, "float64", a, a, a, None, 0)
        stream.end_capture()


def test_alignment_and_sizes():
    assert [alignment(address) for address in (0, 1024, 512 + 64, 12, 7)] == [256, 256, 64, 4, 1]
    assert ctypes.sizeof(HeuristicResult) == 96


def test_a_library_that_is_not_there_or_too_old_is_a_reason(make: Any, monkeypatch: pytest.MonkeyPatch):
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    monkeypatch.setattr(cublaslt.ctypes, "CDLL", missing)
    with pytest.raises(LtError, match=r"cuBLASLt of CUDA 13 is missing \(libcublasLt.so.13\): pip install"):
        fake_cupy._load_real(fake_cupy)
    with pytest.raises(LtError, match="this cuBLASLt has no cublasLtCreate"):
        Lt(object())
    backend = make(lt=FakeLt())
    machine.faults["handle"] = 1
    assert backend.lt() == "cublasLtCreate: not initialized (status 1)"
    assert backend.lt() == "cublasLtCreate: not initialized (status 1)"


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "one by one"])
@pytest.mark.parametrize("name", ["l1 and l2", "two dropouts", "noise first", "parts of batches"])
def test_a_step_is_divided_where_processes_would_sum_their_gradients(name: str, make: Any, graph: bool):
    net = NETS[name]
    whole, _ = trained(net, make(graph=graph), epochs=3)
    parts, _ = trained(net, make(graph=graph), epochs=3, deterministic=3)
    assert parts.eager_reason is None
    assert parts.replay_reason is None
    np.testing.assert_allclose(numbers(parts), numbers(whole), **ALIKE)


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "one by one"])
@pytest.mark.parametrize("name", ["deep", "norms", "norms within"])
def test_sums_go_on_beside_a_step_and_means_are_taken_in_its_midst(
    name: str, make: Any, graph: bool, monkeypatch: pytest.MonkeyPatch
):
    """By NCCL's stream and events; the one process has all rows, so its sums are what it has."""

    class Beside(Nccl):
        def __init__(self) -> None:
            self._cupy, self._beside, self.last = fake_cupy, None, 0

        def allreduce(self, a: Array) -> None:
            stream, others = fake_cupy.cuda.get_current_stream(), machine.worked.copy()
            machine.work(stream)  # which the stand-in refuses where nothing orders it after what others were given
            self.last = machine.clocks[stream.ptr][stream.ptr]
            if stream is self._beside:
                machine.worked = others  # what others are given meanwhile need not come after this

    class One(Communicator):
        def __init__(self) -> None:
            self.nccl, self.begun, self.summed = Beside(), 0, 0

        def overlaps(self, backend: Any) -> bool:
            return True

        def begin_allreduce(self, a: Array, backend: Any = None) -> Any:
            self.begun += 1
            total, wait = a.copy(), self.nccl.begin_allreduce(a)
            last, a[...] = self.nccl.last, np.nan  # until it is waited for

            def waits() -> None:
                wait()
                assert machine.clocks[fake_cupy.cuda.get_current_stream().ptr][self.nccl._beside.ptr] >= last
                a[...] = total

            return waits

        def allreduce(self, a: Array, backend: Any = None) -> Array:
            self.summed += 1
            self.nccl.allreduce(a)
            return a

    net, one = NETS[name], One()
    whole, _ = trained(net, make(graph=graph), epochs=3)
    monkeypatch.setattr(shared, "worth_sending", lambda: 1)
    monkeypatch.setattr(together, "shares_for", lambda *_: Shares(one, 1))
    stopped, _ = trained(net, make(graph=graph), epochs=3)
    assert (stopped.eager_reason, stopped.replay_reason) == (None, None)
    np.testing.assert_allclose(numbers(stopped), numbers(whole), **ALIKE)
    steps = stopped.optimizer.iterations
    assert one.begun >= 3 * steps
    assert (one.summed >= 3 * steps) == name.startswith("norms")
