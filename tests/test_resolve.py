"""Choosing a backend: order, forms, falling back, refusing, and other people's backends."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strict_backend import StrictBackend

import nnx
from nnx.backends import BackendFallbackWarning, BackendUnavailable, available, get_backend, names
from nnx.backends.errors import InputError, InputTypeError
from nnx.backends.numpy import NumpyBackend

choosing = sys.modules["nnx.backends.resolve"]
resolve = choosing.resolve


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        raise error

    return function


class Fake(NumpyBackend):
    """Stands for one of our own that works here."""

    def __init__(self, name: str, device: str = "") -> None:
        self.name, self.device = name, device or "cpu"  # type: ignore[misc]


class Mine(NumpyBackend):
    """Somebody else's backend."""

    name = "mine"

    def __init__(self, device: str = "") -> None:
        self.device = device or "cpu"


class Asleep(NumpyBackend):
    name = "asleep"
    probe = raising(RuntimeError("the driver is asleep"))


class Point:
    """An entry point of another package."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name, self.load = name, load


class Plugins:
    """What other packages register, and which of our own backends work here; tests change it at will."""

    def __init__(self) -> None:
        self.ours: dict[str, Callable[..., Any]] = {
            "numpy": lambda device="": Fake("numpy", device),
            "numba": raising(BackendUnavailable("numba", "numba is not installed", "pip install numba.")),
            "cupy": raising(BackendUnavailable("cupy", "there is no GPU", "Buy one.")),
        }
        self.points = [
            Point("mine", lambda: Mine),
            Point("absent", raising(ModuleNotFoundError("No module named 'driver'"))),
            Point("asleep", lambda: Asleep),
            Point("unsure", lambda: raising(BackendUnavailable("unsure", "no device was found", "Plug one in."))),
            Point("odd", lambda: dict),
            Point("numpy", raising(AssertionError("a `numpy` of somebody else was loaded"))),
        ]

    def works(self, name: str) -> None:
        self.ours[name] = lambda device="": Fake(name, device)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """A process that has not chosen yet, on a machine with NumPy alone, where others have registered backends."""
    found, factory = Plugins(), choosing._factory
    monkeypatch.setattr(choosing, "_default", None)
    monkeypatch.setattr(choosing, "_factory", lambda base: found.ours.get(base) or factory(base))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.points * (group == "nnx.backends"))
    for name in ("NNX_BACKEND", "NNX_STRICT"):
        monkeypatch.delenv(name, raising=False)
    for cached in (choosing._load, choosing._entry_points):
        cached.cache_clear()
    yield found
    for cached in (choosing._load, choosing._entry_points):
        cached.cache_clear()


# ---- order -----------------------------------------------------------------------------------------------------------


def test_order_of_the_five_ways(plugins: Plugins, monkeypatch: pytest.MonkeyPatch):
    assert get_backend().name == "numpy"  # "auto": nothing better works here
    plugins.works("numba")
    plugins.works("cupy")
    choosing._load.cache_clear()
    assert get_backend().name == "cupy"
    monkeypatch.setenv("NNX_BACKEND", "numba")
    assert get_backend().name == "numba"
    assert nnx.set_backend("mine").name == "mine"
    assert get_backend().name == "mine"
    with nnx.use_backend("numpy") as inner:
        assert get_backend() is inner
        assert inner.name == "numpy"
        assert get_backend("cupy").name == "cupy"
        assert nnx.Sequential(nnx.Dense(1, 1)).backend is inner
        assert nnx.Sequential(nnx.Dense(1, 1), backend="mine").backend.name == "mine"
    assert get_backend().name == "mine"
    assert nnx.set_backend(None).name == "numba"
    monkeypatch.setenv("NNX_BACKEND", "")
    assert get_backend().name == "cupy"


def test_a_backend_is_made_once(plugins: Plugins):
    assert get_backend("mine") is get_backend("mine") is resolve(["mine"]).backend
    assert get_backend("mine:1") is not get_backend("mine")
    mine = Mine("by hand")
    assert get_backend(mine) is mine
    assert nnx.Sequential(nnx.Dense(1, 1), backend=mine).backend is mine


def test_a_model_keeps_its_backend():
    with nnx.use_backend("mine"):
        model = nnx.Sequential(nnx.Dense(2, 1))
    with nnx.use_backend("numpy"):
        assert model.backend.name == "mine"
        assert model.layers[0].backend.name == "mine"


# ---- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "name", "device"),
    [
        ("numpy", "numpy", "cpu"),
        (" mine ", "mine", "cpu"),
        ("mine:3", "mine", "3"),
        ("mine:tpu-a", "mine", "tpu-a"),
        ("mine,numpy", "mine", "cpu"),
        ("mine , numpy", "mine", "cpu"),
        (["mine", "numpy"], "mine", "cpu"),
        (("mine:1", "numpy"), "mine", "1"),
        (["auto"], "numpy", "cpu"),
        ("auto", "numpy", "cpu"),
        ("auto,auto", "numpy", "cpu"),
        ("mine,mine,numpy", "mine", "cpu"),
        (["mine", " mine "], "mine", "cpu"),
    ],
)
def test_forms(wish: Any, name: str, device: str):
    backend = get_backend(wish)
    assert (backend.name, backend.device) == (name, device)


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        ("numpi", InputError, ["'numpi' is no backend", "cupy, numba, numpy, mine", "auto alone"]),
        ("NumPy", InputError, ["'NumPy' is no backend"]),
        ("", InputError, ["'' is no backend", "expected one or several of"]),
        ("numpy,,numba", InputError, ["backend='numpy,,numba'", "'' is no backend"]),
        ("auto,numpy", InputError, ["'auto' is no backend", "auto alone"]),
        (["numpy", "auto"], InputError, ["'auto' is no backend"]),
        ("numpy,numpi", InputError, ["'numpi' is no backend"]),
        ("cupy:x", InputError, ["backend='cupy:x'", "'x' is no device", "expected a number, such as cupy:0"]),
        ("cupy:", InputError, ["'' is no device"]),
        ("numba:-1", InputError, ["'-1' is no device"]),
        (":0", InputError, ["':0' is no backend"]),
        ([], InputError, ["backend=[]: expected at least one name", '"numpy"']),
        ((), InputError, ["backend=()"]),
        (5, InputTypeError, ["backend=5: expected a name", "auto"]),
        (True, InputTypeError, ["backend=True"]),
        (["numpy", 3], InputTypeError, ["backend=['numpy', 3]: expected a name"]),
        ([None], InputTypeError, ["expected a name"]),
        (b"numpy", InputTypeError, ["expected a name"]),
        ({"numpy"}, InputTypeError, ["expected a name"]),
        (np, InputTypeError, ["expected a name"]),
        (NumpyBackend, InputTypeError, ["expected a name"]),
    ],
)
def test_what_is_no_wish_is_refused(wish: Any, kind: type[Exception], words: list[str]):
    nnx.set_backend("mine")
    for call in (get_backend, resolve, nnx.set_backend, lambda w: nnx.use_backend(w).__enter__()):
        with pytest.raises(kind) as raised:
            call(wish)
        assert all(word in str(raised.value) for word in words), str(raised.value)
    with pytest.raises(kind):
        nnx.Sequential(nnx.Dense(1, 1), backend=wish)
    assert get_backend().name == "mine"


def test_a_mistake_in_the_environment_is_named_as_such(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_BACKEND", "numpi")
    with pytest.raises(InputError, match=r"^NNX_BACKEND='numpi': 'numpi' is no backend"):
        get_backend()
    assert get_backend("numpy").name == "numpy"


def test_none_means_the_active_backend():
    with nnx.use_backend("mine") as mine, nnx.use_backend(None) as same:
        assert same is mine
        assert get_backend(None) is mine


# ---- falling back ----------------------------------------------------------------------------------------------------


def test_one_name_that_does_not_work_is_an_error():
    with pytest.raises(BackendUnavailable) as raised:
        get_backend("cupy")
    error = raised.value
    assert (error.name, error.reason, error.remedy) == ("cupy", "there is no GPU", "Buy one.")
    assert str(error) == "backend 'cupy' is unavailable: there is no GPU. Buy one."


def test_a_list_walks_on_and_warns_once_at_the_callers_line():
    def line() -> int:
        return sys._getframe(1).f_lineno

    calls: list[tuple[Callable[[], Any], int]] = []
    calls.append((lambda: get_backend("cupy,numba,numpy"), line()))
    calls.append((lambda: resolve(["cupy", "numba", "numpy"]), line()))
    calls.append((lambda: nnx.set_backend("cupy,numba,numpy"), line()))
    calls.append((lambda: nnx.use_backend("cupy,numba,numpy").__enter__(), line()))
    calls.append((lambda: nnx.Sequential(nnx.Dense(1, 1), backend="cupy,numba,numpy"), line()))
    calls.append((lambda: nnx.Sequential(nnx.Dense(1, 1), backend="numpy").to("cupy,numba,numpy"), line()))
    for call, expected in calls * 2:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [warning.category for warning in caught] == [BackendFallbackWarning]
        text = str(caught[0].message)
        assert text == (
            "using backend 'numpy'; cupy is unavailable: there is no GPU. Buy one.; "
            "numba is unavailable: numba is not installed. pip install numba."
        )
        assert (caught[0].filename, caught[0].lineno) == (__file__, expected)


@pytest.mark.parametrize("wish", ["cupy,cupy,numpy", "cupy, cupy ,numpy", "cupy:0,cupy,numpy", "cupy,cupy:1,numpy"])
def test_a_reason_is_told_once_however_often_the_backend_is_named(wish: str):
    with pytest.warns(BackendFallbackWarning) as caught:
        found = resolve(wish)
    (told,) = (str(warning.message) for warning in caught)
    assert told.count("there is no GPU") == told.count("Buy one.") == found.reason.count("there is no GPU") == 1
    assert len(found.skipped) == 1
    with pytest.raises(BackendUnavailable) as raised:
        resolve("cupy,cupy:1")
    assert str(raised.value).count("there is no GPU") == 1


def test_two_devices_with_reasons_of_their_own_are_both_told(plugins: Plugins):
    def create(device: str = "") -> Any:
        raise BackendUnavailable("cupy", f"device {device or 0} is busy", "Wait.")

    plugins.ours["cupy"] = create
    with pytest.warns(BackendFallbackWarning, match="device 1 is busy.*device 2 is busy"):
        assert get_backend("cupy:1,cupy:2,numpy").name == "numpy"


def test_a_factory_may_ask_for_another_backend_and_for_itself_gets_a_reason(plugins: Plugins):
    plugins.ours["cupy"] = lambda: Fake(get_backend("numpy").name)
    assert get_backend("cupy").name == "numpy"
    plugins.ours["numba"] = lambda: get_backend("numba")
    assert "'numba' is being made by what asks for it" in available()["numba"].reason


def test_with_use_backend_warns_at_the_with():
    with pytest.warns(BackendFallbackWarning) as caught, nnx.use_backend("cupy,numpy"):
        pass
    assert caught[0].filename == __file__


def test_auto_and_a_list_whose_first_works_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("auto").backend.name == "numpy"
        assert resolve("numpy,cupy").backend.name == "numpy"


def test_the_resolution_says_why():
    with pytest.warns(BackendFallbackWarning):
        listed = resolve("cupy,numpy")
    assert [skipped.name for skipped in listed.skipped] == ["cupy"]
    assert listed.reason == "asked for 'cupy,numpy' (no cupy: there is no GPU)"
    assert resolve("auto").reason == "asked for 'auto' (no cupy: there is no GPU; no numba: numba is not installed)"
    assert resolve("mine").reason == "asked for 'mine'"
    assert resolve(Mine()).reason == "asked for 'mine'"


def test_a_list_of_which_none_works_is_an_error_with_every_reason():
    with pytest.raises(BackendUnavailable) as raised:
        get_backend("cupy,numba")
    error = raised.value
    assert error.name == "cupy,numba"
    assert error.reason == "cupy: there is no GPU; numba: numba is not installed"
    assert error.remedy == "cupy: Buy one. numba: pip install numba."


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("yes", True), ("0", False), ("", False), ("False", False)])
def test_strict_turns_a_fallback_into_the_error(value: str, strict: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_STRICT", value)
    if strict:
        with pytest.raises(BackendUnavailable, match="there is no GPU"):
            get_backend("cupy,numpy")
    else:
        with pytest.warns(BackendFallbackWarning):
            assert get_backend("cupy,numpy").name == "numpy"
    assert get_backend("numpy,cupy").name == "numpy"
    assert get_backend("auto").name == "numpy"  # promises only the best that works


@pytest.mark.parametrize("value", ["off", "2", "ja"])
def test_strict_is_yes_or_no(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_STRICT", value)
    with pytest.raises(InputError, match=f"NNX_STRICT='{value}': expected 1 or 0"):
        get_backend("cupy,numpy")


# ---- what is unavailable ---------------------------------------------------------------------------------------------


def test_unavailable_is_falsy_and_travels():
    error = available()["cupy"]
    assert isinstance(error, BackendUnavailable)
    assert not error
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is BackendUnavailable
    assert (copy.name, copy.reason, copy.remedy, str(copy)) == (error.name, error.reason, error.remedy, str(error))
    with pytest.raises(RuntimeError):
        raise copy


def test_available_tells_of_every_backend():
    found = available()
    assert found.keys() == set(names()) == {"cupy", "numba", "numpy", "mine", "absent", "asleep", "unsure", "odd"}
    assert [name for name, works in found.items() if works] == ["numpy", "mine"]
    assert all(works is True or (works.reason and works.remedy) for works in found.values())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "ModuleNotFoundError: No module named 'driver'"),
        ("asleep", "RuntimeError: the driver is asleep"),
        ("unsure", "no device was found"),
        ("odd", "TypeError: it makes a dict, which is no nnx.backends.Backend"),
    ],
)
def test_whatever_goes_wrong_becomes_a_reason(name: str, reason: str):
    with pytest.raises(BackendUnavailable) as raised:
        get_backend(name)
    assert (raised.value.name, raised.value.reason) == (name, reason)
    assert raised.value.remedy
    with pytest.warns(BackendFallbackWarning, match=reason):
        assert get_backend([name, "numpy"]).name == "numpy"


@pytest.mark.parametrize(
    "error",
    [OSError("libcuda.so.1"), InputError("x"), MemoryError(), AssertionError(), StopIteration(), KeyError("k")],
    ids=repr,
)
def test_any_exception_of_a_probe_is_a_reason(error: Exception, plugins: Plugins):
    plugins.ours["numba"] = type("Broken", (NumpyBackend,), {"probe": raising(error)})
    assert not available()["numba"]
    with pytest.raises(BackendUnavailable, match=type(error).__name__):
        get_backend("numba")
    assert get_backend("auto").name == "numpy"


def test_an_interrupted_probe_is_no_reason(plugins: Plugins):
    """Ctrl-C while a kernel compiles ends the program, and is forgotten by the next attempt."""
    plugins.ours["numba"] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        get_backend("numba")
    plugins.works("numba")
    assert get_backend("numba").name == "numba"


def test_a_probe_checks_the_numbers(plugins: Plugins):
    plugins.ours["cupy"] = type("Wrong", (NumpyBackend,), {"dense": lambda self, x, w, b: x @ w + 1})
    assert "gave 12.0, not 11" in available()["cupy"].reason


def test_raising_again_and_again_keeps_nothing_alive():
    """An error raised twice holds both tracebacks, and with them whatever the callers had in their hands."""

    def attempt() -> weakref.ref[Any]:
        data = np.zeros(3)
        with pytest.raises(BackendUnavailable):
            get_backend("cupy")
        return weakref.ref(data)

    references = [attempt() for _ in range(3)]
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    errors = []
    for _ in range(2):
        with pytest.raises(BackendUnavailable) as raised:
            get_backend("cupy")
        errors.append(raised.value)
    assert errors[0] is not errors[1]


def test_our_own_names_cannot_be_taken_over():
    """One of the entry points is called `numpy` as well."""
    assert names().count("numpy") == 1
    assert isinstance(get_backend("numpy"), Fake)


# ---- one thread, one task --------------------------------------------------------------------------------------------


def test_use_backend_nests_and_ends_with_its_block():
    with nnx.use_backend("mine"):
        with nnx.use_backend("numpy"):
            assert get_backend().name == "numpy"
        assert get_backend().name == "mine"
        with pytest.raises(ZeroDivisionError), nnx.use_backend("numpy"):
            raise ZeroDivisionError
        assert get_backend().name == "mine"
        with pytest.raises(BackendUnavailable), nnx.use_backend("cupy"):
            pass
        assert get_backend().name == "mine"
    assert get_backend().name == "numpy"


def test_use_backend_is_of_its_thread_alone():
    """And `set_backend` of all."""
    seen: dict[str, str] = {}
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(600)
        seen["before"] = get_backend().name
        with nnx.use_backend("mine:thread"):
            seen["own"] = get_backend().device
            done.wait(600)
        nnx.set_backend("mine:everywhere")

    thread = threading.Thread(target=other)
    thread.start()
    with nnx.use_backend("mine:main"):
        inside.set()
        assert get_backend().device == "main"
        done.set()
        thread.join()
        assert get_backend().device == "main"
    assert seen == {"before": "numpy", "own": "thread"}
    assert get_backend().device == "everywhere"


def test_use_backend_is_of_its_task_alone():
    async def task(device: str, turn: asyncio.Event, after: asyncio.Event) -> list[str]:
        seen = [get_backend().device]
        with nnx.use_backend(f"mine:{device}"):
            after.set()
            await turn.wait()
            seen.append(get_backend().device)
        return [*seen, get_backend().device]

    async def both() -> list[list[str]]:
        a, b = asyncio.Event(), asyncio.Event()
        with nnx.use_backend("mine:outside"):
            return await asyncio.gather(task("first", a, b), task("second", b, a))

    assert asyncio.run(both()) == [["outside", "first", "outside"], ["outside", "second", "outside"]]
    assert get_backend().name == "numpy"


def test_xp_follows_the_active_backend():
    assert nnx.xp is np
    with nnx.use_backend(StrictBackend()):
        assert nnx.xp is StrictBackend.xp
        from nnx import xp

        assert xp is StrictBackend.xp
    assert nnx.xp is np


# ---- arrays of another backend ---------------------------------------------------------------------------------------


class CupyArray:
    """As CuPy's: it refuses to become a NumPy array unasked."""

    shape, ndim, dtype = (2, 3), 2, np.dtype("float32")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self) -> int:
        return 2


