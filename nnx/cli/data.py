"""`nnx data`: how a table is understood, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnx.cli.console import Report
from nnx.cli.sets import Source
from nnx.cli.told import Told
from nnx.cli.train import CATEGORICAL, DROP, KEEP, LABEL
from nnx.datasets.tables import is_npz
from nnx.errors import InputError


def data(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file with a table: CSV, Excel, JSON, Parquet.")],
    label: Annotated[str | None, typer.Option(help=LABEL)] = None,
    drop: Annotated[list[str] | None, typer.Option(help=DROP)] = None,
    keep: Annotated[list[str] | None, typer.Option(help=KEEP)] = None,
    categorical: Annotated[list[str] | None, typer.Option(help=CATEGORICAL)] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a CSV file's first line holds names.")
    ] = None,
    task: Annotated[str, typer.Option(help="auto, classification, regression.")] = "auto",
) -> None:
    """Say what is understood of a table: what each column is, what becomes of it, and which is learned."""
    if is_npz(file):
        raise InputError(f"{file}: an npz file holds arrays without names, which are taken as they are: nothing to say")
    lists = map(tuple, (drop or (), keep or (), categorical or ()))
    reading = Source(str(file), 0, None, label, header, task, *lists).read(file)
    told = Told(reading, reading.learn()[0])
    report = Report()
    for line in told.table(report.width):
        report.text(line)
    report.gap()
    features = len(told.preparation.features)
    report.line("data", f"{file.name}: {len(reading.rows):,} rows, {features:,} feature{'s' * (features != 1)}")
    report.line("learns", told.label())
    for note in reading.notes:
        report.line("note", note)
    if doubt := told.doubt():
        report.line("note", doubt.removeprefix("note: "))
