"""Arrays as people have them: what is taken for numbers, what is refused by its name, and what a cast would lose.

Tables of what is refused everywhere: test_errors.py. Stand-ins have the protocols of libraries that may be missing.
"""

from __future__ import annotations

import array
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import nnx
from nnx import casting, nnfs
from nnx.backends.base import host_array, real_numbers

PLAIN = np.array([[1, 0.5], [0, -2], [1, 8], [0, 3]])  # exact in every type below
LABELS = np.array([0, 1, 0, 1])


class OnlyDLPack:
    """An array of another library, whose one way out is DLPack."""

    def __dlpack__(self, **options: Any) -> Any:
        return PLAIN.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return PLAIN.__dlpack_device__()


class Column:
    """A column as pandas has it: of whatever type."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.values)


class Frame:
    """A frame as pandas has it: columns with names and types of their own, which together are Python objects."""

    def __init__(self, **columns: Any) -> None:
        self.columns, self._columns = list(columns), [np.asarray(column) for column in columns.values()]
        self.dtypes = [column.dtype for column in self._columns]
        self.shape = len(self._columns[0]), len(columns)

    @property
    def iloc(self) -> Frame:
        return self

    def __getitem__(self, place: tuple[slice, int]) -> Column:
        return Column(self._columns[place[1]][place[0]])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        types = set(self.dtypes)
        return np.stack([column if len(types) == 1 else column.astype(object) for column in self._columns], axis=1)


class OnlyToNumpy:
    """A table whose one way out is to_numpy()."""

    def to_numpy(self) -> np.ndarray:
        return PLAIN


class Sparse:
    """A sparse matrix."""

    shape = (4, 2)

    def todense(self) -> np.ndarray:
        raise AssertionError("it was made dense without being asked for")


class Scipys(Sparse):
    toarray = Sparse.todense


class Torchs:
    """A sparse tensor, which PyTorch tells by its layout."""

    shape, layout, to_dense = (4, 2), "torch.sparse_csr", Sparse.todense


class SparseFrame(Frame):
    """A frame of sparse columns, as pandas' accessor shows it."""

    class sparse:
        to_dense = Sparse.todense


class Tensor:
    """A tensor that wants its gradient, or is on a GPU, or of a type that NumPy has not."""

    requires_grad, dtype, shape = True, "torch.bfloat16", (4, 2)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


# ---- what is taken -------------------------------------------------------------------------------------------------


def of_objects(change: Callable[[float], Any]) -> np.ndarray:
    given = np.empty(PLAIN.shape, object)
    given[...] = [[change(float(value)) for value in row] for row in PLAIN]
    return given


TAKEN: dict[str, Any] = {
    "masked, where nothing is": np.ma.array(PLAIN),
    "objects": PLAIN.astype(object),
    "True, False and numbers as objects": of_objects(lambda value: bool(value) if value in (0, 1) else value),
    "NumPy's numbers as objects": of_objects(np.float32),
    "decimals": of_objects(lambda value: Decimal(str(value))),
    "fractions": of_objects(Fraction),
    "long doubles": PLAIN.astype(np.longdouble),
    "half precision": PLAIN.astype(np.float16),
    "the other byte order": PLAIN.astype(">f4"),
    "a memory view": memoryview(PLAIN),
    "a list of array.array": [array.array("d", row) for row in PLAIN],
    "tuples": tuple(map(tuple, PLAIN.tolist())),
    "a frame of True, False and numbers": Frame(a=PLAIN[:, 0] == 1, b=PLAIN[:, 1]),
    "a frame with objects": Frame(a=PLAIN[:, 0].astype(np.int64), b=PLAIN[:, 1].astype(object)),
    "a frame of one type": Frame(a=PLAIN[:, 0], b=PLAIN[:, 1]),
    "what has only to_numpy()": OnlyToNumpy(),
    "what has only DLPack": OnlyDLPack(),
}


def classifier(dtype: str = "float32") -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 3), nnx.Tanh(), nnx.Dense(3, 2), nnx.Softmax(), backend="numpy", dtype=dtype)
    return net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))


def learned(x: Any, y: Any) -> tuple[Any, ...]:
    net = classifier()
    history = net.fit(x, y, 3, validation_data=(x, y), verbose=0)
    return history, net.predict(x).tolist(), net.evaluate(x, y), net.steps(x, y, 2).tolist()


