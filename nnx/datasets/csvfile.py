"""CSV files: encoding, separator and beginning of the table are detected here; then pandas reads the cells as text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from nnx.errors import FileFormatError

from .assembling import assemble
from .columns import BLANKS, Rows
from .encoding import as_utf8
from .header import is_header
from .needs import optional
from .written import is_number

WIDEST = 100_000  # the most columns that a table may have; interpreting one takes some 0.3 ms
LOOKS = 100  # records that are looked at to find the separator
MARKS = ",;\t|"
MAY_BE_BLANKS = (b'"', *(blank.encode() for blank in BLANKS if blank not in "\r\n"))  # quotes may hide blanks too
SPACES = r"\s+"
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+")
# A decimal comma, which does not follow a group of thousands: 1,5 and 0,125 and 1.234,5
CLEAR_COMMA = re.compile(r"[-+]?(?:\d*,(?!\d{3}$)\d+|0?,\d+|\d{4,},\d+|\d{1,3}(?:\.\d{3})+,\d+)")
CLEAR_POINT = re.compile(r"[-+]?(?:\d*\.(?!\d{3}$)\d+|0?\.\d+|\d{4,}\.\d+|\d{1,3}(?:,\d{3})+\.\d+)")
SAYS_SEPARATOR = re.compile(rb"\s*\"?sep=(.)\"?[ ,;\t]*(\r\n|\r|\n)", re.IGNORECASE)
LINE = re.compile(rb"[^\r\n]*(\r\n|\r|\n|$)")


def read_csv(path: Path, data: bytes, header: bool | None = None, known: Collection[str] = ()) -> Rows:
    """Read a CSV file.

    Args:
        path: the file, for messages. data: its bytes.
        header: whether the first line holds names; None decides by that line and by those below.
        known: the first line holds names if half of these are in it.

    Raises:
        FileFormatError: it is not text, empty, or not a table. MissingExtra: pandas is not installed.
    """
    pandas = optional("pandas", "tables", "reading CSV files")
    data, notes = as_utf8(path, data)
    return _Reader(path, data, notes, header is not False).rows(pandas, header, known)


class _Reader:
    """Reads one file. In `data`, the table begins at `start`, and the part below its first line at `begin`."""

    def __init__(self, path: Path, data: bytes, notes: list[str], may_have_names: bool) -> None:
        self.path, self.data, self.notes, self.start = path, data, notes, 0
        self.mark = ""
        if said := SAYS_SEPARATOR.match(data):
            self.mark, self.start = said[1].decode("latin-1"), said.end()
        comments = self._skip_comments()
        self._skip_blanks()
        if not self.mark:
            self.mark = self._find_mark()
        if may_have_names:
            self._skip_titles()
        self.first, others = self._head()
        names = _record(comments[-1], self.mark) if comments else []
        self.names_given = 1 < len(names) == len(self.first)
        if self.names_given:  # #id,a,b
            self.first, self.begin = names, self.start
        self.width = self._find_width(others)
        self.decimal = _decimal(self.mark, others)

    def rows(self, pandas: Any, header: bool | None, known: Collection[str]) -> Rows:
        """Return the whole table."""
        if self.width > WIDEST:
            raise too_wide(self.path, self.width)
        first = [cell.strip(BLANKS) for cell in self.first]
        return assemble(
            str(self.path), first, self._cells(pandas), lambda record: f"line {self._line(record)}",
            header if header is not None or not self.names_given else True,
            known=known, notes=self.notes, decimal=self.decimal,
        )  # fmt: skip

    # ---- where the table begins --------------------------------------------------------------------------------------

    def _skip_blanks(self) -> None:
        found = re.compile(rb"\S").search(self.data, self.start)
        if found is None:
            raise FileFormatError(f"{self.path}: the file is empty, expected a line of numbers for each sample")
        line = max(self.data.rfind(b"\n", self.start, found.start()), self.data.rfind(b"\r", self.start, found.start()))
        self.start = line + 1 if line >= 0 else self.start

    def _skip_comments(self) -> list[str]:
        """Skip lines at the top that begin with #; return them without the #."""
        comments = []
        self._skip_blanks()
        while self.data.startswith(b"#", self.start):
            line = LINE.match(self.data, self.start)
            assert line is not None
            if line.end() == len(self.data):
                break
            comments.append(line[0].decode().strip().lstrip("# \t"))
            self.start = line.end()
        if comments:
            self._skip_blanks()
        return comments

    def _skip_titles(self) -> None:
        """Go past lines of one cell that stand above a line of names; assembling.py has those filled up with commas."""
        records = list(islice(self._records(self.start, self.mark), LOOKS))
        table = _below_titles([cells for _, cells in records])
        count = len(records) - len(table)
        if (
            not count
            or not all(cell.strip(BLANKS) for cell in table[0])
            or not is_header(table[0], list(zip(*table[1:], strict=True)))
        ):
            return
        line, (title,) = self._lines_before(self.start) + records[0][0], records[0][1]
        self.notes.append(f"line {line}: {title.strip(BLANKS)!r} stands above the table, and is left out")
        self.start = self._behind(records[count - 1][0])
        self._skip_blanks()

    def _behind(self, lines: int) -> int:
        """Return where the line begins that follows so many."""
        place = self.start
        for _ in range(lines):
            found = LINE.match(self.data, place)
            assert found is not None
            place = found.end()
        return place

    # ---- separator, width --------------------------------------------------------------------------------------------

    def _text(self, start: int) -> io.TextIOWrapper:
        stream = io.BytesIO(self.data)
        stream.seek(start)
        return io.TextIOWrapper(stream, "utf-8", newline="")

    def _records(self, start: int, mark: str) -> Iterator[tuple[int, list[str]]]:
        """Yield, for every record that is not blank, the number of its last line, and its cells."""
        lines: Iterator[str] = self._text(start)
        if mark == SPACES:
            lines, mark = (re.sub(r"[ \t]+", " ", line).strip(" ") for line in lines), " "
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True)
        try:
            for cells in reader:
                if len(cells) > 1 or any(cell.strip(BLANKS) for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            line, long = self._lines_before(start) + reader.line_num, "limit" in str(error)
            what = f"a cell is longer than {csv.field_size_limit():,} characters" if long else str(error)
            remedy = "; remove it, if no quote is missing" if long else ""
            raise FileFormatError(
                f"{self.path}, line {line}: {what}; expected CSV, with a quote inside quotes doubled{remedy}"
            ) from error

    def _find_mark(self) -> str:
        """Return the separator: the one that divides all lines into the same number of cells, and the most cells."""
        heads = {mark: self._sample(mark) for mark in MARKS}
        even = {mark: head for mark, head in heads.items() if _even(head)}
        for mark in ";\t|":
            commas = [c.strip() for r in even.get(mark, [])[1:] for c in r if "," in c]
            if commas and all(map(DECIMAL_COMMA.fullmatch, commas)):
                return mark
        if even:
            return max(even, key=lambda mark: len(even[mark][0]))
        if all(len(head[0]) == 1 for head in heads.values() if head):
            return SPACES if _even(self._sample(SPACES)) else ","
        return max(heads, key=lambda mark: len(heads[mark][0]) if heads[mark] else 0)

    def _sample(self, mark: str) -> list[list[str]]:
        """Return some records divided by a separator; none if quotes do not match with it."""
        try:
            return _below_titles([cells for _, cells in islice(self._records(self.start, mark), LOOKS)])
        except FileFormatError:
            return []

    def _head(self) -> tuple[list[str], list[list[str]]]:
        """Return the first record, and some after it; set `begin` to where the second begins."""
        records = self._records(self.start, self.mark)
        line, first = next(records, (0, [""]))
        self.begin = self._behind(line)
        return first, [cells for _, cells in islice(records, LOOKS)]

    def _find_width(self, others: list[list[str]]) -> int:
        """Return the number of columns; the first line may have no name for a column of row names, or no last comma."""
        width, widths = len(self.first), {len(cells) for cells in others}
        several = len(others) > 1
        if several and widths == {width + 1} and not any(cells[-1].strip(BLANKS) for cells in others):
            self.first = [*self.first, ""]
        elif several and widths == {width + 1} and _names_rows(others) and not any(map(is_number, self.first)):
            self.first, self.names_given = ["", *self.first], True
        elif widths == {width - 1} and not self.first[-1].strip(BLANKS):
            self.first = self.first[:-1]
        elif others and len(others[0]) > width:  # pandas would take the extra cells for names of rows
            self.width = width
            line = next(islice(self._records(self.start, self.mark), 1, None))[0]
            raise self._wrong_width(self._lines_before(self.start) + line, len(others[0]))
        return len(self.first)

    # ---- cells -------------------------------------------------------------------------------------------------------

    def _cells(self, pandas: Any) -> list[list[str]]:
        """Return the columns below the first record, as pandas reads them, without blanks around the cells."""
        try:
            frame = pandas.read_csv(
                io.BytesIO(memoryview(self.data)[self.begin :]), sep=self.mark, header=None, names=range(self.width),
                index_col=False if self.width == 1 else None, dtype=object, keep_default_na=False,
                skipinitialspace=True, encoding="utf-8", low_memory=False,
            )  # fmt: skip
        except pandas.errors.EmptyDataError:
            return [[] for _ in range(self.width)]
        except (pandas.errors.ParserError, ValueError) as error:
            raise self._refusal(str(error)) from error
        columns: list[list[str]] = frame.to_numpy(dtype=object).T.tolist()
        if any(self.data.find(mark, self.begin) >= 0 for mark in MAY_BE_BLANKS):  # seldom true
            columns = [[cell.strip(BLANKS) for cell in column] for column in columns]
        if self.width > 1 and "" in columns[-1]:  # pandas silently fills up rows that are too short
            self._check_widths()
        return columns

    def _refusal(self, message: str) -> FileFormatError:
        before = self._lines_before(self.begin)
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
            return self._wrong_width(before + int(found[2]), int(found[3]))
        if found := re.search(r"EOF inside string starting at row (\d+)", message):
            return FileFormatError(
                f"{self.path}, line {self._line(int(found[1]))}: a quote is opened and never closed; expected CSV, "
                "with a quote inside quotes doubled"
            )
        return FileFormatError(f"{self.path}: {message}; expected CSV")

    def _wrong_width(self, line: int, cells: int) -> FileFormatError:
        remedy = f"put quotes around text with {' ' if self.mark == SPACES else self.mark!r} in it"
        if self.width == 1:
            remedy = "remove the lines above the table"
        return FileFormatError(
            f"{self.path}, line {line}: the row has {cells} cells, expected {self.width} as in the first; "
            f"add or remove cells, and {remedy}"
        )

    def _check_widths(self) -> None:
        before = self._lines_before(self.begin)
        for line, cells in self._records(self.begin, self.mark):
            if len(cells) != self.width and self.mark != SPACES:
                raise self._wrong_width(before + line, len(cells))

    def _lines_before(self, start: int) -> int:
        return len(re.findall(rb"\r\n|\r|\n", self.data[:start]))

    def _line(self, record: int) -> int:
        """Return the line number of a record; records are counted from 0 below the first one, which is -1."""
        if record < 0:
            return self._lines_before(self.begin)
        found = next(islice(self._records(self.begin, self.mark), record, None), (1, []))
        return self._lines_before(self.begin) + found[0]


def too_wide(path: Path, width: int) -> FileFormatError:
    """Return the error that a table has too many columns."""
    return FileFormatError(
        f"{path}: there are {width:,} columns, expected at most {WIDEST:,}; save it as .npz for numpy"
    )


def _below_titles(records: list[list[str]]) -> list[list[str]]:
    """Return the records from the first one of several cells on, if all of them have as many, three or more; else all.

    Above two columns it may be the name of one of them: the other names the rows.
    """
    table = list(dropwhile(lambda cells: len(cells) == 1, records))
    widths = {len(cells) for cells in table}
    return table if len(table) > 1 and len(widths) == 1 and min(widths) > 2 else records


def _even(head: list[list[str]]) -> bool:
    """Return whether all records have the same number of cells; the first may have one more or one less."""
    widths = Counter(len(cells) for cells in head[1:] or head)
    if len(widths) != 1 or min(widths) < 2:
        return False
    return abs(len(head[0]) - min(widths)) <= 1


def _names_rows(records: list[list[str]]) -> bool:
    """Return whether the first cells may be names of rows, all different; the parts before decimal commas are not."""
    return len({cells[0] for cells in records}) == len(records)


def _decimal(mark: str, records: list[list[str]]) -> str:
    """Return the decimal mark of a file: that of most cells that only one of the two marks can explain; "" if none."""
    cells = [cell.strip(BLANKS) for record in records for cell in record]
    commas, points = (sum(map(bool, map(clear.fullmatch, cells))) for clear in (CLEAR_COMMA, CLEAR_POINT))
    if commas == points:
        return "," if mark == ";" and any(map(DECIMAL_COMMA.fullmatch, cells)) else ""
    return "," if commas > points else "."


def _record(line: str, mark: str) -> list[str]:
    if mark == SPACES:
        return line.split()
    return next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])
