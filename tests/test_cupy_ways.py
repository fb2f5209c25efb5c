"""Each way that steps and predictions run, held to NumPy: on the stand-in, and on a GPU where there is one.

What only the stand-in can tell (what is launched, what is allocated, what a failure leaves behind) is in the files of
each way. Here is what a GPU can be asked as well: that the way was taken, and the numbers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import FUNCTIONS, NETS
from test_cupy import gpu, stand_in
from test_programs import always_eager

import nnx
from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.cupy.inference import InferenceGraph
from nnx.backends.cupy.matmul import cublaslt_products
from nnx.backends.cupy.matmul.choices import Choices
from nnx.backends.cupy.matmul.cublaslt import alignment
from nnx.backends.precision import ERRORS
from nnx.kernels.elementwise import BY_NAME

Array = Any
TOLERANCE = {"float32": {"rtol": 2e-3, "atol": 2e-4}, "float64": {"rtol": 1e-7, "atol": 1e-8}}
SOME = ("relu", "two dropouts", "l1 and l2", "tail of one")


def cublaslt() -> Any:
    from fake_cublaslt import FakeLt
    from fake_cupy import machine

    backend = stand_in()
    machine.cublaslt = FakeLt()
    return backend


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> CupyBackend:
    """A backend of the test's own, whose settings it may change."""
    return copy.copy(cublaslt() if request.param == "stand-in" else gpu())


def steps(backend: Any, name: str, dtype: str, count: int = 30) -> tuple[np.ndarray, str]:
    """Take steps; return all state, and how they ran."""
    net = (NETS | FUNCTIONS)[name]
    model, (x, y) = net.model(dtype, backend), net.samples()
    model.steps(x, y, count)
    ((_, program),) = model._trainer._staged.values()  # type: ignore[union-attr]
    return np.array(model.backend.to_numpy(model.flat.state)), program.description


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SOME)
def test_steps_in_each_way_are_numpys(name: str, dtype: str, backend: CupyBackend):
    wanted, _ = steps("numpy", name, dtype)
    for persistent, graphs, way in (
        (True, True, "persistent kernel"),
        (False, True, "CUDA graph"),
        (False, False, "one operation after the other"),
    ):
        backend.persistent, backend.graphs = persistent, graphs
        got, took = steps(backend, name, dtype)
        assert took == way, backend.info().notes
        np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype], err_msg=way)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_trains_and_predicts_in_each_way(name: str, dtype: str, backend: CupyBackend):
    """And eagerly."""
    wanted, _ = steps("numpy", name, dtype, 10)
    for persistent, graphs, way in (
        (True, True, "persistent kernel"),
        (False, True, "CUDA graph"),
        (False, False, "one operation after the other"),
    ):
        backend.persistent, backend.graphs = persistent, graphs
        got, took = steps(backend, name, dtype, 10)
        assert took == way, backend.info().notes
        np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype], err_msg=way)
    with always_eager():
        got, _ = steps(backend, name, dtype, 10)
    np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_predicted_by_a_graph(name: str, dtype: str, backend: CupyBackend):
    """First, after a dense layer, after itself, last; in the tails too, and with a number of its own."""
    x = (np.random.default_rng(1).normal(size=(9, 5)) * np.logspace(-3, 1.5, 9)[:, None]).astype(dtype)
    model, numpys = (nnx.Sequential(*around(name), backend=where, dtype=dtype, seed=3) for where in (backend, "numpy"))
    for _ in range(4):
        np.testing.assert_allclose(model.predict(x), numpys.predict(x), **TOLERANCE[dtype])
    assert isinstance(model._inference.native._graphs[x.shape], InferenceGraph)  # type: ignore[union-attr]


def around(name: str) -> list[nnx.Layer]:
    """Two dense layers, and a function at every place."""
    functions = [FUNCTIONS[name].layers()[1] for _ in range(4)]
    parameter = BY_NAME[name].parameter
    for number, layer in enumerate(functions):
        if parameter:
            setattr(layer, parameter, 0.1 * number)
    first, second, third, last = functions
    return [first, nnx.Dense(5, 7), second, third, nnx.Dropout(0.5), nnx.Dense(7, 3), last]


@pytest.mark.parametrize("rule", ["own", "blas"])
def test_steps_with_large_products_are_a_graph(rule: str, backend: CupyBackend):
    """By nnx's kernel, and by cuBLASLt, whose epilogues have the biases and their gradients."""
    wanted, _ = steps("numpy", "relu", "float64")
    backend.persistent, backend.gemm_rule = False, rule
    got, took = steps(backend, "relu", "float64")
    assert took == "CUDA graph", backend.info().notes
    np.testing.assert_allclose(got, wanted, **TOLERANCE["float64"])


def test_algorithms_that_were_timed_are_kept_and_give_the_same_bits_again(
    backend: CupyBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in two processes, one after the other."""
    if backend.cupy.__name__ == "fake_cupy":  # whose arrays begin anywhere, and which proposes a single algorithm
        backend.cupy.machine.cublaslt.candidates *= 3
        monkeypatch.setattr(cublaslt_products, "alignment", lambda address: min(16, alignment(address)))
    ends, kept = [], []
    for _ in range(2):
        there = copy.copy(backend)
        there.persistent, there.gemm_rule, there.tuned, there._met = False, "blas", True, []
        there._choices = Choices("this machine", tmp_path)
        got, took = steps(there, "relu", "float32")
        assert took == "CUDA graph", there.info().notes
        assert [note for note in there._met if "algorithm" in note] == []
        (file,) = tmp_path.iterdir()
        ends.append(got.tobytes())
        kept.append(file.read_bytes())
    assert ends[0] == ends[1]
    assert kept[0] == kept[1] != b""


def test_predictions_by_graphs_see_changed_weights(backend: CupyBackend):
    model, numpys = (NETS["relu"].model("float64", where) for where in (backend, "numpy"))
    x = NETS["relu"].samples()[0][:7]
    for change in (1.0, 0.5):
        for one in (model, numpys):
            one.layers[0].weights = one.layers[0].weights * change  # type: ignore[attr-defined]
        wanted = numpys.predict(x)
        for _ in range(5):
            np.testing.assert_allclose(model.predict(x), wanted, rtol=1e-9, atol=1e-12)
    assert not [note for note in backend.info().notes if "a prediction of" in note]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_products_are_off_by_no_more_than_is_stated(precision: str, backend: CupyBackend):
    random = np.random.default_rng(0)
    a, b = (random.normal(size=shape).astype("f4") for shape in ((130, 200), (200, 70)))
    rounding: Any = backend.with_precision(precision)
    rounding.gemm_rule = "blas"
    got = rounding.to_numpy(rounding.dense(*map(rounding.asarray, (a, b)), rounding.zeros((1, 70))))
    error = np.abs(got - a.astype(float) @ b) / (np.abs(a).astype(float) @ np.abs(b))
    assert ERRORS[precision] / 100 < error.max() <= ERRORS[precision]


def test_streamed_training_is_resident_training(backend: CupyBackend):
    ends = []
    for wish in (False, True):
        backend.streaming = wish
        model, (x, y) = NETS["relu"].model("float32", backend), NETS["relu"].samples()
        history = model.fit(x, y, epochs=3, batch_size=16, verbose=0)
        assert bool(history.streamed) == wish
        ends.append(backend.to_numpy(model.flat.state).tobytes())
    assert ends[0] == ends[1]
