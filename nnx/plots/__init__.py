"""Pictures of a training and of what came of it. They need matplotlib, which is imported when one is drawn.

    from nnx import plots

    figure = plots.compose("Digits", "98.1 % right", history, plots.images(x, wanted, probabilities, (8, 8)))
    plots.save(figure, "digits.png")

A panel is a function that draws into a part of a figure: `images`, `boundary`, `regression`, `confusion` and `bars`
each return one. Nothing global is changed, and no window is opened. Colours are those of Okabe and Ito (2008), which
remain apart for the colour-blind.
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
