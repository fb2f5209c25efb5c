"""`nnx predict`: a saved network's predictions for a table of inputs, as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import nnx
from nnx.backends.printable import printable
from nnx.cli import outputs
from nnx.cli.errors import Failed, leave_stdout, note, writing
from nnx.cli.metadata import Metadata, metadata_of, networks
from nnx.cli.on_disk import asked, is_on_disk, scaled
from nnx.datasets.tables import read_features
from nnx.errors import FileFormatError, InputError
from nnx.files import write_atomically
from nnx.kernels.compiling import heard_by, once
from nnx.output import Output

FAR = 1.0  # inputs may lie outside the range of training by so many times that range without a warning
FAR_COLUMN = (
    10.0  # in standard deviations, likewise: one row of a hundred at most is that far away, however distributed
)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that nnx train --save wrote.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Inputs: a table, as for nnx train. A column of labels is left alone."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here, not to stdout.")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write every class's probability, not just the likeliest's.")
    ] = False,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a CSV file's first line holds names.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="As for nnx train.")] = None,
) -> None:
    """Write a saved network's prediction for each row of a file, as CSV."""
    outputs.check("--output", output, (model, file))
    if output is None and sys.stdout is None:
        raise Failed("there is no stdout to write to; name a file: --output FILE")
    with heard_by(once(note)):
        rows = _answers(model, file, probabilities, header, backend)
    if output is None:
        _print(rows)
    else:
        with writing(output):
            write_atomically(output, *map(_bytes, _lines(rows)))


def _answers(
    model: Path, file: Path, probabilities: bool, header: bool | None, backend: str | None
) -> Iterator[list[str]]:
    """Return the rows of the output, the header first, and print warnings to stderr."""
    network = nnx.load(model, backend=backend)
    try:
        metadata = metadata_of(networks(network)[0])
    except InputError as error:
        raise FileFormatError(f"{model}: {error}") from error
    if is_on_disk(file):
        rows = scaled(asked(file, metadata.columns, _width(network, model)), metadata, np.empty(0))
        return _written_out(network, metadata, network.predict(rows), probabilities)
    x, notes = read_features(file, metadata.preparation or metadata.columns or _width(network, model), header)
    for text in notes:
        note(f"note: {text}")
    _warn(metadata, x, file)
    return _written_out(network, metadata, network.predict(_rounded(metadata.scale(x), file)), probabilities)


def _written_out(
    network: nnx.Sequential | nnx.Ensemble, metadata: Metadata, answers: np.ndarray, probabilities: bool
) -> Iterator[list[str]]:
    if metadata.task == "classification":
        return _classes(network, metadata, answers, probabilities)
    return _numbers(metadata, answers)


def _width(network: nnx.Sequential | nnx.Ensemble, model: Path) -> int:
    inputs: int | None = networks(network)[0].n_inputs
    if inputs is None:
        raise FileFormatError(f"{model}: the network has no layer with weights, so it takes no particular inputs")
    return inputs


def _rounded(x: np.ndarray, file: Path) -> np.ndarray:
    """Return inputs in the network's type; refuse numbers that are too large for it."""
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise FileFormatError(f"{file}: a number is too large for the network, expected at most 3.4e38 after scaling")
    return rounded


def _warn(metadata: Metadata, x: np.ndarray, file: Path) -> None:
    """Warn if inputs are clearly in other units than in training, such as 0 to 255 instead of 0 to 1."""
    if metadata.limits is None:
        for column in _far_columns(metadata, x):
            name = repr(metadata.columns[column]) if metadata.columns else column + 1
            note(
                f"note: {file}, column {name}: its numbers, such as {x[0, column]:g}, are mostly more than "
                f"{FAR_COLUMN:g} standard deviations away from their mean in training, {metadata.mean[column]:g}; "
                "bring them to the same unit"
            )
        return
    low, high = metadata.limits
    least, most, room = float(x.min()), float(x.max()), FAR * (high - low)
    if least < low - room or most > high + room:
        note(
            f"note: the inputs in {file} go from {least:g} to {most:g}, those in training from {low:g} to {high:g}; "
            "bring them to the same scale"
        )


