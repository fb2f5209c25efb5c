"""nnx.datasets: the book's arrays to the last bit, IDX and table files, and what is said when they are wrong."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import hashlib
import importlib.util
import io
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnx
from nnx import datasets
from nnx.datasets import download, idx
from nnx.datasets.needs import optional
from nnx.errors import FileFormatError, InputError, InputTypeError, MissingExtra

ROOT = Path(__file__).resolve().parents[1]
TOYS = {"spiral": datasets.spiral, "vertical": datasets.vertical}


def python(code: str) -> str:
    """Run code in another process, which finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_brings_nothing_optional() -> None:
    optional = {
        "sklearn",
        "pooch",
        "requests",
        "pandas",
        "narwhals",
        "openpyxl",
        "pyarrow",
        "scipy",
        "numba",
        "cupy",
        "matplotlib",
    }
    assert python(f"import sys, nnx.datasets; print(sorted({optional!r} & set(sys.modules)))").strip() == "[]"


# The book's toy data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest", "rows"),
    [
        (
            "spiral",
            "ce93f1d0d63e477e04d5e149c49fa550a73cb87f5404c6e9977bf5c90a383e5e",
            ["0x1.88a236p-9 0x1.3c199cp-7", "0x1.49d414p-2 -0x1.8e58a8p-2", "-0x1.e2b536p-1 0x1.55645ep-2"],
        ),
        (
            "vertical",
            "223606dae4955350e468b87347f0672b62dbfd4a83d771ab9321b981b6c37bfb",
            ["0x1.47cf0ep-5 0x1.75fd4ep-2", "0x1.8ab0bep-2 0x1.b1c06cp-2", "0x1.5158e0p-1 0x1.edb664p-2"],
        ),
    ],
)
def test_toy_sets_are_the_books(name: str, digest: str, rows: list[str]) -> None:
    x, y = TOYS[name](samples=100, classes=3)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((300, 2), np.float32, (300,), np.int64)
    expected = [[float.fromhex(number) for number in row.split()] for row in rows]
    assert x[[1, 150, 299]].tolist() == expected
    assert y[[0, 99, 100, 199, 200, 299]].tolist() == [0, 0, 1, 1, 2, 2]
    assert hashlib.sha256(x.astype("<f4").tobytes()).hexdigest() == digest


def test_the_spiral_that_the_book_prints() -> None:
    printed = [[0.0, 0.0], [0.00299556, 0.00964661], [0.01288097, 0.01556285], [0.02997479, 0.0044481]]
    np.testing.assert_allclose(datasets.spiral()[0][:4], printed, rtol=0, atol=5e-9)


SIZES = [(100, 3, 0), (1, 1, 0), (2, 5, 3), (37, 40, 2**32 - 1)]


@pytest.mark.parametrize(("samples", "classes", "seed"), SIZES)
def test_spiral_number_by_number(samples: int, classes: int, seed: int) -> None:
    random, f4 = np.random.RandomState(seed), np.float32
    points = []
    for k in range(classes):
        for i in range(samples):
            share = i / (samples - 1) if samples > 1 else 0.0
            start = k * 4 + i * (4 / max(samples - 1, 1)) if i < samples - 1 or samples == 1 else (k + 1) * 4
            radius = i * (1 / max(samples - 1, 1)) if share < 1 else 1.0
            turn = (start + float(f4(f4(random.randn()) * f4(0.2)))) * 2.5
            points.append((f4(radius * math.sin(turn)), f4(radius * math.cos(turn))))
    x, y = datasets.spiral(samples, classes, seed)
    assert x.tobytes() == np.array(points, f4).tobytes()
    assert y.tolist() == [k for k in range(classes) for _ in range(samples)]


@pytest.mark.parametrize(("samples", "classes", "seed"), SIZES)
def test_vertical_number_by_number(samples: int, classes: int, seed: int) -> None:
    random, f4 = np.random.RandomState(seed), np.float32
    points: list[tuple[Any, Any]] = []
    for k in range(classes):
        across = [f4(f4(f4(random.randn()) * f4(0.1)) + f4(k / 3)) for _ in range(samples)]
        along = [f4(f4(f4(random.randn()) * f4(0.1)) + f4(0.5)) for _ in range(samples)]
        points += zip(across, along, strict=True)
    x, y = datasets.vertical(samples, classes, seed)
    assert x.tobytes() == np.array(points, f4).tobytes()
    assert y.tolist() == [k for k in range(classes) for _ in range(samples)]


def test_sine_is_float64_and_the_books() -> None:
    x, y = datasets.sine()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1000, 1), np.float64, (1000, 1), np.float64)
    assert x.ravel().tolist() == [i / 1000 for i in range(1000)]
    assert y.tobytes() == np.sin(2 * np.pi * x).tobytes()
    np.testing.assert_allclose(y[[0, 1, 250, 999], 0], [0, 0.006283143965558951, 1, -0.006283143965558805], atol=1e-15)
    assert datasets.sine(1)[1].tolist() == [[0.0]]


