"""Prediction as CUDA graphs, on the stand-in for CuPy: the numbers, what it costs, and each way it can fail."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from networks import Doubled

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_cublaslt import FakeLt
from fake_cupy import machine
from test_inference import CLOSE, NETWORKS, TOLERANCE, by_layers, model, numbers

import nnx
from nnx.backends.cupy import inference as cuda_inference
from nnx.backends.cupy.backend import CupyBackend, MultiGpuCupyBackend
from nnx.errors import InputError


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a backend on the stand-in, which begins anew."""

    def make(gemm: str = "auto", graph: str = "1", lt: FakeLt | None = None) -> CupyBackend:
        machine.reset()
        machine.cublaslt = lt
        monkeypatch.setenv("NNX_GEMM", gemm)
        monkeypatch.setenv("NNX_GRAPH", graph)
        return CupyBackend(fake_cupy)

    return make


@pytest.fixture
def backend(make: Any) -> CupyBackend:
    return make()  # type: ignore[no-any-return]


def reasons(backend: CupyBackend) -> list[str]:
    return [note for note in backend.info().notes if "a prediction of" in note]


def warm(net: nnx.Sequential, x: np.ndarray) -> np.ndarray:
    """Predict so often that there is a graph, and once with it."""
    for _ in range(2):
        net.predict(x)
    before = machine.graphs["launch"]
    outputs = net.predict(x)
    assert machine.graphs["launch"] == before + 1
    return outputs


# ---- the same numbers, checks and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("gemm", ["auto", "blas"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [name for name in NETWORKS if "wide" not in name])
def test_predictions_are_those_of_the_layers(name: str, dtype: str, gemm: str, make: Any):
    lt = FakeLt()
    net = NETWORKS[name](dtype=dtype, backend=make(gemm, lt=lt))
    judge, tolerance = NETWORKS[name](dtype=dtype, backend="numpy"), TOLERANCE[dtype]
    for rows in (1, 5, 64):
        x = numbers(rows, net.n_inputs, dtype)
        outputs = warm(net, x)
        assert outputs.dtype.name == dtype
        assert outputs.flags.carray
        assert outputs.flags.owndata
        np.testing.assert_allclose(outputs, by_layers(judge, x), rtol=tolerance, atol=tolerance)
    assert (reasons(net.backend), lt.complaints, lt.open) == ([], [], 0)
    assert bool(lt.multiplied) == (gemm == "blas")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused_at_every_place(wrong: float, backend: CupyBackend):
    net = model(9, 8, 3, backend=backend)
    warm(net, numbers(2, 9))
    for column in range(9):
        x = numbers(2, 9)
        x[-1, column] = wrong
        with pytest.raises(InputError, match="not finite"):
            net.predict(x)


def test_finite_inputs_whose_squares_are_not_are_predicted(backend: CupyBackend):
    """They are left to the operations, which look closer."""
    net, judge = (model(3, 5, backend=where) for where in (backend, "numpy"))
    x = numbers(2, 3) * np.float32(1e25)
    for _ in range(3):
        np.testing.assert_allclose(net.predict(x), judge.predict(x), atol=CLOSE)
    assert machine.graphs["launch"] == 0


def test_inputs_of_every_kind_give_the_same_and_use_the_graph(backend: CupyBackend):
    net, x = model(4, 8, 3, backend=backend), numbers(2, 4)
    wanted = warm(net, x)
    read_only, wide = x.copy(), np.zeros((4, 8), np.float32)
    read_only.setflags(write=False)
    wide[::2, ::2] = x
    kinds = [x.tolist(), x.astype("float64"), x.astype(">f4"), np.asfortranarray(x), read_only, wide[::2, ::2], x[::-1]]
    for kind in kinds:
        before = machine.graphs["launch"]
        np.testing.assert_allclose(net.predict(kind), wanted[::-1] if kind is kinds[-1] else wanted, rtol=CLOSE)
        assert machine.graphs["launch"] == before + 1
    refused = (np.ma.masked_array(x, x > 0), x[0], x[None], x[:, :3], x[:0], np.float32(1), x * 1j)
    for wrong in refused:
        with pytest.raises((InputError, TypeError)):
            net.predict(wrong)
    with pytest.raises(InputError, match="batch_size"):
        net.predict(x, batch_size=0)
    np.testing.assert_allclose(net.predict(x, batch_size=1), wanted, rtol=CLOSE)


