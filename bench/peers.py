"""Whole training steps of nnx against PyTorch and JAX: forward, loss, backward and optimizer, in one run.

    python bench/peers.py [--threads 2] [--rounds 10] [--networks NAME ...] [--peers NAME ...] [--json FILE]
    [--markdown FILE]

Every peer is a process of its own with the same number of threads, the same weights and the same batches, which change
from step to step. All of them first show that they compute the same losses. Then rounds alternate between them, so
that whatever else the machine does hits all alike. Peers that are not installed are left out. A figure is the time of
a step in us: the best chunk of some milliseconds, and the median of the rounds' medians.

PyTorch runs eagerly, and with the whole step, optimizer included, under `torch.compile`; JAX with the step under
`jit`, and with a `scan` over many steps inside one call.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from race import CHECKED, Prepare, Race, Run

# name: rows of a batch, widths, optimizer, batches that take turns
NETWORKS: dict[str, tuple[int, tuple[int, ...], str, int]] = {
    "300x2-64-3": (300, (2, 64, 3), "adam", 1),
    "128x64-128-64-10": (128, (64, 128, 64, 10), "adam", 8),
    "128x784-512-512-10": (128, (784, 512, 512, 10), "adam", 8),
    "1024x784-512-512-10": (1024, (784, 512, 512, 10), "adam", 4),
    "512x2048-2048-2048-1000": (512, (2048, 2048, 2048, 1000), "momentum", 4),
}
RATE, MOMENTUM, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.9, 0.999, 1e-7
# The numbers by which peers are compared are the losses of their first steps.


def batches(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows, widths, _, turns = NETWORKS[name]
    random = np.random.default_rng(0)
    x = random.standard_normal((turns * rows, widths[0]), np.float32)
    return x, random.integers(0, widths[-1], turns * rows)


def weights(name: str) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [
        (random.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32) for a, b in pairwise(NETWORKS[name][1])
    ]


# ---- the peers -------------------------------------------------------------------------------------------------------


def nnx_peer(name: str, backend: str, threads: int) -> Run:
    import nnx
    from nnx.fitting import Fit
    from nnx.kernels.layout import CURSOR
    from nnx.training import HISTORY

    rows, widths, optimizer, turns = NETWORKS[name]
    layers: list[nnx.Layer] = []
    for a, b in pairwise(widths):
        layers += [nnx.Dense(a, b), nnx.ReLU()]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend)
    for number, w in enumerate(weights(name)):
        model.layers[2 * number].weights = w
    how = nnx.Adam(RATE, epsilon=EPSILON) if optimizer == "adam" else nnx.SGD(RATE, momentum=MOMENTUM)
    model.compile(nnx.CategoricalCrossEntropy(), how)
    x, y = batches(name)
    # The arrays of a fit without its bookkeeping for each epoch: what is measured is the step.
    trainer = model._trainer
    assert trainer is not None
    job = Fit(model, trainer, x, model._host_targets(y, x, "peers"), rows, False, None, [])
    job.record()
    if backend == "numba" and model.eager_reason is not None:
        raise SystemExit(f"not replayed: {model.eager_reason}")
    epochs = job.samples.epochs
    job.samples.begin(0, epochs)
    assert job.full is not None
    runner = job.full[1]

    def run(steps: int) -> list[float]:
        losses: list[float] = []
        for first in range(0, steps, epochs * turns):
            trainer.counters[CURSOR] = 0
            logged = trainer.run(runner, min(steps - first, epochs * turns, HISTORY))
            losses += logged[:, 0].tolist() if steps == CHECKED else []
        return losses

    run.way = getattr(runner, "way", None)  # type: ignore[attr-defined]  # how a GPU runs it
    return run


def torch_peer(name: str, compiled: bool, threads: int, device: str = "cpu", **options: Any) -> Run:
    """options: of torch.compile."""
    import torch

    torch.set_num_threads(threads)
    rows, widths, optimizer, turns = NETWORKS[name]
    layers: list[Any] = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    on_gpu = {} if device == "cpu" else {"capturable": True} if compiled else {"fused": True}  # the faster ones there
    with torch.no_grad():
        for number, w in enumerate(weights(name)):
            model[2 * number].weight.copy_(torch.from_numpy(w.T.copy()))
            model[2 * number].bias.zero_()
    model.to(device)
    if optimizer == "adam":
        how: Any = torch.optim.Adam(model.parameters(), RATE, (BETA_1, BETA_2), EPSILON, **on_gpu)
    else:
        how = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    x, y = (torch.from_numpy(a).to(device) for a in batches(name))
    pieces = [(x[i * rows : (i + 1) * rows].clone(), y[i * rows : (i + 1) * rows].clone()) for i in range(turns)]
    loss_of = torch.nn.CrossEntropyLoss()

    def step(x: Any, y: Any) -> Any:
        how.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        how.step()
        return loss

    if compiled:
        step = torch.compile(step, **options)
    at = [0]

    def run(steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = step(*pieces[at[0] % turns])
            at[0] += 1
            if steps == CHECKED:
                losses.append(float(loss.detach()))
        if device != "cpu":
            torch.cuda.synchronize()
        return losses

    return run


def jax_peer(name: str, scanned: bool, threads: int, platform: str = "cpu") -> Run:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", platform)
    rows, _, optimizer, turns = NETWORKS[name]
    x, y = batches(name)
    xs, ys = jnp.asarray(x.reshape(turns, rows, -1)), jnp.asarray(y.reshape(turns, rows))
    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], jnp.float32)) for w in weights(name)]
    first, second = (jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), parameters) for _ in range(2))
    state = (parameters, first, second, jnp.int32(0))

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        for w, b in parameters[:-1]:
            x = jnp.maximum(x @ w + b, 0)
        logits = x @ parameters[-1][0] + parameters[-1][1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    def step(state: Any, x: Any, y: Any) -> Any:
        parameters, first, second, count = state
        loss, gradient = jax.value_and_grad(loss_of)(parameters, x, y)
        each = jax.tree.map
        count += 1
        if optimizer == "adam":
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

    at = [0]
    held = [state]
    if scanned:

        def many(state: Any, places: Any) -> Any:
            return jax.lax.scan(lambda state, i: step(state, xs[i], ys[i]), state, places)

        many = jax.jit(many, donate_argnums=0)

        def run(steps: int) -> list[float]:
            places = (np.arange(steps) + at[0]) % turns
            at[0] += steps
            held[0], losses = many(held[0], jnp.asarray(places))
            losses = jax.block_until_ready(losses)
            return [float(v) for v in losses] if steps == CHECKED else []

        return run
    one = jax.jit(step, donate_argnums=0)
    pieces = [(xs[i], ys[i]) for i in range(turns)]

    def run_one(steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            held[0], loss = one(held[0], *pieces[at[0] % turns])
            at[0] += 1
            if steps == CHECKED:
                losses.append(float(loss))
        jax.block_until_ready(held[0])
        return losses

    return run_one


PEERS: dict[str, Prepare] = {
    "nnx numba": lambda name, threads: nnx_peer(name, "numba", threads),
    "nnx numpy": lambda name, threads: nnx_peer(name, "numpy", threads),
    "torch eager": lambda name, threads: torch_peer(name, False, threads),
    "torch.compile": lambda name, threads: torch_peer(name, True, threads),
    "jax jit": lambda name, threads: jax_peer(name, False, threads),
    "jax scan": lambda name, threads: jax_peer(name, True, threads),
}
RACE = Race(
    script=__file__,
    title="A training step of nnx and of its peers",
    what="step",
    option="networks",
    cases={name: f"{name}, {optimizer}" for name, (_, _, optimizer, _) in NETWORKS.items()},
    peers=PEERS,
    ours=("nnx numba", "nnx numpy"),
)

if __name__ == "__main__":
    RACE.main(__doc__)
