"""Thinc, spaCy's own library for networks, with its operations on NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from nnx.benchmark.libraries import Absent, Ready, taking_turns
from nnx.benchmark.networks import BETA_1, BETA_2, CHECKED, EPSILON, RATE, Network


def prepare(workload: Any, how: str, device: str) -> Ready:
    """Get a workload ready."""
    if workload.kind not in ("step", "predict"):
        raise Absent("is not measured here")
    network: Network = workload.what
    if network.optimizer != "adam":
        raise Absent("has no momentum")
    model = _build(network)
    x, y = network.batches()
    inputs = np.split(x, network.turns)
    if workload.kind == "predict":
        outputs = np.concatenate([model.predict(each) for each in inputs])
        run, turns = taking_turns(model.predict, [(each,) for each in inputs])
        return Ready(run, {"out": outputs}, "predict", turns)
    step, labels = _training(model), np.split(y, network.turns)
    losses = []
    for number in range(CHECKED):
        turn = number % network.turns
        p = step(inputs[turn], labels[turn])
        losses.append(-np.log(p[np.arange(len(p)), labels[turn]]).mean())
    parameters = np.concatenate(
        [a.ravel() for layer in model.layers for a in (layer.get_param("W").T, layer.get_param("b"))]
    )
    run, turns = taking_turns(step, list(zip(inputs, labels, strict=True)))
    return Ready(run, {"losses": np.array(losses), "parameters": parameters}, "", turns)


def _build(network: Network) -> Any:
    from thinc.api import Relu, Softmax, chain

    widths = list(pairwise(network.widths))
    layers = [Relu(b, a) for a, b in widths[:-1]]
    model = chain(*layers, Softmax(widths[-1][1], widths[-1][0]))
    model.initialize()
    for layer, weights in zip(model.layers, network.weights(), strict=True):
        layer.set_param("W", np.ascontiguousarray(weights.T))
        layer.set_param("b", np.zeros(weights.shape[1], np.float32))
    return model


def _training(model: Any) -> Any:
    from thinc.api import Adam, CategoricalCrossentropy

    optimizer = Adam(RATE, beta1=BETA_1, beta2=BETA_2, eps=EPSILON, L2=0.0, grad_clip=0.0, use_averages=False)
    loss = CategoricalCrossentropy()

    def step(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        p, backprop = model.begin_update(x)
        backprop(loss.get_grad(p, y))
        model.finish_update(optimizer)
        return p  # type: ignore[no-any-return]

    return step
