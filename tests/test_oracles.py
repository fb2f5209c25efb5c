"""Answers that nobody here wrote: ONNX's node cases, scikit-learn's networks, SciPy; PyTorch where it is there."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

# Of ONNX's answers in float32: sums of up to 100 terms, a few operations on a number, differences of numbers near 1.
CLOSE, STEP, SMALL = (rounding(count, "float32") for count in (160, 32, 16))


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def onnx_cases(module: str) -> list[tuple[str, dict[str, Any], list[np.ndarray], list[np.ndarray]]]:
    """Return (name, attributes, inputs, outputs) of one operator's cases.

    `collect_testcases()` makes those of all operators, which takes 8 s; importing one operator's module makes its own.
    """
    onnx = pytest.importorskip("onnx")
    node = importlib.import_module("onnx.backend.test.case.node")
    before = len(node._NodeTestCases)
    name = f"onnx.backend.test.case.node.{module}"
    known = _collected.get(module)
    if known is None:
        importlib.import_module(name)
        known = _collected[module] = node._NodeTestCases[before:]
    cases = []
    for case in known:
        if len(case.model.graph.node) == 1:  # the others are the same in smaller pieces
            only = case.model.graph.node[0]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in only.attribute}
            cases.append((case.name, attributes, *map(list, case.data_sets[0])))
    assert cases
    return cases


_collected: dict[str, list[Any]] = {}


def rows(a: np.ndarray, axis: int = -1) -> np.ndarray:
    """Bring an axis to the end and the others into rows."""
    a = np.moveaxis(np.atleast_2d(a), axis, -1)
    return a.reshape(-1, a.shape[-1])


@pytest.mark.parametrize(("module", "kind"), [
    ("relu", nnx.ReLU), ("sigmoid", nnx.Sigmoid), ("tanh", nnx.Tanh), ("softmax", nnx.Softmax),
])  # fmt: skip
def test_onnx_activations(module: str, kind: type[nnx.Layer]) -> None:
    for name, attributes, (x,), (y,) in onnx_cases(module):
        axis = attributes.get("axis", -1)
        np.testing.assert_allclose(
            kind().forward(rows(x, axis)),
            rows(y, axis),
            rtol=STEP,
            atol=SMALL,
            err_msg=name,
        )


def test_onnx_gemm() -> None:
    done = 0
    for name, attributes, (a, b, *more), (y,) in onnx_cases("gemm"):
        a, b = (a.T if attributes.get("transA") else a), (b.T if attributes.get("transB") else b)
        bias = np.broadcast_to(more[0] if more else 0, y.shape) * attributes.get("beta", 1)
        if (bias != bias[0]).any():
            continue  # a bias for each sample is no dense layer
        dense = nnx.Dense(*b.shape, init=b * attributes.get("alpha", 1))
        dense.biases = bias[0]
        np.testing.assert_allclose(dense.forward(a), y, rtol=CLOSE, atol=SMALL, err_msg=name)
        done += 1
    assert done >= 8


def test_onnx_softmax_cross_entropy() -> None:
    done = 0
    for name, attributes, inputs, outputs in onnx_cases("softmax_cross_entropy_loss"):
        if len(inputs) != 2 or "ignore_index" in attributes:
            continue  # weights for classes
        x, y = inputs
        losses = nnx.SoftmaxCrossEntropy().forward(rows(x, 1), y.ravel()).astype(np.float64)
        reduce = {b"none": np.asarray, b"mean": np.mean, b"sum": np.sum}[attributes["reduction"]]
        np.testing.assert_allclose(reduce(losses.reshape(y.shape)), outputs[0], rtol=CLOSE, err_msg=name)
        if len(outputs) == 2:
            log_p = np.log(nnx.Softmax().forward(rows(x, 1)))
            np.testing.assert_allclose(log_p, rows(outputs[1], 1), rtol=CLOSE, atol=SMALL, err_msg=name)
        done += 1
    assert done >= 8


def onnx_step(
    optimizer: nnx.Optimizer, step: int, x: np.ndarray, g: np.ndarray, norm: float, **state: Any
) -> nnx.Dense:
    """One step on weights x with gradient g, by way of a dense layer whose L2 penalty is norm / 2."""
    dense = nnx.Dense(1, len(x), init=x[None], weight_l2=norm / 2)
    dense.forward([[1]])
    dense.backward(g[None])
    for name, value in state.items():
        getattr(dense.flat, name)[: len(x)] = value
    optimizer.counters[0] = step
    optimizer.update_params(dense)
    return dense


def parameters_of(inputs: list[np.ndarray], outputs: list[np.ndarray], parts: int) -> Iterator[list[np.ndarray]]:
    """(x, g, state, x_new, state_new) of each parameter, from the operator's lists of all x, then all g, ..."""
    count = (len(inputs) - 2) // parts
    for i in range(count):
        yield [*inputs[2 + i :: count], *outputs[i::count]]


