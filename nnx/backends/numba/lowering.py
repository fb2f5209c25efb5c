"""Lowering for the CPU: from a step's data flow to the int64 table that nnx/kernels/cpu/program/compiled.py interprets.

`Layout` hands out memory and columns; how samples lie is said by `Rows` (lowering_rows.py) and `Lanes`
(lowering_lanes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnx.backends.addresses import Array, address, same
from nnx.backends.dataflow import Gradient, Moments, Node, Scatter, Step, Value
from nnx.backends.errors import NotReplayable
from nnx.backends.formula import text
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Call
from nnx.kernels.cpu.caches import Caches, caches
from nnx.kernels.cpu.matmul import register_tile
from nnx.kernels.cpu.ops import optimizers
from nnx.kernels.cpu.ops.formula import Compiled
from nnx.kernels.cpu.ops.norm import ACROSS
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.compiled import operation_at, update_at
from nnx.kernels.elementwise import number_of
from nnx.kernels.rounding import RUN

PADDING = 64  # numbers that a buffer of the step's own is a multiple of
WHOLE = 1 << 14  # parameters that are updated in one go, after all gradients, rather than tile by tile
KEPT = 64  # formulas of the user's own whose code is kept for later steps
BLOCK_ROWS = 256  # samples that go through the network together

GIVEN = t.INPUTS, t.TARGETS, t.WEIGHTS  # places of arrays from outside, in the order in which they come


_compiled: dict[tuple[Any, ...], Compiled] = {}


def compiled(formula: Any, dtype: Any) -> Compiled:
    """A formula of the user's own as machine code, made once for all that are alike; the latest are kept."""
    key = *text(formula)[:1], np.dtype(dtype).name
    code = _compiled.pop(key, None) or Compiled(formula, dtype)
    _compiled[key] = code
    while len(_compiled) > KEPT:
        _compiled.pop(next(iter(_compiled)), None)
    return code


