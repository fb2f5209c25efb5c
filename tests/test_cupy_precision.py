"""TF32 and bf16: their stated errors, on a stand-in that rounds exactly as they do, and who refuses them."""

from __future__ import annotations

import itertools
import pickle
import threading
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_cublaslt import TF32, FakeLt, to_bf16, to_tf32
from fake_cupy import machine
from networks import NETS

import nnx
from nnx.backends.cupy.backend import CupyBackend, MultiGpuCupyBackend
from nnx.backends.cupy.matmul import cublaslt_products
from nnx.backends.precision import ERRORS
from nnx.errors import InputError, InputTypeError
from nnx.testing.rounding import assert_within, rounding

pytestmark = pytest.mark.rounding

Array = Any
ROUNDED = {"tf32": to_tf32, "bf16": to_bf16}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a backend on the stand-in, which begins anew, with all products counted as large."""

    def make(lt: FakeLt | None = None, precision: str | None = None, graph: str = "1", gemm: str = "") -> CupyBackend:
        machine.reset()
        machine.cublaslt = lt
        monkeypatch.setenv("NNX_GRAPH", graph)
        monkeypatch.setenv("NNX_GEMM", gemm)
        monkeypatch.setenv("NNX_PERSISTENT", "0")
        monkeypatch.setattr("nnx.backends.cupy.matmul.dispatch.SMALL", 0)
        return CupyBackend(fake_cupy, precision=precision)

    return make


def factors(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all sizes, with the worst that a rounding can meet among them."""
    random = np.random.default_rng(3)
    a, b = (random.normal(size=shape) * 10.0 ** random.integers(-3, 4, shape) for shape in ((33, 70), (70, 21)))
    a[0], b[:, 0] = 1 + 2.0**-8, 1 + 2.0**-8  # halfway between two numbers of bf16
    a[1], b[:, 1] = 1 + 2.0**-11, 1 + 2.0**-11  # and of TF32
    return a.astype(dtype), b.astype(dtype), random.normal(size=(1, 21)).astype(dtype)


# ---- the stated errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("flips", [*itertools.product((False, True), repeat=2)])
def test_a_product_is_off_by_no_more_than_is_stated(flips: tuple[bool, bool], precision: str, make: Any):
    """And is that of the rounded factors, all else being float32; the full one is none of them."""
    lt = FakeLt()
    backend = make(lt, precision)
    a, b, bias = factors()
    left, right = (
        backend.asarray(f.T.copy()).T if flip else backend.asarray(f) for f, flip in zip((a, b), flips, strict=True)
    )
    got = backend.to_numpy(backend.dense(left, right, backend.asarray(bias))).astype(np.float64)
    exact, sizes = a.astype(float) @ b.astype(float) + bias, np.abs(a.astype(float)) @ np.abs(b.astype(float))
    error = np.abs(got - exact) / (sizes + np.abs(bias))
    assert ERRORS[precision] / 3 < error.max() <= ERRORS[precision]
    expected = ROUNDED[precision](a).astype(float) @ ROUNDED[precision](b).astype(float) + bias
    rounded = np.abs(ROUNDED[precision](a).astype(float)) @ np.abs(ROUNDED[precision](b).astype(float)) + np.abs(bias)
    assert_within(got, expected, rounding(a.shape[1] + 1, "float32") * rounded)
    assert (lt.complaints, machine.launched["cublas"]) == ([], 0)
    full = backend.with_precision("full")
    got = full.to_numpy(full.dense(left, right, backend.asarray(bias)))
    assert_within(got, exact, rounding(a.shape[1] + 1, "float32") * (sizes + np.abs(bias)))


def test_what_is_stated_is_the_worst_of_two_roundings():
    """TF32 as it would be if a GPU cut bits off."""
    assert (1 + 2.0**-10) ** 2 - 1 <= ERRORS["tf32"] < 1.1 * 2.0**-9
    assert (1 + 2.0**-8) ** 2 - 1 <= ERRORS["bf16"] < 1.1 * 2.0**-7


