"""Whole training steps: run directly, and recorded and replayed. Both must train a network in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.errors import NotReplayable
from nnx.backends.operation_table import OPERATIONS
from nnx.kernels.step_state import CURSOR, LEARNING_RATE
from nnx.testing.compare import compare
from nnx.testing.optimizers import OPTIMIZERS
from nnx.testing.reference.results import Wanted

Array = Any
ROWS, BATCH, INPUTS, HIDDEN, OUTPUTS = 23, 8, 4, 7, 3
PARAMETERS = {0: (INPUTS, HIDDEN), 64: (1, HIDDEN), 128: (HIDDEN, OUTPUTS), 192: (1, OUTPUTS)}  # places and shapes
SIZE = 256
CHUNKS = (1, 3, 5)  # the steps of each call of replay; after the second call the rate and the order of rows change


class Network:
    """A classifier or a regression, with the buffers that a model would have."""

    def __init__(self, backend: Backend, optimizer: str, dtype: str, classify: bool) -> None:
        self.backend, self.dtype, self.optimizer, self.classify = backend, dtype, optimizer, classify
        random = np.random.default_rng(3)
        labels = random.integers(0, OUTPUTS, ROWS)
        order = np.concatenate([random.permutation(ROWS) for _ in range(4)])
        self.start = np.zeros(4 * SIZE, dtype)
        for at, (n, m) in PARAMETERS.items():
            self.start[at : at + n * m] = random.normal(size=n * m) / 2

        asarray, zeros = backend.asarray, backend.zeros
        self.data, self.order = asarray(random.normal(size=(ROWS, INPUTS)), dtype), asarray(order, "int64")
        self.targets = asarray(labels, "int64") if classify else asarray(np.eye(OUTPUTS)[labels], dtype)
        self.weighted = optimizer in ("adagrad", "rmsprop")  # samples have weights, some of them 0
        self.weights, self.w = asarray(random.integers(0, 3, (ROWS, 1)), dtype), zeros((BATCH, 1), dtype)
        self.arena = asarray(self.start.copy(), dtype)
        self.p, self.m, self.v, self.g = (self.arena[SIZE * i : SIZE * (i + 1)] for i in range(4))
        self.more = asarray(self.beyond(), dtype)
        self.u, self.held, self.mean = (self.more[SIZE * i : SIZE * (i + 1)] for i in range(3))
        self.hyper = asarray(np.array(OPTIMIZERS[optimizer][1]), "float64")
        self.counters, self.stats, self.penalty = zeros(3, "int64"), zeros(3, "float64"), zeros(1, "float64")
        self.history = zeros((sum(CHUNKS), 3), "float64")
        self.x, self.losses = zeros((BATCH, INPUTS), dtype), zeros(BATCH, dtype)
        self.t = zeros(BATCH, "int64") if classify else zeros((BATCH, OUTPUTS), dtype)
        self.hidden = [zeros((BATCH, HIDDEN), dtype) for _ in range(6)]
        self.out, self.dout = zeros((BATCH, OUTPUTS), dtype), zeros((BATCH, OUTPUTS), dtype)

    def beyond(self) -> Array:
        """Return what the arrays outside the arena hold at first: largest v, another part's gradients, mean of p."""
        held = np.where(self.start[:SIZE] != 0, self.start[::-1][-SIZE:], 0)
        return np.concatenate([np.zeros(SIZE), held, self.start[:SIZE]]).astype(self.dtype)

    def views(self, part: Array) -> list[Array]:
        """Return the parameters, or their gradients, in one part of the arena."""
        return [self.backend.xp.reshape(part[at : at + n * m], (n, m)) for at, (n, m) in PARAMETERS.items()]

    def known(self) -> list[Array]:
        """Return the arrays whose contents are known before a step begins."""
        data = [self.data, self.targets, self.weights, self.order, self.hyper, self.counters, self.penalty]
        return [
            *data,
            self.p,
            self.m,
            self.v,
            self.g,
            self.u,
            self.held,
            self.mean,
            *self.views(self.p),
            *self.views(self.g),
        ]

    def step(self, on: Any) -> None:
        """Do one training step on a backend, or on the recorder of a backend."""
        (w1, b1, w2, b2), (dw1, db1, dw2, db2) = self.views(self.p), self.views(self.g)
        sums, active, kept, dsums, dactive, dkept = self.hidden
        activation, metric = ("relu", "categorical") if self.classify else ("tanh", "regression")
        on.gather_rows(self.data, self.order, self.counters, out=self.x)
        on.gather_rows(self.targets, self.order, self.counters, out=self.t)
        if self.weighted:
            on.gather_rows(self.weights, self.order, self.counters, out=self.w)
        on.dense(self.x, w1, b1, out=sums)
        getattr(on, activation)(sums, out=active)
        on.dropout(active, 0.25, 11, 2, self.counters, out=kept)
        on.dense(kept, w2, b2, out=self.out)
        if self.classify:
            on.softmax_cross_entropy(self.out, self.t, self.losses, None, 1e-7, out=self.dout)
        else:
            on.mean_squared_error(self.out, self.t, out=self.losses)
            on.mean_squared_error_backward(self.out, self.t, out=self.dout)
        if self.weighted:
            on.weigh(self.dout, self.w, out=self.dout)
        on.dense_backward(kept, w2, self.dout, dw2, db2, out=dkept)
        on.dropout(dkept, 0.25, 11, 2, self.counters, out=dactive)
        getattr(on, f"{activation}_backward")(active, dactive, out=dsums)
        on.dense_gradients(self.x, dsums, dw1, db1)
        on.regularize(w1, dw1, 1e-3, 1e-2, self.penalty)
        if self.weighted:
            on.weighted_tally(self.losses, self.out, self.t, self.w, metric, 0.1, self.stats)
        else:
            on.tally(self.losses, self.out, self.t, metric, 0.1, self.stats)
        moments = [getattr(self, name) for name in ("m", "v", "u") if name in OPERATIONS[self.optimizer].writes]
        if self.optimizer in ("lion", "amsgrad"):
            on.collect(self.g, self.held)
        if self.optimizer in ("nadam", "amsgrad"):
            on.clip(self.g, 0.5, 0.2)
        getattr(on, self.optimizer)(self.p, self.g, *moments, self.hyper, self.counters)
        if self.optimizer in ("lion", "nadam"):
            on.average(self.mean, self.p, self.counters, 0.9, 0)
        on.end_step(self.stats, self.penalty, self.history, self.counters, BATCH)

    def change(self) -> None:
        """Do what a fit does between two epochs: change the order of rows, and the learning rate."""
        order, counters, hyper = (np.array(self.read(name)) for name in ("order", "counters", "hyper"))
        counters[CURSOR], hyper[LEARNING_RATE] = 0, hyper[LEARNING_RATE] / 3
        self.order[...] = self.backend.asarray(order[::-1].copy(), "int64")
        self.counters[...] = self.backend.asarray(counters, "int64")
        self.hyper[...] = self.backend.asarray(hyper, "float64")

    def restart(self) -> None:
        """Go back to before the first step."""
        self.arena[...] = self.backend.asarray(self.start.copy(), self.dtype)
        self.more[...] = self.backend.asarray(self.beyond(), self.dtype)
        self.counters[...] = self.backend.zeros(3, "int64")

    def read(self, name: str) -> np.ndarray:
        """Return one of the arrays."""
        return self.backend.to_numpy(getattr(self, name))


