"""Compiled code touches nothing beyond its arrays, which border on pages that end the process if it does."""

import ctypes
import os
import signal
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba")
if not sys.platform.startswith("linux"):
    pytest.skip("protected pages are made by Linux's calls", allow_module_level=True)

from guard_pages import GuardPages

import nnx
from nnx.backends.numba import inference, runtime, scores
from nnx.backends.numba.backend import NumbaBackend, create
from nnx.backends.operation_table import OPERATIONS
from nnx.testing.cases import CASES, Maker
from nnx.testing.compare import CLASS, compare

DTYPES, SIDES = ["float32", "float64"], ["end", "start"]
OPTIMIZERS = {  # and how many moments each has
    "sgd": 1, "adagrad": 1, "rmsprop": 1, "adam": 2, "nadam": 2, "amsgrad": 3, "lion": 1,
}  # fmt: skip
LOSSES = {
    "labels": (nnx.Softmax, nnx.CategoricalCrossEntropy),
    "distributions": (nnx.Softmax, nnx.CategoricalCrossEntropy),
    "logits": (None, nnx.SoftmaxCrossEntropy),
    "shares": (nnx.Sigmoid, nnx.BinaryCrossEntropy),
    "squares": (None, nnx.MeanSquaredError),
    "distances": (None, nnx.MeanAbsoluteError),
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("side", SIDES)
def test_who_goes_beyond_a_guarded_array_ends(side):
    a = GuardPages(side).zeros(3, "float32")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # no traceback
        ctypes.string_at(a.__array_interface__["data"][0] + (a.nbytes if side == "end" else -1), 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


def call(backend, case, pages):
    """Call an operation with operands that are frozen where it may only read; return what it wrote, by name."""
    spec, operands = OPERATIONS[case.operation], {}
    for name, value in case.operands.items():
        if isinstance(value, np.ndarray):
            value = pages.copy(value) if name in spec.writes else pages.frozen(value)
        operands[name] = value
    if case.out is not None:
        first = next(a for a in operands.values() if isinstance(a, np.ndarray))
        operands["out"] = pages.empty(case.out, first.dtype)
    getattr(backend, case.operation)(**operands)
    return operands


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_stays_within_its_arrays(dtype, side, two_threads):
    backend, pages, maker = create(), GuardPages(side), Maker(dtype)
    for operation, cases in CASES.items():
        rules = ("own", "blas") if operation.startswith("dense") else ("auto",)
        for case in cases(maker):
            for backend.gemm_rule in rules:
                got = call(backend, case, pages)
                for name, wanted in case.wanted.items():
                    compare(got[name], wanted, CLASS[operation], dtype, f"{operation}, {case.name}: {name}")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_optimizer_stays_within_its_arrays(dtype, side):
    backend, pages, random = create(), GuardPages(side), np.random.default_rng(1)
    hyper, counters = np.array([0.01, 1e-3, 0.9, 0.999, 1e-7, 0.01, 4e-3]), np.array([5, 0, 0])
    for size in (*range(1, 40), 63, 64, 65, 1000):
        for name, moments in OPTIMIZERS.items():
            arrays = [random.random(size).astype(dtype) for _ in range(2 + moments)]
            mine = [pages.copy(a) for a in arrays]
            getattr(backend, name)(*mine, pages.copy(hyper), pages.copy(counters))
            getattr(nnx.backends.resolve("numpy").backend, name)(*arrays, hyper, counters)
            tolerance = 1e-5 if dtype == "float32" else 1e-13
            np.testing.assert_allclose(mine[0], arrays[0], rtol=tolerance, atol=tolerance)


class Guarded(NumbaBackend):
    """The backend, with guarded arrays in all places where models and programs keep theirs."""

    def __init__(self, pages):
        super().__init__()
        self.pages = pages

    def empty(self, shape, dtype="float32"):
        return self.pages.empty(shape, dtype)

    def zeros(self, shape, dtype="float32"):
        return self.pages.zeros(shape, dtype)


def network(random, kind, backend, dtype):
    """A model with layers of odd widths, and samples for it; the generator decides."""
    widths = [int(random.integers(1, 40)) for _ in range(int(random.integers(2, 5)))]
    widths[-1] = max(widths[-1], 2)
    penalty = float(random.choice([0.0, 1e-4]))
    layers = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nnx.Dense(inputs, outputs, weight_l1=penalty, weight_l2=penalty)]
        layers += [random.choice([nnx.ReLU, nnx.Tanh, nnx.Sigmoid])()]
        layers += [nnx.Dropout(0.3)] if random.random() < 0.5 else []
    last, loss = LOSSES[kind]
    layers += [nnx.Dense(widths[-2], widths[-1], bias_l2=penalty)] + ([] if last is None else [last()])
    rows = int(random.choice([1, 2, 15, 16, 17, 31, 33, 97, 257, 300]))
    optimizer = random.choice([nnx.SGD(0.01, momentum=0.5), nnx.Adam(0.001), nnx.RMSprop(0.001), nnx.AdaGrad(0.01)])
    model = nnx.Sequential(*layers, backend=backend, dtype=dtype, seed=rows).compile(loss(), optimizer)
    x = random.normal(size=(rows, widths[0])).astype(dtype)
    y = {
        "labels": lambda: random.integers(0, widths[-1], rows),
        "logits": lambda: random.integers(0, widths[-1], rows),
        "distributions": lambda: random.dirichlet(np.ones(widths[-1]), rows).astype(dtype),
        "shares": lambda: random.random((rows, widths[-1])).astype(dtype),
    }.get(kind, lambda: random.normal(size=(rows, widths[-1])).astype(dtype))()
    return model, x, y, int(random.integers(1, rows + 1))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_programs_and_predictions_stay_within_their_arrays(family, dtype, side, two_threads, monkeypatch):
    pages = GuardPages(side)
    monkeypatch.setenv("NNX_PROGRAM", family)
    monkeypatch.setattr(runtime, "aligned", lambda count, kind: pages.zeros(count, kind))
    monkeypatch.setattr(runtime, "AROUND", 1e12)
    parts = {"ndarray": np.ndarray, "array": np.array, "int64": np.int64, "empty": pages.empty, "zeros": pages.zeros}
    monkeypatch.setattr(inference, "np", SimpleNamespace(**parts))
    monkeypatch.setattr(scores, "np", SimpleNamespace(**parts, float64=np.float64))
    for turn, kind in enumerate(LOSSES):
        for seed in range(2):
            trained = []
            for backend in (Guarded(pages), "numpy"):
                model, x, y, batch = network(np.random.default_rng([turn, seed]), kind, backend, dtype)
                given = (x, y) if backend == "numpy" else (pages.frozen(x), pages.frozen(y))
                history = model.fit(*given, epochs=2, batch_size=batch, verbose=0)
                losses = [*history["loss"], *model.steps(*given, 2), model.evaluate(*given)["loss"]]
                few = model.predict(pages.copy(x[:3]))
                trained.append((losses, model.predict(pages.copy(x)), few))
                assert model.eager_reason is None
            for got, wanted in zip(*trained, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-2, atol=1e-3)
