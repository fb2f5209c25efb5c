"""Formulas for a terminal: converts the few commands of LaTeX that the tour's pages use to a line of text."""

from __future__ import annotations

import re

SIGNS = {
    "cdot": "·", "times": "*", "sum": "Σ", "partial": "∂", "nabla": "∇", "delta": "δ", "hat y": "ŷ", "leftarrow": "←",
    "log": "log", "max": "max", "quad": " ", "left": "", "right": "",
}  # fmt: skip
FRACTION, ARGUMENT = "\\frac", re.compile(r"\{([^{}]*)\}")


def plain(latex: str) -> str:
    r"""Return a formula as text: `\frac{a}{b + c}` is `a/(b + c)`."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", " ".join(latex.split()))
    for sign, shown in SIGNS.items():
        text = re.sub(rf"\\{sign}(?![a-z])\s*" if sign in ("partial", "hat y") else rf"\\{sign}(?![a-z])", shown, text)
    text = re.sub(r"([_^])\{([^{}]*)\}", _index, text)
    while FRACTION in text:
        text = _without_innermost_fraction(text)
    return " ".join(text.replace("{", "").replace("}", "").split())


def _index(found: re.Match[str]) -> str:
    """Write an index or exponent: an index of one word, such as `_ji` or `_i,k`, without brackets, a sum with them."""
    sign, inside = found.groups()
    return f"{sign}({inside})" if " " in inside else f"{sign}{inside}"


def _without_innermost_fraction(text: str) -> str:
    """Write the last fraction, which contains no other, with a slash."""
    before, _, after = text.rpartition(FRACTION)
    above = ARGUMENT.match(after)
    below = ARGUMENT.match(after, above.end()) if above else None
    if above is None or below is None:
        raise ValueError(f"a fraction has two parts in braces: {text}")
    return f"{before}{_bracketed(above[1])}/{_bracketed(below[1])}{after[below.end() :]}"


def _bracketed(text: str) -> str:
    return f"({text})" if " " in text.strip() else text.strip()
