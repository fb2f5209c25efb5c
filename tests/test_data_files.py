"""Files and batches of every kind: what is good is read as it is, and nothing else is taken for it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.data import shards, stored
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.training.converting import Converter
from nnx.training.from_disk import FromDisk

ROWS = 60
X = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
PAIR = [("x.npy", "y.npy")]


def model() -> nnx.Sequential:
    network = nnx.Sequential(nnx.Dense(4, 2), nnx.Softmax(), backend="numpy", seed=1)
    return network.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs and targets in files; the current folder."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    return tmp_path


def refused(data: Callable[[], Any], message: str, **options: Any) -> None:
    """Make sure that a fit is refused before anything is changed, and that nothing stays behind."""
    network = model()
    before, files = network.flat.state.copy(), os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises((InputError, InputTypeError, FileFormatError), match=message):
        network.fit(data(), **{"batch_size": 8, "verbose": 0, **options})
    np.testing.assert_array_equal(network.flat.state, before)
    assert not [thread for thread in threading.enumerate() if thread.name == "nnx-reading"]
    if files:
        assert len(os.listdir("/proc/self/fd")) == len(files)


# ---- .npy ------------------------------------------------------------------------------------------------------------


def write(shape: tuple[Any, ...], data: bytes = X.tobytes(), version: int = 1) -> None:
    """Write x.npy by hand."""
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(127) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    Path("x.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + header + data)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_all_versions_are_read(version: int):
    write(X.shape, version=version)
    np.testing.assert_array_equal(shards(PAIR).load().x, np.load("x.npy"))


@pytest.mark.parametrize("kind", ["f2", ">f8", "g", "<i4", ">i2", "u1", "u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_every_type_are_read(kind: str, order: Any):
    np.save("x.npy", np.abs(X * 10).astype(kind, order=order))
    network, same = model(), model()
    network.fit(shards(PAIR, window=16), batch_size=8, shuffle=False, verbose=0)
    same.fit(np.load("x.npy"), Y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_array_equal(network.flat.state, same.flat.state)


@pytest.mark.parametrize("kind", ["c8", "M8[s]", "m8[s]", "S4", "U3", "V8"])
def test_what_holds_no_real_numbers_is_refused(kind: str):
    values = X.astype(np.int64).astype(kind) if kind[0] in "mM" else np.zeros(X.shape, kind)
    np.save("x.npy", values)
    refused(lambda: shards(PAIR), r"x\.npy: it holds .*, expected real numbers")
    refused(
        lambda: shards([(np.load("x.npy", mmap_mode="r"), Y)]), r"^x of shards\[0\]: .* given; expected real numbers"
    )


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda: write((-ROWS, 4)), r"its header is damaged: its shape is \(-60, 4\)"),
        (lambda: write((float(ROWS), 4)), "its header is damaged: shape is not valid"),
        (lambda: write((10**15, 4)), r"the file ends in row 60 of 1,000,000,000,000,000"),
        (lambda: write((2**62, 2**62)), "the file ends in row 0 of"),
        (lambda: write((ROWS - 1, 4)), r"x\.npy: 16 bytes follow its 59 rows, expected none"),
        (lambda: write(X.shape, version=9), "unknown version"),
        (lambda: np.save("x.npy", X[:0]), r"its shape is \(0, 4\), expected rows"),
        (lambda: np.save("x.npy", np.float32(3)), r"its shape is \(\), expected rows"),
        (lambda: np.save("x.npy", X.astype(object), allow_pickle=True), "it holds Python objects"),
        (lambda: os.truncate("x.npy", 0), "expected a .npy file"),
    ],
)
def test_a_header_that_lies_is_found_out(harm: Callable[[], None], message: str):
    harm()
    refused(lambda: shards(PAIR), message)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_what_is_no_file_is_neither_opened_nor_waited_for():
    os.remove("x.npy")
    os.mkfifo("x.npy")
    refused(lambda: shards(PAIR), r"x\.npy: this is a pipe")
    os.mkdir("d")
    os.symlink("nowhere", "d/x_0.npy")
    refused(lambda: shards("d"), r"x_0\.npy: there is no such file")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(X[:0], Y[:0]), PAIR[0]], r"x of shards\[0\]: its shape is \(0, 4\), expected rows"),
        ([(None, "y.npy")], r"x of shards\[0\]: None was given; expected real numbers"),
        ([("x.npy", ["a"] * ROWS)], r"y of shards\[0\]: an array of text"),
        ([("x.npy", 5)], r"y of shards\[0\]: its shape is \(\), expected rows"),
        (["x.npy", "y.npy"], r"y\.npy: its shape is \(60,\), .*give them with their inputs, as \[\(x, y\)\]"),
        ([("x.npy", None)], "y is missing"),
        ([PAIR[0], ("x.npy", "y.npy", np.ones(ROWS))], "expected weights for both or for none"),
    ],
)
def test_parts_that_are_no_rows_are_refused(given: Any, message: str):
    refused(lambda: shards(given), message)


def test_names_are_shown_and_do_nothing():
    os.rename("x.npy", "a\nb\x1b[31m.npy")
    assert str(shards([("a\nb\x1b[31m.npy", "y.npy")])) == r"60 rows in a\nb\x1b[31m.npy"


# ---- mapped arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm",
    [lambda: os.remove("x.npy"), lambda: np.save("z.npy", X * 2), lambda: np.save("z.npy", X[:3])],
    ids=["removed", "replaced", "shorter"],
)
def test_a_mapped_array_stays_what_it_is_whatever_becomes_of_its_name(harm: Callable[[], None]):
    mapped = np.load("x.npy", mmap_mode="r")
    harm()
    if os.path.exists("z.npy"):
        os.replace("z.npy", "x.npy")
    np.testing.assert_array_equal(shards([(mapped, Y)], window=16).load().x, X)


def test_mapped_arrays_of_either_order_are_read_from_their_file():
    for order in ("C", "F"):
        np.save("x.npy", np.asarray(X, order=order))
        source = shards([(np.load("x.npy", mmap_mode="r")[:, :3], Y)])
        np.testing.assert_array_equal(source.load().x, X[:, :3])
        assert ("x.npy" in str(source)) == (order == "F")  # three columns of it are a range of the file


# ---- while it is read ------------------------------------------------------------------------------------------------


def test_a_file_that_changes_while_a_block_is_read_is_told(monkeypatch: pytest.MonkeyPatch):
    source, numbers = shards(PAIR, window=16), stored.Stored._numbers

    def interrupted(self: Any, *args: Any) -> None:
        numbers(self, *args)
        os.utime("x.npy", ns=(0, 0))

    monkeypatch.setattr(stored.Stored, "_numbers", interrupted)
    refused(lambda: source, r"x\.npy, row 0: the file was changed while it was in use")


def test_a_disk_that_fails_is_told_with_file_and_row(monkeypatch: pytest.MonkeyPatch):
    source = shards(PAIR, window=16)

    def failing(*args: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stored.Stored, "_numbers", failing)
    refused(lambda: source, r"x\.npy, row 0: it cannot be read any more: \[Errno 5\]")


def test_files_are_found_wherever_the_process_goes():
    source = shards(PAIR, window=16)
    os.mkdir("d")
    os.chdir("d")
    np.testing.assert_array_equal(source.load().x, X)


def test_rows_may_be_asked_for_twice():
    rows = np.array([3, 3, 5, 9, 9, 9])
    np.testing.assert_array_equal(shards(PAIR).load(rows).x, X[rows])


@pytest.mark.parametrize("shuffle", [True, False])
def test_steps_take_the_same_rows_whether_they_are_read_to_their_place_or_converted(shuffle: bool):
    taken = {}
    for kind in ("f4", "f8", ">f4"):
        np.save("x.npy", X.astype(kind))
        supply = FromDisk(shards(PAIR, window=32), Converter(model(), "fit"), 8, 1, 0, shuffle)
        out = [np.full((supply.chunk, *a.shape[1:]), -1, a.dtype) for a in supply.like]
        parts = []
        for chunk in range(-(-ROWS // supply.chunk)):
            rows, last, order = supply.fill(0, chunk, out, lambda: False)
            assert last == (chunk == (ROWS - 1) // supply.chunk)
            assert order is not None
            np.testing.assert_array_equal(np.sort(order), np.arange(rows))
            parts.append(np.column_stack([a[order] for a in out]))
        taken[kind] = np.concatenate(parts)
    np.testing.assert_array_equal(taken["f4"], taken["f8"])
    np.testing.assert_array_equal(taken["f4"], taken[">f4"])
    whole = np.column_stack([X, Y])
    assert (taken["f4"].tolist() == whole.tolist()) == (not shuffle)
    assert sorted(taken["f4"].tolist()) == sorted(whole.tolist())


# ---- folders and npz -------------------------------------------------------------------------------------------------


def save(*names: str) -> None:
    os.makedirs("d", exist_ok=True)
    for name in names:
        np.save(f"d/{name}.npy", X if name.startswith("x") else Y)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["y_0", "y_1"], r"no file with the inputs that go with y_0\.npy"),
        (["x_0", "y_0", "mean"], r"no file with the inputs that go with mean\.npy"),
        (["x_01", "y_1"], r"no file with the inputs that go with y_1\.npy"),
        (["x_0", "x_2", "y_0"], r"there is x_2\.npy, but no y_2\.npy"),
        (["x_train", "y_train", "x_test", "y_test"], r"holds x_train\.npy as well as x_test\.npy"),
        (["x-val-0", "y-val-0", "x-training-0", "y-training-0"], r"not to be learned"),
    ],
)
def test_a_folder_whose_files_do_not_belong_together_is_refused(names: list[str], message: str):
    save(*names)
    refused(lambda: shards("d"), message)


def test_the_file_that_does_not_belong_into_a_folder_is_named():
    save(*(f"{letter}_{i}" for letter in "xy" for i in range(9)))
    Path("d/z.csv").touch()
    refused(lambda: shards("d"), r"x_0\.npy, z\.csv; expected files of one kind")


def test_what_lies_in_every_folder_does_not_matter():
    save("x_0", "x_2", "y_0", "y_2", "x_latest_1", "y_latest_1")
    for name in (".DS_Store", "._x_0.npy", "README.md", "_SUCCESS"):
        Path("d", name).touch()
    os.mkdir("d/sub")
    assert shards("d").rows == 3 * ROWS


def test_shards_of_one_number_stand_in_one_order_in_every_process():
    os.mkdir("d")
    for width in (1, 2, 3, 4):
        np.save(f"d/x_{'1'.zfill(width)}.npy", X + width)
        np.save(f"d/y_{'1'.zfill(width)}.npy", Y)
    found = [shard.name for shard in shards("d").shards]
    assert found == [f"d{os.sep}x_{name}.npy" for name in ("0001", "001", "01", "1")]


def test_two_arrays_of_one_name_are_refused():
    with zipfile.ZipFile("xy.npz", "w") as archive:
        archive.write("x.npy")
        archive.write("y.npy")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.write("x.npy")
    refused(lambda: shards("xy.npz"), r"xy\.npz: it holds several arrays called x")


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def table(path: str, **changed: Any) -> None:
    """Write a table; a column that is None is left out."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "d": X[:, 3], "kind": Y, **changed}
    made = pyarrow.table({name: values for name, values in columns.items() if values is not None})
    parquet.write_table(made, path, row_group_size=20, write_page_checksum=True)


