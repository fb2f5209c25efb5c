"""Pages of the tour: reads Markdown, as far as the pages use it.

In a clone the pages are in docs/tour, in an installed package they are next to this module; the files are the same.
Their lines of code and of results have at most 76 columns, so that they fit a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from nnx.errors import InputError

FOLDERS: tuple[Traversable, ...] = (files("nnx.tour") / "pages", Path(__file__).parents[2] / "docs/tour")
PART = re.compile(
    r"""^```(?P<language>\w+)\n(?P<code>(?s:.*?))^```$      # code, or what is printed
    | ^\$\$\n(?P<formula>(?s:.*?))^\$\$$
    | ^(?P<heading>\#+\ .*)$
    | ^(?P<item>-\ .*(?:\n(?!-\ ).+)*)                 # of a list, with the lines that continue it
    | ^(?P<rows>\|.*(?:\n\|.*)*)                       # a table
    | ^(?P<text>\S.*(?:\n.+)*)""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True)
class Part:
    """A piece of a page: kind is `heading`, `text`, `item`, `rows`, `formula`, or the language of a block of code."""

    kind: str
    text: str


def pages() -> dict[str, Traversable]:
    """Return the steps in order by their numbers, "1", "2" ..., followed by the other pages by their names.

    Raises:
        InputError: the pages are missing.
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    if folder is None:
        raise InputError(f"the tour's pages are missing: there is no {FOLDERS[0]}; install nnx again")
    steps = sorted((page for page in folder.iterdir() if re.match(r"\d.*\.md$", page.name)), key=lambda page: page.name)
    return {**{str(int(path.name[:2])): path for path in steps}, "slips": folder / "slips.md"}


def parts(text: str) -> Iterator[Part]:
    """Yield the parts of a page, except the output of blocks, which will be computed, and links to other pages."""
    for found in PART.finditer(text):
        kind = found.lastgroup
        if kind == "code":
            if found["language"] != "text":
                yield Part(found["language"], found["code"])
        elif kind and not found[kind].startswith(("Next: ", "From here: ")):
            yield Part(kind, found[kind])
