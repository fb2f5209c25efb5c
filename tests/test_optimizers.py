"""Optimizers against their formulas, step by step; by hand as in the notes, and in a model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from networks import ALIKE

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

STEPS = 50


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


# ---- the formulas, in float64: a function of (w, g, t, state) for each ---------------------------------------------

State = dict[str, np.ndarray | float]


def sgd(w: Any, g: Any, rate: float, s: State, momentum: float = 0.0, nesterov: bool = False, **_: Any) -> Any:
    s["v"] = momentum * s.get("v", 0.0) - rate * g
    return w + (momentum * s["v"] - rate * g if nesterov else s["v"])


def adagrad(w: Any, g: Any, rate: float, s: State, epsilon: float = 1e-7, **_: Any) -> Any:
    s["cache"] = s.get("cache", 0.0) + g**2
    return w - rate * g / (np.sqrt(s["cache"]) + epsilon)


def rmsprop(w: Any, g: Any, rate: float, s: State, epsilon: float = 1e-7, rho: float = 0.9, **_: Any) -> Any:
    s["cache"] = rho * s.get("cache", 0.0) + (1 - rho) * g**2
    return w - rate * g / (np.sqrt(s["cache"]) + epsilon)


def adam(w: Any, g: Any, rate: float, s: State, epsilon: float = 1e-7, beta_1: float = 0.9, beta_2: float = 0.999,
         weight_decay: float = 0.0, **_: Any) -> Any:  # fmt: skip
    s["t"] = s.get("t", 0) + 1
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g**2
    m, v = s["m"] / (1 - beta_1 ** s["t"]), s["v"] / (1 - beta_2 ** s["t"])
    return w - rate * weight_decay * w - rate * m / (np.sqrt(v) + epsilon)


def amsgrad(w: Any, g: Any, rate: float, s: State, epsilon: float = 1e-7, beta_1: float = 0.9, beta_2: float = 0.999,
            weight_decay: float = 0.0, **_: Any) -> Any:  # fmt: skip
    s["t"] = s.get("t", 0) + 1
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g**2
    s["most"] = np.maximum(s.get("most", 0.0), s["v"])
    root = np.sqrt(s["most"]) / np.sqrt(1 - beta_2 ** s["t"]) + epsilon
    return w * (1 - rate * weight_decay) - rate / (1 - beta_1 ** s["t"]) * s["m"] / root


def nadam(w: Any, g: Any, rate: float, s: State, epsilon: float = 1e-7, beta_1: float = 0.9, beta_2: float = 0.999,
          weight_decay: float = 0.0, momentum_decay: float = 4e-3, **_: Any) -> Any:  # fmt: skip
    s["t"] = t = s.get("t", 0) + 1
    now, ahead = (beta_1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
    s["product"] = s.get("product", 1.0) * now
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g**2
    root = np.sqrt(s["v"] / (1 - beta_2**t)) + epsilon
    mean = (1 - now) / (1 - s["product"]) * g + ahead / (1 - s["product"] * ahead) * s["m"]
    return w * (1 - rate * weight_decay) - rate * mean / root


def lion(w: Any, g: Any, rate: float, s: State, beta_1: float = 0.9, beta_2: float = 0.99, weight_decay: float = 0.0,
         **_: Any) -> Any:  # fmt: skip
    m = s.get("m", 0.0)
    s["m"] = beta_2 * m + (1 - beta_2) * g
    return w - rate * (np.sign(beta_1 * m + (1 - beta_1) * g) + weight_decay * w)


FORMULAS: dict[type[nnx.Optimizer], Callable[..., Any]] = {
    nnx.SGD: sgd, nnx.AdaGrad: adagrad, nnx.RMSprop: rmsprop, nnx.Adam: adam, nnx.AdamW: adam,
    nnx.AMSGrad: amsgrad, nnx.Nadam: nadam, nnx.Lion: lion,
}  # fmt: skip
OPTIMIZERS: dict[str, Callable[[], nnx.Optimizer]] = {
    "SGD": lambda: nnx.SGD(0.1),
    "SGD, decay": lambda: nnx.SGD(0.5, decay=1e-1),
    "SGD, momentum": lambda: nnx.SGD(0.05, momentum=0.9),
    "SGD, momentum and decay": lambda: nnx.SGD(0.05, momentum=0.5, decay=1e-2),
    "SGD, Nesterov": lambda: nnx.SGD(0.05, momentum=0.9, decay=1e-2, nesterov=True),
    "AdaGrad": lambda: nnx.AdaGrad(0.1),
    "AdaGrad, decay and epsilon": lambda: nnx.AdaGrad(0.1, decay=1e-2, epsilon=1e-2),
    "RMSprop": lambda: nnx.RMSprop(0.01),
    "RMSprop, all": lambda: nnx.RMSprop(0.01, decay=1e-3, epsilon=1e-3, rho=0.99),
    "Adam": lambda: nnx.Adam(0.01),
    "Adam, decay": lambda: nnx.Adam(0.05, decay=5e-2),
    "Adam, all": lambda: nnx.Adam(0.01, decay=1e-3, epsilon=1e-3, beta_1=0.8, beta_2=0.99),
    "Adam, no memory": lambda: nnx.Adam(0.01, beta_1=0, beta_2=0),
    "AdamW": lambda: nnx.AdamW(0.01),
    "AdamW, all": lambda: nnx.AdamW(0.01, 1e-3, 1e-3, 0.8, 0.99, weight_decay=0.3),
    "AdamW, none": lambda: nnx.AdamW(0.01, weight_decay=0),
    "AMSGrad": lambda: nnx.AMSGrad(0.01),
    "AMSGrad, all": lambda: nnx.AMSGrad(0.01, 1e-3, 1e-3, 0.8, 0.9, weight_decay=0.3),
    "Nadam": lambda: nnx.Nadam(0.01),
    "Nadam, all": lambda: nnx.Nadam(0.01, 1e-3, 1e-3, 0.8, 0.99, weight_decay=0.3, momentum_decay=0.1),
    "Lion": lambda: nnx.Lion(0.01),
    "Lion, all": lambda: nnx.Lion(0.01, 1e-3, 0.8, 0.95, weight_decay=0.3),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def layer_of(size: tuple[int, int], dtype: str) -> nnx.Dense:
    dense = nnx.Dense(*size, init=np.random.default_rng(0).standard_normal(size))
    dense.dtype = dtype
    return dense


def gradients(size: tuple[int, int]) -> Iterator[np.ndarray]:
    random = np.random.default_rng(1)
    while True:  # of very different sizes, and some exactly 0
        yield random.standard_normal(size) * 10 ** random.uniform(-4, 1, size) * (random.random(size) > 0.2)


def update(optimizer: nnx.Optimizer, layer: nnx.Dense, gradient: np.ndarray) -> None:
    layer.dweights[...], layer.dbiases[...] = gradient, gradient[:1]
    optimizer.pre_update_params()
    optimizer.update_params(layer)
    optimizer.post_update_params()


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formulas_over_fifty_steps(make: Callable[[], nnx.Optimizer], dtype: str) -> None:
    size = (5, 7)
    optimizer, layer = make(), layer_of(size, dtype)
    formula, hyper = FORMULAS[type(optimizer)], optimizer.config()
    weights, biases = layer.weights.astype(np.float64), layer.biases.astype(np.float64)
    states: tuple[State, State] = {}, {}
    for step, gradient in zip(range(STEPS), gradients(size), strict=False):
        rate = hyper["learning_rate"] / (1 + hyper["decay"] * step)
        assert optimizer.iterations == step
        assert optimizer.current_learning_rate == pytest.approx(rate, rel=rounding(8))
        gradient = gradient.astype(dtype).astype(np.float64)
        update(optimizer, layer, gradient)
        arguments = {k: v for k, v in hyper.items() if k not in ("learning_rate", "decay")}
        weights = formula(weights, gradient, rate, states[0], **arguments)
        biases = formula(biases, gradient[:1], rate, states[1], **arguments)
    tolerance = rounding(STEPS * 8, dtype)  # so many roundings a step
    np.testing.assert_allclose(layer.weights, weights, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.biases, biases, rtol=tolerance, atol=tolerance)
    assert layer.weights.dtype == layer.flat.first.dtype == layer.flat.second.dtype == dtype


@every_optimizer
def test_learning_rate_can_be_assigned_on_the_way(make: Callable[[], nnx.Optimizer]) -> None:
    size = (3, 4)
    optimizer, layer = make(), layer_of(size, "float64")
    hyper, state = optimizer.config(), {}
    arguments = {k: v for k, v in hyper.items() if k not in ("learning_rate", "decay")}
    weights = layer.weights.copy()
    for step, gradient in zip(range(12), gradients(size), strict=False):
        if step % 4 == 0:
            optimizer.learning_rate = base = 0.3 / (step + 1)
        rate = base / (1 + hyper["decay"] * step)
        assert optimizer.current_learning_rate == pytest.approx(rate, rel=rounding(8))
        update(optimizer, layer, gradient)
        weights = FORMULAS[type(optimizer)](weights, gradient, rate, state, **arguments)
    np.testing.assert_allclose(layer.weights, weights, rtol=rounding(12 * 15), atol=rounding(12 * 15))


@every_optimizer
def test_a_buffer_of_many_blocks(make: Callable[[], nnx.Optimizer]) -> None:
    size = (130, 300)  # 39,000 numbers: the NumPy backend works in pieces of 16,384
    optimizer, layer = make(), layer_of(size, "float64")
    arguments = {k: v for k, v in optimizer.config().items() if k not in ("learning_rate", "decay")}
    weights, state = layer.weights.copy(), {}
    for gradient, _ in zip(gradients(size), range(3), strict=False):
        rate = optimizer.current_learning_rate
        update(optimizer, layer, gradient)
        weights = FORMULAS[type(optimizer)](weights, gradient, rate, state, **arguments)
    np.testing.assert_allclose(layer.weights, weights, rtol=rounding(12 * 15), atol=rounding(12 * 15))


@every_optimizer
def test_a_gradient_of_zero_moves_nothing_at_first(make: Callable[[], nnx.Optimizer]) -> None:
    optimizer, layer = make(), layer_of((3, 3), "float32")
    before = layer.weights.copy()
    update(optimizer, layer, np.zeros((3, 3)))
    if getattr(optimizer, "weight_decay", 0):
        before *= np.float32(1 - optimizer.learning_rate * optimizer.weight_decay)
    np.testing.assert_allclose(layer.weights, before, rtol=rounding(16, "float32"))


def test_adamw_without_decay_is_adam_and_its_decay_passes_the_moments_by() -> None:
    size = (3, 4)
    layers = [layer_of(size, "float64") for _ in range(3)]
    for optimizer, layer in zip(
        (nnx.Adam(0.01), nnx.AdamW(0.01, weight_decay=0), nnx.AdamW(0.01)), layers, strict=True
    ):
        for gradient, _ in zip(gradients(size), range(20), strict=False):
            update(optimizer, layer, gradient)
    plain, none, decayed = layers
    np.testing.assert_array_equal(plain.weights, none.weights)
    np.testing.assert_array_equal(plain.flat.second, decayed.flat.second)
    assert (np.abs(plain.weights - decayed.weights) > 1e-6).all()


# ---- by hand and in a model ----------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand_and_in_a_model_are_the_same(make: Callable[[], nnx.Optimizer], dtype: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((20, 3)).astype(dtype), random.integers(0, 4, 20)

    def layers() -> list[Any]:
        return [nnx.Dense(3, 9, weight_l2=1e-3, bias_l1=1e-3), nnx.ReLU(), nnx.Dense(9, 4, weight_l1=1e-3)]

    model = nnx.Sequential(*layers(), seed=7, dtype=dtype, backend="numpy")
    loss, optimizer, own = nnx.SoftmaxCrossEntropy(), make(), layers()
    for layer, theirs in zip(own, model.layers, strict=True):
        layer.dtype = dtype if layer.shapes else None
        for name in layer.shapes:
            layer.assign(name, theirs.parameter(name))
    model.compile(nnx.SoftmaxCrossEntropy(), make())
    by_model, by_hand = [], []
    for _ in range(30):
        by_model.append(model.step(x, y))
        outputs = x
        for layer in own:
            outputs = layer.forward(outputs, training=True)
        dvalues, mean = loss.backward(outputs, y), loss.calculate(outputs, y)
        for layer in reversed(own):
            dvalues = layer.backward(dvalues)
        by_hand.append(mean + sum(float(p[0]) for layer in own if layer.shapes for p in layer.penalties.values()))
        optimizer.pre_update_params()
        for layer in own:
            optimizer.update_params(layer)
        optimizer.post_update_params()
    tolerance = rounding(30 * 50, dtype)  # so many roundings a step, products included
    np.testing.assert_allclose(by_hand, by_model, rtol=tolerance)
    for layer, theirs in zip(own, model.layers, strict=True):
        for name in layer.shapes:
            np.testing.assert_allclose(layer.parameter(name), theirs.parameter(name), rtol=tolerance, atol=tolerance)
    assert optimizer.iterations == model.optimizer.iterations == 30


@every_optimizer
def test_replayed_steps_are_eager_steps(make: Callable[[], nnx.Optimizer]) -> None:
    x, y = nnx.datasets.spiral(20, 3)

    def model(*more: nnx.Layer) -> nnx.Sequential:
        net = nnx.Sequential(nnx.Dense(2, 8), nnx.Tanh(), *more, nnx.Dense(8, 3), nnx.Softmax(), dtype="float64")
        return net.compile(nnx.CategoricalCrossEntropy(), make())

    replayed, eager = model(), model(Passes())
    eager.set_parameters({k.replace("2.", "3."): v for k, v in replayed.parameters().items()})
    np.testing.assert_allclose(replayed.steps(x, y, 200), eager.steps(x, y, 200), **ALIKE)
    for a, b in zip(replayed.parameters().values(), eager.parameters().values(), strict=True):
        np.testing.assert_allclose(a, b, **ALIKE)
    eager.fit(x, y, verbose=0)
    replayed.fit(x, y, verbose=0)
    assert eager.eager_reason is not None
    assert replayed.eager_reason is None


class Passes(nnx.Layer):
    """The identity, by means that cannot be recorded."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.output = inputs + 0
        return self.output

    def backward(self, dvalues: Any) -> Any:
        return dvalues + 0


