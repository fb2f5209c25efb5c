"""Data sets of `nnx train`, all in the same form: ready to train on, with a part held out for the test."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from nnx import datasets
from nnx.checks import choice
from nnx.cli.metadata import Metadata
from nnx.cli.on_disk import FEWEST, drawn, is_on_disk, prepared
from nnx.cli.told import Told
from nnx.data.source import Source as OnDisk
from nnx.datasets.columns import Rows
from nnx.datasets.reading import KIND, read_rows
from nnx.datasets.tables import arrays, is_npz
from nnx.datasets.understanding import Reading, Wishes, understood
from nnx.errors import InputError
from nnx.files import as_path, existing_file

FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set.

    Attributes:
        name: as on the command line; of a file, without its folder.
        title: the data set in words.
        x, y, x_test, y_test: [N, F] float32 in the network's units, and classes [N] or numbers [N, 1].
        validation: (x, y) of rows set apart from the training part, to find the best epoch; None: all are trained on.
        metadata: how to interpret inputs and outputs.
        picture: height and width, if each sample is a picture.
        told: the report on a table.
        source: the training rows, if they stay on disk; x and y are then a sample of them.
    """

    name: str
    title: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    metadata: Metadata
    picture: tuple[int, int] | None = None
    told: Told | None = None
    validation: tuple[np.ndarray, np.ndarray] | None = None
    source: OnDisk | None = None

    @property
    def rows(self) -> int:
        """The number of training rows."""
        return len(self.x) if self.source is None else self.source.rows

    @property
    def training(self) -> tuple[Any, Any]:
        """The data to train on, as arguments of `fit`."""
        return (self.x, self.y) if self.source is None else (self.source, None)

    @property
    def outputs(self) -> int:
        """The number of outputs of a network for this data set."""
        return len(self.metadata.classes) if self.metadata.task == "classification" else 1

    @property
    def targets(self) -> np.ndarray:
        """All targets except those of the test part."""
        return self.y if self.validation is None else np.concatenate([self.y, self.validation[1]])

    def with_validation(self, seed: int) -> Problem:
        """Return it with a fifth of the training part set apart for validation, chosen as the test part was."""
        if len(self.x) < 2:
            raise InputError(f"--patience: {self.name} has {len(self.x)} row to learn from, expected 2 or more; say 0")
        if self.source is not None:
            chosen = drawn(self.source, seed)
            apart = self.source.load(chosen)
            return replace(self, source=self.source.without(chosen), validation=(apart.x, apart.y))
        out = held_out(self.y, seed)
        return replace(self, x=self.x[~out], y=self.y[~out], validation=(self.x[out], self.y[out]))

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [N, F] in the units of the data."""
        return x * self.metadata.std + self.metadata.mean if self.metadata.mean else x

    def fingerprint(self) -> str:
        """Return a checksum by which other data of the same name are noticed."""
        check = 0
        for part in (self.x, self.y, self.x_test, self.y_test):
            check = zlib.crc32(np.ascontiguousarray(part).data, check)
        return f"{check:08x}" if self.source is None else f"{check:08x} {self.rows}"

    def __str__(self) -> str:
        return f"{self.name} ({self.rows:,} + {len(self.x_test):,} samples)"


@dataclass(frozen=True)
class Source:
    """The data, as described on the command line.

    Attributes:
        name: a built-in data set, or a file. seed: of the spiral's noise, and of the choice of held-out rows.
        folder: of MNIST's files. header: see `nnx.datasets.load_table`.
        label, task, drop, keep, categorical: likewise; the last three are comma-separated.
    """

    name: str
    seed: int = 0
    folder: Path | None = None
    label: str | None = None
    header: bool | None = None
    task: str = "auto"
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    def load(self) -> Problem:
        """Return the data set.

        Raises:
            InputError: there is no such data set, or an option does not apply to it. Others: as by reading.
        """
        if self.name not in BUILT_IN:
            self._refuse("--data", self.folder is not None, "mnist and fashion-mnist")
            return _table(self)
        given = {
            "--label": self.label is not None, "--header": self.header is not None, "--task": self.task != "auto",
            "--drop": self.drop, "--keep": self.keep, "--categorical": self.categorical,
        }  # fmt: skip
        self._refuse(", ".join(option for option in given if given[option]), any(given.values()), "files")
        self._refuse("--data", self.folder is not None and "mnist" not in self.name, "mnist and fashion-mnist")
        return BUILT_IN[self.name](self)

    def read(self, path: Path) -> Reading:
        """Read a table, and return its interpretation."""
        task = choice(self.task, "--task", ("auto", "classification", "regression"))
        rows = read_rows(existing_file("load_table", path, KIND), self.header)
        drop, keep, categorical = (self._names(rows, given) for given in (self.drop, self.keep, self.categorical))
        return understood(rows, Wishes(self.label, task, drop, keep, categorical, on_command_line=True))

    def refuse_options(self, path: Path) -> None:
        """Refuse options that only apply to files with columns."""
        if self.label is not None or self.header is not None or self._columns:
            raise InputError(
                f"{path}: --label, --header, --drop, --keep and --categorical are for tables; leave them out for npz"
            )

    def refuse_columns(self, path: Path) -> None:
        """Refuse options that only apply to tables that are read as a whole."""
        if self.header is not None or self._columns:
            raise InputError(f"{path}: --header, --drop, --keep and --categorical are for tables; leave them out here")

    @property
    def _columns(self) -> bool:
        return bool(self.drop or self.keep or self.categorical)

    @staticmethod
    def _names(rows: Rows, given: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names in an option: comma-separated, unless a name itself contains commas."""
        return tuple(n for text in given for n in ([text] if text in rows.names else map(str.strip, text.split(","))))

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
    """Read a file, hold out a fifth of it, and prepare and scale all rows by what the others show."""
    path = as_path("nnx train", source.name)
    if not path.suffix and not path.exists():
        near = get_close_matches(source.name, BUILT_IN, 1)
        raise InputError(
            f"there is no data set {source.name!r}; expected {', '.join(BUILT_IN)}, or a file with a table"
            + (f". Did you mean {near[0]}?" if near else "")
        )
    if is_on_disk(path):
        source.refuse_columns(path)
        title, metadata, rows, some, apart = prepared(path, source.label, source.task, source.seed)
        return Problem(path.name, title, some.x, some.y, apart.x, apart.y, metadata, source=rows)
    if is_npz(path):
        return _arrays(source, path)
    reading = source.read(path)
    y = reading.target.y
    test = _held_out(path, y, source.seed)
    preparation, x = reading.learn(~test)
    columns = preparation.features if preparation.named else ()
    metadata = Metadata(reading.target.task, columns, reading.target.classes, preparation=preparation)
    told = Told(reading, preparation)
    return _scaled(path, metadata, x[~test], y[~test], x[test], y[test], told)


