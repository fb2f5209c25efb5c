"""CSV files: cells, lines and names, before anything is known of labels."""

from __future__ import annotations

import codecs
import csv
import io
import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError
from nnx.files import open_file, size_of

from .labels import parse

LABEL_NAMES = ("label", "class", "target", "y")  # in order of preference, in capitals or not
MOST = 4 << 30  # bytes; an npz file takes less room, and is read a hundred times as fast
WIDEST = 1 << 20  # columns
START = 1 << 12  # bytes that tell text from other files
NO_BLANK = re.compile(rb"\S")
PIECE = 1 << 20  # bytes that are checked at once


class Sheet:
    """A CSV file: commas, semicolons or tabs; quotes as in RFC 4180; any line endings; UTF-8.

    Args:
        path: the file.
        header: whether the first line holds names; None looks at it. It does when no cell of it is a number, or when
            one is called label, class, target or y and that word does not occur again further down.
        known: names of columns that make the first line a header when it holds them all.

    Attributes:
        names: the columns' names, or None when the file has no header.
        width: the number of columns.

    Raises:
        FileFormatError: it is empty, no text, or its header is unusable.
    """

    def __init__(self, path: Path, header: bool | None = None, known: Collection[str] = ()) -> None:
        self.path, self._data = path, _read(path)
        self._delimiter = _delimiter(self._data)
        line, first = next(self._records(), (0, []))
        if not first:
            raise FileFormatError(f"{path}: the file is empty, expected a line of numbers for each sample")
        self.names: tuple[str, ...] | None = None
        if len(first) > WIDEST:
            raise FileFormatError(
                f"{path}: there are {len(first)} columns, expected at most {WIDEST}; save it as .npz for numpy"
            )
        self.width, first = len(first), [cell.strip() for cell in first]
        if header is None:
            header = bool(known and set(known) <= set(first)) or self._is_header(first)
        if header:
            self.names = self._checked_names(line, first)

    def label_column(self) -> int | None:
        """Return the index of the column whose name says that it holds labels, or None."""
        names = [name.lower() for name in self.names or ()]
        return next((names.index(name) for name in LABEL_NAMES if name in names), None)

    def place(self, line: int, column: int) -> str:
        """Say where a cell is."""
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"{self.path}, line {line}, column {column + 1}{name}"

    def read(
        self, features: Sequence[int], label: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], list[str], list[int]]:
        """Read columns of numbers, and one of labels.

        Args:
            features: indices of the columns of numbers, in the order wanted.
            label: index of the column of labels, or None.

        Returns:
            x: [N, len(features)] float32.
            exact: the same numbers before they were rounded.
            labels: [N] text, or empty without `label`.
            lines: [N] the line that each row stands on.

        Raises:
            FileFormatError: a row is too long or too short, a cell is no finite number, or there are no rows.
        """
        values, labels, lines = array("d"), list[str](), list[int]()
        for line, cells in self._rows():
            wanted = [cells[column] for column in features]
            try:
                values.extend(parse(wanted))
            except ValueError:
                raise self._bad_cell(line, features, wanted) from None
            lines.append(line)
            if label is not None:
                labels.append(cells[label].strip())
        if not lines:
            raise FileFormatError(f"{self.path}: the file has a header and no rows, expected a line for each sample")
        exact = np.frombuffer(values, np.float64).reshape(len(lines), len(features))
        with np.errstate(all="ignore"):  # what is too large becomes inf, and is refused
            x = exact.astype(np.float32)
        if not (finite := np.isfinite(x)).all():
            row, column = divmod(int(np.argmin(finite)), len(features))
            raise FileFormatError(
                f"{self.place(lines[row], features[column])}: the cell is {x[row, column]} in float32, "
                f"expected a finite number; fill it in or remove the row"
            )
        return x, exact, labels, lines

    def _bad_cell(self, line: int, features: Sequence[int], cells: list[str]) -> FileFormatError:
        column, cell = next(pair for pair in zip(features, cells, strict=True) if not _is_number(pair[1]))
        what = f"{cell!r} is not a number, expected one" if cell.strip() else "the cell is blank, expected a number"
        hint = "" if self.names or line > 1 else "; if this line holds the columns' names, say header=True"
        return FileFormatError(f"{self.place(line, column)}: {what}; every feature must be numeric{hint}")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the cells of every row of data."""
        records = self._records()
        if self.names is not None:
            next(records)
        for line, cells in records:
            if len(cells) != self.width:
                raise FileFormatError(
                    f"{self.path}, line {line}: the row has {len(cells)} cells, expected {self.width} as in the first; "
                    f"add or remove cells, and put quotes around text with {self._delimiter!r} in it"
                )
            yield line, cells

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the cells of every line that is not blank."""
        reader = csv.reader(self._text(), delimiter=self._delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                if len(cells) > 1 or any(map(str.strip, cells)):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise FileFormatError(
                f"{self.path}, line {reader.line_num}: {error}; expected CSV, with a quote inside quotes doubled"
            ) from error

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(self._data), "utf-8-sig", newline="")

    def _is_header(self, first: list[str]) -> bool:
        if not any(map(_is_number, first)):
            return True
        named = [i for i, cell in enumerate(first) if cell.lower() in LABEL_NAMES]
        if not named:
            return False
        # 0,1,2,label is a header; 0.5,0.1,y is one only when no other row is of the class y.
        column, records = named[0], self._records()
        next(records)
        return all(len(cells) <= column or cells[column].strip() != first[column] for _, cells in records)

    def _checked_names(self, line: int, names: list[str]) -> tuple[str, ...]:
        seen: dict[str, int] = {}
        for column, name in enumerate(names):
            if not name:
                raise FileFormatError(
                    f"{self.path}, line {line}: column {column + 1} has no name in the header; name it, or remove it "
                    f"(pandas writes such a column for its index: say index=False)"
                )
            if (first := seen.setdefault(name, column)) != column:
                raise FileFormatError(
                    f"{self.path}, line {line}: columns {first + 1} and {column + 1} are both called "
                    f"{name!r} in the header, expected different names; rename one"
                )
        return tuple(names)


