"""Training on what is read meanwhile, from disk or in batches: the same numbers, little memory, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Doubled, numbers

import nnx
from nnx.data import shards
from nnx.data.order import Order, streams_of
from nnx.data.stored import Stored
from nnx.distributed.communicator import Communicator
from nnx.distributed.shares import Shares
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.training.batches import taken_of
from nnx.training.supply import own_of

ROWS, BATCH = 500, 32
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
WEIGHTS = np.arange(ROWS) % 4 * 0.7
CUTS = (0, 70, 71, 250, ROWS)


def model(backend: Any = "numpy", **options: Any) -> nnx.Sequential:
    network = nnx.Sequential(
        nnx.Dense(6, 8), nnx.ReLU(), nnx.Dense(8, 3), nnx.Softmax(), backend=backend, seed=1, **options
    )
    return network.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))


def regression(metrics: tuple[str, ...] = ("accuracy",)) -> nnx.Sequential:
    network = nnx.Sequential(nnx.Dense(6, 8), nnx.ReLU(), nnx.Dense(8, 1), backend="numpy", seed=1)
    return network.compile(nnx.MeanSquaredError(), nnx.Adam(0.01), metrics=metrics)


def trained(*data: Any, on: nnx.Sequential | None = None, **options: Any) -> tuple[nnx.Sequential, nnx.History]:
    network = on or model()
    return network, network.fit(*data, **{"epochs": 3, "batch_size": BATCH, "verbose": 0, **options})


def same(one: tuple[nnx.Sequential, nnx.History], other: tuple[nnx.Sequential, nnx.History]) -> None:
    np.testing.assert_array_equal(one[0].flat.state, other[0].flat.state)
    assert dict(one[1]) == dict(other[1])


def batches(size: int = 45, weights: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, ...]]:
    for i in range(0, ROWS, size):
        part = slice(i, i + size)
        yield (X[part], Y[part]) if weights is None else (X[part], Y[part], weights[part])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples as files of every kind, and as shards of uneven sizes; the current folder."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    np.save("w.npy", WEIGHTS)
    np.savez("xy.npz", x=X, y=Y)
    for name, parts in (("shards", "xy"), ("weighted", "xyw")):
        os.mkdir(name)
        for i, (a, b) in enumerate(pairwise(CUTS)):
            for part in parts:
                np.save(f"{name}/{part}_{9 + i}.npy", {"x": X, "y": Y, "w": WEIGHTS}[part][a:b])  # 9 before 10
    return tmp_path


# ---- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [("x.npy", "y.npy"), ("xy.npz",), ("shards",), ("x.npy", Y)], ids=str)
def test_what_fits_into_memory_is_trained_on_as_arrays_are(data: Any, folder: Path):
    found = trained(*data)
    same(found, trained(X, Y))
    assert found[1].streamed is None


def test_a_mapped_array_is_an_array(folder: Path):
    same(trained(np.load("x.npy", mmap_mode="r"), np.load("y.npy", mmap_mode="r")), trained(X, Y))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("window", [2, 100, 499])
@pytest.mark.parametrize("files", ["shards", "xy.npz", [("x.npy", "y.npy")]], ids=str)
def test_rows_read_in_order_give_the_numbers_of_arrays(files: Any, window: int, backend: str, folder: Path):
    if backend == "numba":
        pytest.importorskip("numba")
    found = trained(shards(files, window=window), on=model(backend), shuffle=False)
    same(found, trained(X, Y, on=model(backend), shuffle=False))
    assert "are read from disk" in str(found[1].streamed)
    assert (found[0].eager_reason, found[0].replay_reason) == (None, None)


@pytest.mark.parametrize(
    "options", [{}, {"class_weight": {0: 1.0, 1: 3.0, 2: 2.0}}, {"class_weight": "balanced"}], ids=str
)
def test_weights_from_files_are_weights(options: Any, folder: Path):
    found = trained(shards("weighted", window=100), shuffle=False, **options)
    wanted = trained(X, Y, shuffle=False, sample_weight=WEIGHTS, **options)
    np.testing.assert_allclose(found[0].flat.state, wanted[0].flat.state, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-5)
    alone = trained("weighted", shuffle=False, **options)  # few rows, read at once
    same(alone, wanted)


@pytest.mark.parametrize("every", [2, 3, 7, 10**12])
def test_several_batches_read_can_make_one_update(every: int, folder: Path):
    found = trained(shards("shards", window=64), shuffle=False, accumulate=every)
    wanted = trained(X, Y, shuffle=False, accumulate=every)
    np.testing.assert_allclose(found[0].flat.state, wanted[0].flat.state, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-6)
    with pytest.raises(InputError, match="nobody knows which is an epoch's last"):
        trained(lambda: batches(), accumulate=every)
    with pytest.raises(InputError, match=f"but all {ROWS} samples are one batch; give a smaller batch_size"):
        trained(shards("shards", window=64), accumulate=every, batch_size=ROWS)


def test_rates_by_step_and_means_of_parameters_go_with_rows_that_are_read(folder: Path):
    def callbacks() -> list[nnx.callbacks.Callback]:
        rate = nnx.callbacks.LearningRateSchedule(lambda step: 0.01 / (1 + step), by="step")
        return [nnx.callbacks.WeightAverage(decay=0.9), rate]

    wanted = trained(X, Y, shuffle=False, callbacks=callbacks())
    same(trained(shards("shards", window=64), shuffle=False, callbacks=callbacks()), wanted)
    same(trained(lambda: batches(), callbacks=callbacks()), wanted)


def test_labels_that_the_loss_ignores_are_ignored():
    y = np.where(np.arange(ROWS) % 5, Y, -1)
    loss = nnx.CategoricalCrossEntropy(ignore_index=-1)
    nets = [model().compile(loss, nnx.Adam(0.01)) for _ in range(2)]
    found = trained(lambda: [(X[i : i + 50], y[i : i + 50]) for i in range(0, ROWS, 50)], on=nets[0])
    wanted = trained(X, y, on=nets[1], shuffle=False)
    np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("classes", ["balanced", {0: 1.0, 1: 3.0, 2: 2.0}, {1: 3.0, 2: 2.0}], ids=str)
def test_classes_that_count_differently_go_with_labels_that_are_ignored(classes: Any, folder: Path):
    y = np.where((np.arange(ROWS) < 200) | ((Y == 0) & (len(classes) == 2)), -1, Y)
    loss = nnx.CategoricalCrossEntropy(ignore_index=-1)
    np.save("y.npy", y)
    ways = [(X, y), (shards([("x.npy", "y.npy")], window=100),)]
    if classes != "balanced":
        ways.append((lambda: [(X[i : i + 50], y[i : i + 50]) for i in range(0, ROWS, 50)],))
    wanted, *others = (
        trained(*way, on=model().compile(loss, nnx.Adam(0.01)), shuffle=False, class_weight=classes) for way in ways
    )
    for found in others:
        np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("classes", ["balanced", {0: 1.0, 1: 3.0, 2: 2.0}], ids=str)
def test_classes_count_differently_where_rows_are_one_hot(classes: Any, folder: Path):
    np.save("y.npy", np.eye(3)[Y])
    found = trained(shards([("x.npy", "y.npy")], window=100), shuffle=False, class_weight=classes)
    wanted = trained(X, Y, shuffle=False, class_weight=classes)
    np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-5)
    soft = np.eye(3)[Y]
    soft[300] = 0.2, 0.3, 0.5
    np.save("y.npy", soft)
    with pytest.raises(InputError, match="names no single class for each sample"):
        trained(shards([("x.npy", "y.npy")], window=100), shuffle=False, class_weight=classes)


def test_rows_on_disk_go_through_a_last_layer_of_unknown_width(folder: Path):
    def regressing() -> nnx.Sequential:
        network = nnx.Sequential(nnx.Dense(6, 1), Doubled(), backend="numpy", seed=1)
        return network.compile(nnx.MeanSquaredError(), nnx.Adam(0.01))

    assert regressing().n_outputs is None
    rows = shards([("x.npy", "y.npy")], window=100)
    same(trained(rows, on=regressing(), shuffle=False), trained(X, Y, on=regressing(), shuffle=False))
    assert regressing().evaluate(rows, batch_size=BATCH) == pytest.approx(regressing().evaluate(X, Y))


@pytest.mark.parametrize("classes", ["balanced", {0: 1.0, 1: 3.0, 2: 2.0}], ids=str)
def test_classes_count_differently_behind_a_layer_of_unknown_width(classes: Any, folder: Path):
    def classifying() -> nnx.Sequential:
        network = nnx.Sequential(nnx.Dense(6, 3), Doubled(), backend="numpy", seed=1)
        return network.compile(nnx.SoftmaxCrossEntropy(), nnx.Adam(0.01))

    order = np.argsort(Y, kind="stable")  # the last class is in no block before the last
    np.save("x.npy", X[order])
    np.save("y.npy", Y[order])
    rows = shards([("x.npy", "y.npy")], window=100)
    found = trained(rows, on=classifying(), shuffle=False, class_weight=classes)
    wanted = trained(X[order], Y[order], on=classifying(), shuffle=False, class_weight=classes)
    np.testing.assert_allclose(found[1]["loss"], wanted[1]["loss"], rtol=1e-5)


def test_a_target_that_is_not_finite_is_named_by_its_row_and_column(folder: Path):
    y = np.stack([Y, Y], axis=1).astype(float)
    y[280, 1] = np.nan
    np.save("y.npy", y)
    network = nnx.Sequential(nnx.Dense(6, 2), backend="numpy").compile(nnx.MeanSquaredError(), nnx.Adam(0.01))
    with pytest.raises(InputError, match=r"y\.npy, row 280: .* the first is nan in column 1; drop or fill it first"):
        trained(shards([("x.npy", "y.npy")], window=100), on=network)


def test_a_label_is_refused_where_columns_have_no_names(folder: Path):
    for data in ("shards", "xy.npz"):
        with pytest.raises(InputError, match="label='price' is for Parquet files, whose columns have names; leave it"):
            trained(data, label="price")
    for files in ("shards", [("x.npy", "y.npy")]):
        with pytest.raises(InputError, match="label='price' is for Parquet files"):
            shards(files, label="price")
    with pytest.raises(InputError, match=r"label='price' was given besides .*; give it to nnx\.data\.shards"):
        trained(shards("shards"), label="price")


@pytest.mark.parametrize("wrong", [[1, 2, 3], "even"], ids=str)
def test_what_names_no_weights_of_classes_is_refused_alike(wrong: Any, folder: Path):
    told = set()
    for way in ((X, Y), (shards("shards", window=64),), (lambda: batches(),)):
        with pytest.raises((InputError, InputTypeError), match="class_weight=") as error:
            trained(*way, class_weight=wrong)
        told.add((error.type, str(error.value)))
    assert len(told) == 1


def test_one_hot_and_soft_rows_may_be_mixed_in_a_file(folder: Path):
    soft = np.eye(3)[Y]
    soft[300] = 0.2, 0.3, 0.5  # alone in its block
    np.save("soft.npy", soft)
    found = trained(shards([("x.npy", "soft.npy")], window=64), shuffle=False)
    same(found, trained(X, soft, shuffle=False))


@pytest.mark.parametrize("size", [1, 45, BATCH, 400, 1000])
def test_batches_of_any_size_are_cut_to_that_of_a_step(size: int):
    same(trained(lambda: batches(size)), trained(X, Y, shuffle=False))


def test_an_epoch_may_end_elsewhere_than_the_one_before():
    lengths = iter([100, 76, 33])

    def some() -> Any:
        n = next(lengths)
        return [(X[:n], Y[:n])]

    network, history = trained(some)
    assert history.epochs == 3
    assert history.samples == 100 + 76 + 33
    assert network.optimizer.iterations == 4 + 3 + 2


def test_without_a_batch_size_steps_are_as_large_as_the_first_batch():
    network, _ = trained(lambda: batches(125), batch_size=None)
    assert network.optimizer.iterations == 3 * 4


def test_batches_may_have_weights():
    found = trained(lambda: batches(45, WEIGHTS))
    np.testing.assert_allclose(
        found[1]["loss"], trained(X, Y, shuffle=False, sample_weight=WEIGHTS)[1]["loss"], rtol=1e-5
    )


def test_a_loader_is_gone_through_anew_in_each_epoch():
    class Loader:
        begun = 0

        def __iter__(self) -> Iterator[Any]:
            self.begun += 1
            return batches()

    loader = Loader()
    same(trained(loader), trained(X, Y, shuffle=False))
    assert loader.begun == 3


def test_tensors_of_others_come_by_dlpack():
    class Tensor:
        """What a library gives that NumPy has never heard of."""

        def __init__(self, a: np.ndarray) -> None:
            self._a, self.shape = a, a.shape

        def __dlpack__(self, **options: Any) -> Any:
            return self._a.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self._a.__dlpack_device__()

    same(trained(lambda: ((Tensor(x.copy()), Tensor(y.copy())) for x, y in batches())), trained(X, Y, shuffle=False))


def test_what_comes_once_is_refused_for_several_epochs():
    with pytest.raises(InputError, match="a generator gives its batches once, and epochs=3"):
        trained(batches())
    same(trained(batches(), epochs=1), trained(X, Y, epochs=1, shuffle=False))
    generator = batches()
    with pytest.raises(InputError, match=r"no batches in epoch 2; the function must make them anew"):
        trained(lambda: generator)


def test_parquet_is_read_by_row_groups(folder: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {**{f"x{i}": X[:, i] for i in range(6)}, "kind": Y}
    parquet.write_table(pyarrow.table(columns), "table.parquet", row_group_size=60)
    same(trained("table.parquet", label="kind"), trained(X, Y))
    found = trained(shards("table.parquet", label="kind", window=130), shuffle=False)
    same(found, trained(X, Y, shuffle=False))
    assert "64 rows" in str(found[1].streamed)
    network = found[0]
    np.testing.assert_allclose(
        network.predict(shards("table.parquet", label="kind", window=2)), network.predict(X), 1e-5
    )
    assert streams_of(shards("table.parquet", label="kind"), 64) == 1  # a chunk holds one row group
    assert streams_of(shards("table.parquet", label="kind"), 250) == 4
    with pytest.raises(InputError, match="which column is to be learned"):
        trained("table.parquet")
    parquet.write_table(pyarrow.table({**columns, "name": ["a"] * ROWS}), "mixed.parquet")
    with pytest.raises(FileFormatError, match="column 'name' holds string"):
        trained("mixed.parquet", label="kind")


@pytest.mark.parametrize("how", [{"order": "F"}, {"dtype": ">f4"}, {"dtype": "f8"}], ids=str)
def test_files_of_other_orders_and_types(how: Any, folder: Path):
    np.save("x.npy", np.asarray(X, **how))
    found = trained(shards([("x.npy", "y.npy")], window=70), shuffle=False)
    same(found, trained(X, Y, shuffle=False))


def test_parts_of_mapped_arrays_are_those_parts(folder: Path):
    x = np.load("x.npy", mmap_mode="r")
    pieces = shards([(x[100:300], Y[100:300]), (x[300:, :][::2], Y[300::2])], window=50)  # by the file; by the array
    wanted = np.concatenate([X[100:300], X[300::2]]), np.concatenate([Y[100:300], Y[300::2]])
    same(trained(pieces, shuffle=False), trained(*wanted, shuffle=False))


# ---- order -----------------------------------------------------------------------------------------------------------


def order(source: Any, seed: int, epoch: int, part: int = 64, shuffle: bool = True) -> np.ndarray:
    drawn = Order(source, BATCH, part, seed, epoch, shuffle)
    return np.concatenate([drawn.rows(i) for i in range(-(-source.rows // part))])


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(folder: Path):
    source = shards("shards", window=64)
    orders = [order(source, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for one in orders:
        np.testing.assert_array_equal(np.sort(one), np.arange(ROWS))
    assert len({one.tobytes() for one in orders}) == 4
    np.testing.assert_array_equal(orders[1], order(source, 0, 1))
    assert np.abs(np.diff(orders[0])).mean() > ROWS / 6  # a third, were it shuffled as a whole


@pytest.mark.parametrize(("batch", "chunk"), [(32, 64), (7, 49), (1, 20), (500, 500), (120, 120)])
def test_parts_of_batches_are_read_from_rows_of_their_own(batch: int, chunk: int, folder: Path):
    """Whatever the number of processes, the order is the same, and each has rows of blocks that no other reads."""
    source = shards("shards", window=64)
    drawn = Order(source, batch, chunk, 0, 0, shuffle=True)
    chunks = [drawn.rows(i) for i in range(-(-ROWS // chunk))]
    assert drawn.streams == 12
    np.testing.assert_array_equal(np.sort(np.concatenate(chunks)), np.arange(ROWS))
    for size in (2, 3, 4, 5, 12):
        comms = [Communicator() for _ in range(size)]
        for rank, comm in enumerate(comms):
            comm.rank, comm.size = rank, size
        own = [[own_of(Shares(comm, size), len(rows), batch) for rows in chunks] for comm in comms]
        taken = [np.concatenate([rows[o] for rows, o in zip(chunks, mine, strict=True)]) for mine in own]
        for comm, mine in zip(comms, own, strict=True):
            assert max(map(len, mine)) <= chunk // batch * taken_of(Shares(comm, size), batch) + 1
        np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.arange(ROWS))
        blocks = [np.unique(np.searchsorted(source.starts, rows, side="right")) for rows in taken]
        if size != 5:  # of each stream the first block and the last may be a neighbour's too
            assert sum(map(len, blocks)) <= len(source.starts) - 1 + size - 1


def test_what_is_not_wanted_between_rows_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    wide = np.arange(800_000, dtype=np.float32).reshape(400, 2000)
    np.save("x.npy", wide)
    taken, read = [], Stored.read

    def counted(self: Stored, first: int, count: int, *room: Any) -> np.ndarray:
        taken.append(count)
        return read(self, first, count, *room)

    monkeypatch.setattr(Stored, "read", counted)
    rows = np.concatenate([np.arange(i, i + 20) for i in range(0, 400, 40)])
    np.testing.assert_array_equal(shards("x.npy").load(rows).x, wide[rows])
    assert sum(taken) == 200


def test_training_goes_on_as_if_it_had_not_ended(folder: Path):
    source = shards("shards", window=100)
    whole = trained(source, epochs=4)
    network, first = trained(source, epochs=1)
    network.save("half.safetensors")
    again = nnx.load("half.safetensors", backend="numpy")
    second = trained(shards("shards", window=100), on=again, epochs=3)[1]
    np.testing.assert_array_equal(again.flat.state, whole[0].flat.state)
    assert first["loss"] + second["loss"] == whole[1]["loss"]


def test_parts_and_rows_left_out_are_what_they_say(folder: Path):
    source = shards("shards", window=40)
    np.testing.assert_array_equal(source.part(60, 260).load().x, X[60:260])
    gone = np.array([0, 69, 70, 71, 72, 499])
    rest = source.without(gone)
    np.testing.assert_array_equal(rest.load().x, np.delete(X, gone, axis=0))
    np.testing.assert_array_equal(np.sort(order(rest, 0, 0)), np.arange(ROWS - 6))
    np.testing.assert_array_equal(source.load(np.array([3, 499, 3, 70])).y, Y[[3, 499, 3, 70]])


# ---- validation and use ----------------------------------------------------------------------------------------------


def test_the_last_rows_can_be_held_out_from_files(folder: Path):
    options = {"shuffle": False, "validation_split": 0.2}
    same(trained(shards("shards", window=100), **options), trained(X, Y, **options))
    with pytest.raises(InputError, match="nobody knows which are the last"):
        trained(lambda: batches(), validation_split=0.2)


@pytest.mark.parametrize("given", [("x.npy", "y.npy"), "shards", lambda: batches()], ids=["pair", "folder", "function"])
def test_validation_data_may_be_read_too(given: Any, folder: Path):
    wanted = trained(X, Y, validation_data=(X, Y))[1]
    found = trained(X, Y, validation_data=given)[1]
    np.testing.assert_allclose(found["val_loss"], wanted["val_loss"], rtol=1e-6)
    found = trained(X, Y, validation_data=shards("shards", window=50))[1]
    np.testing.assert_allclose(found["val_accuracy"], wanted["val_accuracy"], rtol=1e-12)


def test_a_regressions_accuracy_is_that_of_all_targets(folder: Path):
    y = X.sum(axis=1)
    np.save("y.npy", y)
    found = trained(shards([("x.npy", "y.npy")], window=100), on=regression(), shuffle=False)
    wanted = trained(X, y, on=regression(), shuffle=False)
    np.testing.assert_allclose(found[0]._trainer.tolerance, wanted[0]._trainer.tolerance, rtol=1e-6)
    np.testing.assert_allclose(found[1]["accuracy"], wanted[1]["accuracy"])
    source = shards([("x.npy", "y.npy")], window=100)
    assert regression().evaluate(source) == pytest.approx(regression().evaluate(X, y), rel=1e-5)


def test_evaluation_and_prediction_read_in_blocks(folder: Path):
    network = model().compile(nnx.CategoricalCrossEntropy(), nnx.Adam(), metrics=["accuracy", "f1", "auc"])
    wanted, source = network.evaluate(X, Y), shards("shards", window=40)
    for data in (source, lambda: batches(), "shards"):
        assert network.evaluate(data) == pytest.approx(wanted, rel=1e-6)
        np.testing.assert_allclose(network.predict(data), network.predict(X), rtol=1e-5)
    weighted = model()
    assert weighted.evaluate(shards("weighted", window=40)) == pytest.approx(
        weighted.evaluate(X, Y, sample_weight=WEIGHTS), rel=1e-6
    )
    np.testing.assert_array_equal(network.predict("x.npy"), network.predict(X))


# ---- what is wrong is said, and nothing is lost ----------------------------------------------------------------------


def broken(folder: Path, row: int, value: float, name: str = "x") -> None:
    array = np.load(f"{name}.npy").astype(np.float32)
    array[row] = value
    np.save(f"{name}.npy", array)


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("x", np.nan, r"x\.npy, row 333, column 0 is nan: expected finite numbers"),
        ("y", 7, r"y\.npy, row 333: .*label 7 is out of range; expected 0 \.\. 2"),
        ("y", 0.5, r"y\.npy, row 333: .*label 0\.5 is no whole number"),
    ],
)
def test_a_bad_number_is_told_with_its_file_and_row(part: str, value: float, message: str, window: Any, folder: Path):
    broken(folder, 333, value, part)
    with pytest.raises(InputError, match=message):
        trained(shards([("x.npy", "y.npy")], window=window), shuffle=False)


@pytest.mark.parametrize("how", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("read", [True, False], ids=["files", "batches"])
def test_a_code_that_an_embedding_does_not_know_is_told_with_its_place(read: bool, how: str, folder: Path):
    x = np.c_[X[:, :1], np.arange(ROWS) % 4].astype(np.float32)
    x[180, 1] = 7
    np.save("codes.npy", x)
    network = nnx.Sequential(nnx.Embedding({1: (4, 2)}, inputs=2), nnx.Dense(3, 3), nnx.Softmax(), backend="numpy")
    network.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
    before = network.flat.state.copy()
    source = shards(["codes.npy"] if how == "predict" else [("codes.npy", "y.npy")], window=ROWS - 1)
    data = source if read else lambda: iter([(x, Y)])
    place = "codes.npy, row 180" if read else f"batch 1{' of epoch 1' if how == 'fit' else ''}, row 180 of its x"
    options = {"epochs": 1, "batch_size": 400, "shuffle": False, "verbose": 0} if how == "fit" else {}
    with pytest.raises(InputError, match=f"^{how}: {place}, column 1 is 7, which is no code; .* from 0 to 3 there$"):
        getattr(network, how)(data, **options)
    np.testing.assert_array_equal(network.flat.state, before)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (lambda: shards([("x.npy", "y.npy", "zeros.npy")], window=100), {}),
        (lambda: shards([("x.npy", "y.npy")], window=100), {"class_weight": {0: 0, 1: 0, 2: 0}}),
        (lambda: lambda: batches(weights=0 * WEIGHTS), {}),
        (lambda: lambda: batches(), {"class_weight": {0: 0, 1: 0, 2: 0}}),
    ],
    ids=["files", "classes of files", "batches", "classes of batches"],
)
def test_samples_of_which_none_counts_are_refused_before_a_step(data: Any, options: Any, folder: Path):
    np.save("zeros.npy", 0 * WEIGHTS)
    network = model()
    before = network.flat.state.copy()
    with pytest.raises(InputError, match="all samples of an epoch have the weight 0; give one of them more"):
        trained(data(), on=network, **options)
    np.testing.assert_array_equal(network.flat.state, before)
    assert network.optimizer.iterations == 0


@pytest.mark.parametrize("read", [True, False], ids=["files", "batches"])
def test_an_error_in_what_a_fit_is_validated_by_names_its_argument(read: bool, folder: Path):
    bad = X.copy()
    bad[377, 2] = np.nan
    np.save("bad.npy", bad)
    network = model()
    data = shards([("bad.npy", "y.npy")], window=50) if read else lambda: [(X, Y), (bad, Y)]
    place = "bad.npy, row 377" if read else "batch 2, row 377 of its x"
    with pytest.raises(InputError, match=f"^fit: validation_data: {place}, column 2 is nan"):
        trained(X, Y, on=network, validation_data=data)
    with pytest.raises(InputError, match=f"^evaluate: {place}, column 2 is nan"):
        network.evaluate(data)
    with pytest.raises(InputTypeError, match=r"^fit: validation_data: .* have no targets; expected y too"):
        trained(X, Y, validation_data=shards(["x.npy"], window=50))


def test_a_list_of_batches_is_validated_by_as_it_is_trained_on():
    wanted = trained(X, Y, validation_data=(X[:200], Y[:200]))[1]
    halves = [(X[:100], Y[:100]), (X[100:200], Y[100:200])]
    for data in (halves, [(X[:200], Y[:200])]):
        found = trained(X, Y, validation_data=data)[1]
        np.testing.assert_allclose(found["val_loss"], wanted["val_loss"], rtol=1e-6)
    assert trained(X, Y, validation_data=[tuple(X[:2]), Y[:2]])[1].epochs == 3  # a pair, of rows


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_begun():
    with pytest.raises(InputError, match=r"^fit: batch_size=1,000,000,000,000: .* TiB, more than this machine's mem"):
        trained(lambda: batches(), batch_size=10**12)
    trained(X, Y, batch_size=10**12)  # of arrays it is known how many rows there are


def test_samples_of_several_axes_come_in_batches_to_a_model_that_flattens_them():
    network = nnx.Sequential(nnx.Flatten(), nnx.Dense(6, 3), nnx.Softmax(), backend="numpy")
    network.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
    images = X.reshape(ROWS, 2, 3)
    network.fit(lambda: iter([(images, Y)]), batch_size=BATCH, verbose=0)
    np.testing.assert_array_equal(network.predict(lambda: iter([images])), network.predict(images))
    assert network.evaluate(lambda: iter([(images, Y)])) == network.evaluate(images, Y)


@pytest.mark.parametrize("given", [{"x": 1}, object()], ids=["dict", "object"])
def test_what_gives_no_batches_is_told_what_does(given: Any) -> None:
    for call in (model().fit, model().evaluate):
        with pytest.raises(
            nnx.errors.InputTypeError, match=r"y is missing.*; or instead of x, which is a \w+, what gives"
        ):
            call(given)


def test_a_batch_is_told_by_its_number():
    x = X.copy()
    x[100, 2] = np.inf
    with pytest.raises(InputError, match=r"batch 3 of epoch 1, row 10 of its x, column 2 is inf"):
        trained(lambda: ((x[i : i + 45], Y[i : i + 45]) for i in range(0, ROWS, 45)))
    with pytest.raises(InputTypeError, match=r"batch 1 of epoch 1 is a ndarray; expected a pair"):
        trained(lambda: iter([X, Y]))
    with pytest.raises(InputTypeError, match=r"batch 2 of epoch 1 is a NoneType; expected a pair"):
        trained(lambda: iter([(X, Y), None]))
    with pytest.raises(InputTypeError, match="y is missing"):
        trained((X, Y))
    with pytest.raises(InputError, match=r"batch 2 of epoch 1, .*4 features"):
        trained(lambda: iter([(X, Y), (X[:, :4], Y)]))


def test_what_goes_wrong_later_leaves_the_steps_and_the_epochs_before(folder: Path):
    """A file vanishes after the first epoch; the model is as after the last whole chunk, and the history is there."""
    source = shards("shards", window=64)

    class Remove(nnx.callbacks.Callback):
        ended: nnx.History | None = None

        def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
            if epoch == 0:
                os.remove("shards/x_11.npy")

        def on_fit_end(self, model: Any, history: nnx.History) -> None:
            self.ended = history

    callback, network = Remove(), model()
    with pytest.raises(FileFormatError, match=r"x_11\.npy, row \d+: it cannot be read any more") as caught:
        trained(source, on=network, callbacks=[callback], shuffle=False)
    assert caught.value.history is callback.ended
    assert caught.value.history.epochs == 1
    assert not caught.value.history.complete
    assert network.epochs_done == 1
    assert network.optimizer.iterations == 16 + 2  # an epoch, and the one chunk before the file
    assert np.isfinite(network.flat.state).all()
    assert not [thread for thread in threading.enumerate() if thread.name == "nnx-reading"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda: os.truncate("x.npy", 5000), r"x\.npy: the file ends in row 203 of 500"),
        (lambda: Path("x.npy").write_bytes(b"hello"), r"x\.npy: .*expected a \.npy file"),
        (lambda: np.save("y.npy", Y[:-1]), r"x\.npy has 500 and y\.npy has 499 rows"),
        (lambda: np.save("x.npy", X.astype(str)), r"x\.npy: it holds <U"),
        (lambda: np.save("x.npy", X[:, 0]), r"x\.npy: its shape is \(500,\), expected \[samples, features\]"),
        (lambda: os.remove("x.npy"), r"x\.npy: there is no such file"),
    ],
)
def test_a_damaged_file_is_told_before_anything_is_changed(harm: Any, message: str, folder: Path):
    harm()
    network = model()
    before = network.flat.state.copy()
    with pytest.raises((InputError, FileNotFoundError), match=message):
        trained("x.npy", "y.npy", on=network)
    np.testing.assert_array_equal(network.flat.state, before)


def test_shards_that_do_not_belong_together_are_refused(folder: Path):
    np.save("shards/x_12.npy", X[250:, :5])
    with pytest.raises(InputError, match=r"x_12\.npy has 5 features, .*x_9\.npy 6"):
        shards("shards")
    os.remove("shards/y_12.npy")
    with pytest.raises(InputError, match=r"there is x_12\.npy, but no y_12\.npy"):
        shards("shards")
    np.savez_compressed("xy.npz", x=X, y=Y)
    with pytest.raises(FileFormatError, match="x is compressed"):
        shards("xy.npz")
    with pytest.raises(InputError, match="batch_size=None takes all of them in one step"):
        trained(shards([("x.npy", "y.npy")], window=10), batch_size=None)


def test_an_error_of_the_users_own_comes_through():
    class Mine(Exception):
        pass

    def some() -> Iterator[Any]:
        yield from list(batches())[:5]
        raise Mine

    network = model()
    with pytest.raises(Mine):
        trained(some, on=network)
    assert not [thread for thread in threading.enumerate() if thread.name == "nnx-reading"]


def test_ctrl_c_is_heard_while_batches_are_waited_for():
    closed = []

    def slow() -> Iterator[Any]:
        try:
            yield X[:BATCH], Y[:BATCH]
            os.kill(os.getpid(), 2)
            while True:
                time.sleep(0.01)
                yield X[:BATCH], Y[:BATCH]
        finally:
            closed.append(True)

    _, history = trained(slow)
    assert history.interrupted
    assert history.epochs == 0
    assert closed == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "nnx-reading"]


def test_a_column_that_the_models_type_makes_constant_is_refused(folder: Path):
    clock = X.astype(np.float64)
    clock[:, 3] = 1.7e12 + np.arange(ROWS)
    np.save("x.npy", clock)
    with pytest.raises(InputError, match="fit: x: column 3 varies by"):
        trained(shards([("x.npy", "y.npy")], window=64))


def test_where_no_thread_can_be_started_reading_does_without(monkeypatch: pytest.MonkeyPatch, folder: Path):
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    same(trained(shards("shards", window=64), shuffle=False), trained(X, Y, shuffle=False))


def test_a_loss_that_is_not_finite_ends_the_fit_before_its_step(folder: Path):
    network = regression().compile(nnx.MeanSquaredError(), nnx.SGD(1e30))
    np.save("y.npy", X.sum(axis=1))
    with pytest.raises(nnx.NonFiniteError, match=r"epoch 1\)"):
        trained(shards([("x.npy", "y.npy")], window=64), on=network)
    assert np.isfinite(network.flat.state).all()


def test_a_one_time_iterator_for_validation_is_refused_for_several_epochs():
    with pytest.raises(InputError, match="a generator gives its batches once"):
        trained(X, Y, validation_data=batches())


def test_batch_callbacks_and_settings_changed_meanwhile_work_on_rows_that_are_read(folder: Path):
    class Changing(nnx.callbacks.Callback):
        seen = 0

        def on_batch_end(self, model: Any, batch: int, logs: Any) -> None:
            self.seen += 1
            if batch == 3:
                model.optimizer.beta_1 = 0.8

        def on_epoch_begin(self, model: Any, epoch: int) -> None:
            model.layers[0].weight_l2 = 1e-3 * epoch

    one, two = Changing(), Changing()
    same(
        trained(shards("shards", window=64), callbacks=[one], shuffle=False),
        trained(X, Y, callbacks=[two], shuffle=False),
    )
    assert one.seen == two.seen == 3 * 16


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_is_forked_meanwhile_reads_for_itself(folder: Path):
    script = """