@contextlib.contextmanager
def global_stream(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, as the book does, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def test_drawing_continues_a_stream() -> None:
    random = np.random.RandomState(0)
    first, second = datasets.draw_spiral(random, 50, 2), datasets.draw_spiral(random, 50, 2)
    third = datasets.draw_vertical(random, 50, 2)
    assert first[0].tobytes() == datasets.spiral(50, 2, seed=0)[0].tobytes()
    assert second[0].tobytes() != first[0].tobytes()
    with global_stream(0):
        again = [datasets.draw_spiral(None, 50, 2), datasets.draw_spiral(None, 50, 2)]
        again.append(datasets.draw_vertical(None, 50, 2))
    for (x, y), (x_again, y_again) in zip([first, second, third], again, strict=True):
        assert x.tobytes() == x_again.tobytes()
        assert y.tolist() == y_again.tolist()


def test_drawing_leaves_the_global_stream_alone() -> None:
    with global_stream(0):
        datasets.spiral(seed=1), datasets.vertical(seed=1), datasets.sine()
        assert np.random.randn() == np.random.RandomState(0).randn()  # noqa: NPY002


@pytest.mark.skipif(importlib.util.find_spec("nnfs") is None, reason="the book's package nnfs is not installed")
def test_toy_sets_equal_those_of_nnfs(tmp_path: Path) -> None:
    # In another process, because nnfs.init() replaces functions of numpy.
    cases = [(100, 3, 0), (1, 1, 0), (7, 5, 3), (1000, 3, 12)]
    file = tmp_path / "book.npz"
    python(
        f"""
import nnfs, numpy as np
from nnfs.datasets import sine_data, spiral_data, vertical_data
nnfs.init()
arrays = {{"sine x": sine_data()[0], "sine y": sine_data()[1], "after init": spiral_data(samples=100, classes=3)[0]}}
for samples, classes, seed in {cases}:
    for name, draw in (("spiral", spiral_data), ("vertical", vertical_data)):
        np.random.seed(seed)
        x, y = draw(samples, classes)
        key = f"{{name}} {{samples}} {{classes}} {{seed}}"
        arrays |= {{f"{{key}} x": x, f"{{key}} y": y}}
np.savez({str(file)!r}, **arrays)
"""
    )
    with np.load(file) as book:
        assert datasets.spiral()[0].tobytes() == book["after init"].tobytes()
        for case in cases:
            for name, draw in TOYS.items():
                x, y = draw(*case)
                key = f"{name} {case[0]} {case[1]} {case[2]}"
                assert (x.dtype, x.tobytes()) == (book[f"{key} x"].dtype, book[f"{key} x"].tobytes())
                assert y.tolist() == book[f"{key} y"].tolist()
        for mine, theirs in zip(datasets.sine(), (book["sine x"], book["sine y"]), strict=True):
            assert (mine.dtype, mine.tobytes()) == (theirs.dtype, theirs.tobytes())


@pytest.mark.parametrize("value", [0, -1, 2.5, "10", True, None, np.float32(3), [3]], ids=repr)
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (datasets.spiral, "samples"),
        (datasets.spiral, "classes"),
        (datasets.vertical, "samples"),
        (datasets.vertical, "classes"),
        (datasets.sine, "samples"),
    ],
)
def test_bad_sizes(call: Callable[..., Any], name: str, value: Any) -> None:
    kind = InputError if type(value) is int else InputTypeError
    with pytest.raises(kind, match=rf"{name}.*expected a whole number"):
        call(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "0", True, None], ids=repr)
@pytest.mark.parametrize("call", TOYS.values(), ids=TOYS)
def test_bad_seeds(call: Callable[..., Any], seed: Any) -> None:
    with pytest.raises(InputError if type(seed) is int else InputTypeError, match=r"seed.*expected a whole number"):
        call(seed=seed)


def test_numpy_integers_are_whole_numbers() -> None:
    assert datasets.spiral(np.int64(5), np.uint8(2), np.int32(1))[0].shape == (10, 2)  # type: ignore[arg-type]


# Digits ----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    pytest.importorskip("sklearn")
    x, y = datasets.digits(split=False)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max()) == (0, 1)
    x_train, y_train, x_test, y_test = datasets.digits()
    assert (x_train.shape, y_train.shape, x_test.shape, y_test.shape) == ((1437, 64), (1437,), (360, 64), (360,))
    assert (x_train.dtype, y_train.dtype, x_test.dtype, y_test.dtype) == (np.float32, np.int64) * 2
    # Nothing is lost or doubled, and each digit's fifth is in the test set.
    whole = np.column_stack([np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])])
    assert sorted(map(tuple, whole)) == sorted(map(tuple, np.column_stack([x, y])))
    assert np.abs(np.bincount(y_test) - np.bincount(y) / 5).max() < 1
    # Always the same, and shuffled.
    assert y_test[:10].tolist() == [2, 8, 6, 0, 7, 4, 9, 1, 8, 6]
    assert y_train[:10].tolist() != sorted(y_train[:10].tolist())
    assert all(a.tobytes() == b.tobytes() for a, b in zip(datasets.digits(), datasets.digits(), strict=True))


def test_digits_without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"the digits data set needs sklearn.*nnx-backends\[train\]") as caught:
        datasets.digits()
    assert (caught.value.package, caught.value.extra) == ("sklearn", "train")


@pytest.mark.parametrize("split", [1, "yes", None])
def test_digits_split_is_a_boolean(split: Any) -> None:
    with pytest.raises(InputTypeError, match=r"expected True or False"):
        datasets.digits(split)


# MNIST and Fashion-MNIST -----------------------------------------------------------------------------------------

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@functools.cache
def small() -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(5)
    train, test = random.integers(0, 256, (12, 28, 28)), random.integers(0, 256, (5, 28, 28))
    train[0, 0, :2] = 0, 255
    return train, np.arange(12) % 10, test, np.array([9, 0, 3, 3, 1])


def write(folder: Path, suffix: str = "", rename: Callable[[str], str] = str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, small(), strict=True):
        data = idx_bytes(array)
        (folder / (rename(name) + suffix)).write_bytes(gzip.compress(data, 1) if suffix else data)
    return folder


def check(arrays: tuple[np.ndarray, ...]) -> None:
    x_train, y_train, x_test, y_test = arrays
    assert [a.dtype for a in arrays] == [np.float32, np.int64] * 2
    for x, y, images, labels in ((x_train, y_train, *small()[:2]), (x_test, y_test, *small()[2:])):
        assert x.tobytes() == (images.reshape(-1, 784) / 255).astype(np.float32).tobytes()
        assert y.tolist() == labels.tolist()


