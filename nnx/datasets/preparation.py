"""Preparation of a table: how its columns become a network's inputs; it is saved as JSON in the model's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError, InputError

from .columns import Column, Rows, not_finite
from .encoder import Encoder, read_encoder
from .kinds import NAME, TEXT


@dataclass(frozen=True)
class Preparation:
    """How a table becomes features.

    Attributes:
        columns: an encoder for each column of the file, in order, without the label's. label: the name of the label's
            column, or "". place: the index of that column.
        named: whether the columns had names; if not, they are found by position.
        labels: the classes' names, for a file without names of columns: they identify the label's column.
    """

    columns: tuple[Encoder, ...]
    label: str = ""
    place: int = 0
    named: bool = True
    labels: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def measured(self) -> tuple[bool, ...]:
        """For each feature, whether it is an amount, to be centred and scaled."""
        return tuple(measured for column in self.columns for measured in column.measured)

    @property
    def used(self) -> tuple[Encoder, ...]:
        """The encoders of the columns that become features."""
        return tuple(column for column in self.columns if column.features)

    def encode(self, columns: Sequence[Column], decimal: str = "") -> NDArray[np.float64]:
        """Return features [N, F] of the used columns, given in order; see `Encoder.values` for `decimal`."""
        return np.hstack([encoder.encode(column, decimal) for encoder, column in zip(self.used, columns, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, which `read` takes."""
        plain = {field: value for field, value in asdict(Encoder("", "")).items() if field not in ("name", "kind")}
        columns = [{k: v for k, v in asdict(c).items() if k not in plain or v != plain[k]} for c in self.columns]
        about = {"label": self.label, "place": self.place, "named": self.named, "labels": list(self.labels)}
        return {"columns": columns, **about}

    @classmethod
    def read(cls, given: Any) -> Preparation:
        """Return what `to_json` wrote.

        Raises:
            TypeError, ValueError, LookupError, AttributeError, InputError: it is something else.
        """
        columns = tuple(read_encoder(column) for column in given["columns"])
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        place = int(given["place"])
        if not 0 <= place <= len(columns):
            raise ValueError("the label is in no column")
        labels = tuple(map(str, given["labels"]))
        return cls(columns, str(given["label"]), place, bool(given["named"]), labels)


def encoded(preparation: Preparation, rows: Rows, places: Sequence[int]) -> NDArray[np.float64]:
    """Return features [N, F] of a table, given the indices of the used columns.

    Raises:
        FileFormatError: a number is infinite.
    """
    x = preparation.encode([rows.columns[place] for place in places], rows.decimal)
    if (place := not_finite(x)) is None:
        return x
    row, feature = place
    owners = [place for encoder, place in zip(preparation.used, places, strict=True) for _ in encoder.features]
    raise FileFormatError(
        f"{rows.place(row, owners[feature])}: the cell is {x[row, feature]}, expected a finite number; fill it in or "
        "remove the row"
    )


def nothing_left(rows: Rows, preparation: Preparation) -> InputError:
    """Return the error that none of a table's columns can be used."""
    reasons = "; ".join(f"{column.name!r}: {column.why}" for column in preparation.columns[:10])
    usable = any(column.kind in (NAME, TEXT) for column in preparation.columns)
    kept = "use some of them in spite of that (--keep, or keep=... in Python), or " if usable else ""
    return FileFormatError(
        f"{rows.source}: no column is left to learn from ({reasons or 'there is a single column, the label'}); "
        f"{kept}give a table with features and a label"
    )