def _far_columns(metadata: Metadata, x: np.ndarray) -> list[int]:
    """Return the columns of numbers half of whose values lie where training had almost none."""
    if not metadata.mean:
        return []
    with np.errstate(over="ignore"):
        away = np.median(np.abs((x.astype(np.float64) - metadata.mean) / metadata.std), axis=0)
    measured = np.ones(len(away), bool) if metadata.preparation is None else np.array(metadata.preparation.measured)
    return [int(column) for column in np.flatnonzero(measured & (away > FAR_COLUMN))]


def _classes(
    network: nnx.Sequential | nnx.Ensemble, metadata: Metadata, answers: np.ndarray, probabilities: bool
) -> Iterator[list[str]]:
    """Yield a header, then for each row the most probable class and its probability, or all probabilities."""
    if (
        isinstance(network, nnx.Sequential) and type(network.layers[-1]).__name__ != "Softmax"
    ):  # logits, of a network trained with the fused loss
        answers = np.exp(answers - answers.max(axis=1, keepdims=True))
        answers /= answers.sum(axis=1, keepdims=True)
    names = metadata.class_names(answers.shape[1])
    yield ["class", *([f"p({name})" for name in names] if probabilities else ["probability"])]
    for best, row in zip(answers.argmax(axis=1).tolist(), answers.tolist(), strict=True):
        yield [names[best], *(f"{p:.6g}" for p in (row if probabilities else row[best : best + 1]))]


def _numbers(metadata: Metadata, answers: np.ndarray) -> Iterator[list[str]]:
    """Yield a header, then the numbers predicted for each row."""
    width = answers.shape[1]
    yield ["prediction"] if width == 1 else [f"prediction {i}" for i in range(1, width + 1)]
    if metadata.target == (0.0, 1.0):
        for row in answers:
            yield [str(value) for value in row]  # the shortest text that gives this float32
        return
    with np.errstate(over="ignore"):  # numbers that are too large are written as inf
        numbers = metadata.unscale_target(answers)
    for row in numbers.tolist():
        yield [_written(value, metadata.target[1]) for value in row]


def _written(value: float, spread: float) -> str:
    """Return a number with as many digits as a float32 network can give: seven, relative to the spread."""
    if not np.isfinite(value) or not 1e-12 < spread < 1e12:
        return f"{value:.9g}"
    text = f"{value:.{max(0, 6 - int(np.floor(np.log10(spread))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _lines(rows: Iterator[list[str]]) -> Iterator[str]:
    """Yield lines of CSV, several rows at a time."""
    text = io.StringIO()
    writer, quoting = (csv.writer(text, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:  # the name of a class may hold a carriage return, which older versions of Python do not quote
        (quoting if any("\r" in cell for cell in row) else writer).writerow(row)
        if text.tell() > 1 << 16:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _print(rows: Iterator[list[str]]) -> None:
    """Write to stdout as UTF-8 with Unix line ends, whatever the terminal's settings; stop if the reader closes it.

    On a terminal, control characters are escaped.
    """
    out, shown = getattr(sys.stdout, "buffer", None), Output(sys.stdout).isatty()
    parts = (printable(part, keep="\n") if shown else part for part in _lines(rows))
    try:
        if out is None:  # stdout was replaced by an object without a stream of bytes
            for part in parts:
                sys.stdout.write(part)
            return
        sys.stdout.flush()
        for part in parts:
            out.write(_bytes(part))
        out.flush()
    except BrokenPipeError:
        leave_stdout()


def _bytes(part: str) -> bytes:
    return part.encode(errors="backslashreplace")  # so that a damaged name of a class raises no error
