"""The learning rate finder: rates, losses, a suggestion; the model stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net, mlp, weights

import nnx
from nnx import plots
from nnx.errors import InputError, InputTypeError

NET = Net(mlp(nnx.Tanh), rows=120, optimizer=lambda: nnx.SGD(0.1, momentum=0.5, decay=0.1))


def test_rates_and_losses_are_those_of_steps_and_the_model_stays_as_it_is() -> None:
    model, twin, (x, y) = NET.model(), NET.model(), NET.samples()
    model.steps(x, y, 3)
    twin.steps(x, y, 3)
    before = np.array(model.flat.state), model.optimizer.config(), model.optimizer.iterations
    found = nnx.find_learning_rate(model, x, y, low=1e-3, high=1.0, steps=20, batch_size=None)
    np.testing.assert_array_equal(model.flat.state, before[0])
    assert (model.optimizer.config(), model.optimizer.iterations) == before[1:]
    twin.optimizer.decay = 0
    np.testing.assert_allclose(found.rates, 10 ** np.linspace(-3, 0, 20), rtol=1e-12)
    for rate, loss in zip(found.rates, found.losses, strict=True):
        twin.optimizer.learning_rate = rate
        assert twin.step(x, y) == pytest.approx(loss, rel=1e-9)
    by_age, untrained = 0.8 ** np.arange(20)[::-1], model.evaluate(x, y)["loss"]  # every batch is all samples here
    assert found.smoothed[-1] == pytest.approx(by_age @ found.losses / by_age.sum(), rel=1e-12)
    assert found.smoothed[0] == pytest.approx(untrained, rel=1e-12)
    assert found.suggestion == pytest.approx(found.rates[np.argmin(found.smoothed)] / 10, rel=1e-12)
    assert repr(found).startswith("<LearningRates 0.001 to 1, suggestion ")


@pytest.mark.parametrize("make", [lambda: nnx.SGD(1.0), lambda: nnx.Adam()], ids=["SGD", "Adam"])
def test_the_suggestion_trains(make: Any) -> None:
    x, y = nnx.datasets.spiral(100, 3)
    layers = nnx.Dense(2, 64), nnx.ReLU(), nnx.Dense(64, 3), nnx.Softmax()
    model = nnx.Sequential(*layers, backend="numpy", dtype="float64").compile(nnx.CategoricalCrossEntropy(), make())
    found = nnx.find_learning_rate(model, x, y)
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < 0.3
    model.optimizer.learning_rate = found.suggestion
    losses = model.fit(x, y, epochs=30, batch_size=32, verbose=0)["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_it_ends_where_losses_are_too_great_or_not_finite() -> None:
    net = Net(mlp(nnx.Tanh, last=None), nnx.MeanSquaredError, data="numbers", rows=120, optimizer=lambda: nnx.SGD(0.1))
    found = nnx.find_learning_rate(net.model(), *net.samples(), high=1e300, steps=400)
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 400
    assert found.smoothed[-1] > 2 * found.smoothed[0] or not np.isfinite(found.smoothed[-1])
    assert found.suggestion is not None


def test_where_no_rate_is_better_there_is_no_suggestion() -> None:
    x, y = np.ones((40, 2)), np.zeros((40, 3))
    best = nnx.Sequential(nnx.Dense(2, 3, init=np.zeros((2, 3))), backend="numpy", dtype="float64")
    found = nnx.find_learning_rate(best.compile(nnx.MeanSquaredError(), nnx.SGD()), x, y, steps=10)
    assert found.suggestion is None
    assert repr(found).endswith("suggestion none>")


def test_weights_count() -> None:
    found = [nnx.find_learning_rate(NET.model(), *NET.samples(), steps=10, sample_weight=w)
             for w in (None, np.ones(120), weights(120))]  # fmt: skip
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-12)
    assert (np.abs(found[0].losses - found[2].losses) > 1e-6).any()


def test_what_cannot_be_used_is_refused() -> None:
    model, (x, y) = NET.model(), NET.samples()
    for given, error, words in (
        ({"low": 0}, InputError, "find_learning_rate: low"),
        ({"low": 1.0, "high": 0.1}, InputError, "expected the second above the first"),
        ({"high": "1"}, InputTypeError, "find_learning_rate: high"),
        ({"steps": 1}, InputError, "find_learning_rate: steps"),
        ({"batch_size": 0}, InputError, "find_learning_rate: batch_size"),
        ({"steps": 10**40}, InputError, "a hundred are enough"),
    ):
        with pytest.raises(error, match=words):
            nnx.find_learning_rate(model, x, y, **given)  # type: ignore[arg-type]
    for targets in (y[:-1], 3):
        with pytest.raises(InputError, match="expected one target for each row"):
            nnx.find_learning_rate(model, x, targets)
    with pytest.raises(InputError, match=r"call model\.compile"):
        nnx.find_learning_rate(nnx.Sequential(nnx.Dense(2, 3)), x, y)
    with pytest.raises(InputTypeError, match="expected a Sequential"):
        nnx.find_learning_rate(nnx.Dense(2, 3), x, y)  # type: ignore[arg-type]


def test_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = nnx.find_learning_rate(NET.model(), *NET.samples(), steps=30)
    plots.save(plots.learning_rates(found), tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 5000
