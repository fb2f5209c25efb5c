"""Files that are none, that expand without end, that steer a terminal, or have names that no text encoding knows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx import datasets, files, plots
from nnx.backends.printable import printable
from nnx.benchmark import page
from nnx.benchmark.report import read
from nnx.benchmark.schema import fault
from nnx.cli import main
from nnx.datasets import archive, csvfile, idx, reading
from nnx.datasets.columns import Column, Rows
from nnx.datasets.encoder import Encoder
from nnx.datasets.matching import match
from nnx.datasets.preparation import Preparation
from nnx.errors import FileFormatError, InputError, MissingExtra
from nnx.nnfs import Model

pytest.importorskip("safetensors.numpy")
ROOT = Path(__file__).resolve().parents[1]
EVIL = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x08\r\x9b31m\u202e\u200b[red]$x_$<b>"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J\\x1b[31mred\\x08\\r\\x9b31m\\u202e\\u200b[red]$x_$<b>"
STEERING = "\x1b\x07\x08\r\x9b\u202e\u200b"


@pytest.fixture(autouse=True)
def _on_numpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NNX_BACKEND", "numpy")
    with nnx.use_backend("numpy"):
        yield


def small(value: float = 0.0) -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 3, init=np.full((2, 3), value)), nnx.ReLU(), nnx.Dense(3, 2), nnx.Softmax())
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    net.metadata = {"value": value}
    return net


# ---- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 漢字 🎉", "größe 漢字 🎉"),
        ("two\u00a0spaces\u3000wide", "two\u00a0spaces\u3000wide"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("zero\u200dwidth\ufeff", "zero\\u200dwidth\\ufeff"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("\u2066turned\u2069", "\\u2066turned\\u2069"),
        (Path("a\x1bb"), "a\\x1bb"),
        (EVIL, SHOWN),
    ],
)
def test_what_steers_is_written_out_and_what_does_not_stays(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_lines_of_a_message_may_stay() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_errors_are_printable_and_travel_between_processes() -> None:
    error = FileFormatError(f"{EVIL}: it is damaged\nin two lines")
    assert str(error) == f"{SHOWN}: it is damaged\nin two lines"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# ---- writing -------------------------------------------------------------------------------------------------------

LONG = ("a" * 250, "é" * 125, "名" * 81 + ".safetensors", "😀" * 62, os.fsdecode(b"\xe9" * 250))


def spied(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, int]]:
    """Note the name and the mode of every temporary file when its contents are flushed."""
    seen: list[tuple[str, int]] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            seen.extend((name, (folder / name).stat().st_mode & 0o777) for name in os.listdir(folder)
                        if name.endswith(files.SUFFIX))  # fmt: skip
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    return seen


@pytest.mark.parametrize("name", LONG, ids=range(len(LONG)))
def test_a_name_of_any_length_that_the_disk_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch, tmp_path)
    path = tmp_path / name
    small().save(path)
    nnx.callbacks.ModelCheckpoint(path)._save(small(1.0))
    assert nnx.load(path).metadata == {"value": 1.0}
    files.write_atomically(path, b"a", memoryview(b"b"))
    assert path.read_bytes() == b"ab"
    assert len(seen) == 3
    assert max(len(os.fsencode(temporary)) for temporary, _ in seen) <= 60  # a file system may allow 143
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_is_deeper_than_a_path_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    try:
        small(1.0).save("m")
        small(2.0).save("m")
        assert nnx.load("m").metadata == {"value": 2.0}
        assert os.listdir() == ["m"]
    finally:
        for name in os.listdir():
            os.unlink(name)
        for _ in range(20):
            os.chdir("..")
            os.rmdir("d" * 250)


def test_a_private_file_is_private_while_it_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = tmp_path / "m", os.umask(0o022)
    try:
        small().save(path)
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)
        seen = spied(monkeypatch, tmp_path)
        small().save(path)
        assert [mode for _, mode in seen] == [0o600]
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_owner_and_group_are_kept_or_nobody_gains_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "m", []
    path.write_bytes(b"")
    path.chmod(0o664)
    real = os.stat

    def of_others(name: Any, **more: Any) -> os.stat_result:
        found = list(real(name, **more))
        if Path(name) == path:
            found[4:6] = [4321, 8765]
        return os.stat_result(found)

    def chown(name: Any, owner: int, group: int) -> None:
        asked.append((owner, group))
        raise PermissionError

    monkeypatch.setattr(os, "stat", of_others)
    monkeypatch.setattr(os, "chown", chown)
    files.write_atomically(path, b"new")
    monkeypatch.undo()
    assert asked == [(4321, 8765), (-1, 8765)]
    assert path.stat().st_mode & 0o777 == 0o644  # the group is another one now: it may do what everybody may


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(tmp_path: Path) -> None:
    path, other = tmp_path / "m", tmp_path / "other"
    prefix = f".nnx-{files.zlib.crc32(b'm'):08x}-"
    kept = {f"{prefix}a", "x.partial", ".m.partial", f".nnx-{files.zlib.crc32(b'other'):08x}-b.partial"}
    for name in (*kept, f"{prefix}left.partial"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f"{prefix}folder.partial").mkdir()
    (tmp_path / f"{prefix}link.partial").symlink_to("x.partial")
    kept |= {f"{prefix}folder.partial", f"{prefix}link.partial"}
    file, writing = files._begin(tmp_path, prefix, 0o600)  # another process, in the middle of it
    small().save(path)
    assert set(os.listdir(tmp_path)) == kept | {"m", writing.name}
    file.close()  # killed
    small().save(other)
    assert writing.exists()
    small().save(path)
    assert set(os.listdir(tmp_path)) == kept - {f".nnx-{files.zlib.crc32(b'other'):08x}-b.partial"} | {"m", "other"}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_while_a_save_begins_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: Any) -> bool:
        raise error

    monkeypatch.setattr(Path, "exists", fail)
    with pytest.raises(type(error)):
        files.write_atomically(tmp_path / "m", b"new")
    assert not os.listdir(tmp_path)


def test_what_another_process_takes_for_a_leftover_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists, taken = Path.exists, []

    def taking(path: Path, **more: Any) -> bool:
        if path.name.endswith(files.SUFFIX) and not taken:
            taken.append(path.name)
            path.unlink()
        return exists(path, **more)

    monkeypatch.setattr(Path, "exists", taking)
    files.write_atomically(tmp_path / "m", b"new")
    assert taken
    assert os.listdir(tmp_path) == ["m"]


def test_without_locks_a_days_age_tells_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    prefix = f".nnx-{files.zlib.crc32(b'm'):08x}-"
    for name in ("old", "new"):
        (tmp_path / f"{prefix}{name}.partial").write_bytes(b"half")
    os.utime(tmp_path / f"{prefix}old.partial", (0, 0))
    small().save(tmp_path / "m")
    assert set(os.listdir(tmp_path)) == {f"{prefix}new.partial", "m"}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    saved = set()
    for _ in range(8):
        small(1.0).save(tmp_path / "m")
        saved.add((tmp_path / "m").read_bytes())
    assert len(saved) == 1
    data = saved.pop()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])


def test_the_same_parameters_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnx.nnfs import Activation_Softmax, Layer_Dense

    model = Model()
    model.add(Layer_Dense(2, 3))
    model.add(Activation_Softmax())
    model.finalize()
    model.save_parameters(tmp_path / "a")
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    model.save_parameters(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with np.load(tmp_path / "a") as arrays:
        np.testing.assert_array_equal(arrays["0.weights"], model.layers[0].weights)


def test_more_than_a_header_holds_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnx.model.checkpoint.LONGEST", 1000)
    net = small()
    net.metadata = {"notes": "x" * 1000}
    with pytest.raises(InputError, match=r"bytes as JSON, expected at most 1000; put less into model.metadata"):
        net.save(tmp_path / "m")
    assert not os.listdir(tmp_path)


def test_a_log_goes_on_after_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss\r\n0,1.0\r\n1,0.")
    log = nnx.callbacks.CSVLogger(path, append=True)
    log.on_fit_begin(small())
    log.on_epoch_end(small(), 1, {"loss": 0.5})
    assert path.read_bytes() == b"epoch,loss\r\n0,1.0\r\n1,0.\r\n1,0.5\r\n"


@pytest.mark.parametrize("path", ["a\0b", "~nobody-of-this-name/m"])
def test_names_that_no_file_can_have(path: str) -> None:
    for call in (nnx.load, small().save, datasets.load_table):
        with pytest.raises(InputError, match=r"leave it out|write the folder out"):
            call(path)


# ---- reading what is no file ---------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Any]] = {
    "model": nnx.load,
    "model of the book": Model.load,
    "table": datasets.load_table,
    "features": lambda path: datasets.load_features(path, 3),
    "report": read,
}


@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    unix = socket.socket(socket.AF_UNIX)
    os.symlink("/dev/zero", tmp_path / "link")
    with unix:
        unix.bind(os.path.relpath(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "pipe", "a pipe"), (tmp_path / "socket", "a socket"), (tmp_path, "a folder"),
            (Path("/dev/zero"), "a device"), (Path("/dev/full"), "a device"), (tmp_path / "link", "a device"),
        ):  # fmt: skip
            with pytest.raises(FileFormatError, match=f"this is {kind}, expected a"):
                READERS[reader](path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
@pytest.mark.parametrize("reader", READERS)
def test_what_the_system_shows_as_a_file_without_a_size_is_empty(reader: str) -> None:
    with pytest.raises(FileFormatError):
        READERS[reader](Path("/proc/self/mem"))


@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_contents_takes_no_memory(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(FileFormatError):
        READERS[reader](path)


def test_no_file_is_larger_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().save(tmp_path / "m")
    monkeypatch.setattr(files, "physical", lambda: 100)
    with pytest.raises(FileFormatError, match=r"the file has .* KiB, but this machine has 100 B of memory"):
        nnx.load(tmp_path / "m")


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "m", os.open
    path.write_bytes(b"")

    def swapping(name: Any, *more: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(name, *more)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(FileFormatError, match="this is a pipe"):
        files.read_file(path, "a file")


# ---- bombs ---------------------------------------------------------------------------------------------------------

LABELS = np.array([0, 1, 0, 1])


def npy(shape: str, descr: str = "<f4", data: bytes = b"", header: str | None = None, version: int = 1) -> bytes:
    text = (header or f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}").encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def npz(path: Path, x: bytes, method: int = zipfile.ZIP_DEFLATED, **others: bytes) -> Path:
    y = io.BytesIO()
    np.save(y, LABELS)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in {"x": x, "y": y.getvalue(), **others}.items():
            file.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (npy("(10000000000, 10)"), r"its header is that of 400000000000 bytes, but there are 0"),
        (npy(f"({2**70}, 2)"), r"its header is that of"),
        (npy("(-1, 2)"), r"its header is damaged: its shape is \(-1, 2\)"),
        (npy("(-4, -2)", data=bytes(32)), r"x cannot be read"),
        (npy("(4, 2)", data=bytes(31)), r"its header is that of 32 bytes, but there are 31"),
        (npy("(4, 2)", data=bytes(33)), r"its header is that of 32 bytes, but there are 33"),
        (npy("(4,)", "<U1000000"), r"its header is that of 16000000 bytes, but there are 0"),
        (npy("(4, 2)", "|O", bytes(64)), r"it holds Python objects"),
        (npy("", header="__import__('os').abort()"), r"its header is damaged"),
        (npy("", header="-" * 9000 + "1"), r"its header is damaged"),
        (npy("", header="(" * 9000), r"its header is damaged"),
        (npy("", header="{" + "'a':" * 9000), r"its header is damaged"),
        (npy("(4, 2)", data=bytes(32), version=4), r"unknown version \(4, 0\)"),
        (b"\x80\x04N.", r"x cannot be read"),
    ],
)
def test_arrays_are_not_what_their_headers_say(x: bytes, message: str, tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with pytest.raises(FileFormatError, match=message):
            datasets.load_table(npz(tmp_path / "a.npz", x, method))


def test_a_table_of_contents_that_lies(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", npy(f"({10**9}, 2)"), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"x cannot be read"):
        datasets.load_table(path)


def test_compressed_arrays_expand_to_a_stated_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "EXPANDED", 10_000)
    x, wide = npy("(4, 200)", data=bytes(3200)), npy("(4, 2500)", data=bytes(40_000))
    assert datasets.load_table(npz(tmp_path / "a.npz", x)).x.shape == (4, 200)
    assert datasets.load_table(npz(tmp_path / "stored.npz", wide, zipfile.ZIP_STORED)).x.shape == (4, 2500)
    with pytest.raises(FileFormatError, match=r"expands to 39.2 KiB, expected at most 9.8 KiB; write it with"):
        datasets.load_table(npz(tmp_path / "b.npz", wide))


def test_other_methods_of_compression_and_endless_tables_of_contents(tmp_path: Path) -> None:
    assert lzma  # where Python has it, a file may use it
    with pytest.raises(FileFormatError, match=r"compressed by a method that numpy does not write"):
        datasets.load_table(npz(tmp_path / "a.npz", npy("(4, 2)", data=bytes(32)), zipfile.ZIP_LZMA))
    path = tmp_path / "b.npz"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20):
            file.writestr(f"{number}" + "a" * 60_000, b"")
    with pytest.raises(FileFormatError, match=r"its table of contents has .* bytes, expected at most 1048576"):
        datasets.load_table(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "?", "<f2"])
def test_arrays_are_read_as_numpy_reads_them(order: Any, dtype: str, tmp_path: Path) -> None:
    x = np.array(np.arange(24).reshape(4, 6) % 5, dtype, order=order)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=x, y=LABELS)
        table = datasets.load_table(tmp_path / "a.npz")
        np.testing.assert_array_equal(table.x, x.astype(np.float32))
        np.testing.assert_array_equal(table.y, LABELS)


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(dims: tuple[int, ...], size: int) -> bytes:
    return bytes([0, 0, 8, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + bytes(size)


@pytest.mark.parametrize(
    ("dims", "size", "message"),
    [
        ((3, 28, 28), 10**6, r"holds more than 2368 bytes \(uncompressed\), expected 2368"),
        ((2**32 - 1,) * 3, 0, r"is said to hold .* TiB, expected at most 1.0 GiB"),
    ],
)
def test_a_gzip_file_is_read_no_further_than_its_header_says(
    dims: tuple[int, ...], size: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        shape = (3, 28, 28) if "images" in name else (3,)
        (tmp_path / name).write_bytes(idx_bytes(shape, int(np.prod(shape))))
    assert datasets.mnist(tmp_path)[0].shape == (3, 784)
    (tmp_path / NAMES[0]).write_bytes(gzip.compress(idx_bytes(dims, size)))
    most = []
    read = gzip.GzipFile.read

    def counting(file: gzip.GzipFile, count: int | None = -1) -> bytes:
        most.append(count)
        return read(file, count)

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    with pytest.raises(FileFormatError, match=message):
        datasets.mnist(tmp_path)
    assert max(most) <= 2353  # never all that is there
    assert idx.MOST == 1 << 30


def test_names_of_columns_are_found_in_linear_time() -> None:
    class Name(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

    names = [Name(f"gene {i}") for i in range(300)]
    rows = Rows("t", tuple(Column(name, ["1"]) for name in names), True, str)
    wanted = Preparation(tuple(Encoder(name, "number") for name in reversed(names)), "label")
    Name.compared = 0
    assert match(wanted, rows)[0] == list(reversed(range(300)))
    assert Name.compared <= 3000


def test_columns_and_bytes_of_a_csv_file_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n1,2,p\n3,4,q\n")
    with monkeypatch.context() as few:
        few.setattr(csvfile, "WIDEST", 2)
        with pytest.raises(FileFormatError, match=r"there are 3 columns, expected at most 2; save it as .npz"):
            datasets.load_table(path)
    monkeypatch.setattr(reading, "MOST", 10)
    with pytest.raises(FileFormatError, match=r"the file has 22 B, expected at most 10 B; take a part of it"):
        datasets.load_table(path)


def test_wrong_bytes_among_utf8_are_found_with_their_line(tmp_path: Path) -> None:
    path, data = tmp_path / "a.csv", "a;é;label\n1;2;漢🎉\n3;4;q\n".encode()
    path.write_bytes(data)
    assert datasets.load_table(path).classes == ("q", "漢🎉")
    for at in range(len(data)):
        bad = data[:at] + b"\xff" + data[at:]
        path.write_bytes(bad)
        with pytest.raises(FileFormatError) as caught:
            datasets.load_table(path)
        # In the middle of a character it is that one which has a wrong byte.
        start = at
        while start < len(data) and data[start] & 0xC0 == 0x80:
            start -= 1
        assert f"line {data.count(10, 0, at) + 1}: the byte 0x{bad[start]:02x} is not UTF-8" in str(caught.value)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_compressed_tables_expand_to_a_stated_size(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "EXPANDED", 10_000)
    for rows, path in ((100, tmp_path / "a.csv"), (100_000, tmp_path / "bomb.csv")):
        data = b"a,label\n" + b"1,p\n2,q\n" * rows
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("table.csv", data)
        else:
            path.write_bytes(PACKERS[kind](data))
    assert len(datasets.load_table(tmp_path / "a.csv").x) == 200
    with pytest.raises(FileFormatError, match=r"the file expands to .*, expected at most 9.8 KiB"):
        datasets.load_table(tmp_path / "bomb.csv")


@pytest.mark.parametrize("kind", PACKERS)
def test_what_is_compressed_twice_is_said_to_be(kind: str, tmp_path: Path) -> None:
    path, data = tmp_path / "a.csv", b"a,label\n1,p\n2,q\n"
    path.write_bytes(gzip.compress(PACKERS[kind](data)))
    with pytest.raises(FileFormatError, match="what is in it is compressed once more; unpack it"):
        datasets.load_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv.gz", PACKERS[kind](data))
    with pytest.raises(FileFormatError, match="what is in it is compressed once more; unpack it"):
        datasets.load_table(path)


def test_one_text_in_millions_of_rows_of_parquet_expands_to_a_stated_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(reading, "MOST", 100_000)
    text, numbers = "x" * 1000, arrow.array(np.arange(1000) % 2)
    for rows in (arrow.array([text] * 1000), arrow.array([text, None] * 500).dictionary_encode()):
        parquet.write_table(arrow.table({"a": rows, "label": numbers}), tmp_path / "bomb.parquet")
        assert (tmp_path / "bomb.parquet").stat().st_size < 10_000
        with pytest.raises(FileFormatError, match=r"the file expands to .* KiB, expected at most 97.7 KiB"):
            datasets.load_table(tmp_path / "bomb.parquet")
    fits = arrow.array(["long", None] * 500).dictionary_encode()
    parquet.write_table(arrow.table({"a": fits, "label": numbers}), tmp_path / "a.parquet")
    assert reading.read_rows(tmp_path / "a.parquet").columns[0].text[:2] == ["long", ""]


@pytest.mark.parametrize("after", [b"1,2,p\n" * 50, b"1,2,p\n" * 5, b"9,8,q\n" * 20])
def test_a_file_that_changes_while_it_is_read_is_refused(
    after: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a.csv", os.fstat
    path.write_bytes(b"1,2,p\n" * 20)
    os.utime(path, (0, 0))
    asked = []

    def fstat(number: int) -> os.stat_result:
        found = real(number)
        asked.append(found)
        if len(asked) == 4:  # three are those of `open_file`; then that before reading
            path.write_bytes(after)
        return found

    monkeypatch.setattr(files.os, "fstat", fstat)
    with pytest.raises(FileFormatError, match="the file changed while it was read; try again"):
        datasets.load_table(path)


def test_digits_that_python_reads_as_no_number_are_text(tmp_path: Path) -> None:
    rows = [f"{'9' * 5000}{n},{n},{n % 2}" for n in range(20)]
    (tmp_path / "a.csv").write_text("a,b,label\n" + "\n".join(rows))
    assert datasets.load_table(tmp_path / "a.csv", keep="a").columns[-1] == "b"
    (tmp_path / "a.json").write_text(f'[{{"a": {"9" * 5000}, "b": 12}}, {{"a": 1, "b": 3}}]')
    assert reading.read_rows(tmp_path / "a.json").columns[0].text == ["9" * 5000, "1"]


def test_a_byte_that_is_0_is_found_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,label\n" + b"1,p\n" * 600 + b"1,\0\n")
    with pytest.raises(FileFormatError, match=r"a byte in line 602 is 0"):
        datasets.load_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "magic", [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"PAR1", b"(\xb5/\xfd", b"[", b'{"a']
)
def test_what_only_begins_like_a_kind_of_file_is_refused_in_words(magic: bytes, tmp_path: Path) -> None:
    for junk in (b"", b"junk" * 20, bytes(100)):
        (tmp_path / "a.csv").write_bytes(magic + junk)
        with pytest.raises((FileFormatError, MissingExtra)):
            datasets.load_table(tmp_path / "a.csv")


def test_blank_lines_before_a_table_hide_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n" * 70_000 + "a;b,c;label\n1;2;p\n3;4;q\n")
    assert datasets.load_table(tmp_path / "a.csv").columns == ("a", "b,c")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (struct.pack("<Q", 2**63), r"its header is said to have"),
        (struct.pack("<Q", 0), r"its header is said to have 0 bytes"),
        (struct.pack("<Q", 8) + b"[[[[[[[[", r"no safetensors file"),
        (struct.pack("<Q", 2) + b"[]", r"no safetensors file"),
        (struct.pack("<Q", 24) + b'{"a": {"data_offsets":5}', r"no safetensors file"),
        (struct.pack("<Q", 2) + b"{}" + bytes(100), r"its header is that of 10 bytes"),
    ],
)
def test_a_models_header_is_checked_before_anything_more_is_read(
    head: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").write_bytes(head)
    monkeypatch.setattr("safetensors.numpy.load", None)  # would be called with all that is in the file
    with pytest.raises(FileFormatError, match=message):
        nnx.load(tmp_path / "m")


def test_numbers_of_a_model_that_are_none(tmp_path: Path) -> None:
    import safetensors.numpy

    from nnx.model import checkpoint

    small().save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    tensors = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    text = header["model"].replace('"value": 0.0', '"value": 1e999')
    assert text != header["model"]
    checked = {**header, "model": text, "crc32": checkpoint.checksum(text, tensors)}
    (tmp_path / "m").write_bytes(safetensors.numpy.save(tensors, checked))
    with pytest.raises(FileFormatError, match=r"1e999 is no number"):
        nnx.load(tmp_path / "m")


# ---- the terminal, pictures, pages ---------------------------------------------------------------------------------

ROWS = [[i * 0.1, i * 7 % 10 * 0.2, "yes" if i % 2 else "no"] for i in range(40)]


def table(path: Path, head: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(path)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command; returns its exit code and all it wrote, of which nothing may steer a terminal."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        text = "".join(capsys.readouterr())
        assert not set(STEERING) & set(text), repr(text)
        assert "bug in nnx" not in text
        return code, text

    return run


TRAIN = ("--epochs", 1, "--layers", 2)


def test_names_in_a_table_do_not_steer_the_terminal(shown: Any, tmp_path: Path) -> None:
    head = ["a" + EVIL, "b", "label"]
    for name, wanted, rows in (
        ("cell", 2, [[1, 1, "x" + EVIL], *([a, b, a] for a, b, _ in ROWS)]),
        ("noted", 0, [[1, EVIL, 1], *([1, i, 2] for i in range(19))]),
        ("words", 0, [[1, EVIL * (i % 2), i % 3] for i in range(20)]),
        ("one", 2, [[a, b, EVIL] for a, b, _ in ROWS]),
    ):
        file = table(tmp_path / f"{name}.csv", head, rows)
        code, text = shown("train", file, *TRAIN)
        assert code == wanted
        assert "\\x1b" in text
        assert shown("data", file)[0] == wanted
    good = table(tmp_path / f"good{EVIL.replace('/', '')}.csv", ["a", "b", "label"], ROWS)
    code, text = shown("train", good, *TRAIN, "--label", "none")
    assert code == 2
    code, text = shown("train", good, *TRAIN, "--save", tmp_path / f"m{EVIL}")
    assert code == 0
    assert f"good{SHOWN}" in text
    assert f"m{SHOWN}" in text
    assert shown("train", tmp_path / f"no{EVIL}.csv")[0] == 2


@pytest.mark.parametrize(
    "line", [["train", "spiral", f"--{EVIL}"], [EVIL], [f"--{EVIL}"], ["train", "spiral", EVIL], ["doctor", EVIL],
             ["train", "spiral", "--epochs", EVIL], ["bench", "--suite", EVIL], ["train", "spiral", "--backend", EVIL]],
)  # fmt: skip
def test_a_command_line_is_quoted_printably(shown: Any, line: list[str]) -> None:
    assert shown(*line)[0] in (1, 2)


def test_a_traceback_is_printable(shown: Any, tmp_path: Path) -> None:
    code, text = shown("--debug", "train", tmp_path / f"no{EVIL}.csv")
    assert code == 2
    assert "Traceback" in text


def test_predictions_are_data_in_a_file_and_printable_on_a_terminal(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [[a, b, c + EVIL] for a, b, c in ROWS]
    name = table(tmp_path / "t.csv", ["a", "b", "label"], rows)
    assert main(["train", name, "--epochs", "1", "--save", "m", "-q"]) == 0
    wanted = {"yes" + EVIL, "no" + EVIL}
    capsysbinary.readouterr()
    assert main(["predict", "m", name]) == 0
    out = capsysbinary.readouterr().out
    found = {row[0] for row in csv.reader(io.StringIO(out.decode(), newline=""))} - {"class"}
    assert found
    assert found <= wanted
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["predict", "m", name]) == 0
    out = capsysbinary.readouterr().out
    assert not set(STEERING) & set(out.decode())
    assert {row[0] for row in csv.reader(out.decode().splitlines())} - {"class"} <= {printable(w) for w in wanted}


def test_class_names_that_no_encoding_has_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = table(tmp_path / "t.csv", ["a", "b", "label"], ROWS)
    assert main(["train", name, "--epochs", "1", "--save", "m", "-q"]) == 0
    net = nnx.load("m")
    net.metadata["card"]["classes"] = ["\ud800", os.fsdecode(b"caf\xe9")]
    net.save("m")
    assert main(["predict", "m", name, "-o", "out.csv", "--probabilities"]) == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith("class,p(\\ud800),p(caf\\udce9)\n")


@pytest.mark.parametrize("name", ["limits", "mean", "std", "target", "classes"])
@pytest.mark.parametrize(
    "value", [[], [1], [10**400, 1], [1e308, 1e308], [1e-320, 1e-320], "x", None, {"a": 1}, [None, None]]
)
def test_metadata_that_make_no_sense_is_an_error_of_the_file(shown: Any, name: str, value: Any, tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", ["a", "b", "label"], ROWS)
    net = small()
    net.metadata["card"] = {
        "task": "classification", "columns": ["a", "b"], "classes": ["no", "yes"], "mean": [0.0, 0.0],
        "std": [1.0, 1.0], "target": [0.0, 1.0], "limits": [0.0, 4.0], name: value,
    }  # fmt: skip
    net.save(tmp_path / "m")
    code, _ = shown("predict", tmp_path / "m", data)
    assert code in (0, 2)


@pytest.mark.parametrize(("name", "value"), [("every", []), ("every", 0), ("every", 1.5), ("loss", [10**400]),
                                             ("loss", [1e308]), ("epoch", 5), ("loss", ["x"])])  # fmt: skip
def test_a_history_that_makes_no_sense_is_an_error_of_the_file(
    shown: Any, name: str, value: Any, tmp_path: Path
) -> None:
    data = table(tmp_path / "t.csv", ["a", "b", "label"], ROWS)
    assert shown("train", data, *TRAIN, "--save", "m")[0] == 0
    net = nnx.load("m")
    net.metadata["history"][name] = value
    net.save("m")
    code, text = shown("train", data, "--save", "m", "--resume", "--epochs", 2)
    assert code == 2
    assert "its history cannot be read" in text


# ---- reports -------------------------------------------------------------------------------------------------------

REPORT = ROOT / "bench" / "results" / "start-epyc-avx2.json"


def spoil(value: Any, bad: str) -> Any:
    if isinstance(value, dict):
        return {name: spoil(member, bad) for name, member in value.items()}
    if isinstance(value, list):
        return [spoil(member, bad) for member in value]
    return value + bad if isinstance(value, str) else value


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
        yield from paths(value[key], (*at, key))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Return a report, made small."""
    data = read(REPORT)
    first = data["workloads"][0]
    for member, most in ((first["results"], 2), (data["versions"], 2), (data["machine"]["environment"], 1)):
        for name in list(member)[most:]:
            del member[name]
    for result in first["results"].values():
        result["passes"] = [result["passes"][0][:1]]
    data["players"] = {name: data["players"][name] for name in first["results"]}
    return {**data, "workloads": [first]}


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = put(copied[at[0]], at[1:], new)
    return copied


