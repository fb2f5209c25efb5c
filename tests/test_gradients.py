"""Every gradient against finite differences in float64; and gradcheck itself against planted faults."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

BOUND = 1e-6
SHAPES = [(1, 1), (1, 5), (7, 1), (3, 2), (5, 17), (2, 33)]  # batch of one, one column, odd sizes
STRENGTHS = ("weight_l1", "weight_l2", "bias_l1", "bias_l2")


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def inputs(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Numbers away from the kinks at 0."""
    x = np.random.default_rng(seed).uniform(0.1, 2, (rows, columns))
    return x * np.random.default_rng(seed + 1).choice([-1.0, 1.0], x.shape)


def distributions(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    p = np.random.default_rng(seed).uniform(0.05, 1, (rows, columns))
    return p / p.sum(axis=1, keepdims=True)


def targets(kind: str, rows: int, columns: int) -> Any:
    random = np.random.default_rng(3)
    return {
        "labels": lambda: random.integers(0, columns, rows),
        "one-hot": lambda: np.eye(columns, dtype=np.uint8)[random.integers(0, columns, rows)],
        "soft": lambda: distributions(rows, columns, 4),
        "bits": lambda: random.integers(0, 2, (rows, columns)),
        "shares": lambda: random.uniform(0, 1, (rows, columns)),
        "numbers": lambda: random.uniform(3, 4, (rows, columns)) * random.choice([-1, 1], (rows, columns)),
    }[kind]()


# ---- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [nnx.ReLU, nnx.Sigmoid, nnx.Tanh, nnx.Linear])
def test_activations(kind: type[nnx.Layer], shape: tuple[int, int]) -> None:
    assert nnx.gradcheck(kind(), inputs(*shape)) < BOUND


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] > 1], ids=str)
def test_softmax(shape: tuple[int, int]) -> None:
    assert nnx.gradcheck(nnx.Softmax(), inputs(*shape)) < BOUND


def test_softmax_of_one_column_has_no_gradient() -> None:
    softmax = nnx.Softmax()
    assert softmax.forward(inputs(4, 1)).tolist() == [[1]] * 4
    assert not softmax.backward(inputs(4, 1)).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("neurons", [1, 3, 16])
def test_dense(shape: tuple[int, int], neurons: int) -> None:
    assert nnx.gradcheck(nnx.Dense(shape[1], neurons), inputs(*shape)) < BOUND


@pytest.mark.parametrize("names", [c for n in range(1, 5) for c in itertools.combinations(STRENGTHS, n)], ids="+".join)
def test_regularizers_alone_and_together(names: tuple[str, ...]) -> None:
    dense = nnx.Dense(3, 4, **{name: 0.01 * (i + 1) for i, name in enumerate(names)})
    dense.weights, dense.biases = inputs(3, 4), inputs(1, 4)
    assert nnx.gradcheck(dense, inputs(5, 3)) < BOUND


@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout(rate: float, shape: tuple[int, int]) -> None:
    assert nnx.gradcheck(nnx.Dropout(rate), inputs(*shape)) < BOUND


def test_dropout_and_noise_within_a_block():
    """All forward passes of the check are by the same masks there, too."""
    block = nnx.Concat([nnx.Dense(4, 3), nnx.Dropout(0.5)], nnx.Residual(nnx.GaussianNoise(0.1), nnx.Dense(4, 4)))
    assert nnx.gradcheck(block, inputs(7, 4)) < BOUND


# ---- losses --------------------------------------------------------------------------------------------------------

LOSSES = [
    *((nnx.CategoricalCrossEntropy, kind, distributions) for kind in ("labels", "one-hot", "soft")),
    *((nnx.SoftmaxCrossEntropy, kind, inputs) for kind in ("labels", "one-hot", "soft")),
    *((nnx.SigmoidCrossEntropy, kind, inputs) for kind in ("bits", "shares")),
    (nnx.BinaryCrossEntropy, "bits", lambda n, c: np.random.default_rng(1).uniform(0.1, 0.9, (n, c))),
    (nnx.BinaryCrossEntropy, "shares", lambda n, c: np.random.default_rng(1).uniform(0.1, 0.9, (n, c))),
    (nnx.MeanSquaredError, "numbers", inputs),
    (nnx.MeanAbsoluteError, "numbers", inputs),
    (nnx.Huber, "numbers", inputs),
]


