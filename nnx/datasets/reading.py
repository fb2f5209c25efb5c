"""Reading of tables from files: CSV, Excel, JSON, Parquet, also compressed; recognised by contents, not by name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nnx.errors import FileFormatError
from nnx.files import check_size, read_file

from . import archive
from .archive import EXPANDED
from .assembling import assemble
from .columns import BLANKS, EXCEL_ERRORS, Column, Rows, short
from .csvfile import WIDEST, read_csv, too_wide
from .foreign import foreign, spreadsheet
from .frames import as_text, from_frame
from .needs import optional
from .written import LONGEST_NUMBER

KIND = "a table (CSV, Excel, JSON, Parquet or npz)"
MOST = 4 << 30  # the most bytes of a file; an npz file is smaller, and is read a hundred times as fast
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
UNREADABLE = (*archive.UNREADABLE, lzma.LZMAError)
# The beginning of JSON: {" or [{ or [1, but not [id],[name], which is CSV; a file that ends there is truncated.
JSON = re.compile(rb"[\xef\xbb\xbf\s]*[\[{]\s*(?:[\"{}\[\]\d-]|(?:true|false|null)\b|$)")
UNSOLVED = re.compile(rb"<c\b([^>]*)>\s*<f\b(?:[^>]*/>|[^>]*>[^<]*</f>)\s*(?:<v\s*/>|<v></v>)?\s*</c>")
PLACE = re.compile(rb'\br="([A-Z]+[0-9]+)"')
MOST_CELLS = 1 << 26  # the most cells of an Excel sheet: 64 columns of the greatest length


def read_rows(path: Path, header: bool | None = None, known: Collection[str] = ()) -> Rows:
    """Read a table from a file; see `read_csv` for the arguments.

    Raises:
        FileFormatError: it is something else, damaged, or too large. MissingExtra: a package for it is not installed.
    """
    data = read_file(path, KIND, MOST)
    packed = next((name for magic, name in PACKED.items() if data.startswith(magic)), "")
    if packed:
        data = _unpacked(path, data, packed)
    elif data.startswith(b"PK\x03\x04"):
        return _zipped(path, data, header, known)
    return _read(path, data, header, known)


def _read(path: Path, data: bytes, header: bool | None, known: Collection[str]) -> Rows:
    if told := foreign(data):
        raise FileFormatError(f"{path}: this is {told[0]}, expected {KIND}; {told[1]}")
    if data.startswith((*PACKED, b"PK\x03\x04")):
        raise FileFormatError(f"{path}: what is in it is compressed once more; unpack it, and give one table")
    if data.startswith(b"PAR1"):
        return _parquet(path, data)
    if JSON.match(data):
        return _json(path, data)
    return read_csv(path, data, header, known)


# ---- compressed files ------------------------------------------------------------------------------------------------


def _unpacked(path: Path, data: bytes, how: str) -> bytes:
    """Return the decompressed contents of a file."""
    try:
        stream = _expander(path, how)(io.BytesIO(data))
        with stream:
            return _bounded(path, stream)
    except FileFormatError:
        raise
    except UNREADABLE as error:
        raise FileFormatError(f"{path}: it is compressed by {how}, and cannot be unpacked: {error}") from error


def _bounded(path: Path, stream: Any) -> bytes:
    """Return all of a stream's contents; refuse a stream that is too long."""
    data: bytes = stream.read(EXPANDED + 1)
    check_size(path, len(data), EXPANDED, "expands to more than", "unpack it, and give what is in it")
    return data