def test_whatever_changes_the_model_is_seen_at_once(backend: CupyBackend):
    net, x = model(4, 8, 3, backend=backend), numbers(1, 4)
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
    changes = [
        lambda: setattr(net.layers[0], "weights", np.ones((4, 8))),
        lambda: setattr(net.layers[2], "biases", [1.0, -2.0, 3.0]),
        lambda: net.layers[0].weights.__imul__(0.5),
        lambda: net.fit(numbers(30, 4), np.arange(30) % 3, epochs=2, verbose=0),
        lambda: net.set_parameters({n: backend.to_numpy(a) * 2 for n, a in net.parameters().items()}),
        lambda: setattr(net, "layers", net.layers[:-1]),
    ]
    for change in changes:
        before = warm(net, x)
        change()
        after = net.predict(x)
        assert not np.allclose(before, after)
        np.testing.assert_allclose(after, by_layers(net, x), rtol=CLOSE)
    assert reasons(backend) == []


# ---- what a call costs -----------------------------------------------------------------------------------------------


def test_a_call_is_a_launch_and_a_wait_and_little_python(backend: CupyBackend):
    """Some ten calls of Python's from one end to the other, of which the GPU sees two."""
    net, x = model(4, 8, 8, 3, backend=backend), numbers(1, 4)
    warm(net, x)
    before, kernels, seen = machine.graphs.copy(), machine.launched.copy(), []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and "fake_" not in frame.f_back.f_code.co_filename:
            seen.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        with machine.without("allocation", "copies"):
            net.predict(x)
    finally:
        sys.setprofile(None)
    assert machine.graphs - before == {"launch": 1, "wait": 1}
    assert machine.launched == kernels
    calls = seen[seen.index("Network.predict") : seen.index("Machine.without", 1)]
    assert len(calls) <= 16, calls


