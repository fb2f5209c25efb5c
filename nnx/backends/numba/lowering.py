"""Lowering for the CPU: from a step's data flow to the int64 table that nnx/kernels/cpu/program/compiled.py interprets.

`Layout` hands out memory and columns; `Rows` and `Lanes` say how samples lie: row by row, for matrix products by
gemm.py, or feature by feature with samples in the vector lanes, for narrow networks.
"""

# ruff: noqa: D102 - what an operation or a layout does is described once, where it is declared

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from nnx.backends.dataflow import Array, Gradient, Node, Step, Value, address, same
from nnx.backends.errors import NotReplayable
from nnx.kernels.cpu.matmul import register_tile
from nnx.kernels.cpu.matmul.gemm import STRIPS
from nnx.kernels.cpu.ops import optimizers
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.lanes_matmul import SAMPLES
from nnx.kernels.elementwise import number_of
from nnx.kernels.losses import LOSSES
from nnx.kernels.rounding import RUN

PADDING = 64  # numbers that a buffer of the step's own is a multiple of
PIECE = 1 << 16  # numbers in a piece of a weight gradient: it stays in the second-level cache until it is used
WHOLE = 1 << 14  # parameters that are updated in one go, after all gradients, rather than tile by tile
THREADED = 1e6  # multiply-adds in a step below which one thread is faster
BLOCK_ROWS = 256  # samples that go through the network together