def test_columns_go_by_their_names_not_by_their_places():
    os.mkdir("d")
    table("d/0.parquet")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    turned = {"kind": Y, "d": X[:, 3], "b": X[:, 1], "a": X[:, 0], "c": X[:, 2]}
    parquet.write_table(pyarrow.table(turned), "d/1.parquet")
    np.testing.assert_array_equal(shards("d", label="kind").load().x, np.concatenate([X, X]))


@pytest.mark.parametrize(
    ("changed", "label", "message"),
    [
        ({"b": None, "z": X[:, 1]}, "kind", r"1\.parquet has the columns a, c, d, z, .*leave out b, z"),
        ({"b": None}, "kind", "leave out b"),
        ({"kind": None, "label": Y}, None, "with the label 'label', and .*with 'class'"),
    ],
)
def test_tables_with_other_columns_are_no_shards_of_one(changed: dict[str, Any], label: Any, message: str):
    os.mkdir("d")
    first = {} if label else {"kind": None, "class": Y}
    table("d/0.parquet", **first)
    table("d/1.parquet", **changed)
    refused(lambda: shards("d", label=label), message)


def test_what_pandas_numbers_rows_by_is_no_column():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": X[:, 0], "kind": Y}, index=np.arange(ROWS) * 7 + 1)
    frame.to_parquet("t.parquet")
    np.testing.assert_array_equal(shards("t.parquet", label="kind").load().x, X[:, :1])


