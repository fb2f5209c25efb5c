"""scikit-learn's MLPClassifier: a step is `partial_fit` on one batch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nnx.benchmark.libraries import Absent, Ready, taking_turns
from nnx.benchmark.networks import BETA_1, BETA_2, CHECKED, EPSILON, MOMENTUM, RATE, Network


def prepare(workload: Any, how: str, device: str) -> Ready:
    """Get a workload ready."""
    if workload.kind not in ("step", "predict"):
        raise Absent("is not measured here")
    network: Network = workload.what
    x, y = network.batches()
    inputs, labels = np.split(x, network.turns), np.split(y, network.turns)
    model = _build(network)
    if workload.kind == "predict":
        outputs = np.concatenate([model.predict_proba(each) for each in inputs])
        run, turns = taking_turns(model.predict_proba, [(each,) for each in inputs])
        return Ready(run, {"out": outputs}, "predict_proba", turns)
    losses = []
    for number in range(CHECKED):
        model.partial_fit(inputs[number % network.turns], labels[number % network.turns])
        losses.append(model.loss_)
    run, turns = taking_turns(model.partial_fit, list(zip(inputs, labels, strict=True)))
    return Ready(run, {"losses": np.array(losses), "parameters": _parameters(model)}, "partial_fit", turns)


def _build(network: Network) -> Any:
    """Return a classifier with the benchmark's own weights, as if it had not learned anything yet."""
    from sklearn.neural_network import MLPClassifier

    adam = network.optimizer == "adam"
    model = MLPClassifier(
        network.widths[1:-1], solver="adam" if adam else "sgd", alpha=0.0, batch_size=network.rows,
        learning_rate_init=RATE, momentum=MOMENTUM, nesterovs_momentum=False, beta_1=BETA_1, beta_2=BETA_2,
        epsilon=EPSILON, shuffle=False, random_state=0,
    )  # fmt: skip
    classes = np.arange(network.widths[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.partial_fit(
            np.zeros((len(classes), network.widths[0]), np.float32), classes, classes=classes
        )  # makes its arrays
    for mine, weights in zip(model.coefs_, network.weights(), strict=True):
        mine[...] = weights
    for biases in model.intercepts_:
        biases[...] = 0
    for name in ("ms", "vs", "velocities"):
        for state in getattr(model._optimizer, name, ()):
            state[...] = 0
    if adam:
        model._optimizer.t = 0
    return model


def _parameters(model: Any) -> np.ndarray:
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    return np.concatenate([a.ravel() for pair in pairs for a in pair])
