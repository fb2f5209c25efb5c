"""Adapter of nnx itself, on one backend."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import nnx
from nnx.backends.operation_table import OPERATIONS as SPECIFIED
from nnx.benchmark.libraries import Ready, Refused, repeated, taking_turns
from nnx.benchmark.networks import CHECKED, EPSILON, MOMENTUM, RATE, Many, Network
from nnx.benchmark.operations import OPERATIONS, normal
from nnx.benchmark.workloads import EPOCHS, FROM_HOST, MANY
from nnx.kernels.step_state import CURSOR
from nnx.training.fit import Fit
from nnx.training.step import HISTORY
from nnx.training.streamed_batches import batches_for


def prepare(workload: Any, name: str, device: str) -> Ready:
    """Get a workload ready on a backend.

    Raises:
        Refused: the backend would run something else than its own.
    """
    backend: Any = nnx.get_backend(name)
    if backend.name != name.partition(":")[0]:
        raise Refused(f"{name} was asked for, and {backend.name} came")
    if workload.kind == "step":
        ready = _step(workload.what, backend)
    elif workload.kind in EPOCHS:
        return _epochs(workload.what, backend, workload.kind == EPOCHS[1])
    elif workload.kind == MANY:
        return many(workload.what, backend)
    elif workload.kind == "predict":
        ready = _predict(workload.what, backend)
    elif workload.kind == "evaluate":
        ready = _evaluate(workload.what, backend)
    elif workload.kind in ("to device", "to host"):
        ready = _transfer(workload.kind, workload.what, backend)
    elif workload.kind == "jacobian_product":
        ready = _jacobian_product(workload.what, backend)
    else:
        ready = _operation(workload.kind, workload.what, backend)
    if device == "cuda" and workload.kind not in FROM_HOST:
        ready.timed = partial(_by_events, backend, ready.run)
    return ready


def held() -> int | None:
    """Return how many bytes CuPy has taken."""
    return nnx.memory("cupy").held


def _by_events(backend: Any, run: Callable[[int], Any], times: int) -> float:
    with backend.timer() as timer:
        run(times)
    return float(timer.seconds)


# ---- operations ------------------------------------------------------------------------------------------------------


def _operation(kind: str, shape: tuple[int, ...], backend: Any) -> Ready:
    how = own(backend, kind)
    written = OPERATIONS[kind].written(*shape)
    arrays = {name: _there(backend, value) for name, value in OPERATIONS[kind].operands(*shape).items()}
    arrays |= {name: backend.empty(size, "float32") for name, size in written.items()}
    needed = {
        name: arrays.get(name) for name, p in SPECIFIED[kind].signature.parameters.items() if p.default is p.empty
    }
    needed.pop("self", None)
    call = partial(getattr(backend, kind), **needed | ({"out": arrays["out"]} if "out" in arrays else {}))
    call()
    changed = {name: backend.to_numpy(arrays[name]).copy() for name in SPECIFIED[kind].writes if name in arrays}

    def run(times: int) -> None:
        for _ in range(times):
            call()
        backend.synchronize()

    return Ready(run, changed, how)


def own(backend: Any, kind: str) -> str:
    """Return which implementation of an operation runs.

    Raises:
        Refused: it is not the backend's own.
    """
    how: str = backend.info().ops[kind]
    owner = how.partition(":")[0]
    if owner != backend.name and not (owner == "xp" and (backend.name == "numpy" or backend.xp is not np)):
        raise Refused(f"{backend.name} has no {kind} of its own: {how} would run")
    return how


def _there(backend: Any, value: Any) -> Any:
    return backend.asarray(value.copy(), value.dtype.name) if isinstance(value, np.ndarray) else value


def _jacobian_product(shape: tuple[int, ...], backend: Any) -> Ready:
    """Get the book's way ready: the Jacobian of every row, then its product with what comes back."""
    how, xp = own(backend, "softmax_jacobian"), backend.xp
    y, dy = (_there(backend, a) for a in OPERATIONS["jacobian_product"].operands(*shape).values())
    jacobians, column = backend.empty((*shape, shape[1]), "float32"), dy.reshape(*shape, 1)

    def call() -> Any:
        return xp.matmul(backend.softmax_jacobian(y, jacobians), column)

    def run(times: int) -> None:
        for _ in range(times):
            call()
        backend.synchronize()

    return Ready(run, {"out": backend.to_numpy(call()).reshape(shape)}, how)


def _transfer(kind: str, shape: tuple[int, ...], backend: Any) -> Ready:
    here = normal(*shape)
    there = backend.asarray(here)
    if kind == "to host":
        return Ready(repeated(lambda: np.array(backend.to_numpy(there))), {"out": backend.to_numpy(there)})
    out = backend.empty(shape, "float32")

    def upload() -> None:
        out[...] = backend.asarray(here)

    def run(times: int) -> None:
        for _ in range(times):
            upload()
        backend.synchronize()

    run(1)
    return Ready(run, {"out": backend.to_numpy(out)})


# ---- networks --------------------------------------------------------------------------------------------------------


def build(network: Network, backend: Any) -> nnx.Sequential:
    """Return a network with the benchmark's own weights."""
    layers: list[nnx.Layer] = []
    for a, b in pairwise(network.widths):
        layers += [nnx.Dense(a, b), nnx.ReLU()]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend)
    for number, weights in enumerate(network.weights()):
        model.layers[2 * number].weights = weights  # type: ignore[attr-defined]
    adam = network.optimizer == "adam"
    model.compile(
        nnx.CategoricalCrossEntropy(), nnx.Adam(RATE, epsilon=EPSILON) if adam else nnx.SGD(RATE, momentum=MOMENTUM)
    )
    return model


