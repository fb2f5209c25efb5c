"""Confusion matrix: which classes were predicted for each true class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.plots.style import INK, RED, Panel

MOST_NAMES = 24  # of classes along an axis


def confusion(guess: np.ndarray, wanted: np.ndarray, names: Sequence[str]) -> Panel:
    """Return a panel that counts the predictions for each true class. guess, wanted: predicted, true classes [N]."""
    count = len(names)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (np.asarray(wanted), np.asarray(guess)), 1)

    def draw(part: Any) -> None:
        axes = part.subplots()
        axes.set_title("Test samples: what each class was taken for")
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        shown = map(printable, names)
        short = [name if len(name) <= 14 else f"{name[:13]}..." for name in shown]
        if count <= 16:
            for (row, column), number in np.ndenumerate(table):
                colour = "white" if shares[row, column] > 0.6 else (INK if row == column else RED)
                if number:
                    axes.text(
                        column, row, f"{number:,}", ha="center", va="center", color=colour,
                        fontweight="bold" if row == column else "normal", fontsize=11 if count <= 8 else 8,
                    )  # fmt: skip
        some = slice(None, None, -(-count // MOST_NAMES))
        axes.set_xticks(
            range(count)[some], short[some], rotation=0 if count <= 5 else 45, ha="center" if count <= 5 else "right"
        )
        axes.set_yticks(range(count)[some], short[some])
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted", ylabel="true")

    return draw