@pytest.mark.parametrize("precision", ROUNDED)
def test_gradients_are_rounded_products_too(precision: str, make: Any):
    backend = make(FakeLt(), precision)
    a, b, _ = factors()
    x, w, dy = a, b, np.random.default_rng(5).normal(size=(33, 21)).astype(np.float32)
    dw, db = backend.zeros((70, 21)), backend.zeros((1, 21))
    dx = backend.dense_backward(*(backend.asarray(f) for f in (x, w, dy)), dw, db)
    for got, left, right in ((dx, dy, w.T), (dw, x.T, dy)):
        left, right = (ROUNDED[precision](f).astype(float) for f in (left, right))
        size = np.abs(left) @ np.abs(right)
        assert_within(backend.to_numpy(got), left @ right, rounding(left.shape[1], "float32") * size)
    size = np.abs(dy.astype(float)).sum(axis=0)
    assert_within(backend.to_numpy(db)[0], dy.astype(float).sum(axis=0), rounding(len(dy), "float32") * size)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_infinities_and_nan_stay_what_they_are(precision: str, make: Any):
    backend = make(FakeLt(), precision)
    a = np.array([[np.inf, 1], [np.nan, 1], [-np.inf, 1], [2, 3]], np.float32)
    operands = (backend.asarray(x, "float32") for x in (a, np.ones((2, 2)), np.zeros((1, 2))))
    got = backend.to_numpy(backend.dense(*operands))
    np.testing.assert_array_equal(got[:, 0], [np.inf, np.nan, -np.inf, 5])


# ---- training --------------------------------------------------------------------------------------------------------


def digits(backend: Any, precision: str | None) -> tuple[nnx.Sequential, float]:
    x, y, held_x, held_y = nnx.datasets.digits(split=True)
    layers = nnx.Dense(64, 48, weight_l2=1e-4), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(48, 10), nnx.Softmax()
    model = nnx.Sequential(*layers, backend=backend, precision=precision, seed=3)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01, decay=1e-4))
    model.fit(x, y, epochs=5, batch_size=64, verbose=0)
    assert (model.eager_reason, model.replay_reason) == (None, None)
    return model, model.evaluate(held_x, held_y)["accuracy"]


def test_digits_are_learned_to_the_stated_accuracy(make: Any):
    """0.95 of those held out, and within a hundredth of full float32."""
    accuracies = {}
    for precision in ("full", *ROUNDED):
        lt = FakeLt()
        model, accuracies[precision] = digits(make(lt), precision)
        assert lt.complaints == []
        assert model.flat.values.dtype == np.float32
        assert {compute for _, compute in lt.multiplied} == {TF32 if precision == "tf32" else 68}
        assert ("round_to_bfloat16" in machine.launched) == (precision == "bf16")
    assert min(accuracies.values()) > 0.95
    assert max(accuracies.values()) - min(accuracies.values()) <= 0.01, accuracies


@pytest.mark.parametrize("precision", ROUNDED)
def test_replayed_steps_are_eager_ones(precision: str, make: Any):
    """But for numbers that one more bit rounds to the next bf16."""
    net, states = NETS["tanh"], []
    for graph in "10":
        model = nnx.Sequential(*net.layers(), backend=make(FakeLt(), graph=graph), precision=precision, seed=5)
        model.compile(net.loss(), net.optimizer()).fit(*net.samples(), epochs=10, batch_size=16, verbose=0)
        assert (model.eager_reason, model.replay_reason) == (None, None)
        states.append(model.backend.to_numpy(model.flat.state))
    assert np.linalg.norm(states[0] - states[1]) < 2e-3 * np.linalg.norm(states[1])


def test_parameters_keep_what_bf16_could_not_hold(make: Any):
    """Steps far below a bf16's last place add up, because it is the float32 parameters that are updated."""
    model = nnx.Sequential(nnx.Dense(1, 1, init=np.ones((1, 1))), backend=make(FakeLt()), precision="bf16")
    model.compile(nnx.MeanSquaredError(), nnx.SGD(1e-5))
    model.steps(np.ones((4, 1)), np.full((4, 1), 6.0), 200)
    assert model.backend.to_numpy(model.layers[0].weights)[0, 0] == pytest.approx(1 + 200 * 1e-5 * 10, rel=1e-3)