def test_bytes_that_were_changed_are_found_by_their_checksum():
    table("t.parquet")
    damaged = bytearray(Path("t.parquet").read_bytes())
    damaged[60] ^= 255
    Path("t.parquet").write_bytes(damaged)
    refused(lambda: shards("t.parquet", label="kind", window=40), r"t\.parquet, row 0: it cannot be read: .*checksum")


def test_two_columns_of_one_name_are_refused():
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = [pyarrow.array(a) for a in (X[:, 0], X[:, 1], Y)]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["a", "a", "kind"]), "t.parquet")
    refused(lambda: shards("t.parquet", label="kind"), "several columns are called 'a'")


@pytest.mark.parametrize("label", [0, 1.5, ["kind"], np.ones(3)], ids=str)
def test_a_label_that_is_no_name_is_refused(label: Any, folder: Path):
    refused(lambda: shards([("x.npy", "y.npy")], label=label), "expected the name of a Parquet file's column")


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(*more: Any) -> Callable[[], Iterator[Any]]:
    return lambda: iter([(X, Y), *more])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.float32(3), np.int64(1)), r"batch 2 of epoch 1, row 0 of its x: inputs have shape \(\)"),
        ((X[:0], Y[:5]), r"inputs have shape \(0, 4\)"),
        ((X[:5], Y[:4]), r"x has 5 rows, y has shape \(4,\)"),
        (([[1, 2, 3, 4], [1]], [0, 1]), "different lengths"),
        ((X[:5],), "is a tuple of 1; expected a pair"),
        ((X[:5], Y[:5], np.ones(5)), "has 3 parts, the first had 2"),
        ({"x": X, "y": Y}, "is a dict; expected a pair"),
        (("x.npy", "y.npy"), "str 'x.npy' was given"),
        ((np.ma.masked_array(X, X > 0), Y), "masked array"),
        ((X * 1j, Y), "complex"),
    ],
)
def test_a_batch_of_another_kind_is_told_by_its_number(batch: Any, message: str):
    refused(lambda: batches(batch), message)