@pytest.mark.parametrize("read", [datasets.mnist, datasets.fashion_mnist])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("rename", [str, lambda name: name.replace("-idx", ".idx")], ids=["dashes", "dots"])
def test_folders_of_idx_files(read: Any, suffix: str, rename: Any, tmp_path: Path) -> None:
    check(read(write(tmp_path, suffix, rename)))
    check(read(str(tmp_path)))


def test_gzip_is_told_by_the_contents(tmp_path: Path) -> None:
    write(tmp_path, ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.decompress(file.read_bytes()))
    check(datasets.mnist(tmp_path))


def test_what_float32_would_lose_stays_float64(tmp_path: Path) -> None:
    clock, y = 1.7e12 + 10.0 * np.arange(40), np.arange(40) % 2
    lines = "".join(f"{i % 7},{at:.0f},{label}\n" for i, (at, label) in enumerate(zip(clock, y, strict=True)))
    (tmp_path / "clock.csv").write_text("a,ms,label\n" + lines)
    (tmp_path / "bare.csv").write_text(lines)
    np.savez(tmp_path / "clock.npz", x=np.c_[np.arange(40) % 7, clock], y=y)
    for name in ("clock.csv", "bare.csv", "clock.npz"):
        x = datasets.load_table(tmp_path / name).x
        assert x.dtype == np.float64
        assert x[:, 1].tolist() == clock.tolist()
        assert datasets.load_features(tmp_path / name, 2).tolist() == x.tolist()
    prices = datasets.load_table(csv_file(tmp_path, "a,y\n" + "".join(f"{i},{4e7 + i / 8}\n" for i in range(40))))
    assert (prices.y.dtype, prices.y[:2, 0].tolist()) == (np.float64, [4e7, 4e7 + 1 / 8])


def test_nnx_data_names_the_folder_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mnist")
    monkeypatch.setenv("NNX_DATA", str(tmp_path))
    check(datasets.mnist())
    with pytest.raises(FileNotFoundError, match=r"NNX_DATA is .*fashion-mnist.*unset NNX_DATA"):
        datasets.fashion_mnist()
    monkeypatch.setenv("NNX_DATA", str(tmp_path / "mnist"))  # or the very folder
    check(datasets.mnist())
    with pytest.raises(FileNotFoundError, match="fashion-mnist"):  # never mnist's files under another name
        datasets.fashion_mnist()


def real_fashion_mnist() -> Path | None:
    data = os.environ.get("NNX_DATA")
    folders = [Path(data), Path(data) / "fashion-mnist"] if data else []
    folders.append(ROOT.parent / "shared" / "data" / "fashion-mnist")
    return next((f for f in folders if f.name == "fashion-mnist" and f.is_dir()), None)


@pytest.mark.skipif(
    real_fashion_mnist() is None, reason="needs Fashion-MNIST: NNX_DATA, or ../shared/data/fashion-mnist"
)
def test_real_fashion_mnist() -> None:
    x_train, y_train, x_test, y_test = datasets.fashion_mnist(real_fashion_mnist())
    assert (x_train.shape, x_test.shape) == ((60000, 784), (10000, 784))
    assert (x_train.dtype, y_train.dtype) == (np.float32, np.int64)
    assert np.bincount(y_train).tolist() == [6000] * 10
    assert np.bincount(y_test).tolist() == [1000] * 10
    assert (x_train.min(), x_train.max()) == (0, 1)
    assert x_train.mean(dtype=np.float64) == pytest.approx(0.2860405969887955, abs=1e-6)  # the published mean


def cut(data: bytes) -> bytes:
    return data[:-100] if len(data) > 200 else data[:-3]


def shaped(*shape: int) -> bytes:
    return idx_bytes(np.ones(shape))


BAD_FILES: list[tuple[str, str, bytes | Callable[[bytes], bytes], str]] = [
    ("raw, cut short", NAMES[0], cut, r"holds 9324 bytes .*expected 9424 \(16 of header and 12 x 28 x 28.*download"),
    ("raw, too long", NAMES[1], lambda data: data + b"\0", r"holds 21 bytes .*expected 20.*damaged"),
    ("gzip, cut short", NAMES[2], lambda data: cut(gzip.compress(data)), r"cannot be uncompressed.*download it again"),
    ("gzip, wrong sum", NAMES[2], lambda d: gzip.compress(d)[:-8] + bytes(8), r"cannot be uncompressed"),
    ("gzip, broken", NAMES[2], lambda d: gzip.compress(d)[:40] + bytes(50), r"cannot be uncompressed"),
    ("empty", NAMES[0], b"", r"starts with the bytes \(none\), expected 00 00 08 03"),
    ("half a header", NAMES[0], b"\0\0\x08\x03\0\0", r"holds 6 bytes"),
    ("header alone", NAMES[0], b"\0\0\x08\x03" + b"\xff" * 12, r"holds 16 bytes"),
    ("a web page", NAMES[3], b"<!DOCTYPE html>", r"starts with the bytes 3c 21 44 4f, expected 00 00 08 01"),
    ("labels for images", NAMES[0], shaped(12), r"expected 00 00 08 03, an IDX file of 3-dimensional"),
    ("images for labels", NAMES[1], shaped(12, 28, 28), r"expected 00 00 08 01"),
    ("floats", NAMES[1], b"\0\0\x0d\x01\0\0\0\x01" + bytes(4), r"starts with the bytes 00 00 0d 01"),
    ("no images", NAMES[0], shaped(0, 28, 28), r"holds no elements \(0 x 28 x 28\)"),
    ("other pixels", NAMES[2], shaped(5, 32, 32), r"have 32 x 32 pixels, expected 28 x 28"),
    ("more images than labels", NAMES[0], shaped(13, 28, 28), r"holds 13 images, but .* holds 12 labels"),
    ("label out of range", NAMES[3], lambda d: d[:-2] + b"\x0a\x01", r"label 3 is 10, expected 0 to 9"),
]


