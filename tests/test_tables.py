"""Tables as people have them: what is read, what a column is taken for, and what becomes of it."""

from __future__ import annotations

import datetime
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.cli import main
from nnx.datasets import load_features, load_table
from nnx.datasets.columns import Column
from nnx.datasets.encoder import read_encoder
from nnx.datasets.kinds import dates_in, understand
from nnx.datasets.preparation import Preparation
from nnx.datasets.written import numbers_in
from nnx.errors import FileFormatError, InputError, InputTypeError, MissingExtra

pytest.importorskip("pandas")
N = 60


def rows(line: Callable[[int], str], count: int = N) -> str:
    return "".join(line(i) + "\n" for i in range(count))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Write a file, and load it as a table; what `load_features` makes of it is the same."""

    def write(text: str | bytes, name: str = "t.csv", **options: Any) -> Any:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        table = load_table(path, **options)
        np.testing.assert_array_equal(load_features(path, table, header=options.get("header")), table.x)
        return table

    return write


def kinds(table: Any) -> dict[str, str]:
    return {column.name: column.kind for column in table.preparation.columns}


# Reading ----------------------------------------------------------------------------------------------------------

A = [f"{i / 8}" for i in range(N)]
PLAIN = "a,b,kind\n" + rows(lambda i: f"{A[i]},{i % 7},{'pq'[i % 2]}")
SHAPES: dict[str, str | bytes] = {
    "plain": PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "tabs": PLAIN.replace(",", "\t"),
    "pipes": PLAIN.replace(",", "|"),
    "spaces": PLAIN.replace(",", "  "),
    "fixed width": "  " + PLAIN.replace(",", "    ").replace("\n", " \n  "),
    "blanks after commas": PLAIN.replace(",", ", "),
    "CRLF and blank lines": PLAIN.replace("\n", "\r\n\r\n"),
    "CR": PLAIN.replace("\n", "\r"),
    "a BOM": b"\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "quotes around all": '"' + PLAIN.replace(",", '","').replace("\n", '"\n"')[:-1],
    "sep=": "sep=;\n" + PLAIN.replace(",", ";"),
    "comments": "# by hand\n# 2024, July\n\n" + PLAIN,
    "names in a comment": "#" + PLAIN,
    "as numpy.savetxt writes": "# " + PLAIN.replace(",", " "),
    "a comma at each end": PLAIN.replace("\n", ",\n"),
    "a comma at each end but the header's": "a,b,kind\n" + PLAIN.partition("\n")[2].replace("\n", ",\n"),
    "blank lines of commas": PLAIN + ",,\n,,\n",
    "the header twice": PLAIN + PLAIN.partition("\n")[0] + "\n",
    "totals": PLAIN + "Total,99,\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_table_in_many_shapes(shape: str, load: Any) -> None:
    table = load(SHAPES[shape])
    assert table.x.tolist() == [[i / 8, i % 7] for i in range(N)]
    assert (table.columns, table.classes, table.label) == (("a", "b"), ("p", "q"), "kind")


def test_an_index_that_was_saved_too_is_left_out(load: Any) -> None:
    for text in (
        ",a,kind\n" + rows(lambda i: f"{i},{i % 7},{'pq'[i % 2]}"),
        "Unnamed: 0,a,kind\n" + rows(lambda i: f"{i},{i % 7},{'pq'[i % 2]}"),
        "a kind\n" + rows(lambda i: f"{i + 1} {i % 7} {'pq'[i % 2]}"),  # as R writes it
        "PassengerId,a,kind\n" + rows(lambda i: f"{i + 1},{i % 7},{'pq'[i % 2]}"),
        "__index_level_0__,a,kind\n" + rows(lambda i: f"{5 * i},{i % 7},{'pq'[i % 2]}"),  # in Parquet, by pandas
    ):
        table = load(text)
        assert table.columns == ("a",)
        assert table.preparation.columns[0].why == "it numbers the rows"
    assert load("PassengerId,a,y\n" + rows(lambda i: f"{i},{i % 7},{i % 2}"), keep=1).columns == ("PassengerId", "a")


def test_windows_text_is_read_and_said(load: Any) -> None:
    text = "a,stadt,kind\n" + rows(lambda i: f"{i},{('Köln', 'Ulm')[i % 2]},{'pq'[i // 3 % 2]}")
    table = load(text.encode("cp1252"))
    assert "stadt=Köln" in table.columns
    assert table.notes == ("line 2 is not UTF-8: the file is read as Windows-1252",)


@pytest.mark.parametrize(
    ("first", "below", "names"),
    [
        ("p,x", lambda i: f"{'pe'[i % 2]},{'xyz'[i % 3]}", False),  # letters all over
        ("shape,colour", lambda i: f"{'pe'[i % 2]},{'xyz'[i % 3]}", True),
        ("country,2019,2020,2021", lambda i: f"land {i % 20},{i / 7},{i / 9},{i % 2}", True),
        ("a,2020,kind", lambda i: f"{i},{i % 7},{'pq'[i % 2]}", True),
        ("a,b,p", lambda i: f"{i},{i % 7},{'pq'[i % 2]}", True),  # a name that is a value, too
        ("0,1,2", lambda i: f"{i / 7},{i / 9},{i % 2}", True),
        (",0,1,2", lambda i: f"{i},{i / 7},{i / 9},{i % 2}", True),
        ("0,1,2,3,4,5", lambda i: f"{i},{i % 7},3,4,{i % 3},{i % 2}", True),
        ("0,1", lambda i: f"{i % 9},{i % 2}", False),
        ("1,0,2", lambda i: f"{i / 7},{i / 9},{i % 2}", False),
        ("?,2,p", lambda i: f"{i},{i % 7},{'pq'[i % 2]}", False),
    ],
    ids=map(str, range(99)),
)
def test_whether_the_first_line_holds_names(first: str, below: Any, names: bool, load: Any) -> None:
    table = load(first + "\n" + rows(below))
    assert len(table.x) == N + (not names)
    assert table.preparation.named == names
    assert len(load(first + "\n" + rows(below), header=not names).x) == N + names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a web page"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(99), "an old Excel workbook"),
        (b"\x80\x04\x95" + bytes(99), "a pickle, which may run code"),
        (b"SQLite format 3\0" + bytes(99), "an SQLite database"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"@RELATION iris\n@ATTRIBUTE a REAL\n", "an ARFF file"),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99), "a MATLAB file.*loadmat"),
        (b"<stata_dta><header>", "a Stata file.*read_stata"),
        (b"RDX3\nX\n" + bytes(99), r"a file of R's.*write\.csv"),
        (bytes(257) + b"ustar\x0000" + bytes(249), "a tar archive, .*unpack it"),
        (b"ORC\x08" + bytes(99) + b"\x08\x03ORC\x17", "an ORC file"),
        (b"1 1:0.5 3:1e-2\n0 2:1\n", "a file of sparse rows.*load_svmlight_file"),
        (b"[1, 2, 3]", "this is JSON, but no table"),
        (b'[{"a": 1},', "looks like JSON, but cannot be read"),
        (b"Report of July\n\n1.5,2,p\n1,2,q\n", r"line 3: the row has 3 cells, expected 1 .*remove the lines above"),
        (b"a,b,y\n1,2,3\n# no\n3,4,5\n", r"line 3: the row has 1 cells, expected 3"),
        (b"a,b,y\n1,,3\n1,2\n3,4,\n", r"line 3: the row has 2 cells, expected 3"),
        (b"a,b,y\n1,2,3,4\n", r"line 2: the row has 4 cells, expected 3"),
    ],
    ids=map(str, range(99)),
)
def test_what_is_no_table_is_named(data: bytes, message: str, load: Any) -> None:
    with pytest.raises(FileFormatError, match=message):
        load(data)


def test_a_zip_file_holds_one_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("inner.csv", PLAIN)
        archive.writestr("__MACOSX/._inner.csv", "junk")
    assert load_table(tmp_path / "t.csv").notes == ("read inner.csv in the zip file",)
    with zipfile.ZipFile(tmp_path / "t.csv", "a") as archive:
        archive.writestr("other.csv", PLAIN)
    with pytest.raises(FileFormatError, match=r"a zip file that holds inner.csv, .*other.csv; unpack it"):
        load_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mimetype", "content.xml", "meta.xml"], "an OpenDocument spreadsheet, .*save it as .xlsx or CSV"),
        (["Index/Document.iwa", "preview.jpg"], "a spreadsheet of Apple's Numbers, .*save it as .xlsx or CSV"),
    ],
)
def test_other_programs_spreadsheets_are_named(names: list[str], message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    with pytest.raises(FileFormatError, match=message):
        load_table(tmp_path / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be"])
def test_utf_32_is_read(encoding: str, load: Any) -> None:
    mark = "" if encoding == "utf-32" else "\ufeff"
    assert load((mark + PLAIN).encode(encoding)).x.tolist() == load(PLAIN).x.tolist()


@pytest.mark.parametrize("end", ["\x1a", "\x1a\n", "\n\x1a\r\n"])
def test_what_ended_files_once_is_no_cell(end: str, load: Any) -> None:
    table = load(PLAIN.rstrip() + end)
    assert (table.classes, len(table.x)) == (load(PLAIN).classes, len(load(PLAIN).x))


@pytest.mark.parametrize(
    "hole", [r"\N", "#NA", "(null)", "..", "-nan", "-NaN(ind)", "1.#QNAN", "#DIV/0!", "#REF!", "<NA>", "N/A"]
)
def test_what_programs_write_for_a_missing_number_is_missing(hole: str, load: Any) -> None:
    table = load("a,b,kind\n" + rows(lambda i: f"{hole if i % 3 == 1 else i + 0.5},{i % 5},{'pq'[i % 2]}"))
    assert (table.columns, table.notes) == (("a", "a is missing", "b"), ())
    assert table.x[:4, 1].tolist() == [0, 1, 0, 0]


def test_without_pandas_arrays_are_read_and_csv_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "t.csv").write_text(PLAIN)
    with pytest.raises(MissingExtra, match=r"reading CSV files needs pandas.*nnx-backends\[tables\]"):
        load_table(tmp_path / "t.csv")
    np.savez(tmp_path / "t.npz", np.eye(4), [0, 1, 0, 1])
    assert load_table(tmp_path / "t.npz").x.tolist() == np.eye(4).tolist()


@pytest.mark.parametrize("names", ["[size],[n],[kind]", "{size},{n},{kind}", "[number],n,kind"])
def test_names_in_brackets_are_no_json(names: str, load: Any) -> None:
    table = load(names + "\n" + rows(lambda i: f"{i / 7},{i % 7},{'pq'[i % 2]}"))
    assert ([*table.columns, table.label], len(table.x)) == (names.split(","), N)


# Frames and files with types --------------------------------------------------------------------------------------

TYPED = {
    "age": [None if i % 7 == 0 else 20 + i for i in range(N)],
    "ok": [None if i % 11 == 0 else i % 2 == 0 for i in range(N)],
    "colour": [("red", "blue", None)[i % 3] for i in range(N)],
    "when": [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=17 * i) for i in range(N)],
    "code": [10**17 + i % 3 for i in range(N)],
    "label": [("a", "b")[i % 2] for i in range(N)],
}
FEATURES = (
    "age", "age is missing", "ok", "ok is missing", "colour=blue", "colour=red", "colour is missing", "when",
    "when, sine of the year", "when, cosine of the year", "when, sine of the week", "when, cosine of the week",
    "code=100000000000000000", "code=100000000000000001", "code=100000000000000002",
)  # fmt: skip


def check_typed(source: Any) -> None:
    table = load_table(source)
    assert (table.columns, table.classes) == (FEATURES, ("a", "b"))
    known = [age for age in TYPED["age"] if age is not None]
    assert table.x[:, 0].tolist() == [np.median(known) if age is None else age for age in TYPED["age"]]
    assert table.x[:, 1].tolist() == [age is None for age in TYPED["age"]]
    assert table.x[1:9, 2].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert table.x[:4, 4:7].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert table.x[:3, 7].tolist() == [18262, 18279, 18296]
    np.testing.assert_array_equal(load_features(source, table), table.x)


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TYPED)
    check_typed(frame)
    check_typed(frame.convert_dtypes())
    check_typed(frame.astype({"colour": "category"}))
    assert load_table(pandas.DataFrame({0: range(8), 1: [0, 1] * 4})).label == "1"
    with pytest.raises(InputError, match="two columns are both called 'a'"):
        load_table(pandas.DataFrame([[1, 2]] * 4, columns=["a", "a"]))
    with pytest.raises(FileFormatError, match="there are no rows"):
        load_table(frame[:0])


def test_arguments_of_tables_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n1,2,0\n3,5,1\n4,1,0\n")
    with pytest.raises(InputError, match="columns=1000000000000000000000: no table has so many"):
        nnx.datasets.load_features(tmp_path / "t.csv", 10**21)
    with pytest.raises(InputError, match=r"load_table\(drop=array\(2\)\): expected names of columns"):
        load_table(tmp_path / "t.csv", drop=np.array(2))


@pytest.mark.parametrize("kind", ["complex64", "complex128", object])
def test_complex_numbers_in_a_frame_are_refused(kind: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"phase": np.array([1, 1j, 2, 2j], kind), "y": [1, 2, 1, 2]})
    with pytest.raises(InputError, match=r"column 'phase' holds complex numbers.*\.real and \.imag"):
        load_table(frame)


def test_what_a_frame_cannot_be_asked() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({0: [1.0, 2.0, 3.0], 1: [3.0, 2.0, 5.0], 2: ["a", "b", "a"]})
    with pytest.raises(InputError, match=r"label=2: the frame has a column of that name.*say label='2'"):
        load_table(frame, label=2)
    assert (load_table(frame, label="2").label, load_table(frame, label=-1).label) == ("2", "2")
    with pytest.raises(InputError, match="a frame has names; leave header out"):
        load_table(frame, header=True)
    for wrong in ({"label": True}, {"label": 1.5}, {"drop": None}, {"drop": 1.5}, {"header": "yes"}):
        with pytest.raises(InputTypeError):
            load_table(frame, **wrong)
    smallest = pandas.DataFrame({"a": [-(2**63), -(2**63) + 1] * 3, "k": list("pqpqpq")})
    assert kinds(load_table(smallest)) == {"a": "category"}


def test_frames_of_polars() -> None:
    polars = pytest.importorskip("polars")
    check_typed(polars.DataFrame(TYPED))
    with pytest.raises(InputTypeError, match=r"a LazyFrame was given.*\.collect\(\)"):
        load_table(polars.DataFrame(TYPED).lazy())


def test_tables_of_pyarrow_and_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    check_typed(arrow.table(TYPED))
    parquet.write_table(arrow.table(TYPED), tmp_path / "t.parquet")
    check_typed(tmp_path / "t.parquet")


@pytest.mark.parametrize("given", [np.eye(3), [1, 2], None], ids=["array", "list", "None"])
def test_what_is_neither_file_nor_frame(given: Any) -> None:
    with pytest.raises(InputTypeError, match="expected a"):
        load_table(given)


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([])
    sheet.append([None, *TYPED])
    for row in zip(*TYPED.values(), strict=True):
        sheet.append([None, *(str(cell) if isinstance(cell, int) and cell > 2**53 else cell for cell in row)])
    book.create_sheet("notes")
    book.save(tmp_path / "t.xlsx")
    check_typed(tmp_path / "t.xlsx")
    assert load_table(tmp_path / "t.xlsx").notes == ("the first of 2 sheets, 'Sheet', is read",)
    sheet["H9"] = None
    sheet["G9"] = None
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(FileFormatError, match=r"\(Excel\), row 9, column 6 \('label'\): the label is missing"):
        load_table(tmp_path / "t.xlsx")


def test_formulas_that_no_spreadsheet_has_worked_out_are_refused(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["a", "b", "k"])
    for i in range(N):
        book.active.append([i + 0.5, f"=A{i + 2}*2", "xy"[i % 2]])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(FileFormatError, match=r"cell B2 of 'Sheet': its formula has no result yet.*open and save"):
        load_table(tmp_path / "t.xlsx")
    for result, numbers in (
        ("<v>7</v>", N),
        ("<v></v>", 0),
    ):  # as spreadsheets write a number, and a text of no letters
        solved = tmp_path / f"{numbers}.xlsx"
        with zipfile.ZipFile(tmp_path / "t.xlsx") as old, zipfile.ZipFile(solved, "w") as new:
            for name in old.namelist():
                text = (
                    old.read(name)
                    .replace(b"</f><v></v>", f"</f>{result}".encode())
                    .replace(b"</f><v />", f"</f>{result}".encode())
                )
                new.writestr(name, text if numbers else re.sub(rb'(<c r="B[0-9]+")(?=><f>)', rb'\1 t="str"', text))
        kinds = {column.name: column.kind for column in load_table(solved, label="k").preparation.columns}
        assert kinds["b"] == ("constant" if numbers else "empty")


def test_the_first_sheet_that_holds_something_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(FileFormatError, match="this Excel workbook is empty"):
        load_table(tmp_path / "t.xlsx")
    sheet = book.create_sheet("data")
    sheet.append(["a", "k"])
    for i in range(N):
        sheet.append([i + 0.5, "xy"[i % 2]])
    book.save(tmp_path / "t.xlsx")
    assert load_table(tmp_path / "t.xlsx").notes == ("the first that is not empty of 2 sheets, 'data', is read",)


def test_a_cell_far_from_the_table_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["a", "b", "k"])
    for i in range(N):
        book.active.append([i, "#DIV/0!" if i == 3 else i * i, "xy"[i % 2]])
    book.active["XFD2000"] = " "
    book.save(tmp_path / "t.xlsx")
    table = load_table(tmp_path / "t.xlsx")
    assert (table.columns, len(table.x)) == (("a", "b", "b is missing"), N)
    monkeypatch.setattr("nnx.datasets.reading.MOST_CELLS", 1 << 14)
    with pytest.raises(FileFormatError, match="has more than 16,384 cells"):
        load_table(tmp_path / "t.xlsx")


def test_json(tmp_path: Path) -> None:
    records = [
        {k: v.isoformat() if isinstance(v, datetime.datetime) else v for k, v in zip(TYPED, row, strict=True)}
        for row in zip(*TYPED.values(), strict=True)
    ]
    columns = {name: [record[name] for record in records] for name in TYPED}
    for text in (
        json.dumps(records), "\n".join(map(json.dumps, records)), json.dumps(columns),
        json.dumps({"columns": list(TYPED), "data": [list(record.values()) for record in records]}),
        json.dumps({name: dict(enumerate(column)) for name, column in columns.items()}),
        json.dumps(dict(enumerate(records))),
    ):  # fmt: skip
        (tmp_path / "t.csv").write_text(text)
        check_typed(tmp_path / "t.csv")
    del records[4]["label"]
    (tmp_path / "t.json").write_text(json.dumps(records))
    with pytest.raises(FileFormatError, match=r"record 5, column 6 \('label'\): the label is missing"):
        load_table(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"p": [1, 2, 3], "k": ["a", "b"]}, "not equally long"),
        ({"columns": ["p", "k"], "data": [[1, "a"], [2]]}, r"a row is '\[2\]', expected a list of 2 cells"),
        ('[{"p": 1, "p": 2, "k": "a"}]', "one of its names twice: p, p, k"),
        ('{"p": 1, "k": "a"}\n{"p": 2,\n{"p": 3, "k": "b"}', "line 2 of the file"),
    ],
)
def test_no_record_of_json_is_lost(given: Any, message: str, load: Any) -> None:
    with pytest.raises(FileFormatError, match=message):
        load(given if isinstance(given, str) else json.dumps(given), "t.json")


def test_records_in_an_object_of_json(load: Any) -> None:
    records = [{"p": i, "k": "ab"[i % 2]} for i in range(N)]
    assert load(json.dumps({"count": N, "rows": records}), "t.json").x.shape == (N, 1)


@pytest.mark.parametrize(
    "title",
    ["Report of 2024,,\n,,\n", "Report of 2024\n", "Report of 2024\n\nby: me\n# a comment\n\n", '"Report of 2024"\r\n'],
)
def test_a_title_above_the_names_is_left_out(title: str, load: Any) -> None:
    table = load(title + PLAIN)
    assert (table.columns, table.classes, len(table.x)) == (("a", "b"), ("p", "q"), N)
    assert table.notes == ("line 1: 'Report of 2024' stands above the table, and is left out",)


def test_a_row_that_is_short_is_no_title(load: Any) -> None:
    for text in ("1\n2,3,p\n4,5,q\n" * 3, "7\n" + "2,3,p\n4,5,q\n" * 3):
        with pytest.raises(FileFormatError, match="line 2: the row has 3 cells, expected 1"):
            load(text)
    with pytest.raises(FileFormatError, match="line 2: the row has 3 cells, expected 1"):
        load("Title\n" + PLAIN, header=False)


@pytest.mark.parametrize("place", [1, 30])
def test_a_second_header_is_no_sample(place: int, load: Any) -> None:
    lines = PLAIN.splitlines()
    lines.insert(place, "number,number,text")
    with pytest.raises(FileFormatError, match=f"line {place + 1}: the cells \\('number'.*as in a second header"):
        load("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a;b;k\n1,5;999;p\n2,5;1.234;q\n", [1.5, 999]),  # the decimal commas of one column tell about another
        ("a\tb\tk\n1,5\t2,125\tp\n2,5\t1,125\tq\n", [1.5, 2.125]),
        ("a;b;k\n1.5;2.125;p\n2.5;1.125;q\n", [1.5, 2.125]),
        ('a,b,k\n1.5,"2,125",p\n2.5,"1,125",q\n', [1.5, 2125]),
        ("a;b;k\n1,125;7;p\n2,125;8;q\n", [1.125, 7]),
    ],
)
def test_the_decimal_mark_is_that_of_the_file(text: str, first: list[float], load: Any) -> None:
    table = load(text)
    assert table.x[0].tolist() == first
    assert (table.x[:, 1] == [999, 1234]).all() or "999" not in text


def test_a_file_has_its_own_decimal_mark(tmp_path: Path) -> None:
    """And another one than the training file may have."""
    with_points = "a,b,k\n1.5,2.125,p\n2.5,1.125,q\n"
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    for text, other in (
        (with_points, "a;b\n1,5;2,125\n"),
        (with_points.replace(",", ";").replace(".", ","), "a,b\n1.5,2.125\n"),
    ):
        ours.write_text(text)
        theirs.write_text(other)
        assert load_features(theirs, load_table(ours)).tolist() == [[1.5, 2.125]]
    theirs.write_text("a;b\n7;1.125\n")  # which shows none
    assert load_features(theirs, load_table(ours)).tolist() == [[7, 1125]]


# Kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "2.5", "-3e2"], [1, 2.5, -300]),
        (["1,234.50", "99", "12,000"], [1234.5, 99, 12000]),
        (["1.234,50", "99", "0,5"], [1234.5, 99, 0.5]),
        (["0,5", "1.234", "1,5"], [0.5, 1234, 1.5]),
        (["1 234,5", "7 000", "3,25"], [1234.5, 7000, 3.25]),
        (["1'234.50", "2'000"], [1234.5, 2000]),
        (["$99", "-$1,000.50", "12"], [99, -1000.5, 12]),
        (["12 €", "12,50 €", "7"], [12, 12.5, 7]),
        (["$5", "7 €", "8 €"], [np.nan, 7, 8]),
        (["5%", "6%", "0.05"], [5, 6, np.nan]),
        (["0,234", "0,567"], [0.234, 0.567]),
        (["12%", "3.5 %"], [12, 3.5]),
        (["\u22125", "+7"], [-5, 7]),
        (["1_000", "1,2,3", "<1.0", "12-3", "0x1f"], [np.nan] * 5),
        (["(1,234)", "5,000", "($1.50)", "$(2)", "-3"], [-1234, 5000, -1.5, -2, -3]),
        (["(-5)", "(5", "((5))", "()", "(a)"], [np.nan] * 5),
        (["1,23,456", "12,34,567.5", "99", "₹1,00,000"], [123456, 1234567.5, 99, 100000]),
        (["1,23,45", "1,234,56"], [np.nan] * 2),
        (["12 kg", "3.5kg", "1,200 kg", "7", "n/a"], [12, 3.5, 1200, 7, np.nan]),
        (["3,5 cm", "4,25 cm"], [3.5, 4.25]),
        (["20 °C", "-4.5 °C"], [20, -4.5]),
        (["9 m2", "10 km/h", "11 m2"], [9, np.nan, 11]),
        (["1 year", "2 years", "3 years"], [1, 2, 3]),
        (["900 sq ft", "1,050 sq ft"], [900, 1050]),
        (["1 of 3", "12 Main St", "4 out of 5", "2h 30m"], [np.nan, 12, np.nan, np.nan]),
        (["12", "12A", "13"], [12, np.nan, 13]),  # houses in a street
        (["007A", "Q1", "1:2"], [np.nan] * 3),
        (["10:30", "0:05", "-1:30", "630"], [630, 5, -90, np.nan]),
        (["1:02:03", "0:00:59.5"], [3723, 59.5]),
        (["10:30 PM", "12:15 am", "1:00 p.m."], [1350, 15, 780]),
        (["10:30:00", "10:30:01", "10:30"], [37800, 37801, np.nan]),
    ],
)
def test_numbers_as_people_write_them(cells: list[str], numbers: list[float]) -> None:
    np.testing.assert_array_equal(numbers_in(Column("a", cells))[0], numbers)


def test_a_unit_is_told_and_several_are_refused(load: Any) -> None:
    column = understand(Column("a", ["12 kg", "13 kg", "14.5 kg"]))
    assert (column.kind, column.unit, column.why) == ("number", "kg", "'12 kg' is 12")
    column = understand(Column("a", [f"{n} {'kg' if n % 2 else 'g'}" for n in range(20)]))
    assert (column.kind, column.why) == ("text", "numbers in several units ('g', 'kg'); write all in one")
    few = load("a,k\n" + "\n".join(f"{'5 kg' if n % 2 else '50 g'},{n % 2}" for n in range(20)))
    assert "'a' is taken for a category: numbers in several units ('g', 'kg'); write all in one" in few.notes
    assert understand(Column("a", ["1 234", "2"])).why == "'1 234' is 1234"
    assert understand(Column("a", ["1234", "2"])).why == ""


def test_durations_of_a_frame_are_seconds() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.to_timedelta([90, 90_061.5, None], unit="s"), "b": [1, 2, 3], "y": [1, 2, 1]})
    table = load_table(frame)
    assert table.x[:, 0].tolist() == [90, 90_061.5, 45_075.75]
    assert (table.preparation.columns[0].unit, table.columns[1]) == ("s", "a is missing")  # type: ignore[union-attr]


def test_labels_with_a_unit_stay_the_text_they_are(load: Any) -> None:
    rows = "a,stars\n" + "\n".join(f"{n},{3 + n % 2} stars" for n in range(20))
    assert load(rows).classes == ("3 stars", "4 stars")
    assert load(rows, task="regression").y.tolist() == [[3 + n % 2] for n in range(20)]


@pytest.mark.parametrize(
    ("trained", "given", "x"),
    [
        ("12 kg", "13 kg", 13),
        ("12 kg", "13", 13),
        ("12 kg", "13 g", "'13 g' is not a number in kg, expected one as in training"),
        ("12", "13 kg", "'13 kg' is not a number, expected"),
        ("$12", "€13", "'€13' is not a number in \\$, expected"),
        ("5%", "0.06", "'0.06' is not a number in %, expected"),
        ("0.05", "6%", "'6%' is not a number, expected"),
        ("10:30", "10:31", 631),
        ("10:30", "631", "'631' is not a number in h:m, expected"),
        ("10:30", "10:31:00", "'10:31:00' is not a number in h:m, expected"),
    ],
)
def test_the_unit_of_the_training_file_is_expected(trained: str, given: str, x: float | str, tmp_path: Path) -> None:
    file, table = tmp_path / "t.csv", tmp_path / "u.csv"
    file.write_text(f"a,b,k\n{trained},1,p\n{trained.replace('5', '7').replace('2', '3').replace('0:', '1:')},2,q\n")
    preparation = Preparation.read(json.loads(json.dumps(load_table(file).preparation.to_json())))  # type: ignore[union-attr]
    table.write_text(f"a,b\n{given},3\n")
    if isinstance(x, str):
        with pytest.raises(FileFormatError, match=x):
            load_features(table, preparation)
    else:
        assert load_features(table, preparation).tolist() == [[x, 3]]


def test_a_file_that_knows_no_units_takes_any() -> None:
    """As those of earlier versions do."""
    encoder = read_encoder({"name": "a", "kind": "number"})
    assert encoder.encode(Column("a", ["5%", "6%"])).tolist() == [[5], [6]]
    with pytest.raises(TypeError):
        read_encoder({"name": "a", "kind": "number", "unit": 5})


@pytest.mark.parametrize(
    ("trained", "given"),
    [("True,False", "1,0"), ("True,False", "1.0,0"), ("1,0", "True,False"), ("1,0", "no,1"), ("yes,no", "1,0")],
)
def test_true_and_1_mean_the_same_in_training_and_later(trained: str, given: str, tmp_path: Path) -> None:
    file, table = tmp_path / "t.csv", tmp_path / "u.csv"
    cells = trained.split(",")
    file.write_text("a,b,k\n" + "\n".join(f"{cells[n % 2]},{n},{'pq'[n // 4]}" for n in range(8)) + "\n")
    preparation = Preparation.read(json.loads(json.dumps(load_table(file).preparation.to_json())))  # type: ignore[union-attr]
    table.write_text("a,b\n" + "\n".join(f"{cell},3" for cell in given.split(",")) + "\n")
    assert load_features(table, preparation)[:, 0].tolist() == ([1, 0] if given[:2] != "no" else [0, 1])
    table.write_text("a,b\n7,3\nmaybe,3\n")
    with pytest.raises(FileFormatError, match="is not"):
        load_features(table, preparation)


def test_more_than_0_and_1_is_not_true_and_false(tmp_path: Path) -> None:
    file, table = tmp_path / "t.csv", tmp_path / "u.csv"
    file.write_text("a,b,k\n0,1,p\n1,2,p\n2,3,q\n3,4,q\n")
    table.write_text("a,b\nTrue,3\n")
    with pytest.raises(FileFormatError, match="'True' is not a number, expected one as in training"):
        load_features(table, load_table(file))


def test_decimal_marks_that_do_not_show_are_those_of_the_file() -> None:
    column = Column("a", ["1,234", "2,345"])
    assert numbers_in(column)[0].tolist() == [1234, 2345]
    assert numbers_in(column, ",")[0].tolist() == [1.234, 2.345]


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2020-01-31", "2020-02-01"], "ISO"),
        (["2020-01-31T00:00:00Z", "2020-02-01T01:00:00+01:00"], "ISO"),
        (["31.01.2020", "01.02.2020"], "%d.%m.%Y"),
        (["01/31/2020", "02/01/2020"], "%m/%d/%Y"),
        (["31/01/2020", "01/02/2020"], "%d/%m/%Y"),
        (["31 Jan 2020", "1 Feb 2020"], "%d %b %Y"),
        (["01/31/2020 00:00", "02/01/2020 00:00"], "%m/%d/%Y %H:%M"),
    ],
)
def test_dates_as_people_write_them(cells: list[str], form: str) -> None:
    days, found = dates_in(Column("a", cells))
    assert (days.tolist(), found) == ([18292, 18293], form)


@pytest.mark.parametrize(
    ("name", "cell", "kind"),
    [
        ("a", lambda i: f"{i * 1.5}" if i != 7 else "<1.0", "number"),
        ("a", lambda i: ["007", "012", "113"][i % 3], "category"),
        ("zip", lambda i: f"{i % 20 * 1111 + 2134:05}", "category"),
        ("a", lambda i: "007" if i == 3 else f"{i * 7}", "number"),
        ("a", lambda i: f"{10**18 + i}", "id"),
        ("a", lambda i: f"{10**18 + i % 5}", "category"),
        ("a", lambda i: ("True", "False", "")[i % 3], "true/false"),
        ("a", lambda i: ("yes", "NO")[i % 2], "true/false"),
        ("a", lambda i: "N" if i % 15 else "Q", "category"),
        ("a", lambda i: "yes" if i % 3 else "", "true/false"),
        ("a", lambda i: f"{-(10**18) - i % 5}", "category"),
        ("a", lambda i: f"{i % 12 + 1:02}-{i % 28 + 1:02}-2020", "date"),
        ("a", lambda i: ("red", "blue", "?")[i % 3], "category"),
        ("a", lambda i: f"2020-01-{i % 28 + 1:02}" if i != 7 else "soon", "date"),
        ("a", lambda i: "same", "constant"),
        ("a", lambda i: ("1", "1.0")[i % 2], "constant"),
        ("a", lambda i: ("NA", "?", "")[i % 3], "empty"),
        ("a", lambda i: f"Mr. {i}", "id"),
        ("row_id", lambda i: f"{i}", "id"),
        ("customerId", lambda i: f"{i * 7919 % 1000}", "id"),
        ("paid", lambda i: f"{i}", "number"),
        ("a", lambda i: f"{i}", "number"),
        ("id", lambda i: f"{i / 2}", "number"),
        ("a", lambda i: f"ticket {i % 45}", "text"),
        ("a", lambda i: f"{i}" if i % 3 else "low", "text"),
    ],
    ids=map(str, range(99)),
)
def test_what_a_column_is(name: str, cell: Callable[[int], str], kind: str) -> None:
    assert understand(Column(name, [cell(i) for i in range(N)])).kind == kind


def test_what_may_be_meant_otherwise_is_told(load: Any) -> None:
    kinds = ("Iris", "iris", "i\u200bris", "rose")
    table = load("when,k\n" + rows(lambda i: f"{i % 12 + 1}/{i % 9 + 1}/2024,{kinds[i % 4]}"))
    assert table.classes == tuple(sorted(kinds))
    assert [note for note in table.notes if "'Iris'" in note and "two classes" in note] == list(table.notes[:2])
    assert any("'when' could have day and month in either order: read as month, day" in note for note in table.notes)
    assert load("a,y\n" + rows(lambda i: f"{i},2.5")).notes == ("all labels are '2.5': there is nothing to learn",)


def test_codes_that_float64_merges_stay_apart(load: Any) -> None:
    for code in (2**53, -(10**17) - 1):
        assert load("a,k\n" + rows(lambda i, code=code: f"{i},{code + i % 2}")).classes == tuple(  # type: ignore[misc]
            sorted((str(code), str(code + 1)))
        )


def test_what_numbers_the_rows_is_not_learned_unasked(load: Any) -> None:
    text = "kind,a,id\n" + rows(lambda i: f"{'pq'[i % 2]},{i % 7},{i + 1}")
    with pytest.raises(FileFormatError, match=r"the last column, 'id', numbers the rows.*name the label"):
        load(text)
    assert load(text, label="kind").columns == ("a",)
    assert load(text, label="id").task == "regression"


def test_decimal_commas_without_quotes_shift_no_column(load: Any) -> None:
    with pytest.raises(FileFormatError, match="line 2: the row has 3 cells, expected 2"):
        load("a,k\n" + rows(lambda i: f"{i % 9},{i % 7},{'pq'[i % 2]}"))


def test_odd_cells_are_told_and_taken_for_missing(load: Any) -> None:
    table = load("a,b,kind\n" + rows(lambda i: f"{'<1.0' if i in (7, 9) else i},{i % 5},{'pq'[i % 2]}"))
    assert table.notes == ("line 9, column 1 ('a'): '<1.0' is no number, and taken for missing, like 1 more",)
    assert table.columns == ("a", "a is missing", "b")
    assert table.x[7].tolist() == [np.median([i for i in range(N) if i not in (7, 9)]), 1, 2]


def test_wishes_about_columns(load: Any) -> None:
    text = "Id,code,note,kind\n" + rows(lambda i: f"{i},{i % 3},note {i % 40},{'pq'[i % 2]}")
    assert load(text).columns == ("code",)
    assert load(text, drop="code", keep=["Id"]).columns == ("Id",)
    assert load(text, categorical="code").columns == ("code=0", "code=1", "code=2")
    assert load(text, keep=3, drop=-3).columns[0] == "note=note 0"
    assert load(text, keep=np.array([3]), drop=np.int64(-3), label=np.int64(4)).columns[0] == "note=note 0"
    assert load(text, drop=np.array(["code"]), keep=np.array(["Id"])).columns == ("Id",)
    for option in ("drop", "keep", "categorical"):
        with pytest.raises(InputError, match=rf"{option}='Code': there is no such column.*Did you mean 'code'\?"):
            load(text, **{option: "Code"})
        with pytest.raises(InputTypeError, match="expected names of columns"):
            load(text, **{option: [1.5]})


def test_rare_names_are_one_class_and_new_ones_belong_to_it(load: Any, tmp_path: Path) -> None:
    def colour(i: int) -> str:
        return "rose" if i == 9 else "pink" if i == 99 else ("red", "blue", "green")[i % 3]

    table = load("colour,y\n" + rows(lambda i: f"{colour(i)},{i % 2}", 300))
    assert table.columns == ("colour=blue", "colour=green", "colour=red", "colour=(other)")
    assert table.x[[9, 99]].tolist() == [[0, 0, 0, 1]] * 2
    (tmp_path / "new.csv").write_text("colour\nmauve\nred\n\nNA\nblue\n")
    assert load_features(tmp_path / "new.csv", table).tolist() == [
        [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0],
    ]  # fmt: skip


# Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (lambda i: ("none", "mild", "severe")[i % 3], ("mild", "none", "severe")),
        (lambda i: "-+"[i % 2], ("+", "-")),
        (lambda i: i % 2 == 1, ("False", "True")),
        (lambda i: ("007", "7", "012")[i % 3], ("007", "012", "7")),
        (lambda i: f"{i % 2}.0", ("0", "1")),
        (lambda i: i * 1.5, ()),
        (lambda i: f"{i},5", ()),
        (lambda i: f'"${i * 1000 + 999:,}"', ()),
        (lambda i: "007" if i == 5 else i * 7, ()),
    ],
    ids=map(str, range(99)),
)
def test_labels_are_classes_or_numbers(label: Any, classes: tuple[str, ...], load: Any) -> None:
    table = load("a;y\n" + rows(lambda i: f"{i};{label(i)}"))
    assert table.classes == classes
    assert table.task == ("classification" if classes else "regression")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda i: "NA" if i == 5 else i % 2, r"line 7, column 2 \('y'\): the label is missing \('NA'\)"),
        (lambda i: "-" if i == 5 else "pq"[i % 2], r"line 7, column 2 \('y'\): the label is missing \('-'\)"),
        (lambda i: "" if i % 3 == 0 else i % 2, r"line 2, .*the label is missing \(and 19 more\), .*these rows"),
        (
            lambda i: "<1.0" if i == 5 else i * 1.5,
            r"line 7, .*the label is '<1.0', expected a plain number as in 59 of",
        ),
        (lambda i: '"1,234.5"' if i == 5 else i * 1.5, r"line 7, .*the label is '1,234.5', expected a plain number"),
        (lambda i: f"remark {i}", r"the labels are 60 different texts in 60 rows, such as 'remark 0': too many"),
    ],
    ids=map(str, range(99)),
)
def test_labels_that_are_refused(label: Any, message: str, load: Any) -> None:
    with pytest.raises(FileFormatError, match=message):
        load("a,y\n" + rows(lambda i: f"{i},{label(i)}"))


# The command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a command in an empty folder; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("NNX_BACKEND", "numpy")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def titanic(count: int = 200) -> str:
    """Return rows like those of the Titanic's passengers: names, tickets, blanks, text."""
    draw = np.random.RandomState(0)

    def line(i: int) -> str:
        woman = draw.rand() < 0.4
        lived = draw.rand() < (0.9 if woman else 0.1)
        age = "" if draw.rand() < 0.2 else str(draw.randint(1, 80))
        cabin = f"C{draw.randint(999)}" if draw.rand() < 0.3 else ""
        port = "SCQ"[draw.randint(3)] if i else ""
        return (
            f'{i + 1},{int(lived)},{draw.randint(1, 4)},"Doe, {i} ""x""",{("male", "female")[woman]},{age},'
            f"A/5 {draw.randint(9999)},{draw.rand() * 99:.4f},{cabin},{port}"
        )

    return "PassengerId,Survived,Pclass,Name,Sex,Age,Ticket,Fare,Cabin,Embarked\n" + rows(line, count)