def _expander(path: Path, how: str) -> Any:
    if how != "zstd":
        return {"gzip": lambda f: gzip.GzipFile(fileobj=f), "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}[how]
    for module, name in (("compression.zstd", "ZstdFile"), ("backports.zstd", "ZstdFile")):
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise FileFormatError(
        f"{path}: it is compressed by zstd, which Python reads from 3.14 on, or with the package backports.zstd; "
        f"unpack it: unzstd {path.name}"
    )


def _zipped(path: Path, data: bytes, header: bool | None, known: Collection[str]) -> Rows:
    """Read the table in a zip file; an Excel workbook is a zip file too."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            members = [info for info in zipped.infolist() if not info.is_dir()]
            names = [info.filename for info in members]
            size = sum(info.file_size for info in members)
            check_size(path, size, EXPANDED, "expands to", "save it as CSV, or take a part of it")
            if any(name.startswith("xl/") for name in names):
                return _excel(path, data, header, known)
            tables = [n for n in names if not n.startswith("__MACOSX/") and not Path(n).name.startswith(".")]
            if len(tables) == 1:
                with zipped.open(tables[0]) as stream:
                    return _read(path, _bounded(path, stream), header, known).noting(
                        f"read {tables[0]} in the zip file"
                    )
    except FileFormatError:
        raise
    except UNREADABLE as error:
        raise FileFormatError(f"{path}: this is a zip file that cannot be read: {error}") from error
    if whose := spreadsheet(names):
        raise FileFormatError(f"{path}: this is {whose}, expected {KIND}; save it as .xlsx or CSV")
    if any(name.endswith(".npy") for name in names):
        raise FileFormatError(f"{path}: this is an npz file of numpy; give it a name that ends in .npz")
    listed = ", ".join(names[:5]) or "nothing"
    raise FileFormatError(f"{path}: this is a zip file that holds {listed}; unpack it, and give one table")


# ---- formats with types ----------------------------------------------------------------------------------------------


def _excel(path: Path, data: bytes, header: bool | None, known: Collection[str]) -> Rows:
    openpyxl = optional("openpyxl", "tables", "reading Excel workbooks")
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        filled = ((sheet, dict(_filled_rows(path, sheet))) for sheet in book.worksheets)
        sheet, rows = next((found for found in filled if found[1]), (None, {}))
    except FileFormatError:
        raise
    except Exception as error:  # openpyxl may raise anything for a damaged workbook
        raise FileFormatError(
            f"{path}: this looks like an Excel workbook, but cannot be read: {error}; save it as CSV"
        ) from error
    if sheet is None:
        raise FileFormatError(f"{path}: this Excel workbook is empty, expected a row a sample")
    _check_formulas(path, data, sheet)
    used = sorted({place for row in rows.values() for place, cell in enumerate(row) if cell})
    _check_cells(path, len(rows) * len(used))
    cells = [[row[place] if place < len(row) else "" for row in rows.values()] for place in used]
    numbers, count = list(rows), len(book.sheetnames)
    which = "the first" if sheet.title == book.sheetnames[0] else "the first that is not empty"
    notes = [f"{which} of {count} sheets, {sheet.title!r}, is read"] if count > 1 else []
    return assemble(
        f"{path} (Excel)", [column[0] for column in cells], [column[1:] for column in cells],
        lambda record: f"row {numbers[record + 1]}", header, known=known, notes=notes,
    )  # fmt: skip


def _filled_rows(path: Path, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every row of a sheet that is not blank."""
    sheet.reset_dimensions()  # the dimensions stated in a file may be wrong
    count = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        count += len(row)  # a single cell far to the right makes a row long
        _check_cells(path, count)
        cells = ["" if cell in EXCEL_ERRORS else as_text(cell) for cell in row]
        if any(cells):
            yield number, cells


def _check_formulas(path: Path, data: bytes, sheet: Any) -> None:
    """Refuse formulas without stored results, as programs other than spreadsheets write them: they would be blanks."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        text = zipped.read(sheet._worksheet_path)
    for cell in UNSOLVED.finditer(text):
        if b't="str"' not in cell[1]:  # such a formula's result is an empty text
            place = PLACE.search(cell[1])
            raise FileFormatError(
                f"{path} (Excel), cell {place[1].decode() if place else '?'} of {sheet.title!r}: its formula has no "
                "result yet, since no spreadsheet program has worked it out; open and save the file in one"
            )


def _check_cells(path: Path, count: int) -> None:
    if count > MOST_CELLS:
        raise FileFormatError(
            f"{path}: the first sheet of this Excel workbook has more than {MOST_CELLS:,} cells, if all rows are as "
            "long as the longest; remove what stands far from the table, or save the table as CSV"
        )


def _json(path: Path, data: bytes) -> Rows:
    """Read a list of records, or a record on each line."""
    try:
        text = data.decode("utf-8-sig")
        try:
            given = _loaded(text)
        except json.JSONDecodeError as error:
            if "Extra data" not in str(error):
                raise
            given = [_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip(BLANKS)]
        records = _records(given)
    except (ValueError, TypeError, RecursionError) as error:
        raise FileFormatError(f"{path}: this looks like JSON, but cannot be read: {error}; expected {KIND}") from error
    if not records:
        raise FileFormatError(
            f"{path}: this is JSON, but no table: expected a list of records, or a record on each line, as "
            '{"age": 31, "label": "yes"}'
        )
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = [Column(name, [as_text(record.get(name)) for record in records]) for name in names]
    return Rows(f"{path} (JSON)", tuple(columns), True, lambda row: f"record {row + 1}")


def _loaded(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_record, parse_int=lambda n: int(n) if len(n) <= LONGEST_NUMBER else n)


def _line(number: int, line: str) -> Any:
    try:
        return _loaded(line)
    except ValueError as error:
        raise ValueError(f"line {number} of the file: {error}") from error


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; refuse two values of the same name, of which Python would keep the last."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"a record has one of its names twice: {', '.join(name for name, _ in pairs[:10])}")
    return record


def _row(names: list[str], cells: Any) -> dict[str, Any]:
    if not isinstance(cells, list) or len(cells) != len(names):
        raise ValueError(f"a row is {short(str(cells))}, expected a list of {len(names)} cells")
    return dict(zip(names, cells, strict=True))


def _records(given: Any) -> list[Mapping[str, Any]]:
    """Return the records in JSON data in any of the forms that pandas and others write; none if it is no table.

    Raises:
        ValueError: columns are not equally long, or a row has more or fewer cells than there are columns.
    """
    if isinstance(given, Mapping):
        lists = [v for v in given.values() if isinstance(v, list) and v and all(isinstance(r, Mapping) for r in v)]
        given = lists[0] if len(lists) == 1 else given  # {"data": [{...}, {...}]}
    if isinstance(given, Mapping) and isinstance(given.get("columns"), list) and isinstance(given.get("data"), list):
        given = [_row(given["columns"], row) for row in given["data"]]
    elif isinstance(given, Mapping) and given and all(isinstance(column, list) for column in given.values()):
        if len(set(map(len, given.values()))) > 1:
            raise ValueError("its columns are not equally long")
        given = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
    elif _are_rows(given):
        given = list(given.values())
    elif isinstance(given, Mapping) and given and all(isinstance(column, Mapping) for column in given.values()):
        index = dict.fromkeys(key for column in given.values() for key in column)
        given = [{name: column.get(key) for name, column in given.items()} for key in index]
    records = [given] if isinstance(given, Mapping) else given
    good = isinstance(records, list) and all(isinstance(record, Mapping) for record in records)
    return records if good else []


def _are_rows(given: Any) -> bool:
    """Return whether an object holds a record for each row under the row's number: "0", "1", "2" ..."""
    if not isinstance(given, Mapping) or list(given) != [str(row) for row in range(len(given))]:
        return False
    rows = list(given.values())
    return all(isinstance(row, Mapping) for row in rows) and not any(str(name).isdecimal() for name in rows[0])


def _parquet(path: Path, data: bytes) -> Rows:
    arrow, parquet = (optional(name, "parquet", "reading Parquet files") for name in ("pyarrow", "pyarrow.parquet"))
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        if (width := file.metadata.num_columns) > WIDEST:
            raise too_wide(path, width)
        size = 8 * file.metadata.num_rows * file.metadata.num_columns
        check_size(path, size, MOST, "expands to", "take a part of it")
        # Texts are kept in dictionary form: one text in millions of rows is stored once.
        texts = [field.name for field in file.schema_arrow if field.type in (arrow.string(), arrow.large_string())]
        table = parquet.ParquetFile(io.BytesIO(data), read_dictionary=texts).read()
        kept = [column for column in table.columns if arrow.types.is_dictionary(column.type)]
        size += sum(_characters(chunk) for column in kept for chunk in column.chunks)
        check_size(path, size, MOST, "expands to", "take a part of it")
    except FileFormatError:
        raise
    except Exception as error:  # pyarrow may raise anything for a damaged file
        raise FileFormatError(f"{path}: this looks like a Parquet file, but cannot be read: {error}") from error
    return from_frame(table, str(path))


def _characters(texts: Any) -> int:
    """Return how many bytes the texts of an array have, counting repeated ones each time."""
    lengths = np.array([len(str(text)) for text in texts.dictionary.to_pylist()], dtype=np.int64)
    used = texts.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(lengths @ np.bincount(used, minlength=len(lengths))) if len(lengths) else 0
