"""Reading of numbers as people write them: with groups of thousands, decimal commas, units, and times as 10:30."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import Column, is_missing, short

SHARE = 0.9  # this share of the filled cells must be of a kind
CURRENCIES = ("$", "€", "£", "¥", "₹", "USD", "EUR", "GBP", "CHF", "INR")
SYMBOLS = "%$€£¥₹"
_MONEY = "[$€£¥₹]|(?:USD|EUR|GBP|CHF|INR)"
SIGNS = re.compile(rf"([-+]?)\s*({_MONEY}(?=\s)|[$€£¥₹])?\s*(.*?)\s*(%|[$€£¥₹]|(?<=\s)(?:{_MONEY}))?")
ACCOUNTS = re.compile(r"([$€£¥₹]?)\s*\(\s*([^-+()]+?)\s*\)")  # accountants write (1,234) for -1,234
TIME = re.compile(r"(\d{1,4}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?(?:\s?([AaPp])\.?[Mm]\.?)?")
TIMES_OF_DAY = ("h:m", "h:m:s", "h:m am", "h:m:s am")
# 12 kg, 3.5cm, 20 °C, 9 m2, 4 km/h, 900 sq ft, 1 year and 2 years
MEASURE = re.compile(r"(.*\d\.?)\s?({0}(?: {0})?|°[CFK]?|[\"'\u2032\u2033‰])".format(r"[^\W\d_][^\s\d]{0,14}[23]?"))
LONGEST_NUMBER = 400  # characters; float64 has numbers of 326
LONGEST_MEASURE = 40
MINUS = "\u2212"
GROUPED = {
    ".": re.compile(
        r"[-+]?(?:[1-9]\d{0,2}(?:(?:,\d{3})+|(?:[ '\u2019\xa0\u202f]\d{3})+)"
        r"|[1-9]\d?(?:,\d\d)+,\d{3})(?:\.\d*)?"  # as in India: 12,34,567
    ),
    ",": re.compile(
        r"[-+]?(?:\d+|[1-9]\d{0,2}(?:(?:\.\d{3})+|(?:[ '\u2019\xa0\u202f]\d{3})+))(?:,\d*)?(?:[eE][-+]?\d+)?"
        r"|[-+]?,\d+"
    ),
}  # fmt: skip
GROUPS = {".": str.maketrans("", "", ", '\u2019\xa0\u202f"), ",": str.maketrans(",", ".", ". '\u2019\xa0\u202f")}


class Numbers(NamedTuple):
    """A column's numbers [N], nan for cells that are not numbers, with their decimal mark and their unit."""

    values: NDArray[np.float64]
    mark: str = "."
    unit: str = ""
    units: tuple[str, ...] = ()  # all different units, if these are the only reason why cells are not numbers


def numbers_in(column: Column, decimal: str = ".", unit: str | None = None) -> Numbers:
    """Return a column's numbers.

    Args:
        column: the column. decimal: the decimal mark, if the cells do not show it. unit: if known; None detects it.
    """
    alike = _fits("", unit or "")
    if column.numbers is not None:
        return Numbers(column.numbers if alike else np.full(len(column), np.nan))
    if column.plain is not None and alike and (decimal != "," or "." not in "".join(column.text)):
        return Numbers(column.plain)
    if (decimal, unit) not in column.parsed:
        column.parsed[decimal, unit] = _parsed(column, decimal, unit)
    found: Numbers = column.parsed[decimal, unit]
    return found


def _parsed(column: Column, decimal: str, unit: str | None) -> Numbers:
    numbers = np.full(len(column.values), np.nan)
    filled = np.flatnonzero(~column.holes)
    values = [column.values[i] for i in filled.tolist()] if column.holes.any() else column.values
    ways = {".": [_written(value, ".") for value in values]}
    if decimal == "," or any("," in value for value in values):
        both = zip(values, ways["."], strict=True)  # cells without a mark are the same either way
        ways[","] = [_written(value, ",") if "," in value or "." in value else known for value, known in both]
    counts = column.counts[filled]
    read = {mark: np.array([number for number, _ in way], dtype=np.float64) for mark, way in ways.items()}
    mark = min(read, key=lambda mark: (-counts[~np.isnan(read[mark])].sum(), mark != decimal))
    found, units = read[mark], Column("", [of for _, of in ways[mark]])
    totals = np.bincount(units.codes, np.where(np.isnan(found), 0, counts), len(units.values)).tolist()
    shares = {each: total for each, total in zip(units.values, totals, strict=True) if total}
    if unit is None:
        unit = max(shares, key=lambda each: (shares[each], each), default="")
    fits = np.array([_fits(each, unit) for each in units.values], dtype=bool)
    numbers[filled] = np.where(fits[units.codes], found, np.nan)
    told = sorted(shares, key=lambda each: -shares[each]) if sum(totals) >= SHARE * counts.sum() else ()
    return Numbers(numbers[column.codes], mark, unit, tuple(told))