@pytest.mark.parametrize(("name", "change", "message"), [c[1:] for c in BAD_FILES], ids=[c[0] for c in BAD_FILES])
def test_bad_idx_files(name: str, change: Any, message: str, tmp_path: Path) -> None:
    file = write(tmp_path) / name
    file.write_bytes(change(file.read_bytes()) if callable(change) else change)
    with pytest.raises(FileFormatError, match=message) as caught:
        datasets.mnist(tmp_path)
    assert str(file) in str(caught.value)


def test_missing_idx_files_are_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no such folder, expected one that holds the four IDX files"):
        datasets.mnist(tmp_path / "nowhere")
    write(tmp_path)
    (tmp_path / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte.gz is not there"):
        datasets.mnist(tmp_path)
    (tmp_path / NAMES[2]).unlink()
    (tmp_path / NAMES[2]).mkdir()  # a folder of that name is no file
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz are not there"):
        datasets.mnist(tmp_path)
    with pytest.raises(FileFormatError, match=r"this is a file, expected the folder"):
        datasets.mnist(tmp_path / NAMES[0])


@pytest.mark.parametrize("path", [1, b"mnist", ["a"]], ids=repr)
def test_paths_are_text(path: Any) -> None:
    for call in (datasets.mnist, datasets.fashion_mnist, datasets.load_table, lambda p: datasets.load_features(p, 1)):
        with pytest.raises(InputTypeError, match=r"expected a str or a pathlib.Path"):
            call(path)


@pytest.mark.parametrize("path", ["", " "])
def test_paths_are_not_empty(path: str) -> None:
    for call in (datasets.mnist, datasets.load_table):
        with pytest.raises(InputError, match=r"the path is empty"):
            call(path)


# Downloads, from a server of our own -----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Serve the folder `served`; give the address and the list of what was asked for."""
    pytest.importorskip("pooch")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    write(tmp_path / "served", ".gz")
    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv("NNX_DATA", raising=False)
        yield f"http://127.0.0.1:{http.server_port}/", asked
        http.shutdown()
        thread.join()


def source(folder: Path, *mirrors: str) -> download.Source:
    sums = {f"{name}.gz": hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    return download.Source("mnist", mirrors, sums)


def test_mnist_is_downloaded_once(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, asked = server
    import pooch

    monkeypatch.setattr(idx, "MNIST", source(tmp_path / "served", address))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    check(datasets.mnist())
    assert sorted(asked) == sorted(f"/{name}.gz" for name in NAMES)
    assert {file.name for file in (tmp_path / "cache" / "nnx" / "mnist").iterdir()} == {f"{n}.gz" for n in NAMES}
    check(datasets.mnist())
    assert len(asked) == 4


def test_a_damaged_copy_is_downloaded_again(server: Any, tmp_path: Path) -> None:
    wanted = source(tmp_path / "served", server[0])
    folder = download.fetch(wanted, tmp_path / "cache")
    (folder / f"{NAMES[0]}.gz").write_bytes(b"damaged")
    assert download.fetch(wanted, tmp_path / "cache") == folder
    assert server[1].count(f"/{NAMES[0]}.gz") == 2
    check(datasets.mnist(folder))


def test_the_next_mirror_is_tried(server: Any, tmp_path: Path) -> None:
    wanted = source(tmp_path / "served", server[0] + "elsewhere/", server[0])
    check(datasets.mnist(download.fetch(wanted, tmp_path / "cache")))


def test_a_failed_download_says_what_was_tried(server: Any, tmp_path: Path) -> None:
    wrong = source(tmp_path / "served", server[0] + "elsewhere/", server[0])
    wrong.checksums[f"{NAMES[1]}.gz"] = "0" * 64
    with pytest.raises(ConnectionError) as caught:
        download.fetch(wrong, tmp_path / "cache")
    message = str(caught.value)
    for word in ("mnist could not be downloaded", *wrong.mirrors, "404", "does not match", "give the folder"):
        assert word in message
    assert not (tmp_path / "cache" / "mnist" / f"{NAMES[1]}.gz").exists()


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = download.Source("mnist", ("http://127.0.0.1:1/",), {f"{NAMES[0]}.gz": "0" * 64})
    with pytest.raises(ConnectionError, match=r"could not be downloaded.*\n.*127.0.0.1:1/.*\n.*Check the connection"):
        download.fetch(nobody, tmp_path)


def test_without_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("NNX_DATA", raising=False)
    with pytest.raises(MissingExtra, match=r"downloading fashion-mnist needs pooch.*nnx-backends\[train\]"):
        datasets.fashion_mnist()


def test_sources_are_whole() -> None:
    for wanted in (idx.MNIST, idx.FASHION_MNIST):
        assert set(wanted.checksums) == {f"{name}.gz" for name in NAMES}
        assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in wanted.checksums.values())
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in wanted.mirrors)


# Tables ----------------------------------------------------------------------------------------------------------


def csv_file(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


IRIS = "5.1,3.5,setosa\n7,3.2,versicolor\n6.3,3.3,virginica\n4.9,3,setosa\n"

GOOD_TABLES: list[tuple[str, str | bytes, dict[str, Any], Any, Any, tuple[str, ...], tuple[str, ...]]] = [
    # what, text, arguments, x, y, columns, classes
    ("text labels", IRIS, {}, [[5.1, 3.5], [7, 3.2], [6.3, 3.3], [4.9, 3]], [0, 1, 2, 0], ("column 1", "column 2"),
     ("setosa", "versicolor", "virginica")),
    ("named label", "Label,a,b\n1,2,3\n0,4,5\n1,6,7\n0,8,9\n", {}, [[2, 3], [4, 5], [6, 7], [8, 9]], [1, 0, 1, 0],
     ("a", "b"), ("0", "1")),
    ("label before y", "x,y,label\n1,2,p\n3,4,q\n", {}, [[1, 2], [3, 4]], [0, 1], ("x", "y"), ("p", "q")),
    ("last column", "a,species\n1,p\n3,q\n", {}, [[1], [3]], [0, 1], ("a",), ("p", "q")),
    ("chosen label", "kind,a,y\np,1,2\nq,3,4\n", {"label": "kind"}, [[1, 2], [3, 4]], [0, 1], ("a", "y"), ("p", "q")),
    ("numbers to predict", "a,y\n1,0.5\n2,1.5\n", {}, [[1], [2]], [[0.5], [1.5]], ("a",), ()),
    ("many whole numbers", "1,10\n2,20\n3,30\n", {}, [[1], [2], [3]], [[10], [20], [30]], ("column 1",), ()),
    ("few whole numbers", "1,7\n2,3\n3,7\n4,3\n", {}, [[1], [2], [3], [4]], [1, 0, 1, 0], ("column 1",), ("3", "7")),
    ("whole numbers in order", "1,10\n2,9\n3,10\n4,9.0\n", {}, [[1], [2], [3], [4]], [1, 0, 1, 0], ("column 1",),
     ("9", "10")),
    ("made classes", "1,10\n2,-0.5\n", {"task": "classification"}, [[1], [2]], [1, 0], ("column 1",), ("-0.5", "10")),
    ("made regression", "1,1\n2,0\n3,0\n4,1\n", {"task": "regression"}, [[1], [2], [3], [4]], [[1], [0], [0], [1]],
     ("column 1",), ()),
    ("a constant to predict", "1,1\n2,1\n", {"task": "regression"}, [[1], [2]], [[1], [1]], ("column 1",), ()),
    ("CRLF, BOM, quotes", b'\xef\xbb\xbf"a, cm",label\r\n"1","say ""p"", q"\r\n2.5,r\r\n', {}, [[1], [2.5]], [1, 0],
     ("a, cm",), ("r", 'say "p", q')),
    ("CR alone", "a,label\r1,p\r2,q\r", {}, [[1], [2]], [0, 1], ("a",), ("p", "q")),
    ("blanks and blank lines", '\n a , label \n\n 1 , p \n\t\n 2e3 , "q"\n\n', {}, [[1], [2000]], [0, 1], ("a",),
     ("p", "q")),
    ("line break in a name", 'a,label\n1,"p\nq"\n2,r\n', {}, [[1], [2]], [0, 1], ("a",), ("p\nq", "r")),
    ("tabs", "a\tlabel\n1\tp\n2\tq, r\n", {}, [[1], [2]], [0, 1], ("a",), ("p", "q, r")),
    ("numbers for names", "0,1,label\n5,6,p\n7,8,q\n", {}, [[5, 6], [7, 8]], [0, 1], ("0", "1"), ("p", "q")),
    ("a class called y", "5,6,y\n7,8,n\n1,2,y\n", {}, [[5, 6], [7, 8], [1, 2]], [1, 0, 1], ("column 1", "column 2"),
     ("n", "y")),
    ("header=True", "0,1\n5,p\n7,q\n", {"header": True}, [[5], [7]], [0, 1], ("0",), ("p", "q")),
    ("no newline at the end", "1,p\n2,q", {}, [[1], [2]], [0, 1], ("column 1",), ("p", "q")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "arguments", "x", "y", "columns", "classes"),
    [case[1:] for case in GOOD_TABLES],
    ids=[case[0] for case in GOOD_TABLES],
)
def test_csv(text: Any, arguments: Any, x: Any, y: Any, columns: Any, classes: Any, tmp_path: Path) -> None:
    table = datasets.load_table(csv_file(tmp_path, text), **arguments)
    assert table.x.dtype == np.float32
    assert table.x.tolist() == np.array(x, np.float32).tolist()
    assert table.y.tolist() == y
    assert (table.columns, table.classes) == (columns, classes)
    assert table.task == ("classification" if classes else "regression")
    assert table.y.dtype == (np.int64 if classes else np.float32)


def test_semicolons(tmp_path: Path) -> None:
    table = datasets.load_table(csv_file(tmp_path, '"acid, g";"sugar";"quality"\n7.4;1.9;5.5\n7.8;2.6;6.5\n'))
    assert (table.columns, table.task) == (("acid, g", "sugar"), "regression")
    np.testing.assert_array_equal(table.x, np.array([[7.4, 1.9], [7.8, 2.6]], np.float32))


def test_tables_are_frozen_and_compare_by_identity(tmp_path: Path) -> None:
    table = datasets.load_table(csv_file(tmp_path, IRIS))
    with pytest.raises(AttributeError):
        table.task = "regression"  # type: ignore[misc]
    assert table == table
    assert table != datasets.load_table(csv_file(tmp_path, IRIS))


BAD_TABLES: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("empty", "", {}, r"the file is empty, expected a line"),
    ("blank", "\n \n\r\n", {}, r"the file is empty"),
    ("a BOM alone", b"\xef\xbb\xbf", {}, r"the file is empty"),
    ("header alone", "a,b,label\n", {}, r"a header and no rows"),
    ("one column", "a\n1\n2\n", {}, r"a single column, expected features and a label; separate the columns"),
    ("infinity", "a,b,label\n1,2,p\n-inf,3,q\n", {}, r"line 3, column 1 \('a'\): the cell is -inf"),
    ("ragged, short", "1,2,p\n3,q\n", {}, r"line 2: the row has 2 cells, expected 3"),
    ("ragged, long", "1,2,p\n3,4,5,q\n", {}, r"line 2: the row has 4 cells, expected 3 .*add or remove"),
    ("same name twice", "a,b,a,label\n1,2,3,p\n", {}, r"line 1: columns 1 and 3 are both called 'a'"),
    ("label missing", "a,label\n1,p\n2,\n", {}, r"line 3, column 2 \('label'\): the label is missing"),
    ("label nan among names", "a,label\n1,p\n2,nan\n", {}, r"line 3, column 2 \('label'\): the label is missing"),
    ("label nan among numbers", "a,label\n1,0.5\n2,NaN\n", {}, r"line 3, column 2 \('label'\): the label is missing"),
    ("label infinite", "a,label\n1,0.5\n2,inf\n", {}, r"line 3, column 2 \('label'\): the label is inf"),
    ("one class", "a,label\n1,p\n2,p\n", {}, r"all other labels are 'p', expected at least two classes"),
    ("one number as class", "1,3\n2,3\n", {}, r"are '3', expected at least two.*task=\"regression\""),
    ("one name as class", "1,p\n2,p\n", {}, r"as the label\. column 2 was taken .*\(the last column\)"),
    ("one class of a label that is named", "a,b\n1,p\n2,p\n", {"label": "b"}, r"name another column as the label$"),
    ("names for regression", "1,2.5\n2,p\n", {"task": "regression"}, r"line 2, column 2: the label is 'p'"),
    ("NUL bytes", b"1,2\x00,p\n", {}, r"this is a binary file"),
    ("npy", b"\x93NUMPY\x01\x00v\x00", {}, r"a binary file.*save it as CSV"),
    ("open quote", 'a,label\n1,"p\n', {}, r"line 2: a quote is opened and never closed; expected CSV"),
    ("unknown label", "a,b\n1,p\n2,q\n", {"label": "c"}, r"there is no such column in .*; the columns are 'a', 'b'"),
    ("label without header", IRIS, {"label": "c"}, r"there is no such column in .*; the file has no header; name one"),
    ("unknown task", IRIS, {"task": "guess"}, r"task='guess': expected one of 'auto', 'classification'"),
    ("task is None", IRIS, {"task": None}, r"task=None: expected one of"),
    ("label is no name", IRIS, {"label": 2.5}, r"label is a float, expected a column's name or position"),
    ("a position beyond", IRIS, {"label": 4}, r"has 3 columns, counted from 1; -1 is the last one"),
    ("a position of none", IRIS, {"label": "0"}, r"has 3 columns, counted from 1"),
    ("nearly a name", "Age,Kind\n1,p\n2,q\n", {"label": "kind"}, r"Did you mean 'Kind'\?"),
    ("dropping the label", "a,b\n1,p\n2,q\n", {"drop": "b"}, r"'b' is the label"),
    ("dropping what is kept", "a,b,c\n1,3,p\n2,4,q\n", {"drop": "b", "keep": ["b"]}, r"'b' is to be used, too"),
    ("nothing left", "a,b\n1,p\n1,q\n", {}, r"no column is left to learn .*'a': all cells are '1'\); give a table"),
    ("nothing left but ids", "a,b\nu,p\nv,q\n", {}, r"no two cells are alike\); use some of them .*keep=... in Python"),
    ("damaged UTF-8", "é,label\n1,p\n".encode() + b"\xff,q\n", {}, r"line 3: the byte 0xff is not UTF-8"),
    ("a binary file in the middle", b"a,label\n" + b"1,p\n2,q\n" * 999 + b"\x00,p\n", {}, r"this is a binary file"),
    ("header is no boolean", IRIS, {"header": 0}, r"header is a int, expected True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arguments", "message"), [c[1:] for c in BAD_TABLES], ids=[c[0] for c in BAD_TABLES])
def test_bad_csv(text: Any, arguments: Any, message: str, tmp_path: Path) -> None:
    file = csv_file(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        datasets.load_table(file, **arguments)
    assert arguments or (type(caught.value) is FileFormatError and str(file) in str(caught.value))


def test_a_package_that_cannot_be_imported_is_told_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("raise ValueError('numpy.dtype size changed')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"cannot be imported \(ValueError: numpy.dtype size changed\)") as caught:
        optional("broken_package", "tables", "reading this")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(MissingExtra, match=r"needs no_such_package, which is not installed: pip install"):
        optional("no_such_package.part", "tables", "this")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("a.csv", "a.npz"):
        for call in (datasets.load_table, lambda path: datasets.load_features(path, 2)):
            with pytest.raises(FileNotFoundError, match=r"there is no such file, expected a table \(CSV, Excel"):
                call(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"this is a folder, expected a table"):
        datasets.load_table(tmp_path)
    for address in ("https://example.org/a.csv", "s3://bucket/a.parquet", Path("https://example.org/a.csv")):
        with pytest.raises(FileNotFoundError, match="it is an address: download it first"):
            datasets.load_table(address)
    with pytest.raises(FileNotFoundError, match="what comes by a pipe is not read: write it to a file first"):
        datasets.load_table("-")


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_csv_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    width, header = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    delimiter, end = data.draw(st.sampled_from(",;\t")), data.draw(st.sampled_from(["\n", "\r\n"]))
    # What every csv.writer puts quotes around; the k keeps blanks from the start, and numbers from being names.
    odd = ["a", "é", " ", "1", "_", '"', "'", "\n", delimiter]
    names = st.text(odd, max_size=6).map(lambda text: f"k{text}".strip())
    rows = data.draw(st.lists(st.tuples(*[numbers] * width), min_size=2, max_size=6))
    classes = data.draw(st.lists(names, min_size=2, max_size=3, unique=True))
    labels = [classes[i % len(classes)] for i in range(len(rows))]
    columns = data.draw(st.lists(names, min_size=width, max_size=width, unique=True))
    label = data.draw(st.integers(0, width)) if header else width  # where the column of labels is

    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=data.draw(st.sampled_from([0, 1])))
    if header:
        writer.writerow([*columns[:label], "Label", *columns[label:]])
    writer.writerows(
        [*map(repr, row[:label]), name, *map(repr, row[label:])] for row, name in zip(rows, labels, strict=True)
    )
    file = csv_file(tmp_path_factory.mktemp("csv"), out.getvalue())

    varying = [i for i in range(width) if len({row[i] for row in rows}) > 1]
    if not varying:
        with pytest.raises(FileFormatError, match="no column is left to learn from"):
            datasets.load_table(file)
        return
    table = datasets.load_table(file)
    np.testing.assert_array_equal(table.x, np.array(rows)[:, varying])
    assert [table.classes[i] for i in table.y] == labels
    assert table.classes == tuple(sorted(set(labels)))
    names = columns if header else [f"column {i + 1}" for i in range(width)]
    assert table.columns == tuple(names[i] for i in varying)
    assert datasets.load_features(file, table).tobytes() == table.x.tobytes()


@settings(deadline=None, max_examples=100)
@given(junk=st.binary(max_size=60), suffix=st.sampled_from([".csv", ".npz"]))
def test_junk_is_refused_in_words(junk: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = csv_file(tmp_path_factory.mktemp("junk"), junk, f"junk{suffix}")
    with contextlib.suppress(FileFormatError):  # and nothing else
        datasets.load_table(file)


# Features alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "x"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("b,a\n1,2\n3,4\n", ("a", "b"), [[2, 1], [4, 3]]),
        ("id,b,label,a\nn1,1,p,2\nn2,3,q,4\n", ["a", "b"], [[2, 1], [4, 3]]),
        ("1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2,p\n3,4,q\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2,\n3,4,\n", 2, [[1, 2], [3, 4]]),
        ("label,u,v\np,1,2\nq,3,4\n", ("column 1", "column 2"), [[1, 2], [3, 4]]),
        ("u,v\n1,2\n3,4\n", ("column 1", "column 2"), [[1, 2], [3, 4]]),
        ("u,v,kind\n1,2,p\n3,4,q\n", 2, [[1, 2], [3, 4]]),
        ("1\n2\n", 1, [[1], [2]]),
        ("a\n1\n2\n", ("a",), [[1], [2]]),
        ("1,0\n5,6\n", ("0", "1"), [[6, 5]]),  # numbers, but the very names of the training file
    ],
)
def test_features(text: str, columns: Any, x: Any, tmp_path: Path) -> None:
    features = datasets.load_features(csv_file(tmp_path, text), columns)
    assert features.dtype == np.float32
    assert features.tolist() == x


@pytest.mark.parametrize(
    ("text", "columns", "kind", "message"),
    [
        ("a,c\n1,2\n", ("a", "b"), FileFormatError, r"'b' is not among the columns \('a', 'c'\), expected all 2"),
        ("u,v\n1,2\n", ("a", "b"), FileFormatError, r"'a', 'b' are not among the columns"),
        ("1,2,3,4\n", ("a", "b"), FileFormatError, r"there are 4 columns, expected 2 features .*at most a label"),
        ("1\n", 2, FileFormatError, r"there are 1 columns, expected 2 features"),
        ("a,b\n1,x\n", ("a", "b"), FileFormatError, r"line 2, column 2 \('b'\): 'x' is not a number"),
        ("a,b\n1,nan\n", ("a", "b"), FileFormatError, r"line 2, column 2 \('b'\): the cell is nan"),
        ("b,a\n1,nan\n", ("a", "b"), FileFormatError, r"line 2, column 2 \('a'\): the cell is nan"),
        ("", 2, FileFormatError, r"the file is empty"),
        ("1,2\n", 0, InputError, r"columns=0: expected a whole number, 1 or more"),
        ("1,2\n", 2.0, InputTypeError, r"columns=2.0: expected a whole number"),
        ("1,2\n", "ab", InputTypeError, r"columns='ab': expected a whole number"),
        ("1,2\n", (), InputTypeError, r"expected the features' names, as in Table.columns, or their number"),
        ("1,2\n", (1, 2), InputTypeError, r"expected the features' names"),
    ],
)
def test_bad_features(text: str, columns: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        datasets.load_features(csv_file(tmp_path, text), columns)


# npz -------------------------------------------------------------------------------------------------------------


def npz_file(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "table.npz", **arrays)
    return folder / "table.npz"


X = [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("y", "expected", "classes"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0], ("0", "1")),
        (np.array([7, 3, 7, 3], np.uint8), [1, 0, 1, 0], ("3", "7")),
        (np.array([[-1], [1], [1], [-1]]), [0, 1, 1, 0], ("-1", "1")),
        ([True, False, True, True], [1, 0, 1, 1], ("0", "1")),
        ([1.0, 2.0, 2.0, 1.0], [0, 1, 1, 0], ("1", "2")),
        (["q", " p", "q", "q"], [1, 0, 1, 1], ("p", "q")),
        ([0.5, 1.5, 0.5, 1.5], [[0.5], [1.5], [0.5], [1.5]], ()),
        ([[1], [2], [3], [4]], [[1], [2], [3], [4]], ()),
    ],
)
@pytest.mark.parametrize("name", ["x", "X"])
def test_npz(name: str, y: Any, expected: Any, classes: Any, tmp_path: Path) -> None:
    file = npz_file(tmp_path, **{name: np.array(X, np.float64)}, y=y)
    table = datasets.load_table(file)
    assert (table.x.dtype, table.x.tolist()) == (np.float32, X)
    assert table.y.tolist() == expected
    assert table.y.dtype == (np.int64 if classes else np.float32)
    assert (table.columns, table.classes) == (("column 1", "column 2"), classes)
    assert table.task == ("classification" if classes else "regression")
    assert datasets.load_features(file, table.columns).tolist() == X
    assert datasets.load_features(file, 2).tolist() == X


