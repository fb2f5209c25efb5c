"""Escaping of text before it is shown: names of files and columns may contain control sequences for terminals."""

from __future__ import annotations

from unicodedata import category


def printable(text: object, keep: str = "") -> str:
    r"""Return text in which every character is visible and has no other effect.

    Control characters, marks that change the direction of writing or have no width, and bytes of another encoding
    become Python's escapes: `\x1b`, `\u202e`, `\udce9`. Text that has been escaped already stays as it is.

    Args:
        text: anything; `str` of it is taken.
        keep: control characters that may stay, such as the line ends of a message of several lines.
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if _harmless(c) or c in keep else _escaped(c) for c in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"  # a space, of any width


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