CupyArray.__module__ = "cupy"
CupyArray.__name__ = CupyArray.__qualname__ = "ndarray"


USES: dict[str, Callable[[Any], Any]] = {
    "asarray": lambda a: get_backend("numpy").asarray(a),
    "activation": lambda a: nnx.ReLU().forward(a),
    "dense": lambda a: nnx.Dense(3, 1).forward(a),
    "weights": lambda a: nnx.Dense(2, 3, init=a),
    "predict": lambda a: nnx.Sequential(nnx.Dense(3, 1)).predict(a),
    "numbers": lambda a: nnx.MeanSquaredError().calculate(np.zeros((2, 3), np.float32), a),
    "labels": lambda a: nnx.CategoricalCrossEntropy().calculate(np.full((2, 3), 1 / 3, np.float32), a),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_array_of_another_backend_is_refused_with_the_call_that_converts(use: Callable[[Any], Any]):
    with pytest.raises(InputTypeError) as raised:
        use(CupyArray())
    text = str(raised.value)
    for words in ("CuPy", "(2, 3)", "backend on the CPU", "cupy.asnumpy(x)", 'backend="cupy"'):
        assert words in text, text


def test_an_array_that_will_not_come_is_refused_with_its_own_words():
    a = StrictBackend("device1").asarray([1.0])
    with pytest.raises(InputTypeError, match=r"Array cannot be read as an array .*device1.*convert it to NumPy first"):
        get_backend("numpy").asarray(a)
    with pytest.raises(InputTypeError, match="device1"):
        StrictBackend("CPU_DEVICE").asarray(a)


# ---- in a process of its own -----------------------------------------------------------------------------------------

SITE = {
    "tiny_backend.py": """
print("loaded")
from nnx.backends.numpy import NumpyBackend

class Tiny(NumpyBackend):
    name = "tiny"

    def __init__(self, device="0"):
        self.device = f"tiny {device}"
""",
    "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "tiny-1.0.dist-info/entry_points.txt": "[nnx.backends]\ntiny = tiny_backend:Tiny\n",
}

SCRIPT = """
import sys
import nnx
import nnx.backends, nnx.testing
optional = {"numba", "cupy", "scipy", "matplotlib", "sklearn", "torch", "typer", "rich", "safetensors"}
print(sorted(optional & sys.modules.keys()))
print(nnx.backends.names())
print(nnx.get_backend("numpy").name, sorted(optional & sys.modules.keys()))
backend = nnx.get_backend()
print(backend.name, backend.device, backend.info().ops["softmax"])
model = nnx.Sequential(nnx.Dense(2, 3))
print(model.backend is backend, model.resolution.reason)
"""


def test_a_package_that_registers_a_backend_is_found_and_loaded_only_when_asked(tmp_path: Path):
    for name, text in SITE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    root = str(Path(nnx.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root]), "NNX_BACKEND": "tiny:7"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[]",
        "['cupy', 'numba', 'numpy', 'tiny']",
        "numpy []",
        "loaded",
        "tiny tiny 7 tiny:softmax",
        "True asked for 'tiny:7'",
    ]