def test_a_raw_table_is_told_learned_and_predicted(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "titanic.csv").write_text(titanic())
    code, out, _ = cli("data", "titanic.csv", "--label", "Survived")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for column, kind, becomes in (
        ("PassengerId", "id", "left out: it numbers the rows"), ("Survived", "classes", "the label"),
        ("Name", "id", "left out: no two cells are alike"), ("Sex", "category", "2 features"),
        ("Age", "number", "a number + whether it is missing"), ("Cabin", "text", "whether it is there"),
    ):  # fmt: skip
        assert any(line.startswith(column) and kind in line and becomes in line for line in out.splitlines()), out
    assert "titanic.csv: 200 rows, 11 features" in " ".join(out.split())

    code, out, err = cli("train", "titanic.csv", "--label", "Survived", "--save", "t", "--epochs", 30)
    assert (code, err) == (0, "")
    assert "'Survived' (column 2), as you said: 2 classes: 0 (" in out
    assert "PassengerId (it numbers the rows); Name (no two cells are alike)" in out

    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv("titanic.csv")
    frame.drop(columns="Survived")[frame.columns[::-1].drop("Survived")].assign(x=1).to_csv("new.csv")
    code, out, err = cli("predict", "t", "new.csv")
    assert (code, err) == (0, "note: not seen in training, and left alone: column 1, x\n")
    answers = [line.split(",")[0] for line in out.split()[1:]]
    assert answers == [line.split(",")[0] for line in cli("predict", "t", "titanic.csv")[1].split()[1:]]
    assert np.mean(np.array(answers, int) == frame["Survived"]) > 0.8


