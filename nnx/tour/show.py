"""Pages as lines of text. The output of their blocks is computed while they are shown."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Any

from nnx.tour.formula import plain
from nnx.tour.page import Part, parts

SPAN = re.compile(r"(`[^`]*`)")  # code within text, which stays as it is
MARKS = (
    (re.compile(r"!\[([^]]*)\]\([^)]*\)"), r"[picture: \1]"),
    (re.compile(r"\[([^]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\*+([^*]+)\*+"), r"\1"),
)


def without_marks(text: str) -> str:
    """Return a paragraph on one line, without links, emphasis and LaTeX."""
    pieces = SPAN.split(" ".join(text.split()))
    for i in range(0, len(pieces), 2):
        pieces[i] = re.sub(r"\$([^$]+)\$", lambda found: plain(found[1]), pieces[i])
        for pattern, shown in MARKS:
            pieces[i] = pattern.sub(shown, pieces[i])
    return "".join(pieces)


def wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Return a paragraph in lines of at most `width` columns."""
    return textwrap.wrap(
        without_marks(text), width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )


def lines_of(part: Part, width: int) -> list[str]:
    """Return the lines of a part, followed by an empty one."""
    if part.kind == "heading":
        title = without_marks(part.text.lstrip("# "))
        return [title, ("=" if part.text.startswith("# ") else "-") * len(title), ""]
    if part.kind == "text":
        return [*wrapped(part.text, width), ""]
    if part.kind == "item":
        return [*wrapped(part.text, width, others="  "), ""]
    if part.kind == "formula":
        return [*wrapped(f"${part.text}$", width, first="    ", others="      "), ""]
    if part.kind == "rows":
        return [line for row in table(part.text) for line in wrapped(" | ".join(row), width, others="    ")] + [""]
    return [f"    {line}".rstrip() for line in part.text.splitlines()] + [""]


def table(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row, without the line below the names."""
    for line in text.splitlines():
        if not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def printed_by(code: str, names: dict[str, Any], source: str) -> list[str]:
    """Run a block of a page, and return the lines that it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(compile(code, source, "exec"), names)
    return text.getvalue().splitlines()


def page(path: Traversable, width: int) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield a page's parts as (kind, headings above, lines); the output of a block of Python follows it as `printed`.

    A block is run when its output is asked for, which is after it has been shown. All blocks of a page share variables.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    above: list[str] = []
    for part in parts(path.read_text(encoding="utf-8")):
        lines = lines_of(part, width)
        if part.kind == "heading":
            above += lines
            continue
        yield part.kind, above, lines
        above = []
        if part.kind == "python":
            printed = printed_by(part.text, names, path.name)
            if printed:
                yield "printed", [], [*(f"  > {line}".rstrip() for line in printed), ""]
