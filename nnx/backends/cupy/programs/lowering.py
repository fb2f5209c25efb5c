"""Lowering for the GPU: from a step's data flow to the persistent kernel's table (program_table.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.backends.addresses import address
from nnx.backends.cupy.programs.barriers import Operation, with_barriers
from nnx.backends.cupy.programs.shared_memory import ALWAYS, Buffer, Operand, place_buffers, round_up
from nnx.backends.dataflow import Gradient, Node, Scatter, Step, Sum, Value
from nnx.backends.errors import NotReplayable
from nnx.backends.recorder import Call
from nnx.kernels.cuda import program_table as t
from nnx.kernels.elementwise import number_of

Array = Any
WORD = 4  # bytes of what `copy` counts
MOST_NUMBERS = 1 << 31  # of a value: what the kernel's indices reach
# What a node is in the table where it is not called the same.
NAMES = {"gather": "load", "dense_dx": "dense_backward"}


class TooLarge(NotReplayable):
    """One multiprocessor is not enough, or is not thought to be."""


class LoweredStep:
    """One step as the persistent kernel takes it: its operations, and where their operands lie.

    Args:
        capacity: bytes of shared memory. threads: of the block. allocate: gives so many bytes elsewhere; their address.

    Attributes:
        table: int64 [rows, 16]; its first `before` rows are for a launch's beginning, its last `after` for its end.
        shared: bytes of shared memory that are used.

    Raises:
        TooLarge: what the step keeps does not fit. NotReplayable: it does something that the kernel cannot do.
    """

    def __init__(self, step: Step, capacity: int, threads: int, allocate: Callable[[int], int]) -> None:
        assert step.optimizer is not None
        assert step.end is not None
        self.step, self.threads = step, threads
        self.itemsize = step.optimizer.operands["p"].dtype.itemsize
        self.kept: list[Buffer] = []  # for as long as a launch
        self.temporaries: list[Buffer] = []  # for some of a step's operations
        self.buffers: dict[int, Buffer] = {}  # of values, by their home
        self.residents: list[tuple[Array, Buffer]] = []
        self.start: list[Operation] = []
        self.each: list[Operation] = []
        self.finish: list[Operation] = []
        self._states()
        self._rates()
        self.written: set[Operand] = set()  # gradients
        for node in step.nodes:
            self._node(node)
        self._gradients()
        self._regularization()
        self._end()
        self._place_buffers(capacity, allocate)
        rows = [*with_barriers(self.start), *with_barriers(self.each), *with_barriers(self.finish)]
        self.table = np.array(rows)
        self.before, self.after = len(self.start), len(self.finish)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _resident(self, array: Array, changes: bool) -> Operand:
        """Keep an array in shared memory: it is copied there at the beginning, and back at the end if it changes."""
        if not array.flags.c_contiguous:
            raise NotReplayable(f"parameters, or what counts steps, {array.shape} are not contiguous")
        buffer, there = self._keep(array.nbytes), in_global_memory(array)
        inside, words = Operand(buffer, 0, array.nbytes), {"inputs": array.nbytes // WORD}
        self.residents.append((array, buffer))
        self.start.append(Operation("copy", {"x": there}, {"out": inside}, words))
        if changes:
            self.finish.append(Operation("copy", {"x": inside}, {"out": there}, words))
        return inside

    def _keep(self, size: int) -> Buffer:
        self.kept.append(Buffer(size, first=-1, last=ALWAYS))
        return self.kept[-1]

    def _part(self, array: Array) -> Operand:
        """Return an array that lies in a resident one."""
        for whole, buffer in self.residents:
            offset = address(array) - address(whole)
            if offset >= 0 and offset + array.nbytes <= whole.nbytes:
                return Operand(buffer, offset, array.nbytes)
        raise NotReplayable(f"parameters or gradients {array.shape} lie outside the model's flat buffer")

    def _value(self, value: Value) -> Operand:
        """Return a value's buffer; an array from outside is loaded into one when a launch begins."""
        home = value.home
        if home.width * self.step.rows >= MOST_NUMBERS:
            raise TooLarge(f"{self.step.rows:,} samples of {home.width:,} numbers are more than its indices reach")
        size = home.width * self.step.rows * self.itemsize
        if id(home) not in self.buffers:
            if home.array is None:
                self.buffers[id(home)] = buffer = Buffer(size)
                self.temporaries.append(buffer)
            else:
                self.buffers[id(home)] = buffer = self._keep(size)
                reads, writes = {"x": in_global_memory(home.array)}, {"out": Operand(buffer, 0, size)}
                self.start.append(Operation("load", reads, writes, {"inputs": home.width}))
        return Operand(self.buffers[id(home)], 0, size)

    def _moments(self, node: Node) -> Operand:
        """Return where the moments of each feature are, two doubles and a number each."""
        assert node.moments is not None
        size = 24 * node.moments.width
        if id(node.moments) not in self.buffers:
            self.buffers[id(node.moments)] = buffer = Buffer(size)
            self.temporaries.append(buffer)
        return Operand(self.buffers[id(node.moments)], 0, size)

    def _place_buffers(self, capacity: int, allocate: Callable[[int], int]) -> None:
        rows = len(self.start) + len(self.each) + len(self.finish)
        begin = round_up(rows * t.ROW_BYTES)
        needed = begin + sum(round_up(buffer.size) for _, buffer in self.residents)
        if needed > capacity:
            raise TooLarge(
                f"its parameters, gradients and moments take {needed:,} bytes, and a block's shared memory is "
                f"{capacity:,}"
            )
        for number, operation in enumerate(self.each):
            for operand in operation.operands:
                operand.buffer.used(number)
        for operation in self.start:  # what it writes, every step of the launch reads
            for operand in operation.writes.values():
                operand.buffer.used(-1)
                operand.buffer.used(ALWAYS)
        place_buffers([*self.kept, *self.temporaries], begin, capacity, allocate)
        inside = [buffer for buffer in (*self.kept, *self.temporaries) if buffer.begin < t.SHARED_PLACES]
        self.shared = max(buffer.begin + round_up(buffer.size) for buffer in inside)

    # ---- operations --------------------------------------------------------------------------------------------------

    def _states(self) -> None:
        """Keep what steps change for one another, and what they are told."""
        for node in self.step.nodes:
            if node.op == "moments":
                for array in (node.weights, node.biases):
                    assert array is not None
                    self._resident(array, True)
        assert self.step.optimizer is not None
        assert self.step.end is not None
        optimizer, end = self.step.optimizer.operands, self.step.end.operands  # of the numbers that all updates share
        self.parameters = [
            {name: self._resident(call.operands[name], True) for name in "pgmvu" if name in call.operands}
            for call in self.step.updates
        ]
        self.hyper = self._resident(optimizer["hyper"], False)
        self.counters, self.stats, self.penalties = (
            self._resident(end[name], True) for name in ("counters", "stats", "penalties")
        )

    def _rates(self) -> None:
        size = t.AHEAD * t.RATES * self.itemsize
        self.rates = Operand(self._keep(size), 0, size)
        reads = {"x": self.hyper, "y": self.counters}
        self.each.append(Operation("rates", reads, {"also": self.rates}, {"kind": self._optimizer}))

    @property
    def _optimizer(self) -> int:
        assert self.step.optimizer is not None
        return t.OPTIMIZERS.index(self.step.optimizer.name)

    def _node(self, node: Node) -> None:
        """Add a node's operation."""
        if node.formula is not None:
            raise NotReplayable(f"{node.kind} is a formula of your own, which it was not compiled with")
        numbers: dict[str, Any] = {"inputs": node.x.width}
        reads, writes = self._reads(node), {}
        if node.out is not None:
            writes["out"] = self._value(node.out)
            numbers["outputs"] = node.out.width
        if node.also is not None:
            writes["also"] = self._value(node.also)
        if node.hits is not None:
            writes["hits"] = self._value(node.hits)
        match node.op:
            case "dense":
                numbers["kind"] = int(node.relu)
            case "dense_dx":
                numbers |= {"kind": int(node.relu), "inputs": numbers["outputs"], "outputs": node.x.width}
            case "elementwise":
                numbers |= {"kind": number_of(node.kind), "a": node.constants[0], "b": node.constants[1]}
            case "columns":
                first, to, count = node.details
                numbers |= {"kind": count, "word": first, "a": to}
            case "embed":
                column, first = node.details
                assert node.table is not None
                codes, width = node.table.shape
                numbers |= {"kind": width, "word": column, "a": first, "outputs": codes}
            case "dropout":
                layer, seed, threshold = node.details
                numbers |= {"kind": layer, "word": seed, "outputs": threshold, "a": node.constants[0]}
            case "gaussian_noise":
                layer, seed = node.details
                numbers |= {"kind": layer, "word": seed, "a": node.constants[0]}
            case "gather" | "labels" if node.ordered:
                assert self.step.order is not None
                source = node.x.array if node.op == "gather" else self.step.labels
                assert source is not None
                numbers |= {"word": len(source), "outputs": len(self.step.order)}
            case "cross_entropy" | "cross_entropy_soft" | "mean" | "layer_norm" | "moments":
                numbers |= dict(zip("abc", node.constants, strict=False))
        if node.moments is not None:
            numbers["kind"] = sum(node.details)
        if node.op == "moments":
            changed = self._part(node.weights), self._part(node.biases)
            writes |= {"also": self._moments(node), "weights": changed[0], "biases": changed[1]}
        if node.op == "sum":
            writes["out"] = self._part(node.arrays[0])
            self.written.add(writes["out"])
        op = NAMES.get(node.op, node.op)
        (self.start if node.once else self.each).append(Operation(op, reads, writes, numbers))

    def _reads(self, node: Node) -> dict[str, Operand]:
        if node.op in ("gather", "labels"):
            source = node.x.array if node.op == "gather" else self.step.labels
            reads = {"x": in_global_memory(source)}
            return reads | ({"y": in_global_memory(self.step.order), "also": self.counters} if node.ordered else {})
        reads = {"x": self._value(node.x)}
        if node.y is not None or node.op == "elementwise":  # which always takes two
            reads["y"] = self._value(node.y or node.x)
        if node.op in ("dropout", "gaussian_noise"):
            reads["y"] = self.counters
        if node.z is not None:
            reads["hits"] = self._value(node.z)
        if node.op == "batch_norm":
            reads["y"] = self._moments(node)
        if node.op == "batch_norm_backward":
            reads |= {"hits": self._moments(node), "also": self._part(node.arrays[0])}
            reads["biases"] = self._part(node.arrays[1])
        for name, array in (("weights", node.weights), ("weights", node.table), ("biases", node.biases)):
            if array is not None:
                reads[name] = self._weights(array)
        return reads

    def _weights(self, array: Array) -> Operand:
        """Return parameters, those that nothing changes included."""
        try:
            return self._part(array)
        except NotReplayable:
            return self._resident(array, False)

    def _gradients(self) -> None:
        """Put each layer's gradients right behind what makes their operands, so that buffers are free soon."""
        step = self.step
        sums = [*map(self._gradient, step.gradients), *map(self._scatter, step.scatters), *map(self._sum, step.sums)]
        for operation in sums:
            if operation.writes["out"] in self.written:
                raise NotReplayable("a gradient is written twice in one step: two layers share their parameters")
            self.written |= set(operation.writes.values())
            buffers = [operand.buffer for operand in operation.reads.values()]
            makers = [
                number
                for number, other in enumerate(self.each)
                if any(operand.buffer in buffers for operand in other.writes.values())
            ]
            self.each.insert(max(makers, default=0) + 1, operation)

    def _gradient(self, gradient: Gradient) -> Operation:
        inputs, outputs = gradient.dw.shape
        reads = {"x": self._value(gradient.x), "y": self._value(gradient.d)}
        writes = {"out": self._part(gradient.dw), "also": self._part(gradient.db)}
        return Operation("gradient", reads, writes, {"inputs": inputs, "outputs": outputs})

    def _scatter(self, scatter: Scatter) -> Operation:
        codes, width = scatter.dw.shape
        reads, writes = {"x": self._value(scatter.x), "y": self._value(scatter.d)}, {"out": self._part(scatter.dw)}
        numbers = {"kind": width, "word": scatter.column, "a": scatter.first, "outputs": codes}
        return Operation("scatter", reads, writes, numbers)

    def _sum(self, one: Sum) -> Operation:
        reads, writes = {"x": self._value(one.d)}, {"out": self._part(one.out)}
        return Operation("sum", reads, writes, {"inputs": one.d.width})

    def _regularization(self) -> None:
        """Add what each regularized parameter takes: once for all threads, and once more to add up their parts."""
        for o in self.step.penalties:
            weights, gradient = self._part(o["w"]), self._part(o["dw"])
            if gradient not in self.written:
                raise NotReplayable("regularize: a parameter that no dense layer's gradient was written for")
            size = self.threads // 32 * 8
            self.temporaries.append(Buffer(size))
            parts = Operand(self.temporaries[-1], 0, size)
            reads, writes = {"x": gradient, "weights": weights}, {"out": gradient, "also": parts}
            numbers = {"inputs": o["w"].size, "a": o["l1"], "b": o["l2"]}
            self.each.append(Operation("regularize", reads, writes, numbers))
            self.each.append(Operation("penalty", {"x": parts}, {"out": self._part(o["penalty"])}))

    def _end(self) -> None:
        """Update the parameters; log the step, and count it."""
        assert self.step.end is not None
        assert self.step.losses is not None
        if (self.step.before or self.step.after) and not self.step.all_trained:
            raise NotReplayable("what is done to all parameters stops at those that are not trained")
        for call in self.step.before:
            self._before(call)
        places = {"g": "x", "p": "weights", "m": "y", "v": "biases", "u": "out"}
        for run in self.parameters:
            parameters = {places[name]: operand for name, operand in run.items()}
            changed = {name: operand for name, operand in parameters.items() if name != "x"}
            numbers = {"kind": self._optimizer, "inputs": run["p"].size // self.itemsize}
            self.each.append(Operation("update", parameters | {"also": self.rates}, changed, numbers))
        whole = self.parameters[0]["p"]
        for call in self.step.after:
            reads = {"x": whole, "y": self.counters}
            numbers = {
                "inputs": whole.size // self.itemsize,
                "a": call.operands["decay"],
                "word": call.operands["since"],
            }
            self.each.append(Operation("average", reads, {"out": self._held(call.operands["a"])}, numbers))
        history, penalties = self.step.end.operands["history"], self.step.end.operands["penalties"]
        reads = {"x": self._value(self.step.losses), "weights": self.penalties}
        if self.step.hits is not None:
            reads["hits"] = self._value(self.step.hits)
        writes = {"y": self.stats, "out": in_global_memory(history), "also": self.counters}
        numbers = {"inputs": penalties.size, "outputs": history.shape[0]}
        self.each.append(Operation("end_step", reads, writes, numbers))

    def _before(self, call: Call) -> None:
        """Add what is done to all gradients before the optimizer takes them."""
        gradients, size = {"out": self.parameters[0]["g"]}, self.parameters[0]["g"].size // self.itemsize
        if call.name == "collect":
            self.each.append(
                Operation("collect", {}, gradients | {"also": self._held(call.operands["m"])}, {"inputs": size})
            )
            return
        self.temporaries.append(Buffer(self.threads // 32 * 8))
        parts = Operand(self.temporaries[-1], 0, self.threads // 32 * 8)
        numbers = {"inputs": size, "a": call.operands["norm"], "b": call.operands["value"]}
        self.each.append(Operation("squares", {}, gradients | {"also": parts}, numbers))
        self.each.append(Operation("clip", {"x": parts}, gradients, numbers))

    def _held(self, array: Array) -> Operand:
        """Return an array of the flat buffer's size that is kept beside it."""
        for whole, buffer in self.residents:
            if address(whole) == address(array) and whole.nbytes == array.nbytes:
                return Operand(buffer, 0, array.nbytes)
        return self._resident(array, True)


def in_global_memory(array: Array) -> Operand:
    """Return an array as it lies in global memory."""
    return Operand(Buffer(array.nbytes, address(array)), 0, array.nbytes)
