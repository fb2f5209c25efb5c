"""Draws the tour's pictures: `python docs/tour/pictures/draw.py [name ...]`, which needs matplotlib.

Each function draws one, which gets its name. The ground is light, also where the page is dark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nnx

INK, BLUE, ORANGE, GREEN, PALE = "#22272e", "#0072b2", "#d55e00", "#009e73", "#e6e9ed"  # told apart by all eyes
CLASSES = (BLUE, ORANGE, GREEN)
plt.rcParams.update({
    "font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "#fbfbfc",
    "axes.facecolor": "#fbfbfc", "svg.hashsalt": "nnx", "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12, "figure.constrained_layout.h_pad": 0.1,
})  # fmt: skip


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a drawing without axes, its units a tenth of an inch."""
    figure, ax = plt.subplots(figsize=(width / 10, height / 10))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return figure, ax


def circle(ax: Axes, x: float, y: float, text: str, colour: str = BLUE, radius: float = 3.2) -> None:
    """Draw a number or a sign in a circle."""
    ax.add_patch(plt.Circle((x, y), radius, facecolor="white", edgecolor=colour, linewidth=1.8, zorder=3))
    ax.text(x, y, text, ha="center", va="center", zorder=4)


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK, apart: float = 3.6
) -> None:
    """Draw an arrow between two circles."""
    a, b = np.array(start), np.array(end)
    step = (b - a) / np.linalg.norm(b - a) * apart
    ax.annotate("", b - step, a + step, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.4})


def neuron() -> Figure:
    """Inputs, weights and bias of step 1."""
    figure, ax = canvas(64, 30)
    for y, x, w, product in ((25, "1", "0.2", "0.2"), (15, "2", "0.8", "1.6"), (5, "3", "-0.5", "-1.5")):
        circle(ax, 5, y, x)
        arrow(ax, (5, y), (27, y))
        ax.text(16, y + 1.6, f"times {w}", ha="center")
        circle(ax, 27, y, product)
        arrow(ax, (27, y), (44, 15))
    circle(ax, 44, 15, "sum", ORANGE)
    ax.text(44, 26, "bias 2", ha="center")
    arrow(ax, (44, 26), (44, 15), apart=3.4)
    arrow(ax, (44, 15), (60, 15))
    circle(ax, 60, 15, "2.3", GREEN)
    return figure


def grid(ax: Axes, x: float, y: float, rows: int, columns: int, colour: str, lit: Callable[[int, int], bool]) -> None:
    """Draw a matrix by its cells, its upper left corner at x, y."""
    for i in range(rows):
        for j in range(columns):
            face = colour if lit(i, j) else "white"
            ax.add_patch(plt.Rectangle((x + 4 * j, y - 4 * i - 4), 4, 4, facecolor=face, edgecolor=INK, linewidth=1.1))


def product() -> Figure:
    """The shapes of step 5: a row on the left meets a column on the right."""
    figure, ax = canvas(62, 27)
    grid(ax, 1, 20, 3, 4, BLUE, lambda i, j: i == 0)
    grid(ax, 25, 22, 4, 3, ORANGE, lambda i, j: j == 1)
    grid(ax, 48, 20, 3, 3, GREEN, lambda i, j: (i, j) == (0, 1))
    for x, sign in ((21, "times"), (42.5, "=")):
        ax.text(x, 14, sign, ha="center", va="center")
    for x, text in ((9, "inputs (3, 4)"), (31, "weights (4, 3)"), (54, "outputs (3, 3)")):
        ax.text(x, 3, text, ha="center")
    for x, text in ((9, "a sample"), (31, "a neuron"), (54, "its output")):
        ax.text(x, 24, text, ha="center", va="center")
    return figure


def points(ax: Axes, x: np.ndarray, y: np.ndarray, size: float) -> None:
    """Draw the spiral's points, one colour and one mark for each class."""
    for k, (colour, mark) in enumerate(zip(CLASSES, "os^", strict=True)):
        ax.scatter(
            *x[y == k].T, s=size, color=colour, marker=mark, label=f"class {k}", edgecolor="white", linewidth=0.3
        )


def spiral() -> Figure:
    """The data of step 6."""
    figure, ax = plt.subplots(figsize=(4.6, 3.6))
    points(ax, *nnx.datasets.spiral(100, 3), size=18)
    ax.set(aspect="equal", xlabel="first feature", ylabel="second feature")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def relu() -> Figure:
    """ReLU and its slope."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
    x = np.linspace(-3, 3, 7)
    axes[0].plot(x, np.maximum(x, 0), color=BLUE, linewidth=2.2)
    axes[0].set(title="ReLU", xlabel="input", yticks=range(4))
    axes[1].plot([-3, 0], [0, 0], color=ORANGE, linewidth=2.2)
    axes[1].plot([0, 3], [1, 1], color=ORANGE, linewidth=2.2)
    axes[1].plot([0], [1], "o", markerfacecolor="white", color=ORANGE)
    axes[1].plot([0], [0], "o", color=ORANGE)
    axes[1].set(title="its slope", xlabel="input", yticks=(0, 1), ylim=(-0.2, 1.3))
    return figure


def softmax() -> Figure:
    """Logits and their probabilities."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
    logits = np.array([4.8, 1.21, 2.385])
    e = np.exp(logits - logits.max())
    for ax, values, title, form in ((axes[0], logits, "logits", "g"), (axes[1], e / e.sum(), "probabilities", ".3f")):
        bars = ax.bar(range(3), values, color=CLASSES, width=0.6)
        ax.bar_label(bars, [format(v, form) for v in values], padding=2)
        ax.set(title=title, xticks=range(3), xticklabels=[f"class {k}" for k in range(3)], ylim=(0, 1.15 * max(values)))
    return figure