def _arrays(source: Source, path: Path) -> Problem:
    """Read a file of arrays; use its test set, or, if it has none, hold out a fifth."""
    source.refuse_options(path)
    table, test = arrays(existing_file("load_table", path, KIND), source.task)
    metadata = Metadata(table.task, (), table.classes)
    if test is not None:
        return _scaled(path, metadata, table.x, table.y, *test)
    out = _held_out(path, table.y, source.seed)
    return _scaled(path, metadata, table.x[~out], table.y[~out], table.x[out], table.y[out])


def _held_out(path: Path, y: np.ndarray, seed: int) -> np.ndarray:
    if len(y) < FEWEST:
        raise InputError(f"{path}: {len(y)} rows, expected {FEWEST} or more: a fifth is held out for the test")
    return held_out(y, seed)


def _scaled(
    path: Path, metadata: Metadata, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray,
    told: Told | None = None,
) -> Problem:  # fmt: skip
    metadata = metadata.fitted(x, y)
    kind = f"{len(metadata.classes)} classes" if metadata.classes else "numbers to predict"
    count = x.shape[1] if told is None else len(told.preparation.used)
    title = f"{count} column{'s' * (count != 1)}, {kind}"
    inputs, targets = map(metadata.scale, (x, x_test)), map(metadata.scale_target, (y, y_test))
    (x, x_test), (y, y_test) = inputs, targets
    return Problem(path.name, title, x, y, x_test, y_test, metadata, told=told)


def held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """Return a mask of a fifth of the rows, bool [N], the same for the same seed in every version of NumPy.

    It is stratified: every class, or numbers of every size, has its share; after sorting, one row of every five is
    chosen.
    """
    random = np.random.RandomState(seed)
    order = random.permutation(len(y))
    ranked = order[np.argsort(y.reshape(-1)[order], kind="stable")]
    fives = np.arange(0, len(y), 5)
    picked = fives + random.randint(5, size=len(fives))
    chosen = np.zeros(len(y), dtype=bool)
    chosen[ranked[picked[picked < len(y)]]] = True
    return chosen