def _fits(unit: str, most: str) -> bool:
    """Return whether numbers in `unit` may be mixed with those in `most`, as numbers without a unit among kilograms.

    5% is not 5, $5 is not 5 euros, 12A is not 12, and 10:30 is neither 10 nor 30.
    """
    return unit == most or (not unit and most not in ("%", *TIMES_OF_DAY)) or (not most and unit in CURRENCIES)


def example(column: Column, numbers: NDArray[np.float64]) -> str:
    """Return in words how the first cell that is not a plain number was read; "" if all are plain."""
    if column.numbers is not None or column.plain is not None:
        return ""
    dressed = np.flatnonzero(decorated(column) & ~np.isnan(numbers))
    return f"{short(column.text[dressed[0]])} is {numbers[dressed[0]]:.10g}" if len(dressed) else ""


def decorated(column: Column) -> NDArray[np.bool_]:
    """Return for each cell [N] whether it holds more than digits, sign, point and exponent of a plain number."""
    if column.numbers is not None or column.plain is not None:
        return np.zeros(len(column), dtype=bool)
    return np.isnan([_plain(value) for value in column.values])[column.codes]


def _plain(cell: str) -> float:
    """Return a cell's number if it is written as programs write it; else nan."""
    if "_" in cell:  # float() accepts 1_000, as in Python source; in a table that is not a number
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _written(cell: str, mark: str) -> tuple[float, str]:
    """Return a cell's number if it is written as people write it, and its unit.

    People write groups of thousands, a currency, a percent sign, (1,234) for a negative amount, 12 kg, and 10:30.
    """
    if len(cell) > LONGEST_NUMBER or "\n" in cell:  # matching a pattern takes long for long cells
        return np.nan, ""
    cell = cell.replace(MINUS, "-")
    if mark == "." and (number := _plain(cell)) == number:
        return number, ""
    if cell[:1].isalpha() and cell[:3] not in CURRENCIES:
        return np.nan, ""
    if "(" in cell and (owed := ACCOUNTS.fullmatch(cell)):
        cell = f"-{owed[1]}{owed[2]}"
    sign = before = after = ""
    body = cell
    if not cell[:1].isdigit() or cell[-1:] in SYMBOLS or cell[-3:] in CURRENCIES:  # the pattern takes long
        sign, before, body, after = SIGNS.fullmatch(cell).groups("")  # type: ignore[union-attr]
    number, unit = _digits(sign, body, mark), after or before
    if number == number or unit or len(body) > LONGEST_MEASURE:
        return number, unit
    if ":" in body and (time := TIME.fullmatch(body)):
        return _elapsed(time) * (-1 if sign == "-" else 1), _kind_of_time(time)
    measure = MEASURE.fullmatch(body)
    if measure is None or re.match(r"0\d", body):  # 007A is a code
        return np.nan, ""
    unit = measure[2].removesuffix("s") if len(measure[2]) > 2 else measure[2]
    return _digits(sign, measure[1], mark), unit


def _digits(sign: str, body: str, mark: str) -> float:
    """Return the number that digits with groups and a decimal mark are; nan where they are none."""
    if mark == "." and (number := _plain(sign + body)) == number:
        return number
    return _plain(sign + body.translate(GROUPS[mark])) if GROUPED[mark].fullmatch(body) else np.nan


def _elapsed(time: re.Match[str]) -> float:
    """Return a time of day, or a duration, in units of its last part: 10:30 is 630."""
    first, second, third, half = time.groups()
    hours = int(first) % 12 + 12 * (half in ("P", "p")) if half else int(first)
    whole = 60.0 * hours + int(second)
    return whole if third is None else 60.0 * whole + float(third)


def _kind_of_time(time: re.Match[str]) -> str:
    return TIMES_OF_DAY[(time[3] is not None) + 2 * (time[4] is not None)]


def is_number(cell: str) -> bool:
    """Tell whether a cell is a number, however written; with a unit but for a currency or percent it is not."""
    if is_missing(cell):
        return False
    return any(n == n and (not u or u == "%" or u in CURRENCIES) for n, u in (_written(cell, m) for m in GROUPED))