import os, sys, warnings
import numpy as np
import nnx
from nnx.data import shards
warnings.simplefilter("ignore")  # of Python 3.12, that a process with threads forks

class Fork(nnx.callbacks.Callback):
    child = -1
    def on_epoch_end(self, model, epoch, logs):
        if epoch == 0:
            self.child = os.fork()

fork = Fork()
network = nnx.Sequential(nnx.Dense(6, 3), nnx.Softmax(), backend="numpy")
network.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
network.fit(shards("shards", window=64), epochs=3, batch_size=32, callbacks=[fork], verbose=0)
if fork.child == 0:
    np.save("child.npy", network.flat.state)
    os._exit(0)
assert os.waitpid(fork.child, 0)[1] == 0
np.testing.assert_array_equal(np.load("child.npy"), network.flat.state)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(nnx.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=600)


def test_ctrl_c_ends_reading_from_disk_too(folder: Path):
    class Press(nnx.callbacks.Callback):
        def on_batch_end(self, model: Any, batch: int, logs: Any) -> None:
            if batch == 5:
                os.kill(os.getpid(), 2)

    network, history = trained(shards("shards", window=64), callbacks=[Press()])
    assert (history.interrupted, history.epochs) == (True, 0)
    assert network.optimizer.iterations == 6
    assert not [thread for thread in threading.enumerate() if thread.name == "nnx-reading"]