def loss() -> Figure:
    """The cost of a probability."""
    figure, ax = plt.subplots(figsize=(5.2, 3))
    p = np.concatenate([np.logspace(-7, -2, 60), np.linspace(0.0101, 1, 150)])
    ax.plot(p, -np.log(p), color=BLUE, linewidth=2.2)
    for at in (0.01, 0.5, 1):
        ax.plot(at, -np.log(at) + 0, "o", color=ORANGE, zorder=3)
        ax.annotate(f"{-np.log(at) + 0:.2f}", (at, -np.log(at)), (6, 6), textcoords="offset points")
    ax.annotate("clipped: 16.12", (0, -np.log(1e-7)), (10, -4), textcoords="offset points")
    ax.set(xlabel="probability of the right class", ylabel="loss", xlim=(-0.02, 1.1))
    return figure


def descent() -> Figure:
    """A loss over two weights, and the path of gradient descent."""
    figure, ax = plt.subplots(figsize=(4.8, 3.4))
    a, b = np.meshgrid(np.linspace(-2.2, 2.2, 120), np.linspace(-1.6, 1.6, 120))
    ax.contour(a, b, a**2 / 2 + 1.5 * b**2, levels=np.array([0.05, 0.3, 0.8, 1.5, 2.5, 3.8]), colors="#9aa4af")
    path = [np.array([-1.9, 1.3])]
    for _ in range(14):
        path.append(path[-1] - 0.18 * path[-1] * [1, 3])
    ax.plot(*np.array(path).T, "o-", color=ORANGE, markersize=4)
    ax.plot(0, 0, "*", color=GREEN, markersize=13)
    ax.annotate("start", path[0], (6, 2), textcoords="offset points")
    ax.annotate("least loss", (0, 0), (8, -14), textcoords="offset points")
    ax.set(xlabel="a weight", ylabel="another weight", aspect="equal")
    return figure


def chain() -> Figure:
    """The neuron of step 12: values forward, gradients backward."""
    figure, ax = canvas(84, 43)
    ax.text(2, 40.5, "forward: values", color=BLUE)
    ax.text(82, 40.5, "backward: gradients", color=ORANGE, ha="right")
    for y, x, w, value, dx in ((33, "1", "-3", "-3", "-3"), (21, "-2", "-1", "2", "-1"), (9, "3", "2", "6", "2")):
        circle(ax, 6, y, x)
        arrow(ax, (6, y), (28, y), BLUE)
        ax.text(17, y + 1.2, f"times {w}", ha="center")
        ax.text(6, y - 5.6, f"gradient {dx}", color=ORANGE, ha="center")
        circle(ax, 28, y, value)
        ax.text(28, y - 5.6, "1", color=ORANGE, ha="center")
        arrow(ax, (28, y), (50, 21), BLUE)
    circle(ax, 50, 21, "6")
    ax.text(56, 25, "sum", ha="center")
    ax.text(50, 15.4, "1", color=ORANGE, ha="center")
    ax.text(50, 34, "bias 1", ha="center")
    arrow(ax, (50, 34), (50, 24), BLUE, apart=0.6)
    arrow(ax, (50, 21), (74, 21), BLUE)
    ax.text(62, 22.2, "ReLU", ha="center")
    circle(ax, 74, 21, "6", GREEN)
    ax.text(74, 15.4, "1 (given)", color=ORANGE, ha="center")
    ax.annotate("", (12, 1.5), (76, 1.5), arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 1.4})
    return figure


def boundary() -> Figure:
    """What the network of step 18 answers over the plane, as it learns."""
    x, y = nnx.datasets.spiral(100, 3)
    model = nnx.Sequential(nnx.Dense(2, 64), nnx.ReLU(), nnx.Dense(64, 3), nnx.Softmax(), backend="numpy", seed=0)
    model.compile(loss=nnx.CategoricalCrossEntropy(), optimizer=nnx.Adam(0.05))
    a, b = np.meshgrid(np.linspace(-1.1, 1.1, 220), np.linspace(-1.1, 1.1, 220))
    plane = np.stack([a.ravel(), b.ravel()], axis=1)
    figure, axes = plt.subplots(1, 4, figsize=(9.2, 2.6))
    done = 0
    for ax, steps in zip(axes, (0, 10, 50, 300), strict=True):
        if steps > done:
            model.fit(x, y, epochs=steps - done, verbose=0)
            done = steps
        share = nnx.accuracy(model.predict(x), y)
        answer = model.predict(plane).argmax(axis=1).reshape(a.shape)
        ax.contourf(a, b, answer, levels=[-0.5, 0.5, 1.5, 2.5], colors=CLASSES, alpha=0.25)
        points(ax, x, y, size=5)
        ax.set(aspect="equal", xticks=(), yticks=(), title=f"{steps} steps: {share:.0%}")
        ax.spines[:].set_visible(True)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f for f in (neuron, product, spiral, relu, softmax, loss, descent, chain, boundary)
}


def main(names: list[str]) -> None:
    """Draw those that are named, or all."""
    for name in names or PICTURES:
        ending = "png" if name == "boundary" else "svg"
        metadata = {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
        figure = PICTURES[name]()
        figure.savefig(Path(__file__).with_name(f"{name}.{ending}"), dpi=110, metadata=metadata)
        plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