@pytest.mark.parametrize("shape", [(1, 2), (1, 5), (7, 3), (4, 17)], ids=str)
@pytest.mark.parametrize(("kind", "wanted", "outputs"), LOSSES, ids=lambda v: v if isinstance(v, str) else None)
def test_losses(kind: type[nnx.Loss], wanted: str, outputs: Callable[..., Any], shape: tuple[int, int]) -> None:
    assert nnx.gradcheck(kind(), outputs(*shape), targets(wanted, *shape)) < BOUND


@pytest.mark.parametrize("kind", [nnx.SigmoidCrossEntropy, nnx.MeanSquaredError, nnx.MeanAbsoluteError, nnx.Huber])
@pytest.mark.parametrize("rows", [1, 6])
def test_losses_of_one_column(kind: type[nnx.Loss], rows: int) -> None:
    y = targets("shares" if kind is nnx.SigmoidCrossEntropy else "numbers", rows, 1)
    assert nnx.gradcheck(kind(), inputs(rows, 1), y) < BOUND
    assert nnx.gradcheck(kind(), inputs(rows, 1), y[:, 0]) < BOUND


# ---- models --------------------------------------------------------------------------------------------------------


def model(*layers: nnx.Layer, loss: nnx.Loss) -> nnx.Sequential:
    return nnx.Sequential(*layers, backend="numpy", seed=3).compile(loss, nnx.SGD(0.1))


PAIRS = {
    "softmax, categorical": (nnx.Softmax, nnx.CategoricalCrossEntropy, ("labels", "one-hot", "soft")),
    "sigmoid, binary": (nnx.Sigmoid, nnx.BinaryCrossEntropy, ("bits", "shares")),
    "sigmoid, squared": (nnx.Sigmoid, nnx.MeanSquaredError, ("numbers",)),
    "softmax, squared": (nnx.Softmax, nnx.MeanSquaredError, ("numbers",)),
    "linear, squared": (nnx.Linear, nnx.MeanSquaredError, ("numbers",)),
    "linear, absolute": (nnx.Linear, nnx.MeanAbsoluteError, ("numbers",)),
    "logits, categorical": (nnx.Linear, nnx.SoftmaxCrossEntropy, ("labels", "soft")),
    "logits, binary": (nnx.Linear, nnx.SigmoidCrossEntropy, ("bits",)),
}


@pytest.mark.parametrize(("pair", "kind"), [(pair, kind) for pair, given in PAIRS.items() for kind in given[2]])
@pytest.mark.parametrize("rows", [1, 6])
def test_last_layer_and_loss_together(pair: str, kind: str, rows: int) -> None:
    ending, loss, _ = PAIRS[pair]
    net = model(nnx.Dense(3, 5), nnx.Tanh(), nnx.Dense(5, 4), ending(), loss=loss())
    assert nnx.gradcheck(net, inputs(rows, 3), targets(kind, rows, 4)) < BOUND


@pytest.mark.parametrize(("last", "loss", "kind"), [
    (nnx.Softmax, nnx.CategoricalCrossEntropy, "soft"), (nnx.Sigmoid, nnx.BinaryCrossEntropy, "shares"),
])  # fmt: skip
def test_fused_pairs_are_the_two_apart(last: type[nnx.Layer], loss: type[nnx.Loss], kind: str) -> None:
    x, y = inputs(6, 4), targets(kind, 6, 4)
    layer, apart = last(), loss()
    fused = apart.fused_with(layer)
    assert fused is not None
    p = layer.forward(x)
    np.testing.assert_allclose(fused.forward(x, y), apart.forward(p, y), rtol=rounding(84))
    np.testing.assert_allclose(fused.backward(x, y), layer.backward(apart.backward(p, y)), rtol=1e-9, atol=1e-15)


