"""Data sets of `nnx train`, all in one form: ready to train on, with a part held out for the test."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from nnx import datasets
from nnx.cli.metadata import Metadata
from nnx.errors import InputError

FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FEWEST = 5  # rows: a fifth is held out


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set.

    Attributes:
        name: as on the command line; a file's without its folder.
        title: in words.
        x, y, x_test, y_test: [N, F] float32 in the network's units, and classes [N] or numbers [N, 1].
        metadata: how to read them.
        picture: height and width where each sample is a picture.
    """

    name: str
    title: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    metadata: Metadata
    picture: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        """How many outputs a network for it has."""
        return len(self.metadata.classes) if self.metadata.task == "classification" else 1

    @property
    def parts(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets of the test, then of the training part."""
        return (self.x_test, self.y_test), (self.x, self.y)

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [N, F] in the units of the data."""
        return x * self.metadata.std + self.metadata.mean if self.metadata.mean else x

    def fingerprint(self) -> str:
        """Return a number that tells this data from other data of the same name."""
        check = 0
        for part in (self.x, self.y, self.x_test, self.y_test):
            check = zlib.crc32(np.ascontiguousarray(part).data, check)
        return f"{check:08x}"

    def __str__(self) -> str:
        return f"{self.name} ({len(self.x):,} + {len(self.x_test):,} samples)"


@dataclass(frozen=True)
class Source:
    """What the command line says about the data.

    Attributes:
        name: a built-in data set, or a file. seed: of the spiral's noise, and of which rows of a file are held out.
        folder: of MNIST's files. label, header, task: see `nnx.datasets.load_table`.
    """

    name: str
    seed: int = 0
    folder: Path | None = None
    label: str | None = None
    header: bool | None = None
    task: str = "auto"

    def load(self) -> Problem:
        """Return the data set.

        Raises:
            InputError: there is no such data set, or an option does not belong to it. Besides: what reading raises.
        """
        if self.name not in BUILT_IN:
            self._refuse("--data", self.folder is not None, "mnist and fashion-mnist")
            return _table(self)
        about_a_file = self.label is not None or self.header is not None or self.task != "auto"
        self._refuse("--label, --header and --task", about_a_file, "CSV and npz files")
        self._refuse("--data", self.folder is not None and "mnist" not in self.name, "mnist and fashion-mnist")
        return BUILT_IN[self.name](self)

    def _refuse(self, options: str, given: bool, kind: str) -> None:
        if given:
            raise InputError(f"{options}: only for {kind}, not for {self.name}; leave it out")


def _spiral(source: Source) -> Problem:
    x, y = datasets.spiral(seed=source.seed)
    x_test, y_test = datasets.spiral(seed=(source.seed + 1) % 2**32)
    return Problem("spiral", "three noisy arms of a spiral", x, y, x_test, y_test, _classes("012", x))


def _digits(source: Source) -> Problem:
    x, y, x_test, y_test = datasets.digits()
    metadata = _classes("0123456789", x)
    return Problem("digits", "handwritten digits of 8 x 8 pixels", x, y, x_test, y_test, metadata, (8, 8))


def _mnist(source: Source) -> Problem:
    x, y, x_test, y_test = datasets.mnist(source.folder)
    metadata = _classes("0123456789", x)
    return Problem("mnist", "handwritten digits of 28 x 28 pixels", x, y, x_test, y_test, metadata, (28, 28))


def _fashion(source: Source) -> Problem:
    x, y, x_test, y_test = datasets.fashion_mnist(source.folder)
    return Problem("fashion-mnist", "clothes of 28 x 28 pixels", x, y, x_test, y_test, _classes(FASHION, x), (28, 28))


def _classes(names: str | tuple[str, ...], x: np.ndarray) -> Metadata:
    return Metadata("classification", classes=tuple(names), limits=(float(x.min()), float(x.max())))


BUILT_IN: dict[str, Callable[[Source], Problem]] = {
    "spiral": _spiral, "digits": _digits, "mnist": _mnist, "fashion-mnist": _fashion,
}  # fmt: skip


def _table(source: Source) -> Problem:
    """Read a file, hold out a fifth of it, and scale all of it by the rest."""
    path = Path(source.name)
    if not path.suffix and not path.exists():
        near = get_close_matches(source.name, BUILT_IN, 1)
        raise InputError(
            f"there is no data set {source.name!r}; expected {', '.join(BUILT_IN)}, or a CSV or npz file"
            + (f". Did you mean {near[0]}?" if near else "")
        )
    table = datasets.load_table(path, task=source.task, label=source.label, header=source.header)
    if len(table.x) < FEWEST:
        raise InputError(f"{path}: {len(table.x)} rows, expected {FEWEST} or more: a fifth is held out for the test")
    test = held_out(table.y, source.seed)
    columns: Any = table.columns if any(name != f"column {i}" for i, name in enumerate(table.columns, 1)) else ()
    metadata = Metadata(table.task, columns, table.classes).fitted(table.x[~test], table.y[~test])
    x, y = metadata.scale(table.x), metadata.scale_target(table.y)
    kind = f"{len(metadata.classes)} classes" if metadata.classes else "numbers to predict"
    title = f"{table.x.shape[1]} columns, {kind}"
    return Problem(path.name, title, x[~test], y[~test], x[test], y[test], metadata)


def held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """Choose a fifth of the rows, the same for the same seed in every version of NumPy: bool [N].

    Every class is there with its share, and numbers of every size: of five that are neighbours in order, it is one.
    """
    random = np.random.RandomState(seed)
    order = random.permutation(len(y))
    ranked = order[np.argsort(y.reshape(-1)[order], kind="stable")]
    fives = np.arange(0, len(y), 5)
    picked = fives + random.randint(5, size=len(fives))
    chosen = np.zeros(len(y), dtype=bool)
    chosen[ranked[picked[picked < len(y)]]] = True
    return chosen