def test_onnx_adagrad() -> None:
    for name, a, inputs, outputs in onnx_cases("adagrad"):
        rate, step = float(inputs[0]), int(inputs[1])
        for x, g, h, x_new, h_new in parameters_of(inputs, outputs, 3):
            optimizer = nnx.AdaGrad(rate, decay=a["decay_factor"], epsilon=a["epsilon"])
            dense = onnx_step(optimizer, step, x, g, a["norm_coefficient"], second=h)
            np.testing.assert_allclose(dense.weights[0], x_new, rtol=STEP, err_msg=name)
            np.testing.assert_allclose(dense.flat.second[: len(x)], h_new, rtol=STEP, err_msg=name)


def test_onnx_momentum() -> None:
    """ONNX keeps v and steps by -rate * v; the book keeps -rate * v. Its Nesterov case is not ours."""
    done = 0
    for name, a, inputs, outputs in onnx_cases("momentum"):
        rate, step = float(inputs[0]), int(inputs[1])
        if a["mode"] != b"standard" or step != 0:
            continue
        for x, g, v, x_new, v_new in parameters_of(inputs, outputs, 3):
            optimizer = nnx.SGD(rate, momentum=a["alpha"])
            dense = onnx_step(optimizer, step, x, g, a["norm_coefficient"], first=-rate * v)
            np.testing.assert_allclose(dense.weights[0], x_new, rtol=STEP, err_msg=name)
            np.testing.assert_allclose(dense.flat.first[: len(x)], -rate * v_new, rtol=STEP, err_msg=name)
            done += 1
    assert done >= 3


# ONNX's Adam cases are at T = 0, where its definition leaves the correction of the moments out: nothing to compare.


# ---- scikit-learn: its networks, one step of `partial_fit` for each of ours -----------------------------------------