def test_any_value_in_a_report_is_compared_or_an_error_of_the_data(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnx.benchmark import table as tables
    from nnx.benchmark.compare import compare

    good, refused, taken = report, 0, 0
    hostile = [None, True, -1, 0, 10**400, 1e308, 5e-324, "x", [], {}, [1], {"a": 1}]
    for at in paths(good):
        for value in hostile:
            text = json.dumps(put(good, at, value)).encode()
            monkeypatch.setattr("nnx.benchmark.report.read_file", lambda *_, text=text: text)
            try:
                data = read(REPORT)
            except FileFormatError:
                refused += 1
                continue
            taken += 1
            for pair in ((data, good), (good, data)):
                tables.comparison(compare(*pair))
    assert refused > 500
    assert taken > 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no report of nnx bench"),
        ("[" * 100_000, "is no report of nnx bench"),
        ("\ufeff{}", "is no report"),
        ("[1, 2]", "its format is 'list'"),
        ("null", "its format is 'NoneType'"),
        ('{"format": ["\\u001b[31m"]}', "its format is"),
        ('{"format": "nnx-bench/1"}', "damaged, or not finished: it lacks"),
        (b"\xff\xfe", "is no report of nnx bench"),
    ],
)
def test_what_is_no_report(shown: Any, tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "r").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, written = shown("bench", "--compare", REPORT, tmp_path / "r")
    assert code == 2
    assert message in written


