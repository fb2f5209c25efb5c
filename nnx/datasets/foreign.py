"""Files that are not tables, recognised by their contents: what each is, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Collection

FOREIGN = {
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook (.xls)", "save it as .xlsx or CSV"),
    b"%PDF": ("a PDF document", "copy its table into a spreadsheet, and save that as CSV"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x89HDF\r\n": ("an HDF5 file", "read it with h5py or pandas, and give the arrays or the frame"),
    b"\x89PNG": ("a picture", "give a table"),
    b"\xff\xd8\xff": ("a picture", "give a table"),
    b"version https://git-lfs": ("a Git LFS pointer, not the data", "fetch the data: git lfs pull"),
    b"\x93NUMPY": ("a single array of numpy, a binary file", "save it as CSV, or as .npz with x and y"),
    b"@relation": ("an ARFF file", "save it as CSV"),
    b"<?xml": ("an XML file", "save it as CSV"),
    b"ARROW1": ("an Arrow (Feather) file", "read it with pandas or polars, and give the frame"),
    b"\x80\x04": ("a pickle, which may run code when it is opened", "save what is in it as CSV or Parquet"),
    b"\x80\x05": ("a pickle, which may run code when it is opened", "save what is in it as CSV or Parquet"),
    b"MATLAB 5.0 MAT-file": ("a MATLAB file", "read it with scipy.io.loadmat, and give the arrays"),
    b"<stata_dta>": ("a Stata file", "read it with pandas.read_stata, and give the frame"),
    b"$FL2@(#)": ("an SPSS file", "read it with pandas.read_spss, and give the frame"),
    bytes(12) + b"\xc2\xea\x81\x60": ("a SAS file", "read it with pandas.read_sas, and give the frame"),
    b"RDX2\nX\n": ("a file of R's", "write the table in R by write.csv(table, file, row.names = FALSE)"),
    b"RDX3\nX\n": ("a file of R's", "write the table in R by write.csv(table, file, row.names = FALSE)"),
    b"X\n\0\0\0": ("a file of R's", "write the table in R by write.csv(table, file, row.names = FALSE)"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it, and give one table"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it, and give one table"),
}  # fmt: skip
PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<body|<table)", re.IGNORECASE)
SPARSE = re.compile(rb"[-+.\deE]+([ \t]+\d+:[-+.\deE]+)+[ \t\r]*\n")  # 1 3:0.5 17:2


def foreign(data: bytes) -> tuple[str, str] | None:
    """Return what a file is, if not a table, and what to do about it; None if it may be a table."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf").lower()
    for magic, told in FOREIGN.items():
        if data.startswith(magic) or (magic.isascii() and start.lstrip().startswith(magic.lower())):
            return told
    if PAGE.match(start):
        return "a web page (HTML)", "download the file itself"
    if data[257:262] == b"ustar":
        return "a tar archive", "unpack it, and give one table"
    if data.startswith(b"ORC") and data[-4:-1] == b"ORC":
        return "an ORC file", "read it with pandas or polars, and give the frame"
    if SPARSE.match(start):
        return "a file of sparse rows (LIBSVM, SVMlight)", (
            "read it with sklearn.datasets.load_svmlight_file, and give x.toarray() and y"
        )
    return None


def spreadsheet(names: Collection[str]) -> str:
    """Return which program's spreadsheet a zip file is, by the names of its members; "" if none is recognised."""
    if {"mimetype", "content.xml"} <= set(names):
        return "an OpenDocument spreadsheet"
    return "a spreadsheet of Apple's Numbers" if any(name.endswith(".iwa") for name in names) else ""