ALPHA, RATE = 0.1, 0.05
SOLVERS: dict[str, tuple[dict[str, Any], Callable[[float], nnx.Optimizer]]] = {
    "sgd": ({"solver": "sgd", "momentum": 0.0}, nnx.SGD),
    "momentum": (
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False}, lambda rate: nnx.SGD(rate, momentum=0.9)
    ),
    # its epsilon is added before the correction of the moments, ours after: make it too small to count
    "adam": ({"solver": "adam", "epsilon": 1e-30}, lambda rate: nnx.Adam(rate, epsilon=1e-30)),
}  # fmt: skip
ACTIVATIONS = {"relu": nnx.ReLU, "tanh": nnx.Tanh, "logistic": nnx.Sigmoid, "identity": nnx.Linear}
TASKS: dict[str, tuple[str, Any, list[nnx.Layer], Callable[[], nnx.Loss], float]] = {
    # estimator, y, last layers, loss, how much larger our loss is than theirs
    "classes": ("MLPClassifier", np.arange(12) % 3, [nnx.Softmax()], nnx.CategoricalCrossEntropy, 1),
    "two classes": ("MLPClassifier", np.arange(12) % 2, [nnx.Sigmoid()], nnx.BinaryCrossEntropy, 1),
    "numbers": ("MLPRegressor", numbers(12, seed=5), [], nnx.MeanSquaredError, 2),  # theirs is half the square
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learn_steps(solver: str, activation: str, task: str) -> None:
    networks = pytest.importorskip("sklearn.neural_network")
    estimator, y, ending, loss, factor = TASKS[task]
    options, optimizer = SOLVERS[solver]
    x = numbers(12, 4)
    theirs = getattr(networks, estimator)(
        hidden_layer_sizes=(5, 4), activation=activation, alpha=ALPHA, batch_size=12, shuffle=False,
        learning_rate_init=RATE, random_state=0, **options,
    )  # fmt: skip
    more = {"classes": np.unique(y)} if estimator == "MLPClassifier" else {}
    first = getattr(networks, estimator)(**{**theirs.get_params(), "learning_rate_init": 1e-300, "solver": "sgd"})
    first.partial_fit(x, y, **more)  # the weights that its seed draws, moved by nothing

    l2 = factor * ALPHA / (2 * len(x))
    layers: list[nnx.Layer] = []
    for weights, biases in zip(first.coefs_, first.intercepts_, strict=True):
        dense = nnx.Dense(*weights.shape, init=weights, weight_l2=l2)
        dense.biases = biases
        layers += [dense, ACTIVATIONS[activation]()]
    layers[-1:] = ending and [type(last)() for last in ending]
    ours = nnx.Sequential(*layers, dtype="float64", backend="numpy")
    ours.compile(loss(), optimizer(RATE / factor if solver != "adam" else RATE))
    for steps in (1, 20):
        for _ in range(steps):
            theirs.partial_fit(x, y, **more)
            value = ours.step(x, y)
        # One step is a sum of 12. Of 20 adam makes 1e-12 (measured): to it small gradients count as much as large ones.
        tolerance = rounding(32) if steps == 1 and solver != "adam" else 1e-11
        assert value == pytest.approx(factor * theirs.loss_, rel=1e-9)
        got = list(ours.parameters().values())
        want = itertools.chain(*zip(theirs.coefs_, theirs.intercepts_, strict=True))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, np.atleast_2d(b), rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def test_scikit_learn_scores() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = nnx.Softmax().forward(numbers(50, 4)), np.random.default_rng(1).integers(0, 4, 50)
    assert nnx.accuracy(p, y) == metrics.accuracy_score(y, p.argmax(axis=1))
    assert nnx.CategoricalCrossEntropy().calculate(p, y) == pytest.approx(metrics.log_loss(y, p), rel=rounding(150))
    a, b = numbers(50, 3), numbers(50, 3, seed=1)
    assert nnx.MeanSquaredError().calculate(a, b) == pytest.approx(metrics.mean_squared_error(b, a), rel=rounding(150))
    assert nnx.MeanAbsoluteError().calculate(a, b) == pytest.approx(
        metrics.mean_absolute_error(b, a), rel=rounding(150)
    )


# ---- SciPy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 30, 1e4])
@pytest.mark.parametrize("columns", [1, 3, 16, 17, 100])
def test_scipy_special(scale: float, columns: int) -> None:
    special = pytest.importorskip("scipy.special")
    x = scale * numbers(20, columns)
    y = np.random.default_rng(2).integers(0, columns, 20)
    close = rounding(1000)  # exponents of up to 745
    np.testing.assert_allclose(nnx.Softmax().forward(x), special.softmax(x, axis=1), rtol=close, atol=1e-300)
    np.testing.assert_allclose(nnx.Sigmoid().forward(x), special.expit(x), rtol=close, atol=1e-300)
    atol = rounding(columns + 16) * max(1, 2 * np.abs(x).max())  # a loss is a difference of such numbers
    log_p = special.log_softmax(x, axis=1)[np.arange(20), y]
    np.testing.assert_allclose(nnx.SoftmaxCrossEntropy().forward(x, y), -log_p, rtol=rounding(16), atol=atol)
    t = (numbers(20, columns, seed=4) > 0).astype(float)
    want = -(special.log_expit(x) * t + special.log_expit(-x) * (1 - t)).mean(axis=1)
    np.testing.assert_allclose(nnx.SigmoidCrossEntropy().forward(x, t), want, rtol=close, atol=1e-15)


# ---- PyTorch: never required ---------------------------------------------------------------------------------------
#
# Where the definitions agree, with epsilon at the book's 1e-7 (PyTorch's own default is 1e-8, 1e-10 for Adagrad):
# - SGD: PyTorch keeps v = momentum * v + g and steps by rate * v. With a constant rate that is the book's; with a
#   falling one it is not (the book's v holds the rates of the steps it remembers), so no decay here.
# - Adagrad's lr_decay is the book's decay. RMSprop's alpha is rho, and its default is 0.99 instead of 0.9.
# - AdamW's decay is decoupled in both, and both shrink biases too; Adam's own weight_decay is an L2 gradient instead.

TORCH: dict[str, tuple[str, dict[str, Any], Callable[[], nnx.Optimizer]]] = {
    "SGD": ("SGD", {"lr": 0.1}, lambda: nnx.SGD(0.1)),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}, lambda: nnx.SGD(0.05, momentum=0.9)),
    "Adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 1e-2, "eps": 1e-7}, lambda: nnx.AdaGrad(0.1, decay=1e-2)),
    "RMSprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-7}, lambda: nnx.RMSprop(0.01)),
    "Adam": ("Adam", {"lr": 0.02, "eps": 1e-7}, lambda: nnx.Adam(0.02)),
    "Adam, betas": (
        "Adam", {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-7}, lambda: nnx.Adam(0.02, beta_1=0.8, beta_2=0.99)
    ),
    "AdamW": ("AdamW", {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-7}, lambda: nnx.AdamW(0.02, weight_decay=0.1)),
}  # fmt: skip