def test_one_optimizer_for_many_layers_and_layers_without_parameters() -> None:
    optimizer, relu = nnx.SGD(0.1, momentum=0.5), nnx.ReLU()
    layers = [layer_of((2, 2), "float64") for _ in range(2)]
    for gradient, _ in zip(gradients((2, 2)), range(3), strict=False):
        for layer in layers:
            layer.dweights[...] = gradient
        optimizer.pre_update_params()
        for layer in (layers[0], relu, layers[1]):
            optimizer.update_params(layer)
        optimizer.post_update_params()
    np.testing.assert_array_equal(layers[0].weights, layers[1].weights)  # momentum is each layer's own
    assert optimizer.iterations == 3


def test_learning_rate_and_decay_in_a_model() -> None:
    x, y = np.ones((4, 1)), np.zeros((4, 1))
    model = nnx.Sequential(nnx.Dense(1, 1, init=[[1.0]]), dtype="float64", backend="numpy")
    given = nnx.SGD(0.1, decay=0.5)
    model.compile(nnx.MeanSquaredError(), given)
    w, b = 1.0, 0.0
    for step in range(6):
        if step == 3:
            model.optimizer.learning_rate = 0.02
        rate = (0.1 if step < 3 else 0.02) / (1 + 0.5 * step)
        w, b = w - rate * 2 * (w + b), b - rate * 2 * (w + b)
        model.step(x, y)
        assert model.parameters()["0.weights"].item() == pytest.approx(w, rel=rounding(256))
    assert (given.iterations, given.learning_rate) == (0, 0.1)  # the model has a copy of its own


