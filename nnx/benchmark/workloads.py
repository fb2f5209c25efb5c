"""Workloads: everything that `nnx bench`, the suite in bench/ and `make gpu` measure.

A workload has a name, a task, and the least arithmetic and memory traffic that the task needs, which tell how near a
time is to what the machine could do. Its data is made from its name alone, and so is the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nnx.benchmark.networks import DEEP, DIGITS, FLOAT, IMAGES, SPIRAL, WIDE, Many, Network
from nnx.benchmark.operations import OPERATIONS

SUITES = {
    "ops": "operations",
    "softmax": "the gradient of softmax",
    "steps": "training steps",
    "inference": "prediction and evaluation",
    "batch": "by batch size",
    "data": "epochs from memory and from disk",
    "many": "many networks at once",
    "transfers": "arrays in and out",
    "start": "time to the first step",
}
EPOCHS = ("epoch from memory", "epoch from disk")
FROM_HOST = ("predict", "evaluate")  # these begin and end on the host, also with a GPU
MANY = "step of many"
TRAINING = ("step", *EPOCHS, MANY)  # kinds whose losses and parameters can be checked


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Attributes:
        suite: one of SUITES. size: "S", "M" or "L". title: shown to people; everything else uses `name`.
        kind: one of TRAINING or FROM_HOST, "to device", "to host", "start", or the name of an operation.
        what: the network, the networks, or the operation's shape.
        rows: samples in one call, for the throughput.
        flops, bytes: what one call must at least compute, and move between memory and the processor.
        resident: how many bytes it touches, each counted once: data that fits in a cache moves faster.
        quick: whether it is part of the quick run.
    """

    suite: str
    size: str
    title: str
    kind: str
    what: Any
    rows: int
    flops: float
    bytes: float
    resident: float
    quick: bool = False

    @property
    def name(self) -> str:
        """The unique name: suite and title."""
        return f"{self.suite}: {self.title}"


def every() -> list[Workload]:
    """Return all workloads, suite by suite."""
    return [*_ops(), *_softmax(), *_steps(), *_inference(), *_batch(), *_data(), *_many(), *_transfers(), *_start()]


def chosen(suites: list[str], quick: bool) -> list[Workload]:
    """Return the workloads of some suites, in their order; with `quick`, only those of a short run."""
    some = [workload for workload in every() if workload.suite in suites and (workload.quick or not quick)]
    return sorted(some, key=lambda workload: suites.index(workload.suite))


def _operation(suite: str, size: str, kind: str, shape: tuple[int, ...], quick: bool, title: str = "") -> Workload:
    operation = OPERATIONS[kind]
    flops, moved = operation.flops(*shape), FLOAT * operation.numbers(*shape)
    resident = FLOAT * operation.resident(*shape)
    shown = f"{title or kind.replace('_', ' ')}, {' x '.join(map(str, shape))}"
    return Workload(suite, size, shown, kind, shape, shape[0], flops, moved, resident, quick)


def _ops() -> Iterator[Workload]:
    for kind, operation in OPERATIONS.items():
        if operation.suite == "ops":
            for size, shape in zip("SML", operation.shapes, strict=False):
                yield _operation("ops", size, kind, shape, size in operation.quick)


def _softmax() -> Iterator[Workload]:
    for size, shape in zip("SMLL", OPERATIONS["softmax_backward"].shapes, strict=True):
        yield _operation("softmax", size, "softmax_backward", shape, size in "SM", "softmax backward")
    for size, shape in zip("SML", OPERATIONS["jacobian_product"].shapes, strict=True):
        yield _operation("softmax", size, "jacobian_product", shape, size in "S", "softmax backward by Jacobians")


def _steps() -> Iterator[Workload]:
    for size, network, quick in (
        ("S", Network(300, SPIRAL), True),
        ("S", Network(128, DIGITS, turns=8), True),
        ("M", Network(128, IMAGES, turns=8), True),
        ("M", Network(1024, IMAGES, turns=4), False),
        ("L", Network(8192, IMAGES, turns=2), False),
        ("L", Network(512, WIDE, "momentum", turns=4), False),
    ):
        yield _step("steps", size, network, quick)


def _step(suite: str, size: str, network: Network, quick: bool) -> Workload:
    title = f"step, {network.rows} x {network.layers}, {network.optimizer}"
    flops, moved, resident = network.step_flops(), network.step_bytes(), network.step_resident()
    return Workload(suite, size, title, "step", network, network.rows, flops, moved, resident, quick)


def _inference() -> Iterator[Workload]:
    for rows in (1, 64, 1024, 8192):
        for size, widths in (("S", SPIRAL), ("S", DIGITS), ("M", IMAGES)):
            yield _predict("inference", size, Network(rows, widths, turns=8 if rows == 1 else 2), rows == 1)
    for rows in (64, 1024, 8192):
        for size, widths in (("S", SPIRAL), ("S", DIGITS), ("M", IMAGES)):
            yield _evaluate("inference", size, Network(rows, widths, turns=2))


def _predict(suite: str, size: str, network: Network, quick: bool) -> Workload:
    title = f"predict, {network.rows} x {network.layers}"
    flops, moved = network.predict_flops(), network.predict_bytes()
    return Workload(suite, size, title, "predict", network, network.rows, flops, moved, moved, quick)


def _evaluate(suite: str, size: str, network: Network) -> Workload:
    title = f"evaluate, {network.rows} x {network.layers}"
    flops, moved = network.predict_flops(), network.evaluate_bytes()
    return Workload(suite, size, title, "evaluate", network, network.rows, flops, moved, moved)


def _batch() -> Iterator[Workload]:
    for widths in (SPIRAL, IMAGES):
        for rows in (1, 4, 16, 64, 256, 1024, 4096):
            turns = max(1, min(8, 4096 // rows))
            yield _step("batch", "M", Network(rows, widths, turns=turns), quick=False)


def _data() -> Iterator[Workload]:
    """Epochs whose steps take longer than reading their rows: from disk they should take as long as from memory."""
    network = Network(128, DEEP, turns=160)
    rows, steps = network.turns * network.rows, network.turns
    flops, moved = steps * network.step_flops(), steps * network.step_bytes()
    for kind in EPOCHS:
        title = f"{kind}, {rows} rows x {network.layers}, batches of {network.rows}"
        yield Workload("data", "M", title, kind, network, rows, flops, moved, network.step_resident())


def _many() -> Iterator[Workload]:
    for count in (8, 64):
        for one, steps in ((Network(300, SPIRAL), 1000), (Network(128, DIGITS), 200)):
            title = f"step of {count} networks, {one.rows} x {one.layers}, {one.optimizer}"
            flops, moved, resident = count * one.step_flops(), count * one.step_bytes(), count * one.step_resident()
            many = Many(one, count, steps)
            yield Workload("many", "S", title, MANY, many, count * one.rows, flops, moved, resident, quick=count == 8)


def _transfers() -> Iterator[Workload]:
    for kind in ("to device", "to host"):
        for size, rows in (("S", 1), ("M", 128), ("L", 8192)):
            shape, moved = (rows, 784), 2 * FLOAT * rows * 784
            title = f"{rows} x 784 {kind}"
            yield Workload("transfers", size, title, kind, shape, rows, 0, moved, moved)


def _start() -> Iterator[Workload]:
    network = Network(300, SPIRAL)
    for kind, title in (
        ("import", "import"),
        ("first step", "import and first step"),
        ("cold first step", "import and first step, nothing compiled before"),
        ("next step", "another network and its first step"),
    ):
        yield Workload("start", "S", title, f"start {kind}", network, 1, 0, 0, 0)