@pytest.mark.parametrize("precision", ROUNDED)
def test_predictions_are_rounded_with_and_without_a_graph(precision: str, make: Any):
    model = nnx.Sequential(nnx.Dense(70, 21), backend=make(FakeLt()), precision=precision)
    x = factors()[0][2:]
    w = model.backend.to_numpy(model.layers[0].weights)
    wanted = ROUNDED[precision](x).astype(float) @ ROUNDED[precision](w).astype(float)
    for _ in range(3):
        np.testing.assert_allclose(model.predict(x), wanted, rtol=1e-4, atol=1e-2)
    assert machine.graphs["launch"] == 2


# ---- one way to say it -----------------------------------------------------------------------------------------------


def test_the_precision_is_a_models_own(make: Any):
    backend = make(FakeLt())
    models = {p: nnx.Sequential(nnx.Dense(4, 3), backend=backend, precision=p) for p in (None, "full", *ROUNDED)}
    assert {p: m.backend.precision for p, m in models.items()} == {
        None: "full",
        "full": "full",
        "tf32": "tf32",
        "bf16": "bf16",
    }
    assert models[None].backend is models["full"].backend is backend
    assert "large ones round what they multiply to bf16, 8 bits" in models["bf16"].backend.info().notes[0]
    assert "full float32" in backend.info().notes[0]
    assert "precision='bf16'" in models["bf16"].summary()
    assert "precision" not in models["full"].summary()
    a, b = (models[p].backend for p in ("tf32", "bf16"))
    assert b.with_precision("tf32").precision == a.precision
    assert b.owns(a.zeros(3))


def test_the_environment_and_cupy_say_it_for_all_that_do_not(make: Any, monkeypatch: pytest.MonkeyPatch):
    for text, wanted in (("tf32", "tf32"), ("BF16 ", "bf16"), ("full", "full"), ("", "full")):
        monkeypatch.setenv("NNX_PRECISION", text)
        assert make(FakeLt()).precision == wanted
    assert make(FakeLt(), "bf16").precision == "bf16"
    monkeypatch.setattr(machine, "reset", lambda: None)
    machine.compute_type = 7  # CUPY_TF32=1
    assert make(FakeLt()).precision == "tf32"
    assert make(FakeLt(), "full").precision == "full"
    assert machine.compute_type == 1
    monkeypatch.setenv("NNX_PRECISION", "maybe")
    with pytest.raises(InputError, match="NNX_PRECISION='maybe': expected one of 'full', 'tf32', 'bf16'"):
        make()


def test_who_cannot_refuses(make: Any):
    dense = nnx.Dense(4, 3)
    with pytest.raises(InputError, match="precision='bf16': backend 'numpy' multiplies in full precision only"):
        nnx.Sequential(dense, backend="numpy", precision="bf16")
    assert nnx.get_backend("numpy").with_precision("full") is nnx.get_backend("numpy")
    for wrong, error in (("half", InputError), (16, InputTypeError)):
        with pytest.raises(error, match=f"precision={wrong!r}: expected one of 'full', 'tf32', 'bf16'"):
            nnx.Sequential(dense, backend="numpy", precision=wrong)  # type: ignore[arg-type]
    backend = make(FakeLt())
    with pytest.raises(InputError, match="rounds float32 products, and dtype='float64'"):
        nnx.Sequential(dense, backend=backend, dtype="float64", precision="tf32")
    with pytest.raises(InputError, match="needs cuBLASLt, and the stand-in has no cuBLASLt; precision='full'"):
        make().with_precision("tf32")
    assert make(gemm="own").with_precision("tf32").precision == "tf32"  # may round, and nnx's kernel does not
    backend = make(FakeLt())
    with pytest.raises(InputError, match="precision='bf16x3' is for the CPU; on a GPU there are 'full', 'tf32'"):
        backend.with_precision("bf16x3")
    backend.capability = (7, 5)
    with pytest.raises(InputError, match=r"precision='bf16': cuda:0 \(Stand-in\) has neither TF32 nor bf16"):
        backend.with_precision("bf16")