def test_npz_features_need_no_labels(tmp_path: Path) -> None:
    assert datasets.load_features(npz_file(tmp_path, x=X), ("a", "b")).tolist() == X
    with pytest.raises(FileFormatError, match=r"x has 2 features, expected 3 as in training"):
        datasets.load_features(npz_file(tmp_path, x=X), 3)


Y = [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"there is no array called x, X, x_train, X_train or arr_0 \(it holds nothing\)"),
        ({"data": X, "y": Y}, r"there is no array called x, .* \(it holds data, y\); expected an npz file; write one"),
        ({"x": X}, r"there is no array called y, Y, y_train, Y_train or arr_1 \(it holds x\)"),
        ({"x": np.array(X, object), "y": Y}, r"x cannot be read: .*Python objects"),
        ({"x": X, "y": np.array(["a", "b", None, 1], object)}, r"y cannot be read: .*Python objects"),
        ({"x": np.array(X) * 1j, "y": Y}, r"x holds complex128, expected real numbers"),
        ({"x": [["a"]] * 4, "y": Y}, r"x holds <U1, expected real numbers"),
        ({"x": np.arange(4), "y": Y}, r"x has the shape \(4,\), expected \[samples, features\].*x.reshape\(-1, 1\)"),
        ({"x": 1.0, "y": Y}, r"x has the shape \(\)"),
        ({"x": np.zeros((0, 2)), "y": []}, r"x has the shape \(0, 2\), expected .* at least one of each"),
        ({"x": np.zeros((4, 0)), "y": Y}, r"x has the shape \(4, 0\)"),
        ({"x": [[1, 2], [3, np.nan]] * 2, "y": Y}, r"x\[1, 1\] is nan"),
        ({"x": [[1, 2], [-np.inf, 3]] * 2, "y": Y}, r"x\[1, 0\] is -inf"),
        ({"x": X, "y": [0, 1]}, r"y has the shape \(2,\), expected \(4,\) or \(4, 1\); save one label for each row"),
        ({"x": X, "y": np.eye(4)}, r"y has the shape \(4, 4\), expected .*save y.argmax\(axis=1\)"),
        ({"x": X, "y": [b"a", b"b", b"a", b"b"]}, r"y holds \|S1, expected numbers or strings"),
        ({"x": X, "y": [0, 1, np.nan, 1]}, r"y\[2\]: the label is nan"),
        ({"x": X, "y": ["a", "b", " ", "a"]}, r"y\[2\]: the label is missing"),
        ({"x": X, "y": [3, 3, 3, 3]}, r"y\[0\] and all other labels are '3', expected at least two"),
    ],
)
def test_bad_npz(arrays: Any, message: str, tmp_path: Path) -> None:
    file = npz_file(tmp_path, **arrays)
    with pytest.raises(FileFormatError, match=message) as caught:
        datasets.load_table(file)
    assert str(file) in str(caught.value)