def test_a_backend_that_nobody_knows_takes_rows_that_are_read(folder: Path):
    pytest.importorskip("array_api_strict")
    from strict_backend import StrictBackend

    found = trained(shards("shards", window=64), on=model(StrictBackend()), shuffle=False, epochs=1)
    wanted = trained(X, Y, on=model(StrictBackend()), shuffle=False, epochs=1)
    np.testing.assert_array_equal(numbers(found[0]), numbers(wanted[0]))


# ---- memory ----------------------------------------------------------------------------------------------------------

CHILD = """
import sys
import numpy as np
import nnx
from nnx.data import shards

rows, window, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
network = nnx.Sequential(nnx.Dense(1024, 2), nnx.Softmax(), backend="numpy")
network.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
data = [shards([("x.npy", "y.npy")], window=window)]
if kind == "mapped":
    data = [np.load("x.npy", mmap_mode="r"), np.load("y.npy")]
network.fit(*data, batch_size=256, verbose=0)
assert network.optimizer.iterations == rows // 256
if kind == "evaluate":
    network.evaluate(*data)
    assert network.predict(*data).shape == (rows, 2)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="it is Linux that says what a process has used")
@pytest.mark.parametrize("kind", ["shards", "mapped", "evaluate"])
def test_memory_stays_small_however_large_the_file_is(kind: str, folder: Path):
    """By the peak of resident memory, mapped files included; RLIMIT_AS would count what is never touched, too."""
    window = 4096  # 16 MB of rows
    most = (256 + window) * 4096 + 200e6
    mapped = 64e6 if kind == "mapped" else 0  # which says no window, and gets that one
    rows = int(2 * most) // 4096 // 256 * 256 if kind != "shards" else int(8 * most) // 4096 // 256 * 256
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, 1024), "f4")) | {"shape": (rows, 1024)}
    with open("x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 4096)  # a sparse file: it takes no room on the disk
    np.save("y.npy", np.zeros(rows, np.int64))
    command = [sys.executable, "-c", CHILD, str(rows), str(window), kind]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(nnx.__file__).parents[1])}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < most + mapped


# ---- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_trains_from_disk_and_goes_on_bit_for_bit(folder: Path):
    pytest.importorskip("typer")
    pytest.importorskip("safetensors")
    from typer.testing import CliRunner

    from nnx.cli.app import app

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done.stdout

    options = ("--backend", "numpy", "--batch-size", "32", "--patience", "0")
    run("train", "shards", "--save", "once.safetensors", "--epochs", "4", *options)
    run("train", "shards", "--save", "twice.safetensors", "--epochs", "2", *options)
    text = run("train", "shards", "--save", "twice.safetensors", "--epochs", "4", "--resume", "--backend", "numpy")
    assert "400 to learn from, 100 for the test" in text
    one, two = (nnx.load(f"{name}.safetensors", backend="numpy") for name in ("once", "twice"))
    np.testing.assert_array_equal(one.flat.state, two.flat.state)
    answers = run("predict", "once.safetensors", "x.npy", "--backend", "numpy").splitlines()
    assert answers[0] == "class,probability"
    assert np.mean([int(line.split(",")[0]) for line in answers[1:]] == Y) > 0.6
