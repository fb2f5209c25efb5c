"""JAX: a step under jit, and many steps in one scan; on a GPU too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nnx.benchmark.libraries import Absent, Ready, taking_turns
from nnx.benchmark.networks import BETA_1, BETA_2, CHECKED, EPSILON, MOMENTUM, RATE, Many, Network
from nnx.benchmark.operations import HYPER, OPERATIONS
from nnx.benchmark.workloads import MANY

Run = Callable[[int], Any]
Call = Callable[[Any], Any]
PRECISIONS = {"full": "highest", "tf32": "tensorfloat32"}  # left to itself, JAX multiplies float32 in TF32 on a GPU


def prepare(workload: Any, how: str, device: str) -> Ready:
    """Get a workload ready. how: "jit" or "scan"; of many networks "vmap" or "vmap scan"."""
    import jax

    jax.config.update("jax_platforms", device)
    if not jax.devices(device):
        raise Absent("this JAX sees no GPU")
    if device == "cuda":
        precision = os.environ.get("NNX_PRECISION") or "full"
        if precision not in PRECISIONS:
            raise Absent(f"is not measured in {precision}")
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    if workload.kind == "step":
        return _scan(workload.what) if how == "scan" else _step(workload.what)
    if workload.kind == MANY and how.startswith("vmap"):
        return _many(workload.what, how.endswith("scan"))
    if workload.kind == "predict":
        return _predict(workload.what, device)
    if workload.kind == "evaluate":
        return _evaluate(workload.what, device)
    if workload.kind in CALLS:
        return _operation(workload.kind, workload.what)
    raise Absent("is not measured here")


def held() -> int | None:
    """Return how many bytes JAX has used at most."""
    import jax

    peak: int | None = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak


# ---- training --------------------------------------------------------------------------------------------------------


def _start(network: Network) -> Any:
    """Return parameters, two states of the optimizer, and the number of steps done."""
    import jax
    import jax.numpy as jnp

    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], jnp.float32)) for w in network.weights()]
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    return parameters, first, second, jnp.int32(0)


def _training(network: Network) -> Callable[[Any, Any, Any], Any]:
    """Return a whole step: state and batch in, state and loss out."""
    import jax
    import jax.numpy as jnp

    each = jax.tree.map

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(_logits(parameters, x))
        return -jnp.mean(jnp.take_along_axis(logs, y[:, None], 1))

    def step(state: Any, x: Any, y: Any) -> Any:
        parameters, first, second, count = state
        loss, gradient = jax.value_and_grad(loss_of)(parameters, x, y)
        count += 1
        if network.optimizer == "adam":
            time = count.astype(jnp.float32)
            first = each(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, first, gradient)
            second = each(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, second, gradient)
            fix_1, fix_2 = 1 - BETA_1**time, 1 - BETA_2**time
            parameters = each(
                lambda p, m, v: p - RATE * (m / fix_1) / (jnp.sqrt(v / fix_2) + EPSILON), parameters, first, second
            )
        else:
            first = each(lambda m, g: MOMENTUM * m - RATE * g, first, gradient)
            parameters = each(jnp.add, parameters, first)
        return (parameters, first, second, count), loss

    return step


def _logits(parameters: Any, x: Any) -> Any:
    import jax.numpy as jnp

    for w, b in parameters[:-1]:
        x = jnp.maximum(x @ w + b, 0)
    return x @ parameters[-1][0] + parameters[-1][1]


def _results(losses: Any, state: Any) -> dict[str, np.ndarray]:
    parameters = [np.asarray(a).ravel() for pair in state[0] for a in pair]
    return {"losses": np.array([float(loss) for loss in losses]), "parameters": np.concatenate(parameters)}


def _step(network: Network) -> Ready:
    import jax
    import jax.numpy as jnp

    step, state = jax.jit(_training(network), donate_argnums=0), _start(network)
    x, y = network.batches()
    parts = np.split(x, network.turns), np.split(y, network.turns)
    batches = [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(*parts, strict=True)]
    losses = []
    for number in range(CHECKED):
        state, loss = step(state, *batches[number % network.turns])
        losses.append(loss)
    results, held = _results(losses, state), [state]

    def run(steps: int) -> None:
        state = held[0]
        for _ in range(steps // len(batches)):
            for x, y in batches:
                state, _ = step(state, x, y)
        held[0] = jax.block_until_ready(state)

    return Ready(run, results, "", network.turns)


def _scan(network: Network) -> Ready:
    import jax
    import jax.numpy as jnp

    step = _training(network)
    x, y = network.batches()
    xs, ys = jnp.asarray(x.reshape(network.turns, network.rows, -1)), jnp.asarray(y.reshape(network.turns, -1))

    def many(state: Any, places: Any) -> Any:
        return jax.lax.scan(lambda state, i: step(state, xs[i], ys[i]), state, places)

    many = jax.jit(many, donate_argnums=0)
    state, losses = many(_start(network), jnp.arange(CHECKED) % network.turns)
    results, held = _results(losses, state), [state]

    def run(steps: int) -> None:
        held[0], losses = many(held[0], jnp.arange(steps) % network.turns)
        jax.block_until_ready(losses)

    return Ready(run, results, "", network.turns)


def _many(many: Many, scan: bool) -> Ready:
    """Get steps of many networks ready: one step of all under jit, or many of them in one scan."""
    import jax
    import jax.numpy as jnp

    step = jax.vmap(_training(many.network), in_axes=(0, None, None))
    state = jax.tree.map(lambda *each: jnp.stack(each), *map(_start, many.networks()))
    x, y = map(jnp.asarray, many.network.batches())
    once = jax.jit(step, donate_argnums=0)
    all_steps = jax.jit(
        lambda state, places: jax.lax.scan(lambda state, _: step(state, x, y), state, places), donate_argnums=0
    )
    found = []
    for _ in range(CHECKED):
        state, losses = once(state, x, y)
        found.append(np.asarray(losses))
    ends = [np.asarray(a[i]).ravel() for i in range(many.count) for pair in state[0] for a in pair]
    results, held = {"losses": np.stack(found).T.ravel(), "parameters": np.concatenate(ends)}, [state]
    together = jnp.arange(many.steps // 10 if scan else 1)  # as many as are compiled as one

    def run(steps: int) -> None:
        state = held[0]
        for _ in range(steps // len(together)):
            state, _ = all_steps(state, together) if scan else once(state, x, y)
        held[0] = jax.block_until_ready(state)

    run(len(together))
    return Ready(run, results, "", len(together))


# ---- prediction and operations ---------------------------------------------------------------------------------------


def _predict(network: Network, device: str) -> Ready:
    """Get prediction ready, with JAX's and NumPy's arrays, weights as arguments and as constants: the best counts."""
    import jax
    import jax.numpy as jnp

    parameters = _start(network)[0]

    def predict(parameters: Any, x: Any) -> Any:
        return jax.nn.softmax(_logits(parameters, x))

    given, fixed = jax.jit(predict), jax.jit(lambda x: predict(parameters, x))
    calls: list[Call] = [lambda x: given(parameters, x).block_until_ready(), lambda x: fixed(x).block_until_ready()]
    inputs = np.split(network.batches()[0], network.turns)
    outputs = np.concatenate([np.asarray(calls[0](x)) for x in inputs])
    kinds = [[(x,) for x in inputs], [(jnp.asarray(x),) for x in inputs]]
    if device == "cuda":  # from the host and back there, as nnx's
        calls, kinds = [partial(_to_numpy, call) for call in calls], kinds[:1]
    run, turns = _fastest([taking_turns(call, kind) for call in calls for kind in kinds])
    return Ready(run, {"out": outputs}, "", turns)


def _evaluate(network: Network, device: str) -> Ready:
    """Get evaluation ready, in the same ways; what comes out are Python's numbers."""
    import jax
    import jax.numpy as jnp

    parameters = _start(network)[0]

    def scores(parameters: Any, x: Any, y: Any) -> Any:
        logits = _logits(parameters, x)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        return jnp.stack([jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=1) == y)])

    given, fixed = jax.jit(scores), jax.jit(lambda x, y: scores(parameters, x, y))
    calls: list[Any] = [lambda x, y: np.asarray(given(parameters, x, y)).tolist(),
                        lambda x, y: np.asarray(fixed(x, y)).tolist()]  # fmt: skip
    x, y = network.batches()
    batches = list(zip(np.split(x, network.turns), np.split(y.astype(np.int32), network.turns), strict=True))
    results = np.array([calls[0](*batch) for batch in batches])
    kinds: list[Any] = [batches, [(jnp.asarray(a), jnp.asarray(b)) for a, b in batches]]
    run, turns = _fastest(
        [taking_turns(call, kind) for call in calls for kind in kinds[: 1 if device == "cuda" else 2]]
    )
    return Ready(run, {"scores": results}, "", turns)