def test_strangers_and_odd_numbers_in_a_report_are_named(tmp_path: Path) -> None:
    good, path = read(REPORT), tmp_path / "r"
    name = next(iter(good["workloads"][0]["results"]))
    for at, value, message in (
        (("players",), {}, "has figures, but is none of its players"),
        (("workloads", 0, "results", name, "best_us"), -1, "best_us is -1, which is out of range"),
        (("workloads", 0, "results", name, "best_us"), float("nan"), "best_us is nan, which is out of range"),
        (("machine", "cpu"), [], r"machine: cpu is a list, expected object"),
        (("workloads", 0, "suite"), "naps", "suite is 'naps', expected 'ops' or"),
    ):
        path.write_text(json.dumps(put(good, at, value)))
        with pytest.raises(FileFormatError, match=message):
            read(path)


def test_the_own_validator_agrees_with_the_real_one(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "nnx" / "benchmark" / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    real = jsonschema.Draft202012Validator(schema)
    assert fault(report, schema) is None
    for at in paths(report):
        for value in (None, -1, "x", {}):
            bad = put(report, at, value)
            if fault(bad, schema) is not None:
                assert not real.is_valid(bad), (at, value)


def test_hostile_names_in_reports_reach_neither_terminal_nor_page(shown: Any, tmp_path: Path) -> None:
    good = read(REPORT)
    for name, players in (("old", EVIL), ("new", EVIL)):
        data = put(good, ("machine", "cpu", "model"), name + EVIL)
        data = put(data, ("versions", "numpy"), name + EVIL)
        for row in data["workloads"]:
            row["title"] += players
        (tmp_path / name).write_text(json.dumps(data))
    code, text = shown("bench", "--compare", tmp_path / "old", tmp_path / "new")
    assert code == 0
    assert "\\x1b" in text
    tag = EVIL + "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    html = page.render(spoil(read(REPORT), tag))
    assert "<script>alert(1)" not in html
    assert "<img src=x" not in html
    assert not set(STEERING) - {"\r"} & set(html)
    assert "\\x1b" in html


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_names_in_pictures_are_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    names = ["$\\frac{$", "_hidden" + EVIL, os.fsdecode(b"caf\xe9")]
    wanted = np.array([0, 1, 2, 1])
    shares = np.eye(3, dtype=np.float32)[wanted]
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    history = {"loss": [2.0, 1.0]}
    for panel, told in (
        (plots.confusion(wanted, wanted, names), ["$\\frac{$", "_hidden\\x1b]0...", "caf\\udce9"]),
        (plots.boundary(lambda p: np.tile(shares[0], (len(p), 1)), x, wanted, None, None, names, names, 8),
         ["$\\frac{$", f" _hidden{SHOWN}", "caf\\udce9"]),
        (plots.images(np.ones((4, 4)), wanted, shares, (2, 2), names, rows=1, columns=2), ["caf\\udce9\n100% sure"]),
        (plots.regression(x[:, 0], x[:, 1], names[2] + EVIL), [f"true caf\\udce9{SHOWN}"]),
        (plots.bars([*names, names[2] + EVIL], [3, 2, 1, 0], [1] * 4, "t", "l"), ["$\\frac{$", "caf\\udce9"]),
    ):  # fmt: skip
        figure = plots.compose(names[0] + EVIL, names[2], history, panel)
        found = {text.get_text(): text for text in figure.findobj(Text)}
        assert found.keys() >= {*told, f"$\\frac{{${SHOWN}", "caf\\udce9"}
        assert not set(STEERING) & set("".join(found))
        assert not [
            words for words, text in found.items() if "$" in words and text.get_visible() and text.get_parse_math()
        ]
    plots.save(figure, tmp_path / "p.svg")
    assert "$\\frac{$" in (tmp_path / "p.svg").read_text(encoding="utf-8")


# ---- bars within bars ----------------------------------------------------------------------------------------------


def test_where_a_bar_is_drawn_already_a_fit_writes_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    from rich.errors import LiveError
    from rich.progress import Progress as RichProgress

    from nnx.training.progress import Bar, Lines

    def refuse(bar: Any) -> None:
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(RichProgress, "start", refuse)
    with Bar(3, 0) as shown:
        assert isinstance(shown, Lines)
        shown.advance(1.0)
