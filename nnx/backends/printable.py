"""Escaping of text from elsewhere before it is shown: names of files and columns may hold what steers a terminal."""

from __future__ import annotations

from unicodedata import category


def printable(text: object, keep: str = "") -> str:
    r"""Return text in which every character shows itself and does nothing else.

    Escape sequences and other control characters, marks that turn the direction of writing or have no width, and bytes
    of another encoding become what Python writes for them: `\x1b`, `\u202e`, `\udce9`. What has been through this
    stays as it is.

    Args:
        text: anything; `str` of it is taken.
        keep: control characters that may stay, such as the line ends of a message of several lines.
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if _harmless(c) or c in keep else _escaped(c) for c in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"  # a space of another width is one


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