def test_what_is_learned_comes_from_the_training_part_alone(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(titanic())
    assert cli("train", "t.csv", "--label", 2, "--save", "t", "--epochs", 1)[0] == 0
    card = nnx.load("t", backend="numpy").metadata["card"]
    preparation = Preparation.read(json.loads(json.dumps(card["preparation"])))
    assert json.loads(json.dumps(preparation.to_json())) == card["preparation"]
    from nnx.cli.sets import held_out

    table = load_table("t.csv", label="Survived")
    learned = ~held_out(table.y, 0)
    ages = [line.split(",")[6] for line in titanic().split("\n")[1:-1]]
    known = [float(age) for age, taken in zip(ages, learned, strict=True) if age and taken]
    age = next(column for column in preparation.columns if column.name == "Age")
    assert age.fill == np.median(known)
    at = preparation.features.index("Age")
    filled = np.where(table.x[learned, at + 1] == 1, age.fill, table.x[learned, at])
    assert card["mean"][at] == pytest.approx(filled.mean(dtype=np.float64))
    assert [card["mean"][at + 1], card["std"][at + 1]] == [0, 1]  # what is 0 or 1 stays that


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Age", "age", 1), r"'Age' is not among the columns .*not expected: 'age'"),
        (lambda text: text.partition("\n")[2], r"the first line holds no names.*begin the file with the line: Pass"),
        (lambda text: text.replace(",male,", ",1,").replace("\n1,", "\nx,"), None),
        (lambda text: text.replace(",1,", ",first,").replace(",2,", ",second,").replace(",3,", ",third,"),
         r"line 2, column 3 \('Pclass'\): .* is not a number, expected one as in training"),
        (lambda text: text.replace("PassengerId,Survived", "a,Survived"), None),
    ],
    ids=map(str, range(99)),
)  # fmt: skip
def test_predict_does_not_guess(change: Any, message: str | None, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(titanic())
    cli("train", "t.csv", "--label", "Survived", "--save", "t", "--epochs", 1)
    (tmp_path / "new.csv").write_text(change(titanic(20)))
    code, out, err = cli("predict", "t", "new.csv")
    if message is None:
        assert code == 0, err
        assert "note: " in err
        assert len(out.split()) == 21
    else:
        assert (code, out) == (2, "")
        assert re.search(message, err), err


def test_columns_without_names_are_taken_by_their_place(cli: Any, tmp_path: Path) -> None:
    def line(i: int) -> str:
        return f"{'abc'[i % 3]},{i % 3 + i / 1000},{i % 7}"

    (tmp_path / "t.data").write_text(rows(line))
    code, out, err = cli("train", "t.data", "--epochs", 1, "--save", "t")
    assert (code, "column 3, the last column" in out) == (0, True)
    assert "if it is the first, say --label 1" in err
    code, out, err = cli("train", "t.data", "--label", 1, "--epochs", 1, "--save", "t", "--overwrite")
    assert (code, err) == (0, "")
    assert "column 1, as you said: 3 classes: a (20), b (20), c (20)" in out
    (tmp_path / "bare.data").write_text(rows(lambda i: line(i)[2:]))
    assert cli("predict", "t", "t.data")[1] == cli("predict", "t", "bare.data")[1]
    (tmp_path / "more.data").write_text(rows(lambda i: f"{i},{line(i)}"))
    code, _, err = cli("predict", "t", "more.data")
    assert code == 2
    assert "there are 4 columns, expected 2 without names as in training, and at most a label" in err
    (tmp_path / "id.data").write_text(rows(lambda i: f"{i},{line(i)[2:]}"))  # as many, but no label among them
    code, _, err = cli("predict", "t", "id.data")
    assert code == 2
    assert "column 1 should be the label, as in training, but '0' is none" in err
    with pytest.raises(FileFormatError, match="there are 3 columns, one more than the 2 features of the training"):
        load_features(tmp_path / "id.data", 2)


def test_large_numbers_are_predicted_in_their_own_units(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,price\n" + rows(lambda i: f"{1.7e12 + i},{4e7 + i / 4:.2f}", 100))
    code, out, _ = cli("train", "t.csv", "--save", "t", "--epochs", 150, "--dropout", 0, "--lr", 0.01)
    assert code == 0, out
    answers = np.array(cli("predict", "t", "t.csv")[1].split()[1:], float)
    assert np.abs(answers - (4e7 + np.arange(100) / 4)).max() < 3


def test_the_test_part_that_a_file_brings_is_used(cli: Any, tmp_path: Path) -> None:
    x, y = np.random.RandomState(0).rand(40, 2, 3), np.arange(40) % 2
    np.savez("k.npz", x_train=x, y_train=y, x_test=x[:7], y_test=y[:7])
    code, out, _ = cli("train", "k.npz", "--epochs", 1)
    assert (code, "40 to learn from, 7 for the test" in out) == (0, True)
    np.savez("k.npz", x_train=x, y_train=y, x_test=x[:7, :, :2], y_test=y[:7])
    assert "the test has 4 features, expected 6" in cli("train", "k.npz", "--epochs", 1)[2]


def test_files_of_earlier_versions_predict(cli: Any, tmp_path: Path) -> None:
    model = nnx.Sequential(nnx.Dense(2, 2), nnx.Softmax(), backend="numpy")
    model.metadata["card"] = {
        "task": "classification", "columns": ["a", "b"], "classes": ["no", "yes"], "mean": [1.0, 2.0],
        "std": [1.0, 3.0], "target": [0.0, 1.0], "limits": None,
    }  # fmt: skip
    model.save("old")
    (tmp_path / "t.csv").write_text("id,b,a\n7,5,1\n8,2,3\n")
    code, out, _ = cli("predict", "old", "t.csv")
    wanted = model.predict(np.array([[0, 1], [2, 0]], np.float32))
    assert code == 0
    assert [float(line.split(",")[1]) for line in out.split()[1:]] == pytest.approx(wanted.max(axis=1), abs=1e-5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.pop("columns"),
        lambda p: p["columns"].pop(),
        lambda p: p["columns"][1].update(kind="magic"),
        lambda p: p["columns"][1].update(fill=[1]),
        lambda p: p["columns"][1].update(fill="much"),
        lambda p: p["columns"][1].update(more=1),
        lambda p: p["columns"].append(p["columns"][0]),
        lambda p: p["columns"][1].update(cycles=["century"]),
        lambda p: p.update(place="x"),
        lambda p: p.update(place=7),
        lambda p: p.update(labels=5),
        lambda p: p.update(columns=5),
    ],
    ids=map(str, range(99)),
)
def test_a_preparation_that_makes_no_sense_is_an_error_of_the_file(damage: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(PLAIN)
    assert cli("train", "t.csv", "--save", "t", "--epochs", 1)[0] == 0
    model = nnx.load("t", backend="numpy")
    damage(model.metadata["card"]["preparation"])
    model.save("t")
    code, out, err = cli("predict", "t", "t.csv")
    assert (code, out) == (2, "")
    assert err.startswith("error: t: ")


# What is said of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_the_table_of_columns_is_as_wide_as_the_terminal_and_cuts_no_explanation(width: int, tmp_path: Path) -> None:
    cell_len = pytest.importorskip("rich.cells").cell_len
    pytest.importorskip("typer")
    from nnx.cli.sets import Source
    from nnx.cli.told import Told

    path = tmp_path / "t.csv"
    rows = (f"{n} kg,{n * n % 7},{['漢字漢字', ''][n % 2]},the text no. {n} of many,{'pq'[n % 2]}" for n in range(40))
    path.write_text("weight,a rather long name of a column,mark,note,label\n" + "\n".join(rows), encoding="utf-8")
    reading = Source(str(path)).read(path)
    lines = list(Told(reading, reading.learn()[0]).table(width))
    assert max(map(cell_len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert {"weight", "note", "mark", "label"} <= set(text.split())
    assert text.index("column kind missing distinct what becomes of it") == 0
    folded = "".join(text.split())
    for what in ("anumber('0kg'is0)", "leftout:notwocellsarealike", "thelabel"):
        assert what in folded
