"""`nnx doctor`: the report of nnx/doctor.py as a table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnx import doctor as checkup


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what works here, what doesn't, why, and the remedy."""
    facts = checkup.report()
    console = Console(highlight=False, emoji=False, markup=False)
    if as_json:
        print(checkup.as_json(facts))
    elif console.is_terminal:
        for number, (title, rows) in enumerate(checkup.sections(facts)):
            console.print(*([""] if number else []), Text(title, style="bold cyan"), sep="\n")
            console.print(_table(rows))
    else:
        print(checkup.render(facts))
    raise typer.Exit(checkup.exit_code(facts))


def _table(rows: list[checkup.Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(width=checkup.LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text, good in rows:
        table.add_row(Text("" if good else "!", style="bold yellow"), label, Text(text, style="" if good else "yellow"))
    return table
