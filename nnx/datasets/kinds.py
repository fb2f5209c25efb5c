"""Kinds of columns: numbers, a category, a date, a name of each row ...

A kind is decided by all cells of a column, and by shares of them, so that a few odd cells do not turn it: where nine
cells of ten are numbers, the others are taken for missing, and told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from .columns import CODE, EXACT, Column, is_missing, short

SHARE = 0.9  # of the cells that are filled: so many must be of a kind
MIXED = 0.5  # from here on, a column of text is told to hold numbers too

NUMBER, FLAG, CATEGORY, DATE = "number", "true/false", "category", "date"
CONSTANT, NAME, TEXT, EMPTY, DROPPED = "constant", "id", "text", "empty", "dropped"
USED = (NUMBER, FLAG, CATEGORY, DATE)

FLAGS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
NAMES_OF_IDS = re.compile(r"(?i:unnamed: ?\d+|id|index|idx|row|nr|no\.?|#|.*[ _.-]id|row[ _.-]?\w*)|.*[a-z0-9]I[dD]")
WORDS = 4  # so many in a cell, on average, are sentences


@dataclass(frozen=True, eq=False)
class Understood:
    """A column, and what it is.

    Attributes:
        column: as it was read. kind: one of the above.
        numbers: [N] float64 of a number, a date (days since 1970), or True and False (1, 0); nan where missing or odd.
        distinct: how many different cells there are, without those that are missing.
        odd: rows whose cell is filled, and not of the kind.
        decimal: the decimal mark. format: of a date. why: what is to be said of it.
    """

    column: Column
    kind: str
    numbers: NDArray[np.float64] | None = None
    distinct: int = 0
    odd: tuple[int, ...] = ()
    decimal: str = "."
    format: str = ""
    why: str = ""


def understand(column: Column, decimal: str = ".", wish: str = "") -> Understood:
    """Decide what a column is.

    Args:
        column: the column. decimal: the decimal mark, where its numbers do not show it.
        wish: "category" makes it one; "keep" uses it though it would be left out.
    """
    missing = column.missing
    filled, distinct = int((~missing).sum()), _distinct(column)
    if not filled:
        return Understood(column, EMPTY, why="no cell holds anything")
    if wish == CATEGORY:
        return Understood(column, CATEGORY, distinct=distinct)
    if distinct == 1 and filled == len(column):
        return Understood(column, CONSTANT, distinct=1, why=f"all cells are {short(column.text[0])}")
    numbers, mark = numbers_in(column, decimal)
    found = int((~np.isnan(numbers)).sum())
    codes = are_codes(column, numbers)
    if found >= SHARE * filled and not codes:
        if found == len(column) and numbers.min() == numbers.max():
            return Understood(column, CONSTANT, distinct=1, why=f"all cells are {short(column.text[0])}")
        if wish != "keep" and _name_rows(column, numbers, distinct):
            return Understood(column, NAME, distinct=distinct, why="it numbers the rows")
        return Understood(column, NUMBER, numbers, distinct, _odd(numbers, missing), mark)
    for kind, values, form in ((FLAG, flags_in(column), ""), (DATE, *dates_in(column))):
        fits = int((~np.isnan(values)).sum())
        both = kind != FLAG or fits == filled or {0.0, 1.0} <= set(values.tolist())  # N alone may be north
        if fits >= SHARE * filled and both:
            return Understood(column, kind, values, distinct, _odd(values, missing), format=form)
    if distinct <= filled / 2 or wish == "keep":
        return Understood(column, CATEGORY, distinct=distinct)
    mixed = ""
    if found >= MIXED * filled and not codes:
        odd = next(v for v, n in zip(column.text, numbers, strict=True) if n != n and not is_missing(v))
        mixed = f"; {found / filled:.0%} of it are numbers, {short(odd)} is none"
    if distinct == filled and not mixed:
        return Understood(column, NAME, distinct=distinct, why="no two cells are alike")
    words = np.mean([value.count(" ") + 1 for value in column.values])
    what = "sentences" if words >= WORDS else f"{distinct:,} different texts in {filled:,} cells"
    return Understood(column, TEXT, distinct=distinct, why=what + mixed)


def numbers_in(column: Column, decimal: str = ".") -> tuple[NDArray[np.float64], str]:
    """Return a column's numbers, nan where there is none, and the decimal mark that they are written with."""
    if column.numbers is not None:
        return column.numbers, "."
    if column.plain is not None and (decimal != "," or "." not in "".join(column.text)):
        return column.plain, "."
    if decimal not in column.parsed:
        column.parsed[decimal] = _parsed(column, decimal)
    return column.parsed[decimal]


