"""Lowering of samples row by row, for matrix products by nnx/kernels/cpu/matmul/gemm.py: the operations of `run_rows`.

Weights are kept a second time in panels, the order in which products read them.
"""

# ruff: noqa: D102 - what an operation or a layout does is described once, where it is declared

from __future__ import annotations

import math
from itertools import pairwise

from nnx.backends.addresses import Array
from nnx.backends.dataflow import Gradient, Node, Value
from nnx.backends.errors import NotReplayable
from nnx.backends.numba.lowering import BLOCK_ROWS, PIECE, Layout, round_up
from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.matmul import register_tile
from nnx.kernels.cpu.matmul.gemm import STRIPS
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.rows_called import CALLED_BY_ROWS
from nnx.kernels.rounding import RUN


class Rows(Layout):
    """Samples row by row."""

    family, product = "rows", "gemm"
    operations, called = t.BY_ROWS, CALLED_BY_ROWS
    strips = STRIPS
    piece = PIECE  # numbers of a weight gradient that are made, regularized and used in one go

    def room(self, width: int) -> int:
        return self.new(self.step.rows * width)

    def most_rows(self) -> int:
        # A product goes over its result once for each block of depth: the widest fills half of the second-level cache.
        widest = max((max(weights.shape) for weights in self.step.weights), default=1)
        return min(BLOCK_ROWS, max(BLOCK_ROWS // 2, caches().l2 // 2 // (widest * int(self.arena.itemsize))))

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
                return [row(t.ELEMENTWISE, KIND=self.kind(node), N=n, X=x, Y=y, G=out, COEF=c)]
            case "weigh":
                assert node.y is not None
                return [row(t.WEIGH, N=n, X=x, Y=place(node.y), G=out)]
            case "columns" | "embed":
                return [self.columns(node)]
            case "dropout":
                return [row(t.DROPOUT, N=n, X=x, Y=out, COEF=c, **self.mask(node))]
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
            case "gaussian_noise":
                layer, seed = node.details
                return [row(t.NOISE, KIND=layer, N=n, X=x, Y=out, R0=seed, COEF=c)]
            case "layer_norm" | "layer_norm_backward" | "moments" | "batch_norm" | "batch_norm_backward" | "sum":
                return self.norm_rows(node)
            case "means" | "spreads" | "pooled":
                return self.norm_rows(node)
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
            if self.updates and not self.whole and (weights, across) in self.panels:
                columns[name] = self.panels[weights, across]
                self.first += self.before.pop((weights, across))
        return columns

    @property
    def wide(self) -> int:
        """Columns of a panel."""
        return register_tile.VECTORS * register_tile.WIDTH // int(self.arena.itemsize)

    def panels_for(self, gradient: Gradient) -> int:
        """Where the gradient of a layer's outputs is copied to for that of its weights, block by block."""
        rows, n = self.step.rows, gradient.dw.shape[1]
        panels = self.new(rows * round_up(n, self.wide))
        self.local.append(self.row(t.PANELS, K=rows, N=n, X=self.place(gradient.d), Y=panels))
        return panels

    def gradient(self, gradient: Gradient) -> None:
        k, n = gradient.dw.shape
        rows, weights = self.step.rows, self.values_of(gradient.dw)
        panels = self.panels_for(gradient)
        columns = {"K": k, "N": n, "X": self.place(gradient.x), "D": panels, "W": weights, "B": t.NOWHERE}
        columns |= {"G": self.parameter(gradient.dw), **self.refreshed(weights)}
        for r0, r1 in self.pieces(k, n):
            self.scratch = max(self.scratch, (r1 - r0) * n * (1 if rows <= RUN else 2))
            row = self.row(t.DENSE_DW, R0=r0, R1=r1, **columns, **self.updated(gradient.dw, r0, r1 - r0))
            self.tasks.append(((r1 - r0) * n, row))
        db = self.sum_row(gradient.d, gradient.db, **self.updated(gradient.db, 0, n))
        self.tasks.append((n, db))

    def sum_row(self, d: Value, out: Array, **columns: int) -> list[int]:
        columns |= {"D": self.place(d), "W": self.values_of(out), "G": self.parameter(out)}
        if self.step.rows > RUN:
            columns["Y"] = self.new(d.width)
        return self.row(t.BIAS, N=d.width, **columns)

    def pieces(self, k: int, n: int) -> list[tuple[int, int]]:
        """Rows of a weight gradient that are made, regularized and used in one go: whole tiles, and whole panels.

        The last ones are lower, so that threads end together.
        """
        grain = math.lcm(self.grain, self.wide)
        high = min(max(self.piece // n // grain, 1) * grain, round_up(-(-k // self.parts_wanted), grain))
        low = max(high // 2 // grain, 1) * grain
        starts = [0]
        while (left := k - starts[-1]) > 0:
            starts.append(min(k, starts[-1] + (high if left > 2 * high else low)))
        return list(pairwise(starts))