def check_program(backend: Backend, optimizer: str, dtype: str) -> None:
    """Train a network directly, and by replaying its first step; raise AssertionError if the results differ."""
    classify = optimizer in ("adam", "adagrad")
    what = f"{backend.name}: program, {optimizer}, {'classification' if classify else 'regression'}, {dtype}"
    eager, replayed = (Network(backend, optimizer, dtype, classify) for _ in range(2))
    recorder = backend.record(replayed.known())
    replayed.step(recorder)
    replayed.restart()
    try:
        program = backend.compile(recorder)
    except NotReplayable as reason:
        raise AssertionError(f"{what}: the backend cannot replay a plain training step: {reason}") from reason
    for number, steps in enumerate(CHUNKS):
        if number == 2:
            eager.change()
            replayed.change()
        program.run(steps)
        for _ in range(steps):
            eager.step(backend)
    backend.synchronize()

    counted, expected = replayed.read("counters").tolist(), eager.read("counters").tolist()
    assert counted == expected, f"{what}: the counters are {counted} after the replay, expected {expected}"
    losses = eager.read("history").copy()
    compare(replayed.read("history"), Wanted(losses, 1 + np.abs(losses)), "program", dtype, f"{what}: history")
    # The error of parameters and moments is compared with how far the whole array moved: a number that hardly moved may
    # have an error larger than its own change.
    before, wanted, got = (
        np.concatenate([a[: 3 * SIZE], more]).astype(np.float64).reshape(6, SIZE)
        for a, more in (
            (eager.start, eager.beyond()),
            (eager.read("arena"), eager.read("more")),
            (replayed.read("arena"), replayed.read("more")),
        )
    )
    ways = np.linalg.norm(wanted - before, axis=1, keepdims=True)
    compare(got, Wanted(wanted, np.broadcast_to(ways, got.shape)), "program", dtype, f"{what}: parameters and moments")


def check_recorder(backend: Backend) -> None:
    """Check that a recording notices the use of numbers that no recorded operation computed."""
    known, strange = backend.zeros((2, 3)), backend.zeros((2, 3))
    recorder = backend.record([known])
    recorder.relu(recorder.relu(known))
    try:
        recorder.relu(strange)
    except NotReplayable:
        return
    raise AssertionError(f"{backend.name}: record() does not notice that an operation reads what none has written")
