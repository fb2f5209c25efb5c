"""Kinds of columns: numbers, a category, a date, a name of each row ...

A kind is decided by the shares of all cells of a column, so that a few odd cells do not change it: if nine cells of ten
are numbers, the others count as missing, and the user is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from .columns import CODE, EXACT, Column, is_missing, short
from .written import LONGEST_NUMBER, SHARE, example, numbers_in

MOST_UNITS = 4  # more different endings than this are not units
MIXED = 0.5  # from this share of numbers on, the user is told that a column of text holds numbers too

NUMBER, FLAG, CATEGORY, DATE = "number", "true/false", "category", "date"
CONSTANT, NAME, TEXT, EMPTY, DROPPED = "constant", "id", "text", "empty", "dropped"
USED = (NUMBER, FLAG, CATEGORY, DATE)

FLAGS = {
    "true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "1": 1.0, "1.0": 1.0,
    "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0, "0": 0.0, "0.0": 0.0,
}  # fmt: skip
NAMES_OF_IDS = re.compile(
    r"(?i:unnamed: ?\d+|(?:__index_)?level_\d+(?:__)?"  # by pandas
    r"|id|index|idx|row|nr|no\.?|#|.*[ _.-]id|row[ _.-]?\w*)|.*[a-z0-9]I[dD]"
)
WORDS = 4  # so many words in a cell, on average, are sentences


@dataclass(frozen=True, eq=False)
class Understood:
    """A column with its kind.

    Attributes:
        column: as it was read. kind: one of the above.
        numbers: [N] float64: numbers, dates (days since 1970), or 1 and 0 for True and False; nan if missing or odd.
        distinct: the number of distinct cells, without missing ones.
        odd: the rows whose cell is filled, but not of the kind.
        decimal: the decimal mark. unit: of numbers. format: of a date. why: a note for the user.
    """

    column: Column
    kind: str
    numbers: NDArray[np.float64] | None = None
    distinct: int = 0
    odd: tuple[int, ...] = ()
    decimal: str = "."
    unit: str = ""
    format: str = ""
    why: str = ""


def understand(column: Column, decimal: str = ".", wish: str = "") -> Understood:
    """Decide of which kind a column is.

    Args:
        column: the column. decimal: the decimal mark, if its numbers do not show it.
        wish: "category" makes it a category; "keep" uses it even if it would be left out.
    """
    missing = column.missing
    filled, distinct = int((~missing).sum()), _distinct(column)
    if not filled:
        return Understood(column, EMPTY, why="no cell holds anything")
    if wish == CATEGORY:
        return Understood(column, CATEGORY, distinct=distinct)
    if distinct == 1 and filled == len(column):
        return Understood(column, CONSTANT, distinct=1, why=f"all cells are {short(column.text[0])}")
    numbers, mark, unit, units = numbers_in(column, decimal)
    found = int((~np.isnan(numbers)).sum())
    codes = are_codes(column, numbers)
    if found >= SHARE * filled and not codes:
        if found == len(column) and numbers.min() == numbers.max():
            return Understood(column, CONSTANT, distinct=1, why=f"all cells are {short(column.text[0])}")
        if wish != "keep" and _name_rows(column, numbers, distinct):
            return Understood(column, NAME, distinct=distinct, why="it numbers the rows")
        strange, why = _odd(numbers, missing), example(column, numbers)
        return Understood(column, NUMBER, numbers, distinct, strange, mark, unit, why=why)
    for kind, values, form in ((FLAG, flags_in(column), ""), (DATE, *dates_in(column))):
        fits = int((~np.isnan(values)).sum())
        both = kind != FLAG or fits == filled or {0.0, 1.0} <= set(values.tolist())  # N without Y may mean north
        if fits >= SHARE * filled and both:
            return Understood(column, kind, values, distinct, _odd(values, missing), format=form)
    several = ""
    if 1 < len(units) <= MOST_UNITS:
        listed = ", ".join(repr(unit) if unit else "none" for unit in units)
        several = f"numbers in several units ({listed}); write all in one"
    if distinct <= filled / 2 or wish == "keep":
        return Understood(column, CATEGORY, distinct=distinct, why=several)
    if several:
        return Understood(column, TEXT, distinct=distinct, why=several)
    mixed = ""
    if found >= MIXED * filled and not codes:
        odd = next(v for v, n in zip(column.text, numbers, strict=True) if n != n and not is_missing(v))
        mixed = f"; {found / filled:.0%} of it are numbers, {short(odd)} is none"
    if distinct == filled and not mixed:
        return Understood(column, NAME, distinct=distinct, why="no two cells are alike")
    words = np.mean([value.count(" ") + 1 for value in column.values])
    what = "sentences" if words >= WORDS else f"{distinct:,} different texts in {filled:,} cells"
    return Understood(column, TEXT, distinct=distinct, why=what + mixed)


def flags_in(column: Column) -> NDArray[np.float64]:
    """Return 1 and 0 for true and false, yes and no, or 1 and 0; nan for anything else."""
    return np.array([FLAGS.get(value.casefold(), np.nan) for value in column.values])[column.codes]


def are_codes(column: Column, numbers: NDArray[np.float64]) -> bool:
    """Return whether digits are codes, not amounts: 007, or more digits than float64 holds exactly."""
    if column.numbers is not None or column.plain is not None:
        return False
    special = [i for i, value in enumerate(column.values) if CODE.fullmatch(value)]
    if not special:
        return False
    digits = [i for i, value in enumerate(column.values) if value.removeprefix("-").isdecimal()]
    total = column.counts[digits].sum()
    zeros = column.counts[[i for i in special if column.values[i][0] == "0"]].sum()
    long = column.counts[[i for i in special if _exceeds(column.values[i])]].sum()
    alike = len({len(column.values[i]) for i in digits}) == 1 and total >= SHARE * len(numbers)
    return bool(max(zeros, long) >= (1 - SHARE) * total or (zeros and alike))


def _exceeds(digits: str) -> bool:
    """Return whether an integer exceeds what float64 holds exactly; Python itself reads at most 4,300 digits."""
    return len(digits) > LONGEST_NUMBER or abs(int(digits)) > EXACT


def _name_rows(column: Column, numbers: NDArray[np.float64], distinct: int) -> bool:
    """Return whether integers name the rows: all different, in a column named like "id"; or a nameless index."""
    if len(numbers) < 3 or distinct != len(numbers) or not (numbers == np.floor(numbers)).all():
        return False
    return column.nameless or bool(NAMES_OF_IDS.fullmatch(column.name))


# ---- dates -----------------------------------------------------------------------------------------------------------

DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y-%m",
         "%d %b %Y", "%d-%b-%Y", "%d-%b-%y",
         "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y")  # fmt: skip
TIMES = ("", " %H:%M:%S", " %H:%M", "T%H:%M:%S", "T%H:%M", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
ISO = "ISO"
LOOKS = 20  # cells that are looked at to find the formats worth trying
EPOCH = datetime(1970, 1, 1)
DAY = 86_400.0


def dates_in(column: Column, form: str = "") -> tuple[NDArray[np.float64], str]:
    """Return a column's dates in days since 1970, nan for other cells, and their format.

    Args:
        column: the column. form: the format, if it is known; "": the one that most cells have. If the cells do not
            show the order of day and month, the month comes first.
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
    """Return a date in days since 1970, in UTC if it has a time zone; None if the cell is not such a date."""
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


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _distinct(column: Column) -> int:
    numbers = column.numbers if column.plain is None else column.plain
    if numbers is not None:
        return len(np.unique(numbers[~column.missing]))
    return int((~column.holes).sum())


def _odd(values: NDArray[np.float64], missing: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(np.isnan(values) & ~missing).tolist())