def test_what_comes_with_a_model_and_what_does_not(make: Any, tmp_path: Path):
    """Moves and copies keep the precision; a file does not, because its numbers are float32 either way."""
    backend = make(FakeLt())
    model = nnx.Sequential(nnx.Dense(4, 3), nnx.Softmax(), backend=backend, precision="bf16")
    with pytest.raises(InputError, match="backend 'numpy' multiplies in full precision only"):
        model.to("numpy")
    assert (model.backend.name, model.backend.precision) == ("cupy", "bf16")
    assert model.to(backend).backend.precision == "bf16"
    assert model.to(backend, precision="tf32").backend.precision == "tf32"
    assert model.to("numpy", precision="full").backend.precision == "full"
    model.to(backend, precision="bf16")
    if not nnx.backends.available()["cupy"]:
        with pytest.warns(nnx.BackendFallbackWarning):
            back = pickle.loads(pickle.dumps(model))
        assert (back.backend.name, back.backend.precision, back.precision) == ("numpy", "full", "bf16")
    pytest.importorskip("safetensors")
    model.save(tmp_path / "m.safetensors")
    assert nnx.load(tmp_path / "m.safetensors", backend=backend).backend.precision == "full"
    again = nnx.load(tmp_path / "m.safetensors", backend=backend).to(backend, precision="bf16")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


# ---- what cuBLASLt cannot do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["1", "0"])
def test_what_cublaslt_cannot_do_is_done_in_full_precision_and_said(graph: str, make: Any):
    backend = make(FakeLt(without=(1, 4, 6)), graph=graph)
    net = NETS["tanh"]
    model = nnx.Sequential(*net.layers(), backend=backend, precision="bf16", seed=5)
    model.compile(net.loss(), net.optimizer()).fit(*net.samples(), epochs=2, batch_size=16, verbose=0)
    assert (model.eager_reason, model.replay_reason) == (None, None)
    notes = " ".join(backend.info().notes)
    assert "products are in full precision where cuBLASLt cannot do them in bf16: cublasLtMatmulAlgo" in notes
    expected = nnx.Sequential(*net.layers(), backend="numpy", seed=5)
    expected.compile(net.loss(), net.optimizer()).fit(*net.samples(), epochs=2, batch_size=16, verbose=0)
    np.testing.assert_allclose(backend.to_numpy(model.flat.state), expected.flat.state, rtol=1e-3, atol=1e-5)


def test_plans_are_few_and_threads_share_them(make: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cublaslt_products, "PLANS", 4)
    lt = FakeLt()
    model = nnx.Sequential(nnx.Dense(4, 3), nnx.ReLU(), backend=make(lt, graph="0"), precision="bf16")
    wanted = {rows: model.predict(np.ones((rows, 4), np.float32)) for rows in range(1, 12)}
    assert lt.open <= 4 * 5
    wrong: list[int] = []

    def ask() -> None:
        answers = {rows: model.predict(np.ones((rows, 4), np.float32)) for rows in wanted}
        wrong.extend(rows for rows in wanted if not np.array_equal(answers[rows], wanted[rows]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, lt.complaints) == ([], [])


def test_a_bf16_product_is_the_same_one_wherever_its_copies_stand(make: Any, monkeypatch: pytest.MonkeyPatch):
    """They stand in room of our own, which may be elsewhere when a step is captured: there no plan can be made."""
    lt = FakeLt()
    backend, places = make(lt, "bf16"), itertools.cycle([0, 8, 24])
    scratch, room = backend._scratch, fake_cupy.empty(20_000, "uint16")
    monkeypatch.setattr(
        backend,
        "_scratch",
        lambda n, dtype: room[(p := next(places)) : p + n] if dtype == "uint16" else scratch(n, dtype),
    )
    a, b, _ = factors()
    products = cublaslt_products.RoundedProducts(backend.lt())
    c = backend.zeros((33, 21))
    for _ in range(3):
        c.fill(0)
        products(backend, "float32", *(backend.asarray(f) for f in (a, b)), c, None, 0)
        np.testing.assert_allclose(backend.to_numpy(c), to_bf16(a) @ to_bf16(b), rtol=1e-4, atol=1e-2)
    assert len(products._plans) == 1
    assert lt.complaints == []
    products.close()


def test_on_the_second_gpu_while_the_first_is_current(make: Any):
    make()
    machine.reset(devices=2)
    machine.cublaslt = FakeLt()
    backend = MultiGpuCupyBackend(fake_cupy, 1)
    net = NETS["relu"]
    model = nnx.Sequential(*net.layers(), backend=backend, precision="bf16").compile(net.loss(), net.optimizer())
    model.fit(*net.samples(), epochs=2, batch_size=16, verbose=0)
    assert (model.replay_reason, machine.current, machine.used[0]) == (None, 0, 0)
    assert machine.cublaslt.complaints == []
