"""Finding data on disk: a file, a folder of files that belong together, or a list of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnx import checks
from nnx.arguments import explained
from nnx.backends.base import real_numbers
from nnx.backends.printable import printable
from nnx.datasets.archive import X_NAMES, Y_NAMES
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.files import as_path, existing_file

from .pieces import Parts, RowGroups, Shard
from .source import Source
from .stored import Held, Rows, mapped, npy, npz


class MissingFile(InputError, FileNotFoundError):
    """A text was given where numbers, or files with numbers, are expected, and there is no file of that name."""


KIND = "a .npy, .npz or Parquet file, or a folder of them"
PARQUET = (".parquet", ".pq")
TRAIN = re.compile(r"(?i)(?<![a-z])train(ing)?(?![a-z])")  # in the names of files with training data
TEST = re.compile(r"(?i)(?<![a-z])(test|val(id(ation)?)?)(?![a-z])")  # in the names of files with other data
NOTES = {"", ".txt", ".md", ".json", ".yaml", ".yml", ".log"}  # endings of other files that a folder may hold
WEIGHTS = ("sample_weight", "weights", "w")


@explained
def shards(files: Any, label: str | None = None, window: int | None = None) -> Source:
    """Return rows that are on disk, for `fit`, `evaluate` and `predict` to read in blocks.

    Args:
        files: a folder with pairs x_0.npy, y_0.npy (and weights w_0.npy), however they are numbered, or with npz or
            Parquet files; or such a file; or a list of files, of pairs (x, y) or of triples (x, y, weights).
        label: the column of a Parquet file that holds the targets; "": none, for `predict`.
        window: how many rows may be in memory: half of them are shuffled together and trained on while the other
            half is read. None: as many as fit in 64 MB.

    Raises:
        InputError: files are missing, or do not belong together. FileFormatError: a file is damaged.
    """
    return found(files, label, window, learning=True)


def found(files: Any, label: str | None, window: int | None, learning: bool) -> Source:
    """Return what `shards` returns; with `learning` False, a Parquet file need not have a label."""
    window = None if window is None else checks.integer(window, "shards: window", low=2)
    if not isinstance(label, str | None):
        raise InputTypeError(f"label={label!r:.60}: expected the name of a Parquet file's column, a str")
    if isinstance(files, str | os.PathLike):
        return _joined(list(_at(files, label, learning)), window, label)
    if not isinstance(files, Sequence) or not files:
        raise InputTypeError(f"shards: {files!r}: expected {KIND}, or a list of files or of pairs (x, y)")
    some: list[Shard] = []
    for number, each in enumerate(files):
        if isinstance(each, tuple | list):
            if len(each) not in (1, 2, 3):
                raise InputTypeError(f"shards: {each!r:.60}: expected (x, y), or (x, y, weights)")
            some.append(_together(f" of shards[{number}]", *each))
        else:
            some += _at(each, label, learning)
    return _joined(some, window, label)


def _joined(shards: list[Shard], window: int | None, label: str | None) -> Source:
    """Return the rows of all shards together, with the columns of tables matched by name."""
    tables = [shard for shard in shards if isinstance(shard, RowGroups)]
    if label and not tables:
        raise InputError(
            f"{shards[0].name}: label={label!r} is for Parquet files, whose columns have names; leave it out here"
        )
    for table in tables[1:]:
        table.take_order(tables[0])
    return Source(shards, window)


def pair(x: Any, y: Any, weights: Any) -> Source:
    """Return the rows of arrays x, y and weights, at least one of which is on disk."""
    return Source([_together("", x, y, weights)])


def _together(of: str, x: Any, y: Any = None, weights: Any = None) -> Parts:
    given = zip((y, weights), (f"y{of}", f"sample_weight{of}"), strict=True)
    return Parts(_array(x, f"x{of}"), *(None if a is None else _array(a, name) for a, name in given))


def _array(given: Any, name: str) -> Rows:
    """Return an array on disk or in memory."""
    if isinstance(given, str | os.PathLike):
        path = as_path("shards", given)
        if _kind(path) == ".npz":
            raise FileFormatError(f"{path}: a file of several arrays; give it alone, or .npy files one by one")
        return npy(_existing(path, "an array, or a .npy file"))
    if isinstance(given, np.memmap) and given.ndim and given.dtype.kind in "fiub":
        return mapped(given, name)
    return Held(real_numbers(given, name), name)


def _at(given: Any, label: str | None, learning: bool) -> Iterator[Shard]:
    """Yield the shards in a folder or a file."""
    path = as_path("shards", given)
    if not path.is_dir():
        yield _file(_existing(path, KIND), label, learning)
        return
    names = sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=_natural)
    kinds = {_kind(p): p.name for p in reversed(names) if not p.is_dir() and _kind(p) not in NOTES}
    if len(kinds) != 1 or not kinds.keys() <= {".npy", ".npz", *PARQUET}:
        there = ", ".join([*reversed(kinds.values()), *(p.name for p in names if p.is_dir())][:10]) or "nothing"
        raise InputError(
            f"{printable(path)}: this is a folder that holds {printable(there)}; expected files of one kind: pairs "
            "x_0.npy and y_0.npy, npz or Parquet; move others elsewhere"
        )
    kind = next(iter(kinds))
    files = [p for p in names if _kind(p) == kind]
    _check_purpose(path, files)
    yield from (_pairs(path, files) if kind == ".npy" else (_file(_existing(p, KIND), label, learning) for p in files))


def _check_purpose(folder: Path, files: Iterable[Path]) -> None:
    """Refuse a folder that mixes files of training data with files of test data, judged by their names."""
    train, test = (next((p.name for p in files if words.search(p.stem)), None) for words in (TRAIN, TEST))
    if train and test:
        raise InputError(
            f"{folder}: this folder holds {train} as well as {test}, and rows of a test are not to be learned; put "
            "each into a folder of its own, or name the files one by one"
        )


def _pairs(folder: Path, files: Iterable[Path]) -> Iterator[Shard]:
    """Yield a shard for each pair x_0.npy and y_0.npy, with weights w_0.npy if there are any."""
    known = {p.name for p in files}
    rests = [name[1:] for name in known if name.startswith("x")]
    alone = sorted(name for name in known if not (name[0] in "xyw" and name[1:] in rests))
    if alone or not rests:
        raise InputError(
            f"{folder}: there is no file with the inputs that go with {alone[0] if alone else 'these'}; expected pairs "
            "such as x_0.npy and y_0.npy"
        )
    several = any(name.startswith("y") for name in known), any(name.startswith("w") for name in known)
    for rest in sorted(rests, key=lambda rest: _natural(Path(rest))):
        parts: list[Rows | None] = [_array(folder / f"x{rest}", "x")]
        for letter, there in zip("yw", several, strict=True):
            if there and f"{letter}{rest}" not in known:
                raise InputError(f"{folder}: there is x{rest}, but no {letter}{rest}; expected both")
            parts.append(_array(folder / f"{letter}{rest}", letter) if there else None)
        yield Parts(*parts)  # type: ignore[arg-type]


def _file(path: Path, label: str | None, learning: bool) -> Shard:
    if _kind(path) == ".npz":
        (x,) = npz(path, X_NAMES)
        y, weights = (next(iter(npz(path, names, optional=True)), None) for names in (Y_NAMES, WEIGHTS))
        return Parts(x, y, weights)
    if _kind(path) in PARQUET:
        return RowGroups(path, label, learning)
    if _kind(path) == ".npy":
        return Parts(npy(path))
    raise FileFormatError(
        f"{path}: expected {KIND}; other tables are read as a whole: table = nnx.datasets.load_table({path.name!r})"
    )


def _existing(path: Path, kind: str) -> Path:
    """Return the path of an existing file; a missing one raises MissingFile, as the text may not be meant as a name."""
    try:
        return existing_file("shards", path, kind)
    except FileNotFoundError as error:
        raise MissingFile(f"{error}. Of other tables: nnx.datasets.load_table reads CSV, numpy.loadtxt text") from None


def _kind(path: Path) -> str:
    return path.suffix.lower()


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts file names in natural order: x_2 before x_10, and x_02 before x_2."""
    parts = [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
    return parts, path.name
