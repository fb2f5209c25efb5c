"""What `make gpu` proves and measures beside kernels and races: the stated errors of precisions, and streamed data."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nnx
from nnx.backends.precision import ERRORS

Save = Callable[[Any], None]
FLOAT32 = 1e-5  # the error of full float32, which is stated nowhere, relative to the sum of a product's terms' sizes
ACCURACY, APART = 0.95, 0.01  # of digits held out, and how far a precision may be from the full one


def precision(save: Save, sizes: tuple[int, int, int] = (1000, 3000, 700), epochs: int = 8) -> Any:
    """The error of large products in each precision, forward and backward, against float64; and digits learned so."""
    backend: Any = nnx.get_backend("cupy")
    found: dict[str, Any] = {"errors": {}, "accuracy": {}}
    for name, stated in ERRORS.items():
        there = copy.copy(backend.with_precision(name))
        there.gemm_rule = "blas"  # all of them, the small ones too
        error = found["errors"][name] = product_error(there, sizes)
        found["accuracy"][name] = accuracy(there, epochs)
        save(found)
        if error > (stated or FLOAT32):
            raise RuntimeError(f"{name}: a product is off by {error:.2e}, stated is {stated or FLOAT32:.0e}: {found}")
    worst = max(abs(value - found["accuracy"]["full"]) for value in found["accuracy"].values())
    if min(found["accuracy"].values()) < ACCURACY or worst > APART:
        raise RuntimeError(f"expected {ACCURACY} of digits, and no two further apart than {APART}: {found}")
    return found


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
    states, before = [], backend.streams
    try:
        for name, wish in (("resident", False), ("streamed", True)):
            backend.streams = wish
            layers = nnx.Dense(width, 512), nnx.ReLU(), nnx.Dense(512, 10), nnx.Softmax()
            model = nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(1e-3))
            model.fit(x[: 2 * batch], y[: 2 * batch], epochs=1, batch_size=batch, verbose=0)  # compiles
            begin = time.perf_counter()
            history = model.fit(x, y, epochs=epochs, batch_size=batch, verbose=0)
            found[name] = {"seconds_an_epoch": (time.perf_counter() - begin) / epochs, "note": history.streamed}
            states.append(backend.to_numpy(model.flat.state))
            save(found)
    finally:
        backend.streams = before
    if not np.array_equal(*states):
        raise RuntimeError(f"streamed training differs by {np.abs(states[0] - states[1]).max()}: {found}")
    return found
