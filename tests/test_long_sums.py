"""Sums over many samples lose no more to rounding than nnx/kernels/rounding.py says, on every backend."""

import numpy as np
import pytest
from strict_backend import StrictBackend

import nnx
from nnx.backends import resolve
from nnx.kernels.rounding import RUN, additions

ROWS = 256 * RUN + 77  # where one long sum is off by more; the last run is not whole
HALF_A_UNIT = 2.0**-24  # of float32, relative


def alike(columns):
    """Numbers that are alike, so that errors add up, and where they do not matter one that is not."""
    a = np.full((ROWS, columns), 0.1, np.float32)
    a[:, -1] = np.random.default_rng(0).random(ROWS, np.float32)
    return a


def backends():
    yield "numpy", resolve("numpy").backend
    yield "the default", StrictBackend()
    yield "the book's", nnx.nnfs.precision.BookBackend()
    for rule in ("own", "blas") if nnx.backends.available()["numba"] else ():
        backend = resolve("numba").backend
        backend.gemm_rule = rule
        yield f"numba, {rule}", backend
        backend.gemm_rule = "auto"


def test_additions_are_counted():
    assert additions(1) == 2
    assert additions(RUN) == RUN + 1
    assert additions(RUN + 1) == RUN + 2
    assert additions(RUN * 1000) == RUN + 1000


@pytest.mark.parametrize("columns", [1, 3])
def test_gradients_of_a_dense_layer(columns):
    pytest.importorskip("array_api_strict")
    x, dy = alike(2), alike(columns)
    exact_w, exact_b = x.T.astype(float) @ dy.astype(float), dy.sum(axis=0, dtype=float)
    for name, backend in backends():
        dw, db = (backend.zeros(shape) for shape in ((2, columns), (1, columns)))
        backend.dense_gradients(backend.asarray(x), backend.asarray(dy), dw, db)
        off_w = np.abs(backend.to_numpy(dw) / exact_w - 1).max() / HALF_A_UNIT
        off_b = np.abs(backend.to_numpy(db) / exact_b - 1).max() / HALF_A_UNIT
        assert off_w <= additions(ROWS) + 1, name  # and the rounding of each product
        assert off_b <= additions(ROWS), name


def test_no_samples_have_no_gradient():
    pytest.importorskip("array_api_strict")
    for name, backend in backends():
        x, dy = (backend.zeros((0, columns)) for columns in (2, 3))
        dw, db = (backend.asarray(np.ones(shape, np.float32)) for shape in ((2, 3), (1, 3)))
        backend.dense_gradients(x, dy, dw, db)
        assert not backend.to_numpy(dw).any(), name
        assert not backend.to_numpy(db).any(), name


@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_gradients_of_a_replayed_step(family, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("NNX_PROGRAM", family)
    x = alike(2)
    y = np.full((ROWS, 1), 0.7, np.float32)
    layers = [nnx.Dense(2, 1, init=np.zeros((2, 1)))]
    model = nnx.Sequential(*layers, backend="numba").compile(nnx.MeanSquaredError(), nnx.SGD(1.0), metrics=[])
    loss = model.step(x, y)  # from zero weights, by a rate of 1: parameters are minus the gradients
    assert model.eager_reason is None
    wanted = 2 * np.float64(y[0, 0])
    biases = model.layers[0].biases.ravel() / wanted - 1
    weights = model.layers[0].weights.ravel() / (wanted * x.mean(axis=0, dtype=float)) - 1
    few = 4  # what a term itself, its share of the mean and the update are rounded by
    assert np.abs(biases).max() <= (additions(ROWS) + few) * HALF_A_UNIT
    assert np.abs(weights).max() <= (additions(ROWS) + few) * HALF_A_UNIT
    assert abs(loss / np.float64(y[0, 0]) ** 2 - 1) <= few * HALF_A_UNIT