def _to_numpy(call: Call, x: Any) -> np.ndarray:
    return np.asarray(call(x))


def _operation(kind: str, shape: tuple[int, ...]) -> Ready:
    import jax
    import jax.numpy as jnp

    operands = [
        value
        for name, value in OPERATIONS[kind].operands(*shape).items()
        if isinstance(value, np.ndarray) and name not in ("hyper", "counters")
    ]
    names, function = CALLS[kind]
    formula = jax.jit(lambda *given: function(jax, *given))
    outputs = formula(*operands)
    results = dict(zip(names, map(np.asarray, outputs if isinstance(outputs, tuple) else (outputs,)), strict=True))

    def call(*given: Any) -> None:
        jax.block_until_ready(formula(*given))

    kinds = (operands, [jnp.asarray(a) for a in operands])
    run, _ = _fastest([taking_turns(call, [tuple(kind)]) for kind in kinds])
    return Ready(run, results)


def _fastest(ways: list[tuple[Run, int]]) -> tuple[Run, int]:
    """Return the one that is quickest here."""

    def seconds(way: tuple[Run, int]) -> float:
        run, turns = way
        run(turns)
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            run(turns)
            times.append(time.perf_counter() - begin)
        return min(times)

    return min(ways, key=seconds)


def _softmax_cross_entropy(jax: Any, logits: Any, target: Any) -> Any:
    rows = jax.numpy.arange(len(target))
    logs = jax.nn.log_softmax(logits)
    gradient = jax.numpy.exp(logs).at[rows, target].add(-1) / len(target)
    return -logs[rows, target], gradient


