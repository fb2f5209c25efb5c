"""The toy data of *Neural Networks from Scratch* (chapter 3, sine: chapter 17), the same arrays to the last bit.

The spiral and the vertical clusters come from the case study of Stanford's CS231n course. The book draws them in
float32 out of numpy's legacy generator, so rounding happens at fixed places; the comments say where.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnx.arguments import explained
from nnx.backends.memory import physical
from nnx.checks import integer
from nnx.errors import InputError

Points = tuple[NDArray[np.float32], NDArray[np.int64]]


class Randn(Protocol):
    """Anything that draws normal numbers as `numpy.random.RandomState` does, such as the module `numpy.random`."""

    def randn(self, *shape: int) -> Any:
        """Draw standard normal numbers, `[*shape]`."""


@explained
def spiral(samples: int = 100, classes: int = 3, seed: int = 0) -> Points:
    """Draw one noisy arm of a spiral for each class.

    Args:
        samples: points in each class, 1 or more.
        classes: number of classes, 1 or more.
        seed: 0 to 2**32 - 1; 0 gives what the book draws first after `nnfs.init()`.

    Returns:
        x: [samples * classes, 2] float32, within the unit circle.
        y: [samples * classes] int64, the class of each point (the book's are uint8; the values are the same).

    Raises:
        InputError: an argument is out of range.
        InputTypeError: an argument is not a whole number.
    """
    return draw_spiral(_seeded("spiral", seed), samples, classes)


@explained
def vertical(samples: int = 100, classes: int = 3, seed: int = 0) -> Points:
    """Draw round clusters side by side, one for each class: centres at (class / 3, 1 / 2), deviation 0.1.

    Args:
        samples: points in each class, 1 or more.
        classes: number of classes, 1 or more.
        seed: 0 to 2**32 - 1; 0 gives what the book draws first after `nnfs.init()`.

    Returns:
        x: [samples * classes, 2] float32.
        y: [samples * classes] int64, the class of each point (the book's are uint8; the values are the same).

    Raises:
        InputError: an argument is out of range.
        InputTypeError: an argument is not a whole number.
    """
    return draw_vertical(_seeded("vertical", seed), samples, classes)


@explained
def sine(samples: int = 1000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one period of a sine, for regression.

    Both arrays are float64, as the book's are, and equal to them to the last bit (where numpy's sine is the same).

    Args:
        samples: number of points, 1 or more.

    Returns:
        x: [samples, 1] float64, evenly spaced from 0 (included) to 1 (excluded).
        y: [samples, 1] float64, sin(2 pi x).

    Raises:
        InputError: `samples` is out of range.
        InputTypeError: `samples` is not a whole number.
    """
    samples = integer(samples, "sine: samples")
    _check_room("sine", samples)
    x = np.arange(samples).reshape(-1, 1) / samples
    return x, np.sin(2 * np.pi * x)


def draw_spiral(random: Randn | None, samples: int = 100, classes: int = 3) -> Points:
    """Draw the spiral from a given stream of random numbers; see `spiral`.

    Args:
        random: a `numpy.random.RandomState`, or None for numpy's global stream, which the book uses.
        samples: points in each class, 1 or more.
        classes: number of classes, 1 or more.
    """
    samples, classes = _sizes("spiral", samples, classes)
    starts = 4.0 * np.arange(classes)
    radius = np.linspace(0, 1, samples)
    angle = np.linspace(starts, starts + 4, samples, axis=1)  # [classes, samples] float64
    # The book's normal numbers are float32, and so is their product with 0.2; the sum with the angle is float64.
    angle = (angle + _normal(random, classes, samples) * np.float32(0.2)) * 2.5
    return _points(radius * np.sin(angle), radius * np.cos(angle))


def draw_vertical(random: Randn | None, samples: int = 100, classes: int = 3) -> Points:
    """Draw the vertical clusters from a given stream of random numbers; see `vertical`.

    Args:
        random: a `numpy.random.RandomState`, or None for numpy's global stream, which the book uses.
        samples: points in each class, 1 or more.
        classes: number of classes, 1 or more.
    """
    samples, classes = _sizes("vertical", samples, classes)
    # All arithmetic here is float32. A class draws all its horizontal coordinates before its vertical ones.
    noise = _normal(random, classes, 2, samples) * np.float32(0.1)
    centres = (np.arange(classes) / 3).astype(np.float32)[:, None]
    return _points(noise[:, 0] + centres, noise[:, 1] + np.float32(0.5))


def _seeded(call: str, seed: int) -> np.random.RandomState:
    seed = integer(seed, f"{call}: seed", low=0)
    if seed >= 2**32:  # numpy's legacy generator takes 32 bits
        raise InputError(f"{call}: seed={seed}: expected a whole number from 0 to {2**32 - 1}")
    return np.random.RandomState(seed)


def _sizes(call: str, samples: int, classes: int) -> tuple[int, int]:
    samples, classes = integer(samples, f"{call}: samples"), integer(classes, f"{call}: classes")
    _check_room(call, samples * classes)
    return samples, classes


def _check_room(call: str, points: int) -> None:
    """Refuse more points, of two numbers and a label each, than fit in the machine's memory."""
    if 24 * points > (physical() or np.inf):
        raise InputError(f"{call}: {points:,} points are more than this machine's memory holds; give fewer samples")


def _normal(random: Randn | None, *shape: int) -> NDArray[np.float32]:
    source: Any = np.random if random is None else random
    normal: NDArray[np.float32] = source.randn(*shape).astype(np.float32)
    return normal


def _points(horizontal: NDArray[Any], vertical: NDArray[Any]) -> Points:
    """Put coordinates, [classes, samples] each, into rows, class after class."""
    classes, samples = horizontal.shape
    x = np.stack([horizontal.ravel(), vertical.ravel()], axis=1).astype(np.float32)
    return x, np.repeat(np.arange(classes, dtype=np.int64), samples)
