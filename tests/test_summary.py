"""`model.summary()` says what runs: fresh, trained and eager, on each backend, within 80 columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import Doubled
from test_cupy import stand_in

import nnx

pytest.importorskip("numba")

from nnx.backends.numba.backend import NumbaBackend
from nnx.backends.numpy import NumpyBackend
from nnx.errors import InputError, NotReplayable


class EagerOnly(NumpyBackend):
    """NumPy's operations, and no recorded step."""

    def compile(self, recorder: Any) -> Any:
        raise NotReplayable(
            "nothing is replayed here at all, however much one may wish for it, and it is said at length"
        )


def model(backend: Any, width: int = 16, *more: nnx.Layer) -> nnx.Sequential:
    layers = [nnx.Dense(2, width), nnx.ReLU(), nnx.Dropout(0.25), *more, nnx.Dense(width, 3)]
    net = nnx.Sequential(*layers, nnx.Softmax(), backend=backend)
    return net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))


def samples(rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    x, y = nnx.datasets.spiral(rows // 3, 3)
    return x, y


def told(net: nnx.Sequential) -> str:
    """The summary without its line ends, once each line was found to fit a terminal."""
    text = net.summary()
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def test_before_the_first_step_it_says_what_is_planned():
    assert "training steps: none yet; planned: one operation after the other" in told(model("numpy"))
    numbas = told(model("numba"))
    assert "training steps: none yet; planned: one compiled function, samples by rows or in vector lanes" in numbas
    assert "predictions: none yet; planned: one compiled function, row by row for a few rows" in numbas


def test_a_layer_of_ones_own_predicts_as_written_and_the_plan_says_so():
    net = nnx.Sequential(nnx.Dense(2, 3), Doubled(), backend="numpy")
    assert "predictions: none yet; planned: layer by layer, as written" in told(net)
    net.predict([[1, 2]])
    assert "predictions: layer by layer, as written" in told(net)


def test_numpy_runs_one_operation_after_the_other():
    net = model("numpy")
    net.fit(*samples(), epochs=1, verbose=0)
    net.predict(samples()[0])
    text = told(net)
    assert "training steps: one operation after the other" in text
    assert "predictions: one operation after the other" in text
    assert "Dense(2, 16) 16 48 numpy:dense" in text
    assert "Softmax() 3 fused into the loss" in text


@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_numba_says_how_the_compiled_step_takes_its_samples(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_PROGRAM", family)
    words, product = {"rows": ("by rows", "gemm"), "lanes": ("in vector lanes", "lanes_matmul")}[family]
    net = model("numba")
    assert f"planned: one compiled function, samples {words}" in told(net)
    net.steps(*samples(), 2)
    net.predict(samples()[0])
    text = told(net)
    assert f"training steps: one compiled function, samples {words}, 1 thread" in text
    assert f"ReLU() 16 fused into {product}" in text
    assert f"Dropout(0.25) 16 numba:{family}.dropout" in text
    assert "predictions: one compiled function, row by row for a few rows, beyond that in blocks of rows" in text


def test_a_fit_tells_of_its_full_batches_and_later_steps_of_theirs():
    net, (x, y) = model("numba"), samples()
    net.fit(x, y, batch_size=59, epochs=1, verbose=0)  # the last batch has 1 row, too few for lanes
    assert "in vector lanes, 1 thread; an epoch's last: one compiled function, samples by rows" in told(net)
    net.step(x[:1], y[:1])
    assert "training steps: one compiled function, samples by rows" in told(net)


def test_an_eager_step_is_told_with_its_reason_folded():
    net = model(EagerOnly())
    net.step(*samples())
    text = told(net)
    assert "training steps: layer by layer, as written" in text
    assert "at all, however much one may wish for it, and it is said at length" in text


def test_a_layer_of_ones_own_is_told_and_long_ones_are_folded():
    class Scaled(nnx.ReLU):
        def __init__(self, name: str) -> None:
            self.name = name

        def forward(self, inputs: Any, training: bool = False) -> Any:
            return super().forward(inputs, training)

        def __repr__(self) -> str:
            return f"Scaled({self.name})"

    name = " ".join(["many words"] * 12)
    net = model("numpy", 16, Scaled(name))
    assert "predictions: none yet; planned: layer by layer, as written" in told(net)
    net.predict(samples()[0])
    text = told(net)
    assert "its own forward()" in text
    assert "predictions: layer by layer, as written" in text
    assert all(word in net.summary() for word in name.split())


def test_a_program_that_is_neither_rows_nor_lanes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_PROGRAM", "columns")
    net = model("numba")
    with pytest.raises(InputError, match=r"NNX_PROGRAM='columns': expected rows or lanes"):
        net.step(*samples())


def test_a_backend_of_ones_own_is_not_spoken_for():
    assert "planned: as its compile() decides" in told(model(EagerOnly()))


@pytest.mark.parametrize(
    ("persistent", "graphs", "planned", "ran"),
    [
        (True, True, "CUDA graph, or persistent kernel for a small network", "persistent kernel"),
        (False, True, "CUDA graph", "CUDA graph"),
        (False, False, "one operation after the other", "one operation after the other"),
    ],
)
def test_cupy_says_which_program_runs(persistent: bool, graphs: bool, planned: str, ran: str):
    backend = stand_in()
    backend.persistent, backend.graphs = persistent, graphs
    net = model(backend)
    assert told(net).endswith(f"training steps: none yet; planned: {planned}")
    net.fit(*samples(), epochs=1, verbose=0)
    net.predict(samples()[0])
    text = told(net)
    assert text.endswith(f"training steps: {ran}")
    assert ("cupy:program" in text) == (ran == "persistent kernel")
    assert ("a CUDA graph for each number of rows" in text) == graphs


def test_the_listing_names_every_operation_of_the_table(monkeypatch: pytest.MonkeyPatch):
    class Kept(NumbaBackend):
        def compile(self, recorder: Any) -> Any:
            self.program: Any = super().compile(recorder)
            return self.program

    from nnx.kernels.cpu.program import table as t

    for family, product in (("rows", "DENSE "), ("lanes", "LANES_DENSE ")):
        monkeypatch.setenv("NNX_PROGRAM", family)
        backend = Kept()
        model(backend).step(*samples())
        lines, table = backend.program.listing().splitlines(), backend.program.table
        assert len(lines) == len(table) - 1 - table[0][t.REGIONS]
        assert sum(product in line for line in lines) == 2
        assert any(line.split()[-4:] == ["2", "->", "16", "relu"] for line in lines)
    net = nnx.Sequential(nnx.Dense(2, 5), nnx.Tanh(), nnx.Dense(5, 3), nnx.Softmax(), backend=backend)
    net.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1)).step(*samples())
    assert any(line.split()[-3:] == ["ELEMENTWISE", "5", "tanh"] for line in backend.program.listing().splitlines())