@pytest.mark.parametrize("name", TAKEN)
def test_what_means_numbers_is_taken_for_them(name: str) -> None:
    np.testing.assert_array_equal(np.asarray(real_numbers(TAKEN[name]), np.float64), PLAIN, strict=True)
    assert learned(TAKEN[name], LABELS) == learned(PLAIN, LABELS)


@pytest.mark.parametrize("name", [
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float6_e2m3fn", "float4_e2m1fn", "int4", "uint2",
])  # fmt: skip
def test_small_types_become_what_they_are_in_float32(name: str) -> None:
    kind = getattr(pytest.importorskip("ml_dtypes"), name)
    given = np.array([[0, 1], [1, 2], [3, 0], [2, 1]]).astype(kind)
    for x in (given, given.astype(object), given.tolist()):
        assert learned(x, LABELS) == learned(given.astype(np.float32), LABELS)
    assert host_array(given).dtype == np.float32
    assert host_array(given, "float64").tolist() == given.astype(np.float64).tolist()
    layer = nnx.Dense(2, 2)
    layer.weights = given[:2]
    np.testing.assert_array_equal(layer.weights, given[:2].astype(np.float32))


LABELS_TAKEN: dict[str, Any] = {
    "masked, where nothing is": np.ma.array(LABELS),
    "objects": LABELS.astype(object), "True and False": LABELS == 1, "floats": LABELS.astype(float),
    "uint8": LABELS.astype("u1"), "a column": LABELS[:, None], "every other": np.repeat(LABELS, 2)[::2],
    "backwards": LABELS[::-1].copy()[::-1],
    "one-hot": np.eye(2, dtype=int)[LABELS], "one-hot of True and False": np.eye(2, dtype=bool)[LABELS],
    "one-hot by columns": np.asfortranarray(np.eye(2)[LABELS]), "a frame of one column": Frame(a=LABELS),
    "a frame of dummies": Frame(a=LABELS == 0, b=LABELS == 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS_TAKEN)
def test_labels_of_any_kind_are_learned_alike(name: str) -> None:
    assert learned(PLAIN, LABELS_TAKEN[name]) == learned(PLAIN, LABELS)


def test_targets_that_are_not_contiguous_are_replayed_all_the_same() -> None:
    pytest.importorskip("numba")
    table = np.c_[np.arange(12.0) / 12, np.arange(12) % 2, np.arange(12.0) % 5, np.arange(12.0) % 3]
    for loss, y in [
        (nnx.CategoricalCrossEntropy(), table[:, 1].astype(np.int64)[::-1]),
        (nnx.CategoricalCrossEntropy(), np.asfortranarray(np.eye(2)[table[:, 1].astype(int)] * 0.5 + 0.25)),
        (nnx.MeanSquaredError(), table[:, 2:]),
    ]:
        ending = [nnx.Softmax()] if isinstance(loss, nnx.CategoricalCrossEntropy) else []
        net = nnx.Sequential(nnx.Dense(1, 2), *ending, backend="numba").compile(loss, nnx.Adam())
        net.fit(table[:, :1], y, batch_size=4, verbose=0)
        assert net.eager_reason is None


# ---- what is refused -----------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, list[str]]] = {
    "masked numbers": (np.ma.masked_equal(np.eye(4)[:, :2], 1), ["masked", "2 of 8 are masked", r"x\.filled\(0\)"]),
    "sparse": (Sparse(), ["sparse Sparse", r"\(4, 2\)", r"\.todense\(\)", "64 bytes"]),
    "sparse, SciPy's": (Scipys(), ["sparse Scipys", r"\.toarray\(\)"]),
    "sparse, PyTorch's": (Torchs(), ["sparse Torchs", r"by \.to_dense\(\)"]),
    "sparse rows": ([Scipys(), Scipys()], ["sparse", r"\[0\]", "toarray"]),
    "a sparse frame": (SparseFrame(a=LABELS), ["sparse", r"\.sparse\.to_dense\(\)"]),
    "a tensor": (Tensor(), ["Tensor", "requires grad", r"\.detach\(\)\.float\(\)\.cpu\(\)\.numpy\(\)"]),
    "words in a frame": (Frame(a=LABELS, b=["x", "y", "x", "y"]), ["column 'b'", "of text", "get_dummies"]),
    "words as objects": (Frame(a=LABELS, b=np.array(["x"] * 4, object)), ["column 'b'", "'x'", "get_dummies"]),
    "a gap": (Frame(a=LABELS, b=np.array([1, 2, None, 3], object)), ["column 'b'", "None", r"\[2\]", "fill"]),
    "dates": (Frame(when=np.full(4, "2020-01-01", "M8[D]"), b=LABELS), ["column 'when'", "datetime64", "timedelta64"]),
    "nan": (Frame(a=LABELS == 1, b=[1, 2, np.nan, 3]), ["nan", r"\[2, 1\]", "column 'b'", "fill"]),
    "too large": (Frame(a=LABELS == 1, b=[1, 2, 1e39, 3]), [r"\[2, 1\]", "column 'b'", "too large for float32"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_no_numbers_is_refused_by_its_name(name: str) -> None:
    given, words = REFUSED[name]
    net = classifier()
    calls = [lambda: net.fit(given, LABELS, verbose=0), lambda: net.predict(given), lambda: net.evaluate(given, LABELS)]
    for call in calls:
        with pytest.raises(nnx.InputError) as caught:
            call()
        for word in words:
            assert re.search(word, str(caught.value)), f"{word!r} is missing in: {caught.value}"


def test_sparse_matrices_of_scipy_are_refused_as_inputs_and_as_targets() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for kind in ("csr_matrix", "csc_array", "coo_array", "lil_matrix", "dok_array"):
        given, net = getattr(sparse, kind)(np.eye(2)[LABELS]), classifier()
        for call in (
            lambda given=given, net=net: net.fit(given, LABELS, verbose=0),
            lambda given=given, net=net: net.fit(PLAIN, given, verbose=0),
            lambda given=given, net=net: net.fit(PLAIN, LABELS, validation_data=(given, LABELS), verbose=0),
            lambda given=given, net=net: net.predict(given),
            lambda given=given: nnx.accuracy(given, LABELS),
        ):
            with pytest.raises(nnx.InputError, match=rf"sparse {kind} .*toarray\(\)"):
                call()


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": PLAIN[:, 0] == 1, "b": PLAIN[:, 1]})
    nullable = frame.astype({"a": "boolean", "b": "Float64"})
    for x in (frame, nullable, frame.astype({"a": "Int64"}), frame.astype(object)):
        assert learned(x, pandas.Series(LABELS)) == learned(PLAIN, LABELS)
    for y in ("Int64", "boolean", "category", object):
        assert learned(frame, pandas.Series(LABELS).astype(y)) == learned(PLAIN, LABELS)
    assert learned(PLAIN, pandas.get_dummies(LABELS)) == learned(PLAIN, LABELS)
    gap = nullable.copy()
    gap.loc[2, "b"] = pandas.NA
    words = frame.assign(c=pandas.Categorical(["x", "y", "x", "y"]))
    when = frame.assign(c=pandas.to_datetime(["2020-01-01"] * 4))
    sparse = frame.astype(pandas.SparseDtype("float"))
    for x, message in [
        (gap, "column 'b'.*fill"), (words, "column 'c'.*get_dummies"), (when, "column 'c'.*timedelta64"),
        (sparse, r"sparse DataFrame.*\.sparse\.to_dense\(\)"),
    ]:  # fmt: skip
        with pytest.raises(nnx.InputError, match=message):
            classifier().predict(x)


def test_frames_of_polars_and_arrow() -> None:
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {"a": (PLAIN[:, 0] == 1).tolist(), "b": PLAIN[:, 1].tolist()}
    for make, series in ((polars.DataFrame, polars.Series), (arrow.table, arrow.array)):
        assert learned(make(columns), series(LABELS.tolist())) == learned(PLAIN, LABELS)
        with pytest.raises(nnx.InputError, match=r"\[2, 1\].*column 'b'.*fill"):
            classifier().predict(make({**columns, "b": [1.0, 2.0, None, 3.0]}))
    with pytest.raises(nnx.InputError, match=r"LazyFrame.*\.collect\(\)"):
        classifier().predict(polars.DataFrame(columns).lazy())


class Frame:
    """A frame as polars has it: as a whole it would turn dates beside numbers into these."""

    def __init__(self, **columns: Any) -> None:
        self.columns, self._columns = list(columns), list(columns.values())
        self.shape = len(self._columns[0]), len(columns)

    def iter_columns(self) -> Iterator[Any]:
        return iter(self._columns)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.column_stack([np.asarray(column).astype("float64") for column in self._columns])


def test_frames_are_read_column_by_column() -> None:
    days = np.arange("2020-01-01", "2020-01-05", dtype="M8[D]")
    frames: list[Any] = [Frame]
    for library, name in (("polars", "DataFrame"), ("pyarrow", "table")):
        with suppress(ImportError):
            make = getattr(importlib.import_module(library), name)
            frames.append(lambda make=make, **columns: make(columns))
    wrong = {
        "an array of datetime64.*count days": days,
        "an array of timedelta64.*count seconds": (days - days[0]).astype("m8[ms]"),
        r"(str|text).*get_dummies": np.array(["a"] * 4),
    }
    for frame in frames:
        assert learned(frame(a=PLAIN[:, 0], b=PLAIN[:, 1]), LABELS) == learned(PLAIN, LABELS)
        for message, column in wrong.items():
            with pytest.raises(nnx.InputError, match=f"column 'b': .*{message}"):
                classifier().predict(frame(a=PLAIN[:, 0], b=column))
    with pytest.raises(nnx.InputError, match=r"column 'b': each row holds several numbers, \(3,\)"):
        classifier().predict(Frame(a=PLAIN[:, 0], b=np.ones((4, 3))))
    pandas = pytest.importorskip("pandas")
    with pytest.raises(nnx.InputError, match=r"have shape \(4, 0\)"):  # and is not sparse
        classifier().predict(pandas.DataFrame(index=range(4)))


# ---- what a cast loses ---------------------------------------------------------------------------------------------

random = np.random.default_rng(0)
CLOCK = 1_700_000_000_000 + random.integers(0, 60_000, 500)  # milliseconds: float32 has steps of 131072 there
LOST: dict[str, tuple[np.ndarray, str]] = {
    "a clock": (CLOCK, "float32"),
    "a clock, floats": (CLOCK.astype(float), "float32"),
    "a clock, long doubles": (CLOCK.astype(np.longdouble), "float32"),
    "a clock, from before 1970": (-CLOCK, "float32"),
    "a clock in order": (np.sort(CLOCK), "float32"),
    "Julian days": (2_460_000 + random.random(500) / 10, "float32"),
    "a map's northing in cm": (540_000_000 + 20 * random.random(500), "float32"),
    "by 1 around 1.7e12": (1.7e12 + random.random(500), "float32"),
    "one row that differs": (np.where(np.arange(500) == 77, 1.7e12 + 1000, 1.7e12), "float32"),
    "two numbers, of neighbours": (123_456_789 + np.arange(500) % 2, "float32"),
    "whole numbers beyond 2**53": (2**60 + np.arange(500), "float64"),
    "whole numbers without a sign": (np.uint64(2**63) + np.arange(500, dtype=np.uint64), "float64"),
}  # fmt: skip
KEPT: dict[str, tuple[np.ndarray, str]] = {
    "years": (2000 + np.arange(500) % 10, "float32"),
    "small numbers": (random.random(500), "float32"),
    "a clock over years": (CLOCK + np.arange(500) * 10**9, "float32"),
    "a clock in float64": (CLOCK, "float64"),
    "a constant": (np.full(500, 1.7e12), "float32"),
    "a constant that float32 has not": (np.full(500, 0.1), "float32"),
    "a constant but for rounding": (0.1 * 3 + np.where(np.arange(500) % 2, 0, 5e-17), "float32"),
    "sums to 1": (random.dirichlet(np.ones(100), 500).sum(axis=1), "float32"),
    "large numbers that float32 has": (2**24 + 2 * (np.arange(500) % 2), "float32"),
    "zeros and large numbers": (np.where(np.arange(500) < 400, 0, CLOCK), "float32"),
    "one row far away": (np.where(np.arange(500) == 77, 0.5, 1.0), "float32"),
    "both signs": (np.where(np.arange(500) % 2, CLOCK, -CLOCK), "float32"),
    "True and False": (np.arange(500) % 2 == 1, "float32"),
    "of float32 itself": (CLOCK.astype(np.float32).astype(float), "float32"),
    "a single row": (CLOCK[:1], "float32"),
    "the whole of float32": (np.where(np.arange(500) % 2, 3e38, -3e38), "float32"),
    "next to nothing": (1e-44 * (1 + np.arange(500) % 2), "float32"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_column_that_casting_makes_constant_is_named(name: str) -> None:
    column, dtype = LOST[name]
    given = np.c_[random.random(len(column)).astype(column.dtype), column, column * 0]
    found = casting.lost(given.astype(dtype), given)
    assert found is not None
    column, text = found
    assert column == 1
    assert re.match(rf"varies by \S+ around \S+: {dtype} keeps next to none of it; centre it", text)


@pytest.mark.parametrize("name", KEPT)
def test_a_column_that_loses_nothing_that_counts_is_let_pass(name: str) -> None:
    column, dtype = KEPT[name]
    cast = column[:, None].astype(dtype)
    with np.errstate(all="raise"):
        assert casting.lost(cast, column[:, None]) is None


@pytest.mark.parametrize("offset", [1.0, 3.0, 1e3, -7e5, 1.7e12, 1.999 * 2**30])
def test_a_column_must_vary_by_a_few_steps_of_its_type(offset: float) -> None:
    step = float(np.spacing(np.float32(abs(offset))))
    shares = np.append(random.random(2000), [0, 1])  # the range is exact
    for steps in (0.3, 1, 2, 3):
        given = offset + steps * step * shares[:, None]
        assert casting.lost(given.astype(np.float32), given) is not None
    for steps in (9, 20, 1e3):
        given = offset + steps * step * shares[:, None]
        assert casting.lost(given.astype(np.float32), given) is None


def test_training_on_what_casting_loses_is_refused_and_elsewhere_told() -> None:
    x, y = np.c_[CLOCK, random.random(500)], np.arange(500) % 2
    wide, net = classifier("float64"), classifier()
    wide.fit(x - x.mean(axis=0), y, verbose=0)
    wide.evaluate(x, y)
    before = net.flat.values.copy()
    text = "x: column 0 varies by .* around 1.7e.12: float32 keeps next to none.* mean, or use dtype='float64'"
    for call in (lambda: net.fit(x, y, verbose=0), lambda: net.steps(x, y, 1), lambda: net.step(x, y)):
        with pytest.raises(nnx.InputError, match=text):
            call()
    for call in (lambda: net.predict(x), lambda: net.evaluate(x, y)):  # other rows may vary by more
        with pytest.warns(RuntimeWarning, match=text) as told:
            call()
        assert [warning.filename for warning in told] == [__file__]  # where it was called, however deep it was found
    net.predict(x[:1])
    net.predict(x.astype(np.float32))
    np.testing.assert_array_equal(net.flat.values, before)
    named = Frame(when=CLOCK, b=x[:, 1])
    with pytest.raises(nnx.InputError, match="x: column 'when' varies"):
        net.fit(named, y, verbose=0)
    line = nnx.Sequential(nnx.Dense(2, 1), backend="numpy").compile(nnx.MeanSquaredError(), nnx.SGD())
    with pytest.raises(nnx.InputError, match="fit: y: column 0 varies"):
        line.fit(random.random((500, 2)), CLOCK, verbose=0)
    with pytest.warns(RuntimeWarning, match="evaluate: y: column 0 varies"):
        line.evaluate(random.random((500, 2)), CLOCK)


# ---- the book's classes --------------------------------------------------------------------------------------------


def test_the_books_model_takes_and_refuses_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def trained(x: Any, y: Any) -> list[Any]:
        np.random.seed(0)  # noqa: NPY002 - what the book draws from
        net = nnfs.Model()
        for layer in (
            nnfs.Layer_Dense(2, 3),
            nnfs.Activation_ReLU(),
            nnfs.Layer_Dense(3, 2),
            nnfs.Activation_Softmax(),
        ):
            net.add(layer)
        accuracy = nnfs.Accuracy_Categorical()
        net.set(loss=nnfs.Loss_CategoricalCrossentropy(), optimizer=nnfs.Optimizer_Adam(), accuracy=accuracy)
        net.finalize()
        net.train(x, y, epochs=3, validation_data=(x, y))
        return [capsys.readouterr().out, net.predict(x).tolist()]

    plain = trained(PLAIN, LABELS)
    assert trained(Frame(a=PLAIN[:, 0] == 1, b=PLAIN[:, 1]), LABELS.astype(object)) == plain
    for x, y, message in [
        (Scipys(), LABELS, r"Model\.train: X: a sparse Scipys.*toarray"),
        (PLAIN, Scipys(), r"Model\.train: y: a sparse"),
        (PLAIN, ["cat", "dog"] * 2, r"Model\.train: y: an array of text.*np\.unique"),
    ]:
        with pytest.raises(nnx.InputError, match=message):
            trained(x, y)
    with pytest.raises(nnx.InputError, match=r"Accuracy_Categorical: y: .*'dog'"):
        nnfs.Accuracy_Categorical().calculate(LABELS, np.array(["dog"] * 4, object))
