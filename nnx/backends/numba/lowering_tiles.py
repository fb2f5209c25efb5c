"""Lowering of samples row by row whose large products are split (nnx/kernels/cpu/program/rows_amx.py).

A layer's three products are on tiles together, or none is: they share the panels of its weights, which hold parts of
bfloat16 and are written as the weights are updated.
"""

# ruff: noqa: D102 - what an operation or a layout does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.addresses import Array
from nnx.backends.dataflow import Gradient, Node, Step
from nnx.backends.numba.lowering import BLOCK_ROWS, piece_of, round_up
from nnx.backends.numba.lowering_rows import Rows
from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.matmul.amx import THREAD, prefer_amx
from nnx.kernels.cpu.matmul.gemm import STRIPS
from nnx.kernels.cpu.matmul.tile_registers import PART
from nnx.kernels.cpu.matmul.tile_units import EDGE, short
from nnx.kernels.cpu.program import table as t

SPLIT = {t.DENSE: t.SPLIT_DENSE, t.DENSE_DX: t.SPLIT_DX}


def on_tiles(step: Step, weights: Array, work: float) -> bool:
    """Tell whether a layer's products are faster on tiles, whatever the threads: one and two must round alike."""
    k, n = weights.shape
    return prefer_amx(min(step.rows, BLOCK_ROWS), n, k, work)


class TileRows(Rows):
    """Samples row by row, with float32 in `parts` of bfloat16, multiplied by a unit of tile_units.py."""

    operations = t.ON_TILES
    strips = max(THREAD, STRIPS)  # narrow layers are multiplied in vectors
    piece = piece_of(caches(), 1 << 18)  # more, since each reads all panels of the outputs' gradient again
    grain = EDGE

    def __init__(
        self, step: Step, arena: Array, more: Array | None, threads: int, backend: Any, updates: bool = True
    ) -> None:
        self.unit, self.split_into, self.split_from = backend.unit, backend.parts, backend.split_from
        self.products = f"large products on {self.unit}, "
        super().__init__(step, arena, more, threads, updates)
        others = "" if all(self.split(gradient.dw) for gradient in step.gradients) else "/gemm"
        self.product = f"{short(self.unit)}{others}"
        self.table[0][t.PARTS] = self.split_into

    def most_rows(self) -> int:
        return BLOCK_ROWS  # fewer were measured for products in vectors only

    def split(self, weights: Array) -> bool:
        return on_tiles(self.step, weights, self.split_from)

    def room_for(self, depth: int, n: int) -> int:
        """The place of panels."""
        return self.new(round_up(depth, EDGE) // EDGE * round_up(n, EDGE) // EDGE * PART * self.split_into)

    def rows_of(self, node: Node) -> list[list[int]]:
        rows = super().rows_of(node)
        if node.weights is not None and node.op in ("dense", "dense_dx") and self.split(node.weights):
            for row in rows:
                row[t.OP], row[t.UNSPLIT] = SPLIT[row[t.OP]], self.parameter(node.weights)
        return rows

    def panels_of(self, weights: Array, across: bool) -> int:
        if not self.split(weights):
            return super().panels_of(weights, across)
        source, (k, n) = self.parameter(weights), weights.shape
        key = source, across
        if key not in self.panels:
            self.panels[key] = place = self.room_for(n, k) if across else self.room_for(k, n)
            op = t.SPLIT_ACROSS if across else t.SPLIT_PANELS
            self.before[key] = [self.row(op, K=k, N=n, X=source, Y=place, R0=r0, R1=r1) for r0, r1 in self.pieces(k, n)]
        return self.panels[key]

    def panels_for(self, gradient: Gradient) -> int:
        if not self.split(gradient.dw):
            return super().panels_for(gradient)
        rows, n = self.step.rows, gradient.dw.shape[1]
        panels = self.room_for(rows, n)
        self.local.append(self.row(t.SPLIT_PANELS, K=rows, N=n, X=self.place(gradient.d), Y=panels))
        return panels

    def gradient(self, gradient: Gradient) -> None:
        first = len(self.tasks)
        super().gradient(gradient)
        if self.split(gradient.dw):
            for _, row in self.tasks[first:]:
                if row[t.OP] == t.DENSE_DW:
                    row[t.OP], row[t.UNSPLIT] = t.SPLIT_DW, self.place(gradient.d)
