"""Features where they meet: random networks of all layers, in random fits, replayed and run as written.

Each was written on its own; what they do to one another shows where they are thrown together. A seed is a case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks import ALIKE, LogCosh, Swish, numbers
from test_programs import always_eager

import nnx
from nnx.callbacks import Callback, WeightAverage
from nnx.layers.chain import every

Random = np.random.Generator
ACTIVATIONS: list[Callable[[], nnx.Layer]] = [nnx.Tanh, nnx.Sigmoid, nnx.SiLU, nnx.GELU, nnx.Softplus, Swish]
# Lion is not among them: it goes by the sign of a gradient, which rounding decides where that is 0.
OPTIMIZERS: list[Callable[..., nnx.Optimizer]] = [
    lambda **limits: nnx.SGD(0.05, momentum=0.8, nesterov=True, **limits),
    lambda **limits: nnx.AdaGrad(0.05, epsilon=1e-2, **limits),
    lambda **limits: nnx.AMSGrad(0.01, epsilon=1e-2, weight_decay=0.1, **limits),
    lambda **limits: nnx.Nadam(0.01, epsilon=1e-2, **limits),
]


def one_of(random: Random, things: Any) -> Any:
    return things[random.integers(len(things))]


def stack(random: Random, width: int, depth: int = 0) -> tuple[list[nnx.Layer], int]:
    """Some layers, and how many numbers they put out."""
    found: list[nnx.Layer] = []
    for _ in range(random.integers(1, 4)):
        kind = one_of(random, ["dense", "dense", "activation", "norm", "random", *["block"] * (depth < 2)])
        if kind == "dense":
            out = int(random.integers(2, 9))
            found.append(nnx.Dense(width, out, weight_l2=one_of(random, [0, 1e-2])))
            width = out
        elif kind == "block" and random.random() < 0.5:
            inside, out = stack(random, width, depth + 1)
            found.append(nnx.Residual(*inside, nnx.Dense(out, width)))
        elif kind == "block":
            branches = [stack(random, width, depth + 1) for _ in range(2)]
            found.append(nnx.Concat(*(layers for layers, _ in branches)))
            width = sum(out for _, out in branches)
        else:
            some = {
                "activation": ACTIVATIONS,
                "norm": [partial(nnx.LayerNorm, width, 1e-2), partial(nnx.BatchNorm, width, epsilon=1e-2)],
                "random": [lambda: nnx.Dropout(0.3), lambda: nnx.GaussianNoise(0.1)],
            }
            found.append(one_of(random, some[kind])())
    return found, width


class Changes(Callback):
    """Before some epochs, or mini-batches, freezes a layer or lets it go, or sets a number."""

    def __init__(self, seed: int, batches: bool) -> None:
        self.random = np.random.default_rng(seed)
        if batches:
            self.on_batch_begin = self.on_epoch_begin  # type: ignore[method-assign]

    def on_epoch_begin(self, model: Any, epoch: int) -> None:
        layer = one_of(self.random, [layer for layer in every(model.layers) if not hasattr(layer, "inner")])
        if isinstance(layer, nnx.Dropout):
            layer.rate = one_of(self.random, [0.0, 0.2])
        elif layer.shapes:
            layer.trainable = not layer.trainable
        model.layers[-2].trainable = True
        model.optimizer.clip_norm = one_of(self.random, [None, 0.05])


def trained(seed: int, backend: str) -> tuple[nnx.Sequential, nnx.History]:
    """The model of a seed after training, and its history."""
    random = np.random.default_rng(seed)
    x, labels = random.normal(size=(50, 3)), random.integers(0, 3, 50)
    x[:, 1] = random.integers(0, 4, 50)
    front = nnx.Embedding({1: (4, 2)}, inputs=3) if random.random() < 0.5 else nnx.LayerNorm(3, 1e-2)
    inside, width = stack(random, front.output_width(3) or 3)
    layers = [front, *inside, nnx.Dense(width, 3)]
    if random.random() < 0.7:
        layers.append(nnx.Softmax())
        labels[1:] = np.where(random.random(49) < 0.1, -1, labels[1:])
        loss, y = nnx.CategoricalCrossEntropy(one_of(random, [0.0, 0.1]), ignore_index=-1), labels
    else:
        layers.append(nnx.Linear())
        loss, y = LogCosh(), np.sin(x)
    for layer in layers[:-2]:
        if layer.shapes and random.random() < 0.2:
            layer.trainable = False
    optimizer = one_of(random, OPTIMIZERS)(clip_norm=one_of(random, [None, 0.1]))
    model = nnx.Sequential(*layers, backend=backend, dtype="float64", seed=seed).compile(loss, optimizer)
    callbacks: list[Callback] = [Changes(seed, bool(random.random() < 0.3))] if random.random() < 0.6 else []
    callbacks += [WeightAverage(0.9, start=int(random.integers(2)))] if random.random() < 0.5 else []
    weights = one_of(random, [None, 0.5 + np.arange(50) % 3])
    more = {"accumulate": int(random.integers(1, 4)), "sample_weight": weights, "callbacks": callbacks}
    return model, model.fit(x, y, epochs=3, batch_size=one_of(random, [9, 16]), verbose=0, **more)


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_train_as_written_on_both_cpu_backends(seed: int) -> None:
    pytest.importorskip("numba")
    with always_eager():
        wanted, expected = trained(seed, "numpy")
    for backend in ("numpy", "numba"):
        model, history = trained(seed, backend)
        assert model.eager_reason is model.replay_reason is None
        np.testing.assert_allclose(numbers(model), numbers(wanted), **ALIKE)
        assert list(history) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, **ALIKE)