DEEP = {
    "dropout between": lambda: [nnx.Dense(3, 9), nnx.ReLU(), nnx.Dropout(0.3), nnx.Dense(9, 4), nnx.Softmax()],
    "dropout first": lambda: [nnx.Dropout(0.2), nnx.Dense(3, 4), nnx.Softmax()],
    "two dropouts": lambda: [nnx.Dense(3, 8), nnx.Dropout(0.5), nnx.Dropout(0.5), nnx.Dense(8, 4), nnx.Softmax()],
    "all activations": lambda: [
        nnx.Dense(3, 7), nnx.Tanh(), nnx.Dense(7, 6), nnx.Sigmoid(), nnx.Dense(6, 5), nnx.Linear(), nnx.Dense(5, 8),
        nnx.Softmax(), nnx.Dense(8, 4), nnx.Softmax(),
    ],
    "regularized": lambda: [
        nnx.Dense(3, 6, weight_l1=1e-3, bias_l2=2e-3), nnx.Tanh(),
        nnx.Dense(6, 4, weight_l2=3e-3, bias_l1=4e-3), nnx.Softmax(),
    ],
    "activation first": lambda: [nnx.Tanh(), nnx.Dense(3, 4), nnx.Softmax()],
    "one dense": lambda: [nnx.Dense(3, 4, weight_l1=1e-3, weight_l2=1e-3), nnx.Softmax()],
    "narrow": lambda: [nnx.Dense(3, 1), nnx.Tanh(), nnx.Dense(1, 4), nnx.Softmax()],
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("layers", DEEP.values(), ids=DEEP)
def test_deep_models(layers: Callable[[], list[nnx.Layer]], rows: int) -> None:
    net = model(*layers(), loss=nnx.CategoricalCrossEntropy())
    for name, value in net.parameters().items():
        if name.endswith("biases"):  # away from 0, where |b| has a kink
            net.set_parameters({**net.parameters(), name: inputs(*value.shape) * 0.1})
    assert nnx.gradcheck(net, inputs(rows, 3), targets("labels", rows, 4)) < BOUND


def test_checking_changes_nothing() -> None:
    net = model(nnx.Dense(3, 5), nnx.ReLU(), nnx.Dropout(0.5), nnx.Dense(5, 4), nnx.Softmax(),
                loss=nnx.CategoricalCrossEntropy())  # fmt: skip
    x, y = inputs(4, 3), targets("labels", 4, 4)
    net.step(x, y)
    before, arena, layer = copy.deepcopy(net), np.array(net.flat.arena), nnx.Dense(3, 2)
    kept = x.copy()
    nnx.gradcheck(net, x, y)
    nnx.gradcheck(layer, x)
    np.testing.assert_array_equal(net.flat.arena, arena)
    np.testing.assert_array_equal(x, kept)
    assert (net.dtype, net.optimizer.iterations) == (before.dtype, before.optimizer.iterations)
    assert layer.weights.dtype == np.float32


def test_large_arrays_are_sampled() -> None:
    assert nnx.gradcheck(nnx.Dense(300, 200), inputs(2, 300)) < BOUND


def test_a_number_that_is_not_sampled_must_still_be_finite() -> None:
    assert nnx.gradcheck(OneIsNaN(), inputs(60, 50)) == np.inf


# ---- gradcheck finds what is wrong ---------------------------------------------------------------------------------


class WrongSign(nnx.Tanh):
    def backward(self, dvalues: Any) -> Any:
        self.dinputs = -super().backward(dvalues)
        return self.dinputs


class MissingFactor(nnx.Sigmoid):
    def backward(self, dvalues: Any) -> Any:
        self._accept_gradient(dvalues)
        self.dinputs = dvalues * (1 - self.output)
        return self.dinputs


class Overflows(nnx.Tanh):
    def backward(self, dvalues: Any) -> Any:
        self.dinputs = super().backward(dvalues) * np.nan
        return self.dinputs


class OneIsNaN(nnx.Tanh):
    def backward(self, dvalues: Any) -> Any:
        super().backward(dvalues)
        self.dinputs[0, 0] = np.nan
        return self.dinputs


class Slightly(nnx.Tanh):
    def backward(self, dvalues: Any) -> Any:
        self.dinputs = super().backward(dvalues) * (1 + 1e-4)
        return self.dinputs


class NoBiasGradient(nnx.Dense):
    def backward(self, dvalues: Any) -> Any:
        super().backward(dvalues)
        self.dbiases[...] = 0
        return self.dinputs


class BiasGradientOfOneSample(nnx.Dense):
    def backward(self, dvalues: Any) -> Any:
        super().backward(dvalues)
        self.dbiases[...] = dvalues[:1]
        return self.dinputs


class TransposedWeights(nnx.Dense):
    def backward(self, dvalues: Any) -> Any:
        super().backward(dvalues)
        self.dinputs = dvalues @ self.weights
        return self.dinputs


class ForgetsPenalty(nnx.Dense):
    """Adds the penalty to the loss, but not its gradient to that of the weights."""

    def _regularize(self) -> None:
        kept = {name: self.gradient(name).copy() for name in self.shapes}
        super()._regularize()
        for name, gradient in kept.items():
            self.gradient(name)[...] = gradient


class PenaltyWithoutTwo(nnx.Dense):
    def _regularize(self) -> None:
        super()._regularize()
        self.dweights[...] -= self.weight_l2 * self.weights


class BooksAbsoluteError(nnx.MeanAbsoluteError):
    """The sign that the book has."""

    def gradients(self, y_pred: Any, target: Any) -> Any:
        self.dinputs = -super().gradients(y_pred, target)
        return self.dinputs


class NotDividedBySamples(nnx.MeanSquaredError):
    def gradients(self, y_pred: Any, target: Any) -> Any:
        self.dinputs = super().gradients(y_pred, target) * len(y_pred)
        return self.dinputs


LAYERS = {
    "wrong sign": WrongSign(),
    "missing factor": MissingFactor(),
    "all nan": Overflows(),
    "one nan": OneIsNaN(),
    "a ten-thousandth": Slightly(),
    "no bias gradient": NoBiasGradient(3, 3),
    "bias gradient of one sample": BiasGradientOfOneSample(3, 3),
    "weights not transposed": TransposedWeights(3, 3),
    "forgotten L2 of weights": ForgetsPenalty(3, 3, weight_l2=0.1),
    "forgotten L1 of biases": ForgetsPenalty(3, 3, bias_l1=0.1),
    "L2 without its 2": PenaltyWithoutTwo(3, 3, weight_l2=0.1),
}


@pytest.mark.parametrize("fault", LAYERS)
def test_finds_a_wrong_layer(fault: str) -> None:
    assert nnx.gradcheck(LAYERS[fault], inputs(4, 3)) > 50 * BOUND


@pytest.mark.parametrize("fault", LAYERS)
def test_finds_a_wrong_layer_in_a_model(fault: str) -> None:
    net = model(nnx.Dense(3, 3), nnx.Tanh(), copy.deepcopy(LAYERS[fault]), nnx.Dense(3, 3), nnx.Softmax(),
                loss=nnx.CategoricalCrossEntropy())  # fmt: skip
    assert nnx.gradcheck(net, inputs(4, 3), [0, 1, 2, 0]) > 20 * BOUND


@pytest.mark.parametrize("loss", [BooksAbsoluteError(), NotDividedBySamples()], ids=lambda loss: type(loss).__name__)
def test_finds_a_wrong_loss(loss: nnx.Loss) -> None:
    x, y = inputs(4, 3), targets("numbers", 4, 3)
    assert nnx.gradcheck(loss, x, y) > 0.5
    assert nnx.gradcheck(model(nnx.Dense(3, 3), loss=loss), x, y) > 0.5