def test_foreign_and_damaged_npz(tmp_path: Path) -> None:
    whole = npz_file(tmp_path, x=X, y=Y).read_bytes()
    array = io.BytesIO()
    np.save(array, X)
    for data, message in [
        (b"", r"expected an npz file"),
        (b"a,b\n1,2\n", r"expected an npz file; write one with numpy.savez"),
        (array.getvalue(), r"a single array without a name"),
        (whole[:-30], r"expected an npz file"),
        (whole[:200] + bytes(20) + whole[220:], r"x cannot be read"),
    ]:
        with pytest.raises(FileFormatError, match=message):
            datasets.load_table(csv_file(tmp_path, data, "other.npz"))


def test_npz_runs_no_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    file = npz_file(tmp_path, x=np.array([[Bomb()]], object), y=Y)
    with pytest.raises(FileFormatError):
        datasets.load_table(file)
    assert not (tmp_path / "exploded").exists()


def test_csv_options_are_refused_for_npz(tmp_path: Path) -> None:
    file = npz_file(tmp_path, x=X, y=Y)
    for call in (
        lambda: datasets.load_table(file, label="y"),
        lambda: datasets.load_table(file, header=True),
        lambda: datasets.load_features(file, 2, header=True),
    ):
        with pytest.raises(InputError, match=r"label and header are for CSV files; leave them out"):
            call()


def fitted() -> nnx.Sequential:
    network = nnx.Sequential(nnx.Dense(1, 1), backend="numpy")
    return network.compile(nnx.MeanSquaredError(), nnx.SGD(0.1))


@pytest.mark.parametrize("count", [10**13, 10**30])
@pytest.mark.parametrize("call", [
    lambda count: nnx.datasets.spiral(count), lambda count: nnx.datasets.vertical(100, count),
    lambda count: nnx.datasets.sine(count),
    lambda count: nnx.Sequential(nnx.Dense(count, 2), backend="numpy"),
    lambda count: fitted().steps([[1.0]], [[2.0]], count),
], ids=["spiral", "vertical", "sine", "Dense", "steps"])  # fmt: skip
def test_what_no_memory_holds_is_refused_and_not_tried(call: Any, count: int) -> None:
    with pytest.raises(nnx.InputError, match="this machine's memory"):
        call(count)
