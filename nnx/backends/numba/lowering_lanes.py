"""Lowering of samples in the vector lanes, feature by feature, for narrow networks: the operations of `run_lanes`."""

# ruff: noqa: D102 - what an operation or a layout does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array
from nnx.backends.dataflow import Gradient, Node, Scatter, Step, Value
from nnx.backends.errors import NotReplayable
from nnx.backends.numba.lowering import Layout, round_up
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.lanes_called import CALLED_IN_LANES
from nnx.kernels.cpu.program.lanes_matmul import SAMPLES
from nnx.kernels.losses import LOSSES
from nnx.kernels.rounding import RUN

# Gradients of losses, which are not 0 of their own accord for samples that are not there.
LOSS_GRADIENTS = (*(row.slope for row in LOSSES), "logit_backward")
# Bytes, of which features lie no multiple apart: else a sample's numbers share a few sets of the first-level cache, and
# push each other out. 512 samples of 30-16-2 take 53 us so, 17 else.
APART = 1024
# Operations of a step's data flow that lanes have kernels for.
NODES = {
    *("labels", "gather", "dense", "dense_dx", "elementwise", "dropout", "cross_entropy", "mean", "weigh"),
    *("layer_norm", "layer_norm_backward", "moments", "batch_norm", "batch_norm_backward", "sum"),
    *("gaussian_noise", "columns", "embed", "means", "spreads", "pooled", "stop"),
}


class Lanes(Layout):
    """Samples in the vector lanes, feature by feature: [features, stride]."""

    family, product = "lanes", "lanes_matmul"
    operations, called = t.IN_LANES, CALLED_IN_LANES
    grain = SAMPLES

    def __init__(self, step: Step, arena: Array, more: Array | None, threads: int, updates: bool = True) -> None:
        self.stride = round_up(step.rows, SAMPLES)
        if self.stride * arena.itemsize % APART == 0:
            self.stride += SAMPLES
        super().__init__(step, arena, more, threads, updates)

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
                rows = [row(t.ELEMENTWISE, KIND=self.kind(node), N=n, X=x, Y=y, G=out, COEF=c)]
                unknown = node.formula is not None and node.y is not None  # what it makes of no sample
                if (unknown or node.kind in LOSS_GRADIENTS) and stride > self.step.rows:
                    rows.append(row(t.LANES_CLEAR, N=n, X=out))
                return rows
            case "weigh":
                assert node.y is not None
                return [row(t.WEIGH, N=n, X=x, Y=place(node.y), G=out)]
            case "columns" | "embed":
                return [self.columns(node, stride)]
            case "dropout":
                return [row(t.LANES_DROPOUT, N=n, X=x, Y=out, COEF=c, **self.mask(node))]
            case "cross_entropy":
                assert node.y is not None
                assert node.also is not None
                hits = t.NOWHERE if node.hits is None else place(node.hits)
                scratch = self.new(2 * stride)
                columns = {"X": x, "B": place(node.y), "G": out, "Y": place(node.also), "D": scratch, "W": hits}
                return [row(t.LANES_CROSS_ENTROPY, N=n, COEF=c, **columns)]
            case "mean":
                return [row(t.LANES_MEAN, N=n, X=x, Y=out, COEF=c)]
            case "gaussian_noise":
                layer, seed = node.details
                return [row(t.NOISE, KIND=layer, N=n, X=x, Y=out, R0=seed, COEF=c)]
            case "layer_norm" | "layer_norm_backward":
                return self.norm_rows(node, STRIDE=stride, R0=self.new(2 * stride))
            case "moments" | "batch_norm" | "batch_norm_backward" | "sum" | "means" | "spreads" | "pooled":
                return self.norm_rows(node, STRIDE=stride)
        raise NotReplayable(f"no compiled kernel by features for {node.op}")

    def scatter(self, scatter: Scatter, stride: int = 0) -> None:
        super().scatter(scatter, self.stride)

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
        self.tasks.append((n, self.sum_row(gradient.d, gradient.db, **self.updated(gradient.db, 0, n))))

    def sum_row(self, d: Value, out: Array, **columns: int) -> list[int]:
        columns |= {"D": self.place(d), "W": self.values_of(out), "G": self.parameter(out)}
        return self.row(t.LANES_DB, STRIDE=self.stride, N=d.width, **columns)