def test_the_copies_are_in_the_graph(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    """And without the wait the outputs would be those of before."""
    net, x = model(4, 8, 3, backend=backend), numbers(1, 4)
    first = warm(net, x)
    asked: list[Any] = []
    monkeypatch.setattr(fake_cupy.cuda.runtime, "memcpyAsync", asked.append)
    assert not np.allclose(net.predict(-x), first)
    assert asked == []
    second = net.predict(-x)
    monkeypatch.setattr(fake_cupy.Stream, "synchronize", lambda self: None)
    np.testing.assert_array_equal(net.predict(x), second)


# ---- how many graphs there are ---------------------------------------------------------------------------------------


def test_a_size_gets_a_graph_when_it_comes_again(backend: CupyBackend):
    net = model(4, 8, 3, backend=backend)
    for rows in range(1, 9):
        net.predict(numbers(rows, 4))
    assert (machine.graphs["begin"], machine.graphs["launch"]) == (0, 0)
    for rows in (3, 5, 3):
        net.predict(numbers(rows, 4))
    assert (machine.graphs["begin"], machine.graphs["launch"]) == (2, 3)


def test_those_used_last_are_kept(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_inference, "GRAPHS", 3)
    net = model(4, 8, 3, backend=backend)
    for rows in (1, 2, 3, 4, 5):
        warm(net, numbers(rows, 4))
        net.predict(numbers(1, 4))
    used = backend.memory().used or 0
    assert machine.graphs["begin"] == 5
    assert [shape[0] for shape in net._owner.native._graphs] == [4, 5, 1]  # type: ignore[attr-defined]
    del net
    gc.collect()
    assert (backend.memory().used or 0) < used


def test_large_batches_have_none(backend: CupyBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_inference, "STAGED", 10 * (4 + 3) * 4)
    net = model(4, 8, 3, backend=backend)
    for rows in (10, 11):
        for _ in range(3):
            net.predict(numbers(rows, 4))
    assert machine.graphs["launch"] == 2
    assert reasons(backend) == []


def test_graphs_can_be_had_off(make: Any):
    net = model(4, 8, 3, backend=make(graph="0"))
    for _ in range(3):
        net.predict(numbers(1, 4))
    assert not machine.graphs


# ---- streams, threads, devices ---------------------------------------------------------------------------------------


def test_it_follows_the_callers_stream(backend: CupyBackend):
    """A weight changed there is seen; the stand-in refuses what nothing orders."""
    net, judge, x = model(4, 8, 3, backend=backend), model(4, 8, 3, backend="numpy"), numbers(2, 4)
    warm(net, x)
    fake_cupy.cuda.Device().synchronize()
    with fake_cupy.cuda.Stream():
        for _ in range(3):
            for each in (net, judge):
                each.layers[0].weights *= 0.5
            np.testing.assert_allclose(net.predict(x), judge.predict(x), rtol=CLOSE)
            warm(net, numbers(3, 4))
    assert reasons(backend) == []


def test_threads_take_turns(backend: CupyBackend):
    net = model(4, 8, 3, backend=backend)
    wanted = {rows: warm(net, numbers(rows, 4)) for rows in (1, 2)}
    wrong: list[int] = []

    def ask(rows: int) -> None:
        answers = [net.predict(numbers(rows, 4)) for _ in range(30)]
        wrong.extend(rows for answer in answers if not np.array_equal(answer, wanted[rows]))

    threads = [threading.Thread(target=ask, args=(rows,)) for rows in (1, 2, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert machine.graphs["begin"] == 2


def test_the_second_gpu_predicts_while_the_first_is_current(make: Any):
    make()
    machine.reset(devices=2)
    net, x = model(4, 8, 3, backend=MultiGpuCupyBackend(fake_cupy, 1)), numbers(2, 4)
    np.testing.assert_allclose(warm(net, x), model(4, 8, 3, backend="numpy").predict(x), rtol=CLOSE)
    assert (machine.used[0], machine.current) == (0, 0)


def test_all_that_a_graph_uses_lives_as_long_as_it_does(backend: CupyBackend):
    net, x = model(4, 8, 3, backend=backend), numbers(2, 4)
    wanted, native = warm(net, x), net._owner.native
    del net
    gc.collect()
    backend.release()
    np.testing.assert_array_equal(native(x), wanted)


# ---- failures --------------------------------------------------------------------------------------------------------

STAGES = {
    "begin": "beginning the capture failed", "node": "capturing it failed", "end": "making a graph of it failed",
    "upload": "uploading it failed", "launch": "launching it failed", "event": "preparing it failed",
}  # fmt: skip


@pytest.mark.parametrize(("name", "time"), [*((name, 1) for name in STAGES), ("node", 3), ("launch", 2)])
def test_a_stage_that_fails_is_a_reason_and_costs_no_numbers(name: str, time: int, backend: CupyBackend):
    net, judge, x = model(4, 8, 3, backend=backend), model(4, 8, 3, backend="numpy"), numbers(2, 4)
    machine.faults[name] = time
    for _ in range(4):
        np.testing.assert_allclose(net.predict(x), judge.predict(x), rtol=CLOSE)
    reason = f"{STAGES[name]} (RuntimeError: cudaErrorUnknown: {name} fails, as it was told to)"
    assert reasons(backend) == [f"a prediction of 2 rows runs one operation at a time, because {reason}"]
    assert machine.captured is None
    assert not machine.streams
    machine.faults.clear()
    warm(net, numbers(3, 4))  # another size has its own


def test_products_that_cannot_be_captured_are_a_reason(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make("blas")
    net, x = model(4, 8, 3, backend=backend), numbers(2, 4)
    for _ in range(3):
        net.predict(x)
    assert "which cannot be captured" in reasons(backend)[0]
    assert machine.launched["cublas"] == 6
    backend = make("blas", lt=FakeLt(without=(6,)))
    np.testing.assert_allclose(warm(model(4, 8, 3, backend=backend), x), net.predict(x), rtol=CLOSE)
    assert any("cuBLASLt could not in a prediction: cublasLtMatmulAlgo" in note for note in backend.info().notes)


def test_a_model_without_weights_or_with_a_layer_of_ones_own_runs_as_written(backend: CupyBackend):
    x = numbers(2, 4)
    for net in (
        nnx.Sequential(nnx.Tanh(), backend=backend),
        nnx.Sequential(nnx.Dense(4, 3), Doubled(), backend=backend),
    ):
        for _ in range(3):
            np.testing.assert_allclose(net.predict(x), by_layers(net, x), rtol=CLOSE)
    assert machine.graphs["launch"] == 0