def round_up(n: int, multiple: int) -> int:
    """The next multiple from n on."""
    return -(-n // multiple) * multiple


def piece_of(cache: Caches, most: int) -> int:
    """Numbers in a piece of a weight gradient: it stays in the second-level cache until it is used, in half of it."""
    return max(1, min(most, cache.l2 // 8) // PADDING) * PADDING


PIECE = piece_of(caches(), 1 << 16)


def segments(size: int) -> list[tuple[int, int]]:
    """The beginnings and lengths of pieces of a flat buffer, for threads to share; a small one is a single piece."""
    piece = size if size <= WHOLE else PIECE
    return [(first, min(piece, size - first)) for first in range(0, size, piece)]


class Layout:
    """Memory and table of one step.

    Attributes:
        table: int64 [rows, COLUMNS]. numbers: the constants, float64. work: how many numbers the step's buffers take.
        inputs: the arrays given from outside: data, targets and weights, or less.
        formulas: those of the user's own that were compiled for it, and what they are called.
    """

    family: str  # "rows" or "lanes"
    product: str  # the module of nnx/kernels/cpu that multiplies matrices
    products = ""  # what there is to say about that
    operations: frozenset[int]  # those that the family's interpreter carries out
    called: Mapping[int, Any]  # those of them that are functions, called by their address
    strips = 0  # numbers that each thread needs for packing
    unit: str | None = None  # what multiplies large matrices in bfloat16: see `compiled.ready`
    grain = register_tile.ROWS  # blocks are a multiple of this many samples

    def __init__(self, step: Step, arena: Array, more: Array | None, threads: int, updates: bool = True) -> None:
        assert step.optimizer is not None
        assert step.losses is not None
        self.step, self.arena, self.more, self.threads, self.updates = step, arena, more, threads, updates
        self.begin = address(arena)
        self.work, self.places, self.inputs = 0, dict[int, int](), list[Array]()
        self.numbers: list[float] = [0.0] * t.CONSTANTS
        self.known: dict[tuple[float, ...], int] = {}
        self.formulas: dict[Compiled, str] = {}
        self.panels: dict[tuple[int, bool], int] = {}
        self.before: dict[tuple[int, bool], list[list[int]]] = {}
        self.masks: dict[tuple[Any, ...], int] = {}
        self.once: list[list[int]] = []
        self.first: list[list[int]] = []
        self.local: list[list[int]] = []
        self.regions: list[tuple[int, list[list[int]]]] = []  # those before what is in `local`
        self.moments: dict[int, int] = {}
        self.pooled: dict[int, int] = {}  # where in `numbers` arrays stand that are pooled
        self.stops: list[list[tuple[int, Array]]] = []
        self.tasks: list[tuple[int, list[int]]] = []
        self.last: list[list[list[int]]] = []  # one after the other: tasks on all gradients or parameters
        # What the optimizer moves: (place, size) of each run of parameters. Their gradients all lie equally far off.
        self.runs = sorted((self.parameter(call.operands["p"]), call.operands["p"].size) for call in step.updates)
        self.to_gradients = self.distance("g")
        size = sum(count for _, count in self.runs)
        # How the work is divided must not depend on the threads there are, or one and two would round differently.
        self.parts_wanted = 2 * max(threads, 2) if step.work >= current().choices.threads_from else 1
        self.whole = size <= WHOLE or bool(step.before)  # updated in the end, not piece by piece
        self.parts: dict[int, list[int]] = {}  # where in `numbers` each penalty's parts are
        self.regularized: set[int] = set()
        self.covered: list[tuple[int, int]] = []
        self.scratch = 0
        self.block = self.block_rows()
        self.added = 0, 0, 0  # how many gradients, scatters and sums
        for node in step.nodes:
            if node.op == "stop":
                self.stop(node)
            elif node.whole:
                self.all_at_once(self.rows_of(node))
            else:
                (self.once if node.once else self.local).extend(self.rows_of(node))
        self.add_gradients(len(step.gradients), len(step.scatters), len(step.sums))
        if len({start for start, _ in self.covered}) < len(self.covered):
            raise NotReplayable("a gradient is written twice in one step: two layers share their parameters")
        if len(self.regularized) < len(step.penalties):
            raise NotReplayable("regularize: a parameter that no dense layer's gradient was written for")
        if not updates:
            return self.finish()
        if self.whole:
            self.update_all()
        for p, count in self.runs if not self.whole else ():
            self.gaps(p, count)
        for call in step.after:
            c, since = self.constants(float(call.operands["decay"])), int(call.operands["since"])
            a, p = (self.parameter(call.operands[name]) for name in ("a", "p"))
            # Of those that are not trained, too: the mean still moves towards what was frozen on the way.
            self.last.append(
                [
                    self.row(t.AVERAGE, N=n, X=a + first, W=p + first, COEF=c, R0=since)
                    for first, n in segments(call.operands["p"].size)
                ]
            )
        self.finish()

    # ---- memory ------------------------------------------------------------------------------------------------------

    def parameter(self, a: Array) -> int:
        """The place of parameters, gradients or moments."""
        if self.more is not None and 0 <= address(a) - address(self.more) < self.more.nbytes:
            return t.MORE + (address(a) - address(self.more)) // int(self.arena.itemsize)
        first = (address(a) - self.begin) // int(self.arena.itemsize)
        if first < 0 or first + a.size > self.arena.size or not a.flags.c_contiguous:
            raise NotReplayable(f"parameters or gradients {a.shape} lie outside the model's flat buffer")
        return t.ARENA + first

    def values_of(self, gradient: Array) -> int:
        """The place of the parameters that a gradient belongs to."""
        first = self.parameter(gradient) - self.to_gradients
        if not self.moved(first, gradient.size):
            raise NotReplayable(f"a gradient {gradient.shape} lies outside the buffer that the optimizer reads")
        return first

    def moved(self, place: int, size: int) -> bool:
        """Tell whether the optimizer moves the parameters at a place."""
        return any(p <= place and place + size <= p + count for p, count in self.runs)

    def distance(self, name: str) -> int:
        """How far the optimizer's operands of a name lie behind the parameters: none, where it takes no such."""
        ways = {
            self.parameter(call.operands.get(name, call.operands["p"])) - self.parameter(call.operands["p"])
            for call in self.step.updates
        }
        if len(ways) > 1:
            raise NotReplayable("the optimizer's operands do not lie alike for all parameters")
        return ways.pop()

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
                return GIVEN[number]
        if len(self.inputs) == len(GIVEN):
            raise NotReplayable("the step reads more than three arrays that it does not write, besides its parameters")
        self.inputs.append(a)
        return GIVEN[len(self.inputs) - 1]

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

    def mask(self, node: Node) -> dict[str, int]:
        """The columns of a dropout: what it multiplies by is kept for the gradient, which is the same dropout again."""
        layer, seed, threshold = node.details
        known = (*node.details, *node.constants, node.x.width)
        if known in self.masks:
            return {"KIND": t.DRAWN, "W": self.masks[known]}
        self.masks[known] = self.room(node.x.width)
        return {"KIND": layer, "R0": seed, "R1": threshold, "W": self.masks[known]}

    def add_gradients(self, *there: int) -> None:
        """Add the tasks of so many gradients, scatters and sums, but for those that are added."""
        step, (gradients, scatters, sums) = self.step, map(slice, self.added, there)
        for gradient in step.gradients[gradients]:
            self.gradient(gradient)
        for scatter in step.scatters[scatters]:
            self.scatter(scatter)
        for one in step.sums[sums]:
            n = int(one.out.size)
            self.tasks.append((n, self.sum_row(one.d, one.out, **self.updated(one.out, 0, n))))
        self.added = there  # type: ignore[assignment]

    def stop(self, node: Node) -> None:
        """Let a call end here; with all gradients that there are, if those are wanted."""
        if node.details:
            self.add_gradients(*node.details)
        if self.local:
            self.regions.append((t.BLOCKS, self.local))
        self.regions += [(t.TASKS, self.sorted_tasks()), (t.STOP, [])]
        self.local, self.tasks = [], []
        self.stops.append([(self.pooled[address(a)], a) for a in node.pooled])

    def sorted_tasks(self) -> list[list[int]]:
        """The tasks, the largest first, so that threads end together."""
        return [row for _, row in sorted(self.tasks, key=lambda task: -task[0])]

    # ---- rows of the table -------------------------------------------------------------------------------------------

    def row(self, op: int, **columns: int) -> list[int]:
        """A row of the table; operands that are not named are nowhere."""
        if op not in self.operations:
            raise ValueError(f"{type(self).__name__} has no operation {op}: its interpreter would not carry it out")
        row = [0] * t.COLUMNS
        row[t.OP], row[t.Y], row[t.W] = op, t.NOWHERE, t.NOWHERE
        row[t.COEF] = t.CONSTANTS
        if op in self.called:
            row[t.CODE] = operation_at(self.called[op], self.arena.dtype)
        for name, value in columns.items():
            row[getattr(t, name)] = value
        return row

    def kind(self, node: Node) -> int:
        """What the compiled function knows an operation on each number by: its number, or where it is."""
        if node.formula is None:
            return number_of(node.kind)
        code = compiled(node.formula, self.arena.dtype)
        self.formulas[code] = node.kind
        return code.address

    def rows_of(self, node: Node) -> list[list[int]]:
        """The rows that carry out an operation on samples."""
        raise NotImplementedError

    def gradient(self, gradient: Gradient) -> None:
        """Add the tasks that make a layer's gradients."""
        raise NotImplementedError

    def columns(self, node: Node, stride: int = 0) -> list[int]:
        """The row of an operation on some features of values."""
        assert node.out is not None
        x, y = self.place(node.x), self.place(node.out)
        columns = {"STRIDE": stride, "N": node.x.width, "K": node.out.width, "X": x, "Y": y}
        columns |= {"R0": node.details[0], "R1": node.details[1]}
        if node.table is None:
            return self.row(t.COLUMNS_OF, KIND=node.details[2], **columns)
        codes, width = node.table.shape
        return self.row(t.EMBED, KIND=width, D=codes, W=self.parameter(node.table), **columns)

    def scatter(self, scatter: Scatter, stride: int = 0) -> None:
        """Add the task that makes the gradient of what codes are looked up in."""
        codes, width = scatter.dw.shape
        columns = {"KIND": width, "R1": codes, "R0": scatter.first, "B": scatter.column, "STRIDE": stride}
        columns |= {"X": self.place(scatter.x), "K": scatter.x.width, "D": self.place(scatter.d), "N": scatter.d.width}
        columns |= {"W": self.values_of(scatter.dw), "G": self.parameter(scatter.dw)}
        if self.step.rows > RUN:
            columns["Y"] = self.new(codes * width)
        row = self.row(t.SCATTER, **columns, **self.updated(scatter.dw, 0, scatter.dw.size))
        self.tasks.append((self.step.rows * width, row))

    def sum_row(self, d: Value, out: Array, **columns: int) -> list[int]:
        """The task that adds up all samples of a value to the gradient of a parameter."""
        raise NotImplementedError

    def all_at_once(self, rows: list[list[int]]) -> None:
        """Add tasks that wait for all samples, and for which all samples wait."""
        if self.local:
            self.regions.append((t.BLOCKS, self.local))
            self.local = []
        if self.regions and self.regions[-1][0] == t.TASKS:
            self.regions[-1][1].extend(rows)
        else:
            self.regions.append((t.TASKS, rows))

    def moments_at(self, moments: Moments | None) -> int:
        """The place of the moments of each feature."""
        assert moments is not None
        if id(moments) not in self.moments:
            self.moments[id(moments)] = self.new(3 * moments.width)
        return self.moments[id(moments)]

    def pooled_at(self, moments: Moments) -> dict[str, int]:
        """The columns that say where in `numbers` means and spreads stand that are pooled."""
        if len(moments.pooled) != 2:
            raise NotReplayable("column_means: no column_spreads goes with it")
        for a in moments.pooled:
            if address(a) not in self.pooled:
                self.pooled[address(a)] = len(self.numbers)
                self.numbers += [0.0] * moments.width
        means, spreads = (self.pooled[address(a)] for a in moments.pooled)
        return {"SLOT": means, "KIND": spreads}

    def norm_rows(self, node: Node, **columns: int) -> list[list[int]]:
        """The rows of a normalization, or of its gradient: see nnx/kernels/cpu/program/shared_norm.py."""
        place, n = self.place, node.x.width
        columns |= {"N": n, "X": place(node.x), "COEF": self.constants(*node.constants)}
        if node.op == "sum":
            return [self.sum_row(node.x, node.arrays[0])]
        if node.op in ("means", "spreads"):
            assert node.moments is not None
            columns |= self.pooled_at(node.moments)
            return self.by_features(t.MEANS if node.op == "means" else t.SPREADS, **columns)
        assert node.weights is not None
        columns["W"] = self.parameter(node.weights)
        if node.moments is not None:
            columns |= {"Y": self.moments_at(node.moments), "KIND": sum(node.details)}
        if node.biases is not None:
            columns["B"] = self.parameter(node.biases)
        if node.op == "pooled":
            assert node.moments is not None
            return self.by_features(t.POOLED, **{**columns, **self.pooled_at(node.moments)})
        if node.op == "moments":
            return self.by_features(t.MOMENTS, **columns)
        assert node.out is not None
        columns["G"] = place(node.out)
        if node.op == "layer_norm":
            assert node.also is not None
            assert node.hits is not None
            return [self.row(t.LAYER_NORM, D=place(node.also), Y=place(node.hits), **columns)]
        if node.op == "batch_norm":
            assert node.also is not None
            return [self.row(t.BATCH_NORM, D=place(node.also), **columns)]
        assert node.y is not None
        columns["D"] = place(node.y)
        if node.op == "layer_norm_backward":
            assert node.z is not None
            return [self.row(t.LAYER_NORM_BACKWARD, Y=place(node.z), **columns)]
        dgamma, dbeta = (self.parameter(a) for a in node.arrays)
        return [self.row(t.BATCH_NORM_BACKWARD, R0=dgamma, B=dbeta, **columns)]

    def by_features(self, op: int, **columns: int) -> list[list[int]]:
        """Tasks that take some features of all samples each."""
        n = columns["N"]
        return [self.row(op, R0=j, R1=min(n, j + ACROSS), **columns) for j in range(0, n, ACROSS)]

    def updated(self, g: Array, first: int, count: int) -> dict[str, int]:
        """The columns that say what is done to a piece of a parameter once its gradient is there."""
        where = self.values_of(g)
        columns = {"UPDATE": int(self.updates and not self.whole)}
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

    def gaps(self, p: int, size: int) -> None:
        """Add tasks for parameters whose gradient no dense layer wrote. Less than PADDING numbers are padding."""
        at = p
        for start, count in [*sorted(c for c in self.covered if p <= c[0] < p + size), (p + size, 0)]:
            if start - at >= PADDING:
                for first in range(at, start, PIECE):
                    n = min(PIECE, start - first)
                    row = self.row(t.PARAMETERS, N=n, W=first, G=first + self.to_gradients, UPDATE=1)
                    self.tasks.append((n, row))
            at = start + count

    def segments(self) -> list[tuple[int, int]]:
        """The places and lengths of pieces of all that is trained."""
        return [(p + first, n) for p, count in self.runs for first, n in segments(count)]

    def held(self, call: Call, place: int) -> int:
        """The place among what `collect` adds that goes with a place of parameters."""
        first = (address(call.operands["g"]) - self.begin) // int(self.arena.itemsize) + t.ARENA
        return self.parameter(call.operands["m"]) + place + self.to_gradients - first

    def update_all(self) -> None:
        """Add what is done to all gradients once they are there, and then to the parameters."""
        op, columns, pieces, off = t.PARAMETERS, dict[str, int](), self.segments(), self.to_gradients
        for call in self.step.before:
            if call.name == "collect":
                self.last.append([self.row(t.COLLECT, N=n, G=p + off, X=self.held(call, p)) for p, n in pieces])
                continue
            if op == t.CLIPPED:
                raise NotReplayable("clip: gradients are clipped twice in a step")
            limits, slots = self.constants(call.operands["norm"], call.operands["value"]), len(self.numbers)
            op, columns = t.CLIPPED, {"COEF": limits, "R0": slots, "R1": len(pieces)}
            self.numbers += [0.0] * len(pieces)
            self.last.append(
                [
                    self.row(t.MEASURE, N=n, G=p + off, COEF=limits, SLOT=slots + number)
                    for number, (p, n) in enumerate(pieces)
                ]
            )
        self.last.append([self.row(op, N=n, W=p, G=p + off, UPDATE=1, **columns) for p, n in pieces])

    def block_rows(self) -> int:
        """Samples in a block: so many that a block's numbers stay in the cache and every thread has as many blocks."""
        rows, most = self.step.rows, self.most_rows()
        if self.threads == 1 and rows <= 2 * most:
            return round_up(rows, self.grain)
        blocks = -(-rows // (most * self.threads)) * self.threads
        return round_up(-(-rows // blocks), self.grain)

    def most_rows(self) -> int:
        """Samples that a block has at most."""
        return BLOCK_ROWS

    def finish(self) -> None:
        """Put the table together."""
        step, rows = self.step, self.step.rows
        assert step.optimizer is not None
        assert step.losses is not None
        assert step.end is not None
        for key in [key for key in self.before if not self.moved(key[0], 1)]:  # these panels are the same in each step
            self.first += self.before.pop(key)
        regions: list[tuple[int, list[list[int]]]] = [
            (t.ONCE, self.once), (t.TASKS_ONCE, self.first),
            (t.TASKS, [row for rows in self.before.values() for row in rows]), *self.regions, (t.BLOCKS, self.local),
            (t.TASKS, self.sorted_tasks()), *((t.TASKS, rows) for rows in self.last),
        ]  # fmt: skip
        regions = [region for region in regions if region[1] or region[0] == t.STOP]
        if len(regions) > t.MOST_REGIONS:
            raise NotReplayable(f"its samples meet {len(regions)} times in a step; {t.MOST_REGIONS} is the most")
        header = [0] * t.COLUMNS
        header[t.REGIONS], header[t.ROWS] = len(regions), rows
        header[t.M_DELTA], header[t.V_DELTA] = self.distance("m"), self.distance("v")
        header[t.U_DELTA] = self.distance("u")
        header[t.OPTIMIZER] = optimizers.NUMBERS[step.optimizer.name]
        header[t.UPDATES] = update_at(header[t.OPTIMIZER], self.arena.dtype)
        header[t.LOSSES] = self.place(step.losses)
        header[t.HITS] = self.place(step.hits) if step.hits is not None else t.NOWHERE
        header[t.THREADS] = self.threads
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