def round_up(n: int, multiple: int) -> int:
    """The next multiple from n on."""
    return -(-n // multiple) * multiple


class Layout:
    """Memory and table of one step.

    Attributes:
        table: int64 [rows, COLUMNS]. numbers: the constants, float64. work: how many numbers the step's buffers take.
        inputs: at most two arrays given from outside, such as the data and the targets.
    """

    strips = 0  # numbers that each thread needs for packing
    grain = register_tile.ROWS  # blocks are a multiple of this many samples

    def __init__(self, step: Step, arena: Array, threads: int) -> None:
        assert step.optimizer is not None
        assert step.losses is not None
        self.step, self.arena, self.threads = step, arena, threads
        self.work, self.places, self.inputs = 0, dict[int, int](), list[Array]()
        self.numbers: list[float] = [0.0] * t.CONSTANTS
        self.known: dict[tuple[float, ...], int] = {}
        self.panels: dict[tuple[int, bool], int] = {}
        self.before: dict[tuple[int, bool], list[list[int]]] = {}
        self.once: list[list[int]] = []
        self.first: list[list[int]] = []
        self.local: list[list[int]] = []
        self.tasks: list[tuple[int, list[int]]] = []
        self.last: list[list[int]] = []
        operands = step.optimizer.operands
        self.p, self.g, size = self.parameter(operands["p"]), self.parameter(operands["g"]), operands["p"].size
        # How the work is divided must not depend on the threads there are, or one and two would round differently.
        self.parts_wanted = 2 * max(threads, 2) if step.work > THREADED else 1
        self.whole = size <= WHOLE
        self.parts: dict[int, list[int]] = {}  # where in `numbers` each penalty's parts are
        self.regularized: set[int] = set()
        self.covered: list[tuple[int, int]] = []
        self.scratch = 0
        self.block = self.block_rows()
        for node in step.nodes:
            (self.once if node.once else self.local).extend(self.rows_of(node))
        for gradient in step.gradients:
            self.gradient(gradient)
        if len({start for start, _ in self.covered}) < len(self.covered):
            raise NotReplayable("a gradient is written twice in one step: two layers share their parameters")
        if len(self.regularized) < len(step.penalties):
            raise NotReplayable("regularize: a parameter that no dense layer's gradient was written for")
        if self.whole:
            self.last.append(self.row(t.PARAMETERS, N=size, W=self.p, G=self.g, UPDATE=1))
        else:
            self.gaps(size)
        self.finish()

    # ---- memory ------------------------------------------------------------------------------------------------------

    def parameter(self, a: Array) -> int:
        """The place of parameters, gradients or moments."""
        first = (address(a) - address(self.arena)) // int(self.arena.itemsize)
        if first < 0 or first + a.size > self.arena.size or not a.flags.c_contiguous:
            raise NotReplayable(f"parameters or gradients {a.shape} lie outside the model's flat buffer")
        return t.ARENA + first

    def values_of(self, gradient: Array) -> int:
        """The place of the parameters that a gradient belongs to."""
        first = self.parameter(gradient) - self.g
        assert self.step.optimizer is not None
        if not 0 <= first <= self.step.optimizer.operands["g"].size - gradient.size:
            raise NotReplayable(f"a gradient {gradient.shape} lies outside the buffer that the optimizer reads")
        return self.p + first

    def new(self, count: int) -> int:
        """The place of `count` numbers of the step's own, zero at first."""
        place = t.WORK + self.work
        self.work += round_up(count, PADDING)
        return place

    def room(self, width: int) -> int:
        """The place of `width` numbers for each sample."""
        raise NotImplementedError

    def given(self, a: Array) -> int:
        """The place of an array from outside."""
        for number, known in enumerate(self.inputs):
            if same(known, a):
                return (t.INPUTS, t.TARGETS)[number]
        if len(self.inputs) == 2:
            raise NotReplayable("the step reads more than two arrays that it does not write, besides its parameters")
        self.inputs.append(a)
        return (t.INPUTS, t.TARGETS)[len(self.inputs) - 1]

    def place(self, value: Value) -> int:
        """The place of a value."""
        home = value.home
        if id(home) not in self.places:
            self.places[id(home)] = self.room(home.width) if home.array is None else self.given(home.array)
        return self.places[id(home)]

    def constants(self, *values: float) -> int:
        """Where constants stand in `numbers`."""
        if values not in self.known:
            self.known[values] = len(self.numbers)
            self.numbers += values
        return self.known[values]

    # ---- rows of the table -------------------------------------------------------------------------------------------

    def row(self, op: int, **columns: int) -> list[int]:
        """A row of the table; operands that are not named are nowhere."""
        row = [0] * t.COLUMNS
        row[t.OP], row[t.Y], row[t.W] = op, t.NOWHERE, t.NOWHERE
        row[t.COEF] = t.CONSTANTS
        for name, value in columns.items():
            row[getattr(t, name)] = value
        return row

    def rows_of(self, node: Node) -> list[list[int]]:
        """The rows that carry out an operation on samples."""
        raise NotImplementedError

    def gradient(self, gradient: Gradient) -> None:
        """Add the tasks that make a layer's gradients."""
        raise NotImplementedError

    def updated(self, g: Array, first: int, count: int) -> dict[str, int]:
        """The columns that say what is done to a piece of a parameter once its gradient is there."""
        where = self.values_of(g)
        columns = {"UPDATE": int(not self.whole)}
        for index, o in self.penalties(g):
            self.numbers.append(0.0)
            self.regularized.add(id(o))
            self.parts.setdefault(index, []).append(len(self.numbers) - 1)
            columns |= {"SLOT": len(self.numbers) - 1, "COEF": self.constants(float(o["l1"]), float(o["l2"]))}
        if first == 0:
            self.covered.append((where, g.size))
        return columns

    def penalties(self, g: Array) -> list[tuple[int, dict[str, Any]]]:
        """The regularization of the parameter that a gradient belongs to, with its place among the penalties."""
        assert self.step.end is not None
        penalties = self.step.end.operands["penalties"]
        found = []
        for o in self.step.penalties:
            if same(o["dw"].reshape(-1), g.reshape(-1)):
                index = (address(o["penalty"]) - address(penalties)) // 8
                if not 0 <= index < penalties.size or self.parameter(o["w"]) != self.values_of(g):
                    raise NotReplayable("regularize: the penalty or the parameter is not the model's own")
                found.append((index, o))
        if len(found) > 1:
            raise NotReplayable("regularize: one parameter is regularized twice in a step")
        return found

    def gaps(self, size: int) -> None:
        """Add tasks for parameters whose gradient no dense layer wrote. Less than PADDING numbers are padding."""
        at = self.p
        for start, count in [*sorted(self.covered), (self.p + size, 0)]:
            if start - at >= PADDING:
                for first in range(at, start, PIECE):
                    n = min(PIECE, start - first)
                    row = self.row(t.PARAMETERS, N=n, W=first, G=self.g + first - self.p, UPDATE=1)
                    self.tasks.append((n, row))
            at = start + count

    def block_rows(self) -> int:
        """Samples in a block: so many that a block's numbers stay in the cache and every thread has as many blocks."""
        rows = self.step.rows
        if self.threads == 1 and rows <= 2 * BLOCK_ROWS:
            return round_up(rows, self.grain)
        blocks = -(-rows // (BLOCK_ROWS * self.threads)) * self.threads
        return round_up(-(-rows // blocks), self.grain)

    def finish(self) -> None:
        """Put the table together."""
        step, rows = self.step, self.step.rows
        assert step.optimizer is not None
        assert step.losses is not None
        assert step.end is not None
        self.tasks.sort(key=lambda task: -task[0])  # the largest first, so that threads end together
        regions: list[tuple[int, list[list[int]]]] = [
            (t.ONCE, self.once), (t.TASKS_ONCE, self.first),
            (t.TASKS, [row for rows in self.before.values() for row in rows]), (t.BLOCKS, self.local),
            (t.TASKS, [row for _, row in self.tasks]), (t.TASKS, self.last),
        ]  # fmt: skip
        regions = [region for region in regions if region[1]]
        header, operands = [0] * t.COLUMNS, step.optimizer.operands
        header[t.REGIONS], header[t.ROWS] = len(regions), rows
        header[t.M_DELTA] = self.parameter(operands.get("m", operands["p"])) - self.p
        header[t.V_DELTA] = self.parameter(operands.get("v", operands["p"])) - self.p
        header[t.OPTIMIZER] = optimizers.NUMBERS[step.optimizer.name]
        header[t.LOSSES] = self.place(step.losses)
        header[t.HITS] = self.place(step.hits) if step.hits is not None else t.NOWHERE
        if self.scratch:
            header[t.SCRATCH_SIZE] = round_up(self.scratch, PADDING)
            header[t.SCRATCH] = self.new(header[t.SCRATCH_SIZE] * self.threads)
        if self.strips:
            header[t.STRIPS_SIZE] = round_up(self.strips, PADDING)
            header[t.STRIPS] = self.new(header[t.STRIPS_SIZE] * self.threads)
        header[t.PENALTIES] = len(self.numbers)
        for index in range(step.end.operands["penalties"].size):
            places = self.parts.get(index, [])
            self.numbers += [len(places), *places]
        table, first = [header], 1 + len(regions)
        for kind, operations in regions:
            region = [0] * t.COLUMNS
            count = len(operations) if kind in (t.TASKS, t.TASKS_ONCE) else -(-rows // self.block)
            region[t.OP], region[t.FIRST], region[t.LAST] = kind, first, first + len(operations)
            region[t.BLOCK], region[t.COUNT] = self.block, count
            table.append(region)
            first += len(operations)
        self.table = np.array(table + [row for _, operations in regions for row in operations], np.int64)


class Rows(Layout):
    """Samples row by row."""

    strips = STRIPS

    def room(self, width: int) -> int:
        return self.new(self.step.rows * width)

    def rows_of(self, node: Node) -> list[list[int]]:
        row, place, x = self.row, self.place, self.place(node.x)
        out = self.place(node.out) if node.out is not None else t.NOWHERE
        n, c = node.x.width, self.constants(*node.constants)
        match node.op:
            case "gather":
                assert node.x.array is not None
                return [row(t.GATHER, N=n, X=x, Y=out, R1=len(node.x.array))]
            case "labels":
                return [row(t.LABELS, N=1, Y=out, KIND=int(node.ordered))]
            case "dense":
                assert node.weights is not None
                assert node.biases is not None
                w, b = self.panels_of(node.weights, False), self.parameter(node.biases)
                return [row(t.DENSE, KIND=int(node.relu), K=n, N=node.weights.shape[1], X=x, W=w, B=b, Y=out)]
            case "dense_dx":
                assert node.weights is not None
                w = self.panels_of(node.weights, True)
                columns = {"K": node.weights.shape[0], "N": n, "D": x, "W": w, "G": out}
                return [row(t.DENSE_DX, KIND=int(node.relu), X=0 if node.y is None else place(node.y), **columns)]
            case "elementwise":
                y = t.NOWHERE if node.y is None else place(node.y)
                return [row(t.ELEMENTWISE, KIND=number_of(node.kind), N=n, X=x, Y=y, G=out, COEF=c)]
            case "dropout":
                layer, seed, threshold = node.details
                return [row(t.DROPOUT, KIND=layer, N=n, X=x, Y=out, R0=seed, R1=threshold, COEF=c)]
            case "softmax":
                return [row(t.SOFTMAX, N=n, X=x, Y=out)]
            case "softmax_backward":
                assert node.y is not None
                return [row(t.SOFTMAX_BACKWARD, N=n, X=x, Y=place(node.y), G=out)]
            case "cross_entropy" | "cross_entropy_soft":
                assert node.y is not None
                assert node.also is not None
                op = t.CROSS_ENTROPY if node.op == "cross_entropy" else t.CROSS_ENTROPY_SOFT
                hits = t.NOWHERE if node.hits is None else place(node.hits)
                columns = {"X": x, "B": place(node.y), "G": out, "Y": place(node.also), "W": hits}
                return [row(op, N=n, COEF=c, **columns)]
            case "argmax":
                return [row(t.ARGMAX, N=n, X=x, Y=out)]
            case "one_hot":
                assert node.out is not None
                return [row(t.ONE_HOT, N=node.out.width, X=x, Y=out)]
            case "mean":
                return [row(t.ROW_MEAN, N=n, X=x, Y=out, COEF=c)]
        raise NotReplayable(f"no compiled kernel by rows for {node.op}")

    def panels_of(self, weights: Array, across: bool) -> int:
        """Where weights, or their transpose, are copied to in the order in which products read them."""
        source, (k, n) = self.parameter(weights), weights.shape
        key = source, across
        if key not in self.panels:
            self.panels[key] = place = self.new(round_up(k, self.wide) * n if across else k * round_up(n, self.wide))
            op = t.PANELS_ACROSS if across else t.PANELS
            self.before[key] = [self.row(op, K=k, N=n, X=source, Y=place, R0=r0, R1=r1) for r0, r1 in self.pieces(k, n)]
        return self.panels[key]

    def refreshed(self, weights: int) -> dict[str, int]:
        """The columns that say where new weights go as soon as they are there; a step need not begin with that then."""
        columns = {}
        for name, across in (("Y", False), ("B", True)):
            if not self.whole and (weights, across) in self.panels:
                columns[name] = self.panels[weights, across]
                self.first += self.before.pop((weights, across))
        return columns

    @property
    def wide(self) -> int:
        """Columns of a panel."""
        return register_tile.VECTORS * register_tile.WIDTH // int(self.arena.itemsize)

    def gradient(self, gradient: Gradient) -> None:
        k, n = gradient.dw.shape
        d, rows, weights = self.place(gradient.d), self.step.rows, self.values_of(gradient.dw)
        panels = self.new(rows * round_up(n, self.wide))
        self.local.append(self.row(t.PANELS, K=rows, N=n, X=d, Y=panels))
        columns = {"K": k, "N": n, "X": self.place(gradient.x), "D": panels, "W": weights, "B": t.NOWHERE}
        columns |= {"G": self.parameter(gradient.dw), **self.refreshed(weights)}
        for r0, r1 in self.pieces(k, n):
            self.scratch = max(self.scratch, (r1 - r0) * n * (1 if rows <= RUN else 2))
            row = self.row(t.DENSE_DW, R0=r0, R1=r1, **columns, **self.updated(gradient.dw, r0, r1 - r0))
            self.tasks.append(((r1 - r0) * n, row))
        places = {"D": d, "W": self.values_of(gradient.db), "G": self.parameter(gradient.db)}
        if rows > RUN:
            places["Y"] = self.new(n)
        self.tasks.append((n, self.row(t.BIAS, N=n, **places, **self.updated(gradient.db, 0, n))))

    def pieces(self, k: int, n: int) -> list[tuple[int, int]]:
        """Rows of a weight gradient that are made, regularized and used in one go: whole tiles, and whole panels.

        The last ones are lower, so that threads end together.
        """
        grain = math.lcm(register_tile.ROWS, self.wide)
        high = min(max(PIECE // n // grain, 1) * grain, round_up(-(-k // self.parts_wanted), grain))
        low = max(high // 2 // grain, 1) * grain
        starts = [0]
        while (left := k - starts[-1]) > 0:
            starts.append(min(k, starts[-1] + (high if left > 2 * high else low)))
        return list(pairwise(starts))


class Lanes(Layout):
    """Samples in the vector lanes, feature by feature: [features, stride]."""

    grain = SAMPLES

    def __init__(self, step: Step, arena: Array, threads: int) -> None:
        self.stride = round_up(step.rows, SAMPLES)
        self.loads: dict[int, list[int]] = {}
        super().__init__(step, arena, threads)

    def room(self, width: int) -> int:
        return self.new((width + 4) * self.stride)  # dropout looks at four features at a time

    def given(self, a: Array) -> int:
        """Data is transposed on its way in."""
        source, width = super().given(a), 1 if a.ndim == 1 else a.shape[1]
        out = self.room(width)
        self.once.append(self.row(t.LANES_LOAD, STRIDE=self.stride, N=width, X=source, Y=out))
        return out

    def rows_of(self, node: Node) -> list[list[int]]:
        stride = self.stride

        def row(op: int, **columns: int) -> list[int]:
            return self.row(op, STRIDE=stride, **columns)

        out = self.place(node.out) if node.out is not None else t.NOWHERE
        n, c, place = node.x.width, self.constants(*node.constants), self.place
        if node.op == "labels":
            return [row(t.LABELS, N=1, Y=out, KIND=int(node.ordered))]
        if node.op == "gather":
            assert node.x.array is not None
            return [row(t.LANES_LOAD, KIND=1, N=n, X=super().given(node.x.array), Y=out, R1=len(node.x.array))]
        x = self.place(node.x)
        match node.op:
            case "dense":
                assert node.weights is not None
                assert node.biases is not None
                w, b = self.parameter(node.weights), self.parameter(node.biases)
                return [row(t.LANES_DENSE, KIND=int(node.relu), K=n, N=node.weights.shape[1], X=x, W=w, B=b, Y=out)]
            case "dense_dx":
                assert node.weights is not None
                columns = {"K": node.weights.shape[0], "N": n, "D": x, "W": self.parameter(node.weights), "G": out}
                return [row(t.LANES_DX, KIND=int(node.relu), X=0 if node.y is None else place(node.y), **columns)]
            case "elementwise":
                y = t.NOWHERE if node.y is None else place(node.y)
                rows = [row(t.ELEMENTWISE, KIND=number_of(node.kind), N=n, X=x, Y=y, G=out, COEF=c)]
                if node.kind in LOSS_GRADIENTS and stride > self.step.rows:
                    rows.append(row(t.LANES_CLEAR, N=n, X=out))
                return rows
            case "dropout":
                layer, seed, threshold = node.details
                return [row(t.LANES_DROPOUT, KIND=layer, N=n, X=x, Y=out, R0=seed, R1=threshold, COEF=c)]
            case "cross_entropy":
                assert node.y is not None
                assert node.also is not None
                hits = t.NOWHERE if node.hits is None else place(node.hits)
                scratch = self.new(2 * stride)
                columns = {"X": x, "B": place(node.y), "G": out, "Y": place(node.also), "D": scratch, "W": hits}
                return [row(t.LANES_CROSS_ENTROPY, N=n, COEF=c, **columns)]
            case "mean":
                return [row(t.LANES_MEAN, N=n, X=x, Y=out, COEF=c)]
        raise NotReplayable(f"no compiled kernel by features for {node.op}")

    def gradient(self, gradient: Gradient) -> None:
        k, n = gradient.dw.shape
        x, d = self.place(gradient.x), self.place(gradient.d)
        columns = {"STRIDE": self.stride, "K": k, "N": n, "X": x, "D": d}
        tile = max(4, round_up(-(-k // self.parts_wanted), 4))
        for r0 in range(0, k, tile):
            r1 = min(k, r0 + tile)
            columns |= {"R0": r0, "R1": r1, "W": self.values_of(gradient.dw), "G": self.parameter(gradient.dw)}
            if self.stride > RUN:
                columns["Y"] = self.new((r1 - r0) * n)
            row = self.row(t.LANES_DW, **columns, **self.updated(gradient.dw, r0, r1 - r0))
            self.tasks.append(((r1 - r0) * n, row))
        places = {"D": d, "W": self.values_of(gradient.db), "G": self.parameter(gradient.db)}
        row = self.row(t.LANES_DB, STRIDE=self.stride, N=n, **places, **self.updated(gradient.db, 0, n))
        self.tasks.append((n, row))


# Gradients of losses, which are not 0 of their own accord for samples that are not there.
LOSS_GRADIENTS = (*(f"{row.part}_backward" for row in LOSSES), "logit_backward")
# What lanes have kernels for.
IN_LANES = {"labels", "gather", "dense", "dense_dx", "elementwise", "dropout", "cross_entropy", "mean"}
