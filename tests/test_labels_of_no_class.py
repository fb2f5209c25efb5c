"""A label that is no class makes its loss nan, touches no other memory, and nobody can slip one in after the check.

Each operation by itself is checked by nnx.testing.cases, on every backend; CUDA's kernels so by test_cuda_kernels.py.
"""

import numpy as np
import pytest

import nnx
from nnx import targets
from nnx.errors import InputError
from nnx.kernels.step_state import CURSOR, HITS, LOSS

WRONG = (3, -1, 2**24 + 1, 2**62, -(2**62))


class Unfused(nnx.Softmax):
    """Softmax that no loss is computed with in one pass."""


def model_of(backend, dtype, last=nnx.Softmax):
    layers = nnx.Dense(4, 9), nnx.ReLU(), nnx.Dense(9, 3), last()
    model = nnx.Sequential(*layers, backend=backend, dtype=dtype, seed=3)
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))


def data(rows=21):
    random = np.random.default_rng(2)
    return random.normal(size=(rows, 4)), random.integers(0, 3, rows)


def after_a_step(model, label, row):
    """Do a step on labels of which one has been changed since they were checked."""
    feed, runner = model._trainer.staged(*(model._inputs(data()[0], "x"), model._targets(data()[1], data()[0], "y")))
    assert model.eager_reason is None
    feed.y[row] = label
    model._trainer.run(runner, 1)
    return model._trainer.stats.copy(), model.flat.values.copy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [nnx.Softmax, Unfused])
@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_a_program_does_with_it_what_numpy_does(family, last, dtype, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("NNX_PROGRAM", family)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for label in WRONG:
        for row in (0, 13, 20):
            stats, values = after_a_step(model_of("numba", dtype, last), label, row)
            wanted, values_wanted = after_a_step(model_of("numpy", dtype, last), label, row)
            assert np.isnan(stats[LOSS])
            assert np.isnan(wanted[LOSS])
            assert stats[HITS] == wanted[HITS] < 21
            np.testing.assert_allclose(values, values_wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_rows_that_are_not_there_become_the_nearest(family, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("NNX_PROGRAM", family)
    trained = []
    for backend in ("numba", "numpy"):
        model, (x, y) = model_of(backend, "float64"), data()
        model.fit(x, y, batch_size=8, verbose=0)  # so that there is a program that gathers
        trainer, batch = model._trainer, [np.zeros((8, 4)), np.zeros(8, np.int64)]
        order = np.array([2**60, -5, 3, 21, 20, 0])
        runner = trainer.runner(nnx.training.step.Feed(*batch, (x, y, order)))
        for cursor in (0, 3, 5, 2**40, 0):
            trainer.counters[CURSOR] = cursor
            runner.run(1)
        trained.append(model.flat.values.copy())
    np.testing.assert_allclose(trained[0], trained[1], rtol=1e-12)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "uint64", ">i8", "float32", "float64", "bool"])
def test_labels_are_copied_and_the_copy_is_checked(kind):
    y = np.array([1, 0, 1, 1]).astype(kind)
    for given in (y, y[:, None], y[::-1]):
        taken = targets.categorical(given, 4, 2, "fit")
        assert taken.dtype == np.int64
        assert taken.dtype.isnative
        assert not np.shares_memory(taken, y)
        np.testing.assert_array_equal(taken, given.reshape(-1))


class Spoil(nnx.callbacks.Callback):
    def __init__(self, y, label):
        self.y, self.label = y, label

    def on_epoch_end(self, model, epoch, logs):
        if epoch == 1:
            self.y[5] = self.label


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("batch", [None, 8])
def test_a_fit_whose_labels_change_ends_and_has_used_none_of_them(backend, batch):
    if backend == "numba":
        pytest.importorskip("numba")
    x, y = data()
    y[5] = 2
    calm = model_of(backend, "float64")
    calm.fit(x, y, epochs=2, batch_size=batch, verbose=0)
    for label in (2**40, -1, 0):
        model, changing = model_of(backend, "float64"), y.copy()
        with pytest.raises(InputError, match=rf"row 5 is {label}, was 2.*up to epoch 2"):
            model.fit(x, changing, epochs=4, batch_size=batch, verbose=0, callbacks=[Spoil(changing, label)])
        np.testing.assert_array_equal(model.flat.values, calm.flat.values)


def test_whoever_changes_other_targets_or_none_may_go_on():
    x, y = data()
    model_of("numpy", "float64").fit(x, list(y), epochs=3, verbose=0, callbacks=[Spoil([0] * 21, 1)])
    model_of("numpy", "float64").fit(x, y, epochs=3, verbose=0, callbacks=[Spoil(y.copy(), 1)])
