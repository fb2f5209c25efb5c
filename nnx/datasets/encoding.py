"""Conversion of text in any encoding to UTF-8."""

from __future__ import annotations

import codecs
import contextlib
from pathlib import Path

from nnx.errors import FileFormatError

LOOKS = 1000  # bytes that are looked at to recognise UTF-16
MARKS = {  # byte order marks; UTF-32 first, since its mark begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip


def as_utf8(path: Path, data: bytes) -> tuple[bytes, list[str]]:
    """Return a file's text in UTF-8, without a byte order mark, and notes about its encoding."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode(), []
            except UnicodeDecodeError as error:
                kind = encoding[:-3].upper()
                raise FileFormatError(f"{path}: this is no {kind}, though it begins like it: {error}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if data[-LOOKS:].rstrip().endswith(b"\x1a"):  # which ended files once
        data = data.rstrip().removesuffix(b"\x1a")
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # without a mark: every second byte of ASCII text is 0
        half = data[start:LOOKS:2]
        if half.count(0) > 0.9 * len(half) and 0 not in data[1 - start : LOOKS : 2]:
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding).encode(), []
    if (at := data.find(b"\0")) >= 0:
        raise FileFormatError(
            f"{path}: this is a binary file, or text in UTF-16 (a byte in line {data.count(10, 0, at) + 1} is 0), "
            "expected CSV in UTF-8; save it as CSV (UTF-8), or as .npz for numpy"
        )
    try:
        data.decode()
        return data, []
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        try:
            if not data.decode(errors="ignore").isascii():  # the rest is valid UTF-8, so some bytes are damaged
                raise ValueError
            text = data.decode("cp1252").encode()
        except ValueError:
            raise FileFormatError(
                f"{path}, line {line}: the byte 0x{byte:02x} is not UTF-8, expected CSV in UTF-8; save it as such"
            ) from error
        return text, [f"line {line} is not UTF-8: the file is read as Windows-1252"]
