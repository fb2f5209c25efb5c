"""GPU checks beside the kernels' proofs: steps that repeat themselves, threads, stated errors, streamed data."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
from networks import NETS

import nnx
from nnx.backends.cupy.dense import ROUNDED
from nnx.backends.precision import ERRORS as STATED

Save = Callable[[Any], None]
Check = tuple[str, Callable[[], None]]
ERRORS = {name: STATED[name] for name in ROUNDED}  # of the precisions that GPUs have
FLOAT32 = 1e-5  # the error of full float32, which is stated nowhere, relative to the sum of a product's terms' sizes
ACCURACY, APART = 0.95, 0.01  # of digits held out, and how far a precision may be from the full one


def precision(
    found: dict[str, Any], sizes: tuple[int, int, int] = (1000, 3000, 700), epochs: int = 8
) -> Iterator[Check]:
    """Yield checks of each precision: the error of large products, forward and backward; then of digits learned so.

    Args:
        found: gets what they find.
    """
    errors: dict[str, float] = found.setdefault("errors", {})
    reached: dict[str, float] = found.setdefault("accuracy", {})

    def multiplying(name: str) -> Any:
        backend: Any = nnx.get_backend("cupy")
        there = copy.copy(backend.with_precision(name))
        there.gemm_rule = "blas"  # all of them, the small ones too
        return there

    def multiplies(name: str, stated: float) -> None:
        errors[name] = product_error(multiplying(name), sizes)
        if not errors[name] <= stated:
            raise AssertionError(f"a product is off by {errors[name]:.2e}, stated is {stated:.0e}")

    def learns(name: str) -> None:
        reached[name] = accuracy(multiplying(name), epochs)
        if not (reached[name] >= ACCURACY and abs(reached[name] - reached.get("full", reached[name])) <= APART):
            raise AssertionError(
                f"{reached[name]} of digits, expected {ACCURACY}, and within {APART} of full: {reached}"
            )

    for name, stated in ERRORS.items():
        yield f"error of {name}", lambda n=name, s=stated or FLOAT32: multiplies(n, s)
    if find_spec("sklearn") is None:
        found["accuracy"] = "not measured: scikit-learn, which has the digits, is not installed"
        return
    for name in ERRORS:
        yield f"digits in {name}", lambda n=name: learns(n)


def product_error(backend: Any, sizes: tuple[int, int, int]) -> float:
    """Return the largest error of a dense layer's three products, relative to the sum of their terms' sizes."""
    rows, inputs, outputs = sizes
    random = np.random.default_rng(0)
    x, w, dy = (
        random.normal(size=shape).astype("f4") for shape in ((rows, inputs), (inputs, outputs), (rows, outputs))
    )
    there = [backend.asarray(a) for a in (x, w, dy)]
    dw, bias = backend.zeros(w.shape), backend.zeros((1, outputs))
    y = backend.dense(*there[:2], bias)
    dx = backend.dense_backward(*there, dw, bias)
    worst = 0.0
    for got, a, b in ((y, x, w), (dx, dy, w.T), (dw, x.T, dy)):
        a, b = a.astype(float), b.astype(float)
        worst = max(worst, float((np.abs(backend.to_numpy(got) - a @ b) / (np.abs(a) @ np.abs(b))).max()))
    return worst


def accuracy(backend: Any, epochs: int) -> float:
    """Return the accuracy on digits held out."""
    x, y, held_x, held_y = nnx.datasets.digits(split=True)
    layers = nnx.Dense(64, 48, weight_l2=1e-4), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(48, 10), nnx.Softmax()
    model = nnx.Sequential(*layers, backend=backend, seed=3)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01, decay=1e-4))
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    return model.evaluate(held_x, held_y)["accuracy"]


def streaming(save: Save, rows: int = 400_000, width: int = 784, batch: int = 1024, epochs: int = 2) -> Any:
    """An epoch of the same training with its data on the GPU and streamed there: seconds, and the same numbers."""
    backend: Any = nnx.get_backend("cupy")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((rows, width), np.float32), random.integers(0, 10, rows)
    found: dict[str, Any] = {}
    states, before = [], backend.streaming
    try:
        for name, wish in (("resident", False), ("streamed", True)):
            backend.streaming = wish
            layers = nnx.Dense(width, 512), nnx.ReLU(), nnx.Dense(512, 10), nnx.Softmax()
            model = nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(1e-3))
            model.fit(x[: 2 * batch], y[: 2 * batch], epochs=1, batch_size=batch, verbose=0)  # compiles
            begin = time.perf_counter()
            history = model.fit(x, y, epochs=epochs, batch_size=batch, verbose=0)
            found[name] = {"seconds_an_epoch": (time.perf_counter() - begin) / epochs, "note": history.streamed}
            states.append(backend.to_numpy(model.flat.state))
            save(found)
    finally:
        backend.streaming = before
    if not np.array_equal(*states):
        raise RuntimeError(f"streamed training differs by {np.abs(states[0] - states[1]).max()}: {found}")
    return found


# ---- the same steps again --------------------------------------------------------------------------------------------

WAYS = {"persistent kernel": (True, True), "CUDA graph": (False, True), "one operation after the other": (False, False)}


def repeated(found: dict[str, Any], times: int = 20, steps: int = 200, rows: int = 8192) -> Iterator[Check]:
    """Yield checks of a training in each way that its steps run: every time it ends with the same bits.

    Args:
        found: gets for each the way that it really took. rows: of a batch whose products are cuBLASLt's.
    """

    def check(name: str, way: str, persistent: bool, graphs: bool) -> None:
        backend: Any = copy.copy(nnx.get_backend("cupy"))
        backend.persistent, backend.graphs = persistent, graphs
        ends = [ended(backend, name, steps, rows) for _ in range(times)]
        took = found[f"{name}, {way}"] = ends[0][1]
        different = sum(bits != ends[0][0] for bits, _ in ends)
        if different:
            raise AssertionError(f"{different} of {times} trainings end with other bits than the first")
        if took != way:
            raise AssertionError(f"its steps ran by {took}: {'; '.join(backend.info().notes)}")

    for name in ("two dropouts", "l1 and l2", "large"):
        for way, (persistent, graphs) in WAYS.items():
            if name != "large" or way != "persistent kernel":
                yield f"{name}, {way}", lambda n=name, w=way, p=persistent, g=graphs: check(n, w, p, g)


def ended(backend: Any, name: str, steps: int, rows: int) -> tuple[bytes, str]:
    """Train; return the bits of all state, and how the steps ran."""
    if name == "large":
        random = np.random.default_rng(0)
        layers = nnx.Dense(784, 128), nnx.ReLU(), nnx.Dense(128, 10), nnx.Softmax()
        model = nnx.Sequential(*layers, backend=backend, seed=1).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(1e-3))
        x, y = random.standard_normal((rows, 784), np.float32), random.integers(0, 10, rows)
    else:
        model, (x, y) = NETS[name].model("float32", backend), NETS[name].samples()
    model.steps(x, y, steps)
    ((_, program),) = model._trainer._staged.values()  # type: ignore[union-attr]
    return backend.to_numpy(model.flat.state).tobytes(), program.description


# ---- threads ---------------------------------------------------------------------------------------------------------


def threads(count: int = 8, calls: int = 200) -> dict[str, Any]:
    """Predict in threads at once, by one model that all share and by one each; every answer must be the right one."""
    random = np.random.default_rng(0)
    backend: Any = nnx.get_backend("cupy")

    def network(seed: int, where: Any = backend) -> nnx.Sequential:
        layers = nnx.Dense(64, 32), nnx.ReLU(), nnx.Dense(32, 10), nnx.Softmax()
        return nnx.Sequential(*layers, backend=where, seed=seed)

    shared, found = network(0), {}
    for name, seeds in (("one model", [0] * count), ("a model each", list(range(count)))):
        models = [shared if name == "one model" else network(seed) for seed in seeds]
        inputs = [random.standard_normal((1 + i % 3, 64), np.float32) for i in range(count)]
        wanted = [network(seed, "numpy").predict(x) for seed, x in zip(seeds, inputs, strict=True)]

        def work(model: nnx.Sequential, x: np.ndarray, right: np.ndarray) -> int:
            return sum(not np.allclose(model.predict(x), right, rtol=1e-4, atol=1e-6) for _ in range(calls))

        with ThreadPoolExecutor(count) as pool:
            found[name] = {"wrong": sum(pool.map(work, models, inputs, wanted)), "of": count * calls}
    if any(result["wrong"] for result in found.values()):
        raise AssertionError(f"wrong predictions: {found}")
    return found
