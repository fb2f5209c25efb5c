"""Formulas as MathML, which browsers typeset by themselves: no script, no network, and print works."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml import converter

NAMES = re.compile(r"(<mi>(?:log|ln|exp|max|min|sin|cos|tanh)</mi>)(?=<m[in]\b)")


def convert(latex: str, display: str = "inline") -> str:
    """Return a formula as MathML, with room between a function's name and what it is of, as in log 3."""
    return NAMES.sub(r'\1<mspace width="0.17em"/>', str(converter.convert(latex, display=display)))


def inline(translator: Any, node: nodes.math) -> None:
    """Write a formula of a line's text."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own. A wide one scrolls, so the page need not."""
    translator.body.append(f'<div class="formula">{convert(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Give Sphinx the renderer `mathml`."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
