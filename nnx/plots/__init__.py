"""Figures that show a training and its result. They need matplotlib, which is imported when a figure is drawn.

    from nnx import plots

    figure = plots.compose("Digits", "98.1 % right", history, plots.images(x, wanted, probabilities, (8, 8)))
    plots.save(figure, "digits.png")

A panel is a function that draws into a part of a figure: `images`, `boundary`, `regression`, `confusion` and `bars`
each return one. No global settings are changed, and no window is opened. The colours are those of Okabe and Ito (2008),
which colour-blind people can tell apart.
"""

from nnx.plots.classes import confusion
from nnx.plots.figure import compose, learning_rates, save
from nnx.plots.numbers import bars, regression
from nnx.plots.pictures import images
from nnx.plots.plane import boundary, class_colours
from nnx.plots.style import Figure, History, Panel

__all__ = [
    "Figure",
    "History",
    "Panel",
    "bars",
    "boundary",
    "class_colours",
    "compose",
    "confusion",
    "images",
    "learning_rates",
    "regression",
    "save",
]