def test_compiling_again_starts_the_optimizer_anew() -> None:
    x, y = np.ones((4, 2)), np.zeros((4, 1))
    model = nnx.Sequential(nnx.Dense(2, 1), backend="numpy").compile(nnx.MeanSquaredError(), nnx.Adam())
    model.step(x, y)
    used = model.optimizer
    assert model.flat.first.any()
    model.compile(nnx.MeanSquaredError(), used)
    assert model.optimizer.iterations == 0
    assert not model.flat.first.any()
    assert not model.flat.second.any()
    assert used.iterations == 1


@every_optimizer
def test_config_copies_and_pickles(make: Callable[[], nnx.Optimizer]) -> None:
    optimizer = make()
    optimizer.counters[0] = 3
    assert type(optimizer)(**optimizer.config()).config() == optimizer.config()
    for other in (copy.copy(optimizer), copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (other.config(), other.iterations) == (optimizer.config(), 3)
        other.learning_rate, other.counters[0] = 123, 9
        assert (optimizer.learning_rate != 123, optimizer.iterations) == (True, 3)
    assert type(optimizer).__name__ in repr(optimizer)
    assert f"learning_rate={optimizer.learning_rate:g}" in repr(optimizer)


def test_the_books_defaults() -> None:
    assert nnx.SGD().config() == {"learning_rate": 1, "decay": 0, "momentum": 0}
    assert nnx.AdaGrad().config() == {"learning_rate": 1, "decay": 0, "epsilon": 1e-7}
    assert nnx.RMSprop().config() == {"learning_rate": 0.001, "decay": 0, "epsilon": 1e-7, "rho": 0.9}
    want = {"learning_rate": 0.001, "decay": 0, "epsilon": 1e-7, "beta_1": 0.9, "beta_2": 0.999}
    assert nnx.Adam().config() == want
    assert nnx.AdamW().config() == {**want, "weight_decay": 0.01}


@pytest.mark.parametrize("name", ["AMSGrad", "Nadam", "AdamW"])
def test_torch_moves_alike(name: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = {
        "AMSGrad": lambda p: torch.optim.AdamW(p, 0.01, eps=1e-3, weight_decay=0.1, amsgrad=True),
        "Nadam": lambda p: torch.optim.NAdam(p, 0.01, eps=1e-3, weight_decay=0.1, decoupled_weight_decay=True),
        "AdamW": lambda p: torch.optim.AdamW(p, 0.01, eps=1e-3, weight_decay=0.1),
    }[name]
    size = (3, 4)
    optimizer, layer = getattr(nnx, name)(0.01, epsilon=1e-3, weight_decay=0.1), layer_of(size, "float64")
    weight = torch.nn.Parameter(torch.from_numpy(layer.weights.copy()))
    other = theirs([weight])
    for gradient, _ in zip(gradients(size), range(60), strict=False):
        update(optimizer, layer, gradient)
        weight.grad = torch.from_numpy(gradient.copy())
        other.step()
    tolerance = 1e-7 if name == "Nadam" else 1e-11  # torch keeps the product of its momenta in float32
    np.testing.assert_allclose(layer.weights, weight.detach().numpy(), rtol=tolerance, atol=tolerance)
