"""Checks of a backend's arrays and of its `info()`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.errors import InputError
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.operations import Operations
from nnx.testing.compare import DTYPES, unchanged

ROUND_TRIPS = (  # the values, the type asked for, and the type that must come back
    ([[1, 2], [3, 4]], None, "float32"),
    ((1.5, 2.5), None, "float64"),  # as NumPy reads Python's floats
    ([1.5], "float32", "float32"),
    (7, None, "float32"),
    ([0, 2, 1], "int64", "int64"),
    (np.arange(6).reshape(2, 3), None, "float32"),
    (np.array([True, False]), None, "float32"),
    (np.array([[True, 2.5], [3, 0]], object), None, "float64"),
    (np.arange(3, dtype=np.float16), None, "float32"),
    (np.arange(3, dtype=np.float32), None, "float32"),
    (np.arange(3.0), None, "float64"),
    (np.arange(3, dtype=">f8"), None, "float64"),
    (np.arange(3.0), "float32", "float32"),
    (np.arange(3), "float64", "float64"),
    (np.arange(24.0).reshape(4, 6)[::2, ::-3], None, "float64"),
    (np.arange(24.0).reshape(4, 6).T, "float32", "float32"),
    (np.zeros((0, 3)), None, "float64"),
)
REFUSED: tuple[Any, ...] = (
    "text", b"bytes", None, {}, object(), [1, "a"], [[1], [2, 3]], [1j], np.array([2, "x"], object),
    np.ma.masked_array([1.0], [True]), np.array(["2020-01-01"], "M8[D]"),
)  # fmt: skip


def check_arrays(backend: Backend) -> None:
    """Check conversion to and from NumPy, new arrays, and views."""
    name = backend.name
    for given, dtype, wanted in ROUND_TRIPS:
        what = f"{name}: asarray({given!r}, {dtype!r})"
        host = np.asarray(given).astype(wanted)
        a = backend.asarray(given, dtype)
        assert backend.owns(a), f"{what}: the backend does not own the result"
        back = backend.to_numpy(a)
        assert isinstance(back, np.ndarray), f"{what}: to_numpy gives {type(back)}, no NumPy array"
        assert unchanged(back, host), f"{what} comes back as {back!r}, expected {host!r}"
        assert tuple(a.shape) == host.shape, f"{what} has shape {a.shape}"
        assert backend.dtype_name(a.dtype) == wanted, f"{what}: dtype_name says {backend.dtype_name(a.dtype)}"
        if wanted in DTYPES and host.size:
            assert backend.address(backend.asarray(a)) == backend.address(a), f"{what}, and again: it is copied"
        for other in DTYPES:
            there = backend.to_numpy(backend.asarray(a, other))
            assert unchanged(there, host.astype(other)), f"{what}, and again as {other}: {there!r}"
    for refused in REFUSED:
        try:
            backend.asarray(refused)
        except InputError:
            continue
        raise AssertionError(f"{name}: asarray({refused!r}) raises no InputError")
    for foreign in ([1.0], 1.0, None, "text"):
        assert not backend.owns(foreign), f"{name}: owns({foreign!r})"
    for shape in (5, (2, 3), (0,), (1, 1)):
        for dtype in (*DTYPES, "int64"):
            zeros, empty = (backend.to_numpy(make(shape, dtype)) for make in (backend.zeros, backend.empty))
            host = np.zeros(shape, dtype)
            assert unchanged(zeros, host), f"{name}: zeros({shape}, {dtype!r}) is {zeros!r}"
            assert (empty.shape, empty.dtype) == (host.shape, host.dtype), f"{name}: empty({shape}, {dtype!r})"
    _check_views(backend)
    backend.synchronize()
    backend.probe()


def _check_views(backend: Backend) -> None:
    """Check that views share memory with their array: parameters are views of one flat buffer."""
    name, reshape = backend.name, backend.xp.reshape
    flat, other = backend.zeros(12), backend.zeros(12)
    view = reshape(flat[4:10], (2, 3))
    view[...] = reshape(backend.asarray(np.arange(6), "float32"), (2, 3))
    seen = backend.to_numpy(flat)
    assert np.array_equal(seen[4:10], np.arange(6)), f"{name}: a reshaped slice is no view: its buffer holds {seen}"
    assert not seen[:4].any(), f"{name}: writing to a view of 4:10 changes {seen}"
    assert not seen[10:].any(), f"{name}: writing to a view of 4:10 changes {seen}"
    assert backend.address(flat[:3]) == backend.address(flat), f"{name}: address() of a slice from the start differs"
    assert backend.address(view) == backend.address(flat[4:]), f"{name}: address() of a view differs from its slice's"
    places = [backend.address(a) for a in (flat, view, other)]
    assert len(set(places)) == 3, f"{name}: address() gives {places} for three different places"


def check_info(backend: Backend) -> None:
    """Check that `info()` is complete and correct."""
    name, info = backend.name, backend.info()
    assert info.name == name, f"{name}: info().name is {info.name!r}"
    assert info.device == backend.device, f"{name}: info().device is {info.device!r}, expected {backend.device!r}"
    assert info.device, f"{name}: info() names no device"
    assert info.versions, f"{name}: info().versions is empty"
    for what, text in (info.versions | info.ops).items():
        assert isinstance(text, str), f"{name}: info() says {text!r} of {what}, expected text"
        assert text, f"{name}: info() says nothing of {what}"
    assert info.threads is None or info.threads > 0, f"{name}: info().threads is {info.threads}"
    missing, added = OPERATIONS.keys() - info.ops.keys(), info.ops.keys() - OPERATIONS.keys()
    assert not missing, f"{name}: info().ops misses {', '.join(sorted(missing))}"
    assert not added, f"{name}: info().ops has {', '.join(sorted(added))}, which are no operations"
    for operation, implementation in info.ops.items():
        default = getattr(getattr(backend, operation), "__func__", None) is getattr(Operations, operation)
        assert (implementation == "xp") == default, (
            f"{name}: info() says that {operation} runs {implementation!r}, but its default body "
            f"{'was not' if default else 'was'} replaced"
        )
