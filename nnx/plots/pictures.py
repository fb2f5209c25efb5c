"""Images, with the classes that a network predicts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.plots.style import GREEN, INK, RED, Panel


def images(
    x: np.ndarray, wanted: np.ndarray, probabilities: np.ndarray, shape: tuple[int, int], names: Sequence[str] = (),
    rows: int = 4, columns: int = 6, seed: int = 0,
) -> Panel:  # fmt: skip
    """Return a panel of images with the classes that the network predicts for them, mistakes first.

    Args:
        x: pictures [N, height * width], 0 (paper) to 1 (ink). wanted: classes [N].
        probabilities: what the network says, [N, C]. shape: height and width. names: of the classes; else numbers.
        rows, columns: size of the grid. Up to half of it shows mistakes, those with the highest probability.
        seed: for the random choice of the other images.
    """
    names = [printable(name) for name in names] or [str(i) for i in range(probabilities.shape[1])]
    guess, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(guess != wanted)
    some = wrong[np.argsort(-sure[wrong], kind="stable")][: rows * columns // 2]
    right = np.random.RandomState(seed).permutation(np.flatnonzero(guess == wanted))[: rows * columns - len(some)]

    def draw(part: Any) -> None:
        told = "all" if len(some) == len(wrong) else f"the {len(some)} surest of"
        heading = f"{told} {len(wrong):,} mistakes, then right answers" if len(wrong) else "no mistakes"
        part.suptitle(f"Test samples: {heading}", x=0.02, ha="left", fontsize=11, fontweight="bold")
        gap = " " if max(map(len, names)) < 3 else "\n"
        grid = part.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(grid, [*some, *right], strict=False):
            axes.axis("on")
            good = guess[i] == wanted[i]
            _picture(axes, x[i].reshape(shape), GREEN if good else RED)
            verdict = names[guess[i]] if good else f"{names[wanted[i]]}{gap}read as {names[guess[i]]}"
            axes.set_xlabel(
                f"{verdict}\n{sure[i]:.0%} sure", parse_math=False, color=INK if good else RED,
                fontsize=8.5 if gap == " " else 7.8, fontweight="normal" if good else "bold", labelpad=3,
            )  # fmt: skip

    return draw


def _picture(axes: Any, picture: np.ndarray, colour: str) -> None:
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.2 if colour == GREEN else 2.4)
