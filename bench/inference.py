"""Prediction, and the gradient of softmax, by nnx against PyTorch and JAX.

    python bench/inference.py [--threads 2] [--rounds 10] [--cases NAME ...] [--peers NAME ...] [--json FILE]
    [--markdown FILE]

Every peer is a process of its own with the same number of threads, the same weights and the same inputs, which take
turns from call to call; race.py says how they are compared. A figure is the time of a call in us.

nnx is `model.predict`, a NumPy array in and a new one out, all checks included. Each other peer gets what suits it: its
own kind of array, on its device before the clock starts, and `inference_mode`. JAX is measured with inputs as NumPy's
arrays and its own, with weights as arguments and as constants, and the fastest counts, when its result is ready; "jax
to numpy" makes a NumPy array of it. "torch kernel" is what PyTorch's own autograd calls for the gradient of softmax,
without autograd; the others compute the formula.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from operator import methodcaller
from typing import Any

import numpy as np
from race import CHECKED, Prepare, Race, Run

NETWORKS = ((2, 64, 3), (64, 128, 64, 10), (784, 512, 512, 10))
ROWS = (1, 1024)
SHAPES = ((300, 3), (1024, 10), (1024, 1000), (256, 10000))
PREDICT: dict[str, tuple[int, tuple[int, ...]]] = {  # name: rows, widths
    f"{rows}x{'-'.join(map(str, widths))}": (rows, widths) for rows in ROWS for widths in NETWORKS
}
BACKWARD = {f"softmax-backward-{n}x{c}": (n, c) for n, c in SHAPES}
TURNS = {1: 8, 1024: 2}  # inputs that take turns, by their rows
COMPARED = 8  # numbers of each result
Call = Callable[..., Any]
KEPT: list[Any] = []  # what would end if nobody held it


def inputs(case: str) -> list[np.ndarray]:
    rows, widths = PREDICT[case]
    random = np.random.default_rng(0)
    return [random.standard_normal((rows, widths[0]), np.float32) for _ in range(TURNS[rows])]


def weights(case: str) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [(random.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32) for a, b in pairwise(PREDICT[case][1])]


def gradients(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and what flows back into them."""
    random = np.random.default_rng(0)
    logits = random.standard_normal(BACKWARD[case], np.float32)
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True), random.standard_normal(BACKWARD[case], np.float32)


def turns(call: Call, operands: list[tuple[Any, ...]]) -> Run:
    """Call with one tuple of operands after the other; compare the first numbers of the first results."""
    firsts, single = [some[0] for some in operands], len(operands[0]) == 1

    def run(steps: int) -> list[float]:
        if steps == CHECKED:
            results = [call(*operands[i % len(operands)]) for i in range(steps)]
            return [float(v) for result in results for v in np.asarray(result).reshape(-1)[:COMPARED]]
        for _ in range(steps // len(operands)):
            if single:  # a call by a tuple takes 50 ns more
                for x in firsts:
                    call(x)
            else:
                for some in operands:
                    call(*some)
        return []

    return run


def fastest(runs: list[Run]) -> Run:
    """The one that is quickest here."""

    def seconds(run: Run) -> float:
        run(CHECKED)
        run(16)
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            run(16)
            times.append(time.perf_counter() - begin)
        return min(times)

    return min(runs, key=seconds)


# ---- the peers -------------------------------------------------------------------------------------------------------


def nnx_peer(case: str, backend: str, threads: int) -> Run:
    import nnx

    if case in BACKWARD:
        y, dy = gradients(case)
        chosen, out = nnx.backends.get_backend(backend), np.empty_like(y)
        return turns(chosen.softmax_backward, [(y, dy, out)])
    layers: list[nnx.Layer] = []
    for a, b in pairwise(PREDICT[case][1]):
        layers += [nnx.Dense(a, b), nnx.ReLU()]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend)
    for number, w in enumerate(weights(case)):
        model.layers[2 * number].weights = w
    return turns(model.predict, [(x,) for x in inputs(case)])


def torch_peer(case: str, how: str, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    KEPT.append(torch.inference_mode())
    KEPT[-1].__enter__()  # for as long as this process lives
    finish = torch.compile if how == "compile" else lambda function: function
    if case in BACKWARD:
        y, dy = (torch.from_numpy(a) for a in gradients(case))

        def formula(y: Any, dy: Any) -> Any:
            return y * (dy - (y * dy).sum(1, keepdim=True))

        def kernel(y: Any, dy: Any) -> Any:
            return torch._softmax_backward_data(dy, y, 1, torch.float32)

        return turns(kernel if how == "kernel" else finish(formula), [(y, dy)])
    if how == "kernel":
        raise SystemExit("is for the gradient of softmax alone")
    layers: list[Any] = []
    for a, b in pairwise(PREDICT[case][1]):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1))
    for number, w in enumerate(weights(case)):
        model[2 * number].weight.copy_(torch.from_numpy(w.T.copy()))
        model[2 * number].bias.zero_()
    return turns(finish(model.eval()), [(torch.from_numpy(x),) for x in inputs(case)])


def jax_peer(case: str, to_numpy: bool, threads: int) -> Run:
    import jax
    import jax.numpy as jnp

    ready: Call = np.asarray if to_numpy else methodcaller("block_until_ready")
    if case in BACKWARD:
        pair = gradients(case)
        backward = jax.jit(lambda y, dy: y * (dy - (y * dy).sum(1, keepdims=True)))
        return fastest(
            [turns(lambda y, dy: ready(backward(y, dy)), [kind]) for kind in (pair, tuple(map(jnp.asarray, pair)))]
        )
    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], jnp.float32)) for w in weights(case)]

    def predict(parameters: Any, x: Any) -> Any:
        for w, b in parameters[:-1]:
            x = jnp.maximum(x @ w + b, 0)
        return jax.nn.softmax(x @ parameters[-1][0] + parameters[-1][1])

    given, fixed = jax.jit(predict), jax.jit(lambda x: predict(parameters, x))
    kinds = [[(x,) for x in inputs(case)], [(jnp.asarray(x),) for x in inputs(case)]]
    calls = (lambda x: ready(given(parameters, x)), lambda x: ready(fixed(x)))
    return fastest([turns(call, kind) for kind in kinds for call in calls])


PEERS: dict[str, Prepare] = {
    "nnx numba": lambda case, threads: nnx_peer(case, "numba", threads),
    "nnx numpy": lambda case, threads: nnx_peer(case, "numpy", threads),
    "torch eager": lambda case, threads: torch_peer(case, "eager", threads),
    "torch.compile": lambda case, threads: torch_peer(case, "compile", threads),
    "torch kernel": lambda case, threads: torch_peer(case, "kernel", threads),
    "jax jit": lambda case, threads: jax_peer(case, False, threads),
    "jax to numpy": lambda case, threads: jax_peer(case, True, threads),
}
RACE = Race(
    script=__file__,
    title="Prediction and the gradient of softmax: nnx and its peers",
    what="call",
    option="cases",
    cases={
        **{name: f"predict, {rows} x {name.partition('x')[2]}" for name, (rows, _) in PREDICT.items()},
        **{name: f"softmax backward, ({n}, {c})" for name, (n, c) in BACKWARD.items()},
    },
    peers=PEERS,
    ours=("nnx numba", "nnx numpy"),
)

if __name__ == "__main__":
    RACE.main(__doc__)