def stepping(network: Network, backend: Any) -> tuple[nnx.Sequential, Any, Callable[[int], np.ndarray]]:
    """Get a fit ready, without its bookkeeping between epochs: what is measured is the step.

    Returns:
        The model, what runs its steps, and a function that runs so many and returns the losses of the last ones.

    Raises:
        Refused: the step is not replayed.
    """
    model = build(network, backend)
    x, y = network.batches()
    trainer = model._trainer
    assert trainer is not None
    batches = batches_for(trainer, x, model._host_targets(y, x, "bench"), network.rows, False, False)
    job = Fit(model, trainer, batches, network.rows)
    job.record()
    if model.eager_reason is not None:
        raise Refused(f"the step is not replayed on {backend.name}: {model.eager_reason}")
    chunk = min(job.batches.epochs, HISTORY // network.turns) * network.turns
    job.batches.begin(0, job.batches.epochs)
    (runner,) = job.runners.values()

    def run(steps: int) -> np.ndarray:
        losses = np.zeros(0)
        for first in range(0, steps, chunk):
            job.trainer.counters[CURSOR] = 0  # the job keeps its model, to which a trainer refers weakly
            losses = job.trainer.run(runner, min(steps - first, chunk))[:, 0]
        return losses

    return model, runner, run


def _step(network: Network, backend: Any) -> Ready:
    model, runner, run = stepping(network, backend)
    losses = run(CHECKED)
    if runner.reason is not None:
        raise Refused(f"the step is not replayed whole on {backend.name}: {runner.reason}")
    parameters = [backend.to_numpy(value).ravel() for value in model.parameters().values()]
    how = runner.description.partition(",")[0]
    return Ready(run, {"losses": losses, "parameters": np.concatenate(parameters)}, how, network.turns)


def _epochs(network: Network, backend: Any, from_disk: bool) -> Ready:
    """Get whole epochs ready, by `fit`: of arrays, or of files of which a quarter may be in memory."""
    model, (x, y), few = build(network, backend), network.batches(), CHECKED * network.rows
    data: tuple[Any, Any] = x, y
    folder = tempfile.TemporaryDirectory()  # which goes when the function below does
    if from_disk:
        files = [os.path.join(folder.name, name) for name in ("x.npy", "y.npy")]
        for file, array in zip(files, (x, y), strict=True):
            np.save(file, array)
        data = nnx.data.shards([tuple(files)], window=len(x) // 4), None
    first = (data[0].part(0, few), None) if from_disk else (x[:few], y[:few])
    model.fit(first[0], first[1], batch_size=network.rows, shuffle=False, verbose=0)
    trainer = model._trainer
    assert trainer is not None
    parameters = [backend.to_numpy(value).ravel() for value in model.parameters().values()]
    results = {"losses": trainer.rows(CHECKED)[:, 0], "parameters": np.concatenate(parameters)}

    def run(times: int, files: Any = folder) -> None:
        model.fit(data[0], data[1], epochs=times, batch_size=network.rows, verbose=0)

    return Ready(run, results, "fit")


def many(many: Many, backend: Any, loop: bool = False) -> Ready:
    """Get whole trainings of many networks ready, by `fit_many`, or by `fit` of one after the other."""
    models = [build(network, backend) for network in many.networks()]
    x, y = many.network.batches()

    def train(epochs: int) -> list[nnx.History]:
        if loop:
            return [model.fit(x, y, epochs=epochs, verbose=0) for model in models]
        return nnx.fit_many(models, x, y, epochs=epochs, verbose=0)

    losses = np.concatenate([history["loss"] for history in train(CHECKED)])
    if models[0].eager_reason is not None:
        raise Refused(f"the step is not replayed on {backend.name}: {models[0].eager_reason}")
    parameters = [backend.to_numpy(value).ravel() for model in models for value in model.parameters().values()]
    results = {"losses": losses, "parameters": np.concatenate(parameters)}
    steps = many.steps if backend.name == "numba" else many.steps // 10  # what is slower needs fewer to be timed
    return Ready(train, results, "fit, one by one" if loop else "fit_many", steps)


def _predict(network: Network, backend: Any) -> Ready:
    """Get `model.predict` ready: a NumPy array in and a new one out, all checks included."""
    model = build(network, backend)
    x, _ = network.batches()
    inputs = np.split(x, network.turns)
    outputs = np.concatenate([model.predict(each) for each in inputs])
    run, turns = taking_turns(model.predict, [(each,) for each in inputs])
    return Ready(run, {"out": outputs}, "predict", turns)


def _evaluate(network: Network, backend: Any) -> Ready:
    """Get `model.evaluate` ready: NumPy arrays in and Python's numbers out, all checks included."""
    model = build(network, backend)
    x, y = (np.split(a, network.turns) for a in network.batches())
    batches = [(a.copy(), labels.copy()) for a, labels in zip(x, y, strict=True)]
    scores = [[each["loss"], each["accuracy"]] for each in (model.evaluate(*batch) for batch in batches)]
    run, turns = taking_turns(model.evaluate, batches)
    return Ready(run, {"scores": np.array(scores)}, "evaluate", turns)
