"""HTML page of a report: one file with all it needs in it, for a browser without a network.

It says nothing that the report does not: which backend is fastest, what pays from where on, and how far the times can
be trusted are all worked out from the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from nnx.benchmark.page import pictures, text
from nnx.benchmark.page.charts import escape
from nnx.benchmark.page.findings import works
from nnx.benchmark.workloads import SUITES

HERE = files("nnx.benchmark.page")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(data: dict[str, Any]) -> str:
    """Return the whole document."""
    found = works(data)
    suites = {suite: [work for work in found if work.suite == suite] for suite in SUITES}
    networks = suites["steps"] + suites["inference"]
    sections = {
        "networks": ("Which backend for which network", pictures.networks(networks)),
        "batch": ("From which batch size it pays", pictures.batches(data, suites["batch"])),
        "roofline": ("Against what the machine can do", pictures.rooflines(data, found) + pictures.shares(found)),
    }
    for suite in ("steps", "many", "inference", "softmax", "ops", "transfers"):
        sections[suite] = (SUITES[suite].capitalize(), pictures.ratios(suites[suite]))
    sections["start"] = (SUITES["start"].capitalize(), pictures.starts(suites["start"]))
    sections["table"] = ("Every figure", text.table(found))
    sections["method"] = ("How it was measured", text.method(data))
    shown = {name: section for name, section in sections.items() if section[1]}
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>nnx bench: {escape(text.processor(data))}</title><style>{_file('page.css')}</style></head><body>"
        + text.header(data, found, networks)
        + _contents({name: title for name, (title, _) in shown.items()})
        + f"<main>{''.join(_section(name, *section) for name, section in shown.items())}</main>"
        + f'<div id="tip" role="tooltip" hidden></div><script>{_file("page.js")}</script></body></html>\n'
    )


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _section(name: str, title: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{content}</section>\n'
    )


def _contents(titles: Mapping[str, str]) -> str:
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in titles.items())
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