def test_batches_of_which_nothing_is_left_do_no_harm():
    history = model().fit(batches((X[:0], Y[:0]), ([], []), (X, Y)), verbose=0)
    assert history.samples == 2 * ROWS


def test_a_function_that_needs_arguments_is_told_so():
    refused(lambda: lambda size: [(X, Y)], r"'<lambda>' is called without arguments.*missing a required argument")


def test_whoever_does_not_know_how_many_batches_there_are_need_not_say():
    class Loader:
        def __iter__(self) -> Iterator[Any]:
            return batches()()

        def __len__(self) -> int:
            raise NotImplementedError

    assert model().fit(Loader(), verbose=0).samples == ROWS


# ---- the command line ------------------------------------------------------------------------------------------------


def test_predictions_on_the_command_line_go_by_the_names_of_columns(monkeypatch: pytest.MonkeyPatch):
    for name in ("typer", "safetensors", "pyarrow"):
        pytest.importorskip(name)
    from typer.testing import CliRunner

    from nnx.cli import on_disk
    from nnx.cli.app import app

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--backend", "numpy"])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    monkeypatch.setattr(on_disk, "LARGE", 0)
    table("t.parquet")
    run("train", "t.parquet", "--label", "kind", "--save", "m.safetensors", "--epochs", "2", "--patience", "0")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    turned = {"more": Y, "d": X[:, 3], "b": X[:, 1], "a": X[:, 0], "c": X[:, 2]}
    parquet.write_table(pyarrow.table(turned), "turned.parquet")
    assert run("predict", "m.safetensors", "turned.parquet") == run("predict", "m.safetensors", "t.parquet")
    table("other.parquet", a=None, e=X[:, 0])
    with pytest.raises(FileFormatError, match=r"other\.parquet: there is no column 'a', expected a, b, c, d"):
        run("predict", "m.safetensors", "other.parquet")
    np.save("x.npy", X[:, :3])
    with pytest.raises(FileFormatError, match=r"x\.npy: a row holds 3 numbers, but the network takes 4"):
        run("predict", "m.safetensors", "x.npy")
    os.remove("x.npy")
    with pytest.raises(FileNotFoundError, match=r"x\.npy: there is no such file"):
        run("train", "x.npy")


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it is told how to be killed as Unix does it")
def test_a_process_that_is_killed_leaves_a_whole_checkpoint():
    pytest.importorskip("safetensors")
    script = """
import nnx
from nnx.data import shards
network = nnx.Sequential(nnx.Dense(4, 2), nnx.Softmax(), backend="numpy")
network.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
class Told(nnx.callbacks.Callback):
    def on_epoch_end(self, model, epoch, logs):
        print(epoch, flush=True)
keep = nnx.callbacks.ModelCheckpoint("m.safetensors", monitor="loss")
source = shards([("x.npy", "y.npy")], window=16)
network.fit(source, epochs=10**6, batch_size=8, callbacks=[keep, Told()], verbose=0)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(nnx.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 20:
            pass
        child.kill()
    assert nnx.load("m.safetensors", backend="numpy").epochs_done > 0


def test_arrays_that_do_not_belong_together_are_told_by_their_places():
    refused(lambda: shards([(X, Y), (X[:, :2], Y)]), r"x of shards\[1\] has 2 features, x of shards\[0\] 4")