def torch_network(torch: Any, ours: nnx.Sequential, kinds: list[str]) -> Any:
    """The same network with the same weights."""
    parts: list[Any] = []
    for layer, kind in zip(ours.layers, kinds, strict=False):
        part = getattr(torch.nn, kind)(*([layer.n_inputs, layer.n_neurons] if isinstance(layer, nnx.Dense) else []))
        if isinstance(layer, nnx.Dense):
            part.weight.data = torch.tensor(np.array(layer.weights).T.copy())
            part.bias.data = torch.tensor(np.array(layer.biases[0]))
        parts.append(part)
    return torch.nn.Sequential(*parts).double()


def compare(ours: nnx.Sequential, theirs: Any, tolerance: float, part: str = "data") -> None:
    dense = [layer for layer in ours.layers if isinstance(layer, nnx.Dense)]
    linear = [module for module in theirs if hasattr(module, "weight")]
    for a, b in zip(dense, linear, strict=True):
        weights, biases = (a.weights, a.biases) if part == "data" else (a.dweights, a.dbiases)
        np.testing.assert_allclose(weights, getattr(b.weight, part).numpy().T, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(biases[0], getattr(b.bias, part).numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TORCH)
def test_torch_optimizers_over_a_hundred_steps(name: str) -> None:
    torch = pytest.importorskip("torch")
    kind, options, optimizer = TORCH[name]
    x, y = nnx.datasets.spiral(20, 3)
    x = x.astype(np.float64)
    ours = nnx.Sequential(nnx.Dense(2, 16), nnx.Tanh(), nnx.Dense(16, 3), nnx.Softmax(), dtype="float64", seed=1)
    ours.compile(nnx.CategoricalCrossEntropy(), optimizer())
    theirs = torch_network(torch, ours, ["Linear", "Tanh", "Linear"])
    stepper = getattr(torch.optim, kind)(theirs.parameters(), **options)
    losses = []
    for _ in range(100):
        stepper.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    np.testing.assert_allclose(ours.steps(x, y, 100), losses, rtol=1e-9)
    compare(ours, theirs, 1e-8)


@pytest.mark.parametrize(("loss", "function", "wanted"), [
    (nnx.SoftmaxCrossEntropy, "cross_entropy", "labels"),
    (nnx.SoftmaxCrossEntropy, "cross_entropy", "soft"),
    (nnx.SigmoidCrossEntropy, "binary_cross_entropy_with_logits", "soft"),
    (nnx.MeanSquaredError, "mse_loss", "soft"),
    (nnx.MeanAbsoluteError, "l1_loss", "soft"),
])  # fmt: skip
def test_torch_gradients(loss: type[nnx.Loss], function: str, wanted: str) -> None:
    torch = pytest.importorskip("torch")
    x = numbers(9, 4)
    y = (
        np.random.default_rng(1).integers(0, 3, 9)
        if wanted == "labels"
        else nnx.Softmax().forward(numbers(9, 3)).copy()
    )
    ours = nnx.Sequential(
        nnx.Dense(4, 6), nnx.ReLU(), nnx.Dense(6, 7), nnx.Sigmoid(), nnx.Dense(7, 5), nnx.Tanh(), nnx.Dense(5, 3),
        dtype="float64",
    )  # fmt: skip
    theirs = torch_network(torch, ours, ["Linear", "ReLU", "Linear", "Sigmoid", "Linear", "Tanh", "Linear"])
    inputs = torch.tensor(x, requires_grad=True)
    value = getattr(torch.nn.functional, function)(theirs(inputs), torch.tensor(y))
    value.backward()
    outputs, ending = x, loss()
    for layer in ours.layers:
        outputs = layer.forward(outputs, training=True)
    assert ending.calculate(outputs, y) == pytest.approx(value.item(), rel=1e-12)
    dvalues = ending.backward(outputs, y)
    for layer in reversed(ours.layers):
        dvalues = layer.backward(dvalues)
    np.testing.assert_allclose(dvalues, inputs.grad.numpy(), rtol=1e-10, atol=1e-14)
    compare(ours, theirs, 1e-10, "grad")