def _adam(jax: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    rate, _decay, beta_1, beta_2, epsilon, _weight_decay = HYPER["adam"]
    m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
    return p - rate * (m / (1 - beta_1)) / (jax.numpy.sqrt(v / (1 - beta_2)) + epsilon), m, v


def _sgd(jax: Any, p: Any, g: Any, m: Any) -> Any:
    rate, _decay, momentum, *_ = HYPER["sgd"]
    m = momentum * m - rate * g
    return p + m, m


def _adaptive(kind: str, kept: float, added: float) -> Any:
    rate, *_, epsilon, _weight_decay = HYPER[kind]

    def step(jax: Any, p: Any, g: Any, v: Any) -> Any:
        v = kept * v + added * g * g
        return p - rate * g / (jax.numpy.sqrt(v) + epsilon), v

    return step


def _gradient(function: Any) -> Any:
    """Return the gradient of a function of each number, by its input."""
    return lambda jax, x, dy: jax.vjp(lambda x: function(jax, x), x)[1](dy)[0]


def _cross_entropy(jax: Any, p: Any, target: Any) -> Any:
    chosen = jax.numpy.take_along_axis(p, target[:, None], 1)[:, 0]
    return -jax.numpy.log(jax.numpy.clip(chosen, 1e-7, 1 - 1e-7))


def _gelu_tanh(jax: Any, x: Any) -> Any:
    return jax.nn.gelu(x)


def _gelu(jax: Any, x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def _silu(jax: Any, x: Any) -> Any:
    return jax.nn.silu(x)


def _mish(jax: Any, x: Any) -> Any:
    return jax.nn.mish(x)


OUT = ("out",)
CALLS: dict[str, tuple[tuple[str, ...], Any]] = {
    "dense": (OUT, lambda jax, x, w, b: x @ w + b),
    "dense_backward": (("dw", "db", "out"), lambda jax, x, w, dy: (x.T @ dy, dy.sum(0, keepdims=True), dy @ w.T)),
    "relu": (OUT, lambda jax, x: jax.numpy.maximum(x, 0)),
    "sigmoid": (OUT, lambda jax, x: jax.nn.sigmoid(x)),
    "tanh": (OUT, lambda jax, x: jax.numpy.tanh(x)),
    "leaky_relu": (OUT, lambda jax, x: jax.nn.leaky_relu(x, 0.01)),
    "elu": (OUT, lambda jax, x: jax.nn.elu(x)),
    "gelu": (OUT, _gelu),
    "gelu_tanh": (OUT, _gelu_tanh),
    "silu": (OUT, _silu),
    "softplus": (OUT, lambda jax, x: jax.nn.softplus(x)),
    "mish": (OUT, _mish),
    "relu_backward": (OUT, lambda jax, y, dy: dy * (y > 0)),
    "sigmoid_backward": (OUT, lambda jax, y, dy: dy * y * (1 - y)),
    "tanh_backward": (OUT, lambda jax, y, dy: dy * (1 - y * y)),
    "leaky_relu_backward": (OUT, lambda jax, y, dy: dy * jax.numpy.where(y > 0, 1, 0.01)),
    "elu_backward": (OUT, lambda jax, y, dy: dy * jax.numpy.where(y > 0, 1, y + 1)),
    "gelu_backward": (OUT, _gradient(_gelu)),
    "gelu_tanh_backward": (OUT, _gradient(_gelu_tanh)),
    "silu_backward": (OUT, _gradient(_silu)),
    "softplus_backward": (OUT, lambda jax, y, dy: -dy * jax.numpy.expm1(-y)),
    "mish_backward": (OUT, _gradient(_mish)),
    "softmax": (OUT, lambda jax, x: jax.nn.softmax(x)),
    "cross_entropy": (OUT, _cross_entropy),
    "softmax_cross_entropy": (("losses", "out"), _softmax_cross_entropy),
    "softmax_backward": (OUT, lambda jax, y, dy: y * (dy - (y * dy).sum(1, keepdims=True))),
    "mean_squared_error": (OUT, lambda jax, prediction, target: ((prediction - target) ** 2).mean(1)),
    "mean_squared_error_backward": (OUT, lambda jax, prediction, target: (prediction - target) * (2 / target.size)),
    "gather_rows": (OUT, lambda jax, source, order: source[order[: len(source) // 8]]),
    "sgd": (("p", "m"), _sgd),
    "adagrad": (("p", "v"), _adaptive("adagrad", 1.0, 1.0)),
    "rmsprop": (("p", "v"), _adaptive("rmsprop", HYPER["rmsprop"][2], 1 - HYPER["rmsprop"][2])),
    "adam": (("p", "m", "v"), _adam),
}