def _parsed(column: Column, decimal: str) -> tuple[NDArray[np.float64], str]:
    numbers = np.full(len(column.values), np.nan)
    filled = np.flatnonzero(~column.holes)
    values = [column.values[i] for i in filled.tolist()] if column.holes.any() else column.values
    ways = {".": [_written(value, ".") for value in values]}
    if decimal == "," or any("," in value for value in values):
        ways[","] = [_written(value, ",") for value in values]
    counts = column.counts[filled]
    mark = min(ways, key=lambda mark: (-counts[~np.isnan(ways[mark])].sum(), mark != decimal))
    numbers[filled] = _of_one_unit(values, np.array(ways[mark]), counts)
    return numbers[column.codes], mark


def _of_one_unit(values: Sequence[str], numbers: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers with nan for those of another unit than most: 5% is not 5, and $5 is not 5 euros."""
    if not UNIT.search("\n".join(values)):
        return numbers
    units = np.array([(UNIT.findall(value) or [""])[-1] for value in values])
    shares = {unit: counts[(units == unit) & ~np.isnan(numbers)].sum() for unit in dict.fromkeys(units.tolist())}
    most = max(shares, key=lambda unit: (shares[unit], unit), default="")
    others = [unit for unit in shares if unit != most and ("%" in (unit, most) or (unit and most))]
    return np.where(np.isin(units, others), np.nan, numbers)


def decorated(column: Column) -> NDArray[np.bool_]:
    """Return [N] which cells hold more than the digits, sign, point and exponent of a plain number."""
    if column.numbers is not None or column.plain is not None:
        return np.zeros(len(column), dtype=bool)
    return np.isnan([_plain(value) for value in column.values])[column.codes]


def flags_in(column: Column) -> NDArray[np.float64]:
    """Return 1 and 0 for true and false (or yes and no), nan for all else."""
    return np.array([FLAGS.get(value.casefold(), np.nan) for value in column.values])[column.codes]


# ---- numbers ---------------------------------------------------------------------------------------------------------

SIGNS = re.compile(r"^([-+]?)\s*(?:[$€£¥]|(?:USD|EUR|GBP|CHF)\s)?\s*(.*?)\s*(?:[%$€£¥]|\s(?:USD|EUR|GBP|CHF))?$")
UNIT = re.compile("[%$€£¥]|USD|EUR|GBP|CHF")
LONGEST_NUMBER = 400  # characters; float64 has numbers of 326
MINUS = "\u2212"
GROUPED = {
    ".": re.compile(r"[-+]?[1-9]\d{0,2}(?:(?:,\d{3})+|(?:[ '\u2019\xa0\u202f]\d{3})+)(?:\.\d*)?"),
    ",": re.compile(
        r"[-+]?(?:\d+|[1-9]\d{0,2}(?:(?:\.\d{3})+|(?:[ '\u2019\xa0\u202f]\d{3})+))(?:,\d*)?(?:[eE][-+]?\d+)?"
        r"|[-+]?,\d+"
    ),
}  # fmt: skip
GROUPS = {".": str.maketrans("", "", ", '\u2019\xa0\u202f"), ",": str.maketrans(",", ".", ". '\u2019\xa0\u202f")}


def _plain(cell: str) -> float:
    """Return the number that a cell holds as programs write it; nan for any other."""
    if "_" in cell:  # float() takes 1_000, as Python's source does; in a table it is no number
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _written(cell: str, mark: str) -> float:
    """Return the number that a cell holds as people write it: groups of thousands, a currency, a percent sign."""
    if len(cell) > LONGEST_NUMBER:  # a pattern takes long for what is long
        return np.nan
    cell = cell.replace(MINUS, "-")
    sign, body = SIGNS.fullmatch(cell).groups() if "\n" not in cell else ("", cell)  # type: ignore[union-attr]
    if mark == "." and (number := _plain(sign + body)) == number:
        return number
    if not GROUPED[mark].fullmatch(body):
        return np.nan
    return _plain(sign + body.translate(GROUPS[mark]))


def is_number(cell: str) -> bool:
    """Tell whether a cell is a number, however written."""
    return not is_missing(cell) and any(number == number for number in (_written(cell, mark) for mark in GROUPED))


def are_codes(column: Column, numbers: NDArray[np.float64]) -> bool:
    """Tell whether digits are codes, not amounts: 007, or more digits than float64 tells apart."""
    if column.numbers is not None or column.plain is not None:
        return False
    special = [i for i, value in enumerate(column.values) if CODE.fullmatch(value)]
    if not special:
        return False
    digits = [i for i, value in enumerate(column.values) if value.removeprefix("-").isdecimal()]
    total = column.counts[digits].sum()
    zeros = column.counts[[i for i in special if column.values[i][0] == "0"]].sum()
    long = column.counts[[i for i in special if abs(int(column.values[i])) > EXACT]].sum()
    alike = len({len(column.values[i]) for i in digits}) == 1 and total >= SHARE * len(numbers)
    return bool(max(zeros, long) >= (1 - SHARE) * total or (zeros and alike))


def _name_rows(column: Column, numbers: NDArray[np.float64], distinct: int) -> bool:
    """Tell whether whole numbers name the rows: all different, under such a name; or an index without one."""
    if len(numbers) < 3 or distinct != len(numbers) or not (numbers == np.floor(numbers)).all():
        return False
    return column.nameless or bool(NAMES_OF_IDS.fullmatch(column.name))


# ---- dates -----------------------------------------------------------------------------------------------------------

DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y-%m",
         "%d %b %Y", "%d-%b-%Y", "%d-%b-%y",
         "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y")  # fmt: skip
TIMES = ("", " %H:%M:%S", " %H:%M", "T%H:%M:%S", "T%H:%M", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
ISO = "ISO"
LOOKS = 20  # cells that settle which formats are worth trying
EPOCH = datetime(1970, 1, 1)
DAY = 86_400.0


def dates_in(column: Column, form: str = "") -> tuple[NDArray[np.float64], str]:
    """Return a column's dates in days since 1970, nan where there is none, and their format.

    Args:
        column: the column. form: the format, where it is known; if not, the one that most cells have. Where the order
            of day and month does not show, the month comes first.
    """
    none = np.full(len(column), np.nan)
    if column.numbers is not None:
        return none, form
    filled = [value for value in column.values if not is_missing(value)]
    sample = [value for value in filled[:: max(1, len(filled) // LOOKS)] if any(map(str.isdigit, value[:20]))]
    if not sample or len(min(sample, key=len)) < 6 or len(max(sample, key=len)) > 40:
        return none, form
    forms = [form] if form else [ISO, *(day + time for day in DATES for time in TIMES)]
    scores = {each: sum(_date(value, each) is not None for value in sample) for each in forms}
    worth = [each for each in forms if scores[each] and scores[each] >= SHARE * max(scores.values())][:4]
    best, days = form, none
    for each in worth:
        found = np.array([np.nan if (d := _date(value, each)) is None else d for value in column.values])[column.codes]
        if not best or np.isnan(found).sum() < np.isnan(days).sum():
            best, days = each, found
    return days, best


def _date(cell: str, form: str) -> float | None:
    """Return a date in days since 1970, UTC where it has a zone; None if it is none."""
    try:
        if form == ISO:
            when = datetime.fromisoformat(cell) if len(cell) >= 10 and cell[4:5] == "-" else None
        else:
            when = datetime.strptime(cell, form)
        if when is not None and when.tzinfo is not None:
            when = when.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return None if when is None else (when - EPOCH).total_seconds() / DAY


# ---- what is common to all -------------------------------------------------------------------------------------------


def _distinct(column: Column) -> int:
    numbers = column.numbers if column.plain is None else column.plain
    if numbers is not None:
        return len(np.unique(numbers[~column.missing]))
    return int((~column.holes).sum())


def _odd(values: NDArray[np.float64], missing: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(np.isnan(values) & ~missing).tolist())