def _delimiter(data: bytes) -> str:
    """Return the mark that divides the first row into the most cells; the comma when none does."""
    found = NO_BLANK.search(data, len(codecs.BOM_UTF8) * data.startswith(codecs.BOM_UTF8))
    at = found.start() if found else 0
    start = data[at : at + (1 << 16)].decode("utf-8", errors="ignore").lstrip()

    def cells(mark: str) -> int:
        return len(next(csv.reader(io.StringIO(start, newline=""), delimiter=mark, skipinitialspace=True), []))

    return max(",;\t", key=cells)


def _is_number(cell: str) -> bool:
    try:
        parse([cell])
    except ValueError:
        return False
    return True


def _read(path: Path) -> bytes:
    """Return a file's bytes, which are text."""
    with open_file(path, "a CSV file", MOST) as file:
        if b"\0" in file.read(START):
            raise FileFormatError(
                f"{path}: this is a binary file, or text in UTF-16, expected CSV in UTF-8; save it as CSV (UTF-8), "
                f"or as .npz for numpy"
            )
        file.seek(0)
        data = file.read(size_of(file))
    _check_text(path, data)
    return data


def _check_text(path: Path, data: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data) + 1, PIECE):
        held = len(decoder.getstate()[0])  # bytes of a character that was cut in two
        try:
            decoder.decode(data[start : start + PIECE], final=start + PIECE > len(data))
        except UnicodeDecodeError as error:
            at = start - held + error.start
            line = data.count(b"\n", 0, at) + 1
            raise FileFormatError(
                f"{path}, line {line}: the byte 0x{data[at]:02x} is not UTF-8, expected CSV in UTF-8; "
                f"save it as CSV (UTF-8)"
            ) from error
