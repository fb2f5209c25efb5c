"""Products described to the real cuBLASLt, which needs no GPU for that: skipped where it is not installed.

    pip install nvidia-cublas      # 444 MB

Its descriptors are made, filled and read back by the library itself; only multiplying is NumPy's (fake_cublaslt.py). So
the numbers of attributes, their sizes, types and leading dimensions are those that it takes.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from ctypes import byref, c_int32, c_int64, c_size_t, c_uint32, c_uint64, sizeof
from types import SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_cublaslt import DESCRIPTION, PREFERENCE, PROTOTYPES, TYPES, FakeLt
from fake_cupy import machine
from networks import ALIKE, NETS

import nnx
from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.cupy.matmul.cublaslt import LtError

try:
    LIBRARY = fake_cupy._load_real(fake_cupy)
except LtError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PRODUCT = {0: c_int32, 1: c_int32, **DESCRIPTION}  # how it computes, and the type of its scale
LAYOUT = {0: c_uint32, 1: c_int32, 2: c_uint64, 3: c_uint64, 4: c_int64}  # type, order, rows, columns, leading
KINDS = {
    "product": ("MatmulDesc", PRODUCT),
    "layout": ("MatrixLayout", LAYOUT),
    "preference": ("MatmulPreference", PREFERENCE),
}
BY_COLUMNS = 0  # order


class DescribedLt(FakeLt):
    """The stand-in over the real library's descriptors."""

    def __init__(self) -> None:
        for name, types in PROTOTYPES.items():
            getattr(LIBRARY, name).argtypes = types
        super().__init__()

    def _made(self, kind: str, place: Any, *facts: Any) -> int:
        status = getattr(LIBRARY, f"cublasLt{KINDS[kind][0]}Create")(place, *facts)
        self._things[place[0]] = SimpleNamespace(kind=kind)
        return int(status)

    def _MatmulDescCreate(self, place: Any, *facts: Any) -> int:
        return self._made("product", place, *facts)

    def _MatrixLayoutCreate(self, place: Any, *facts: Any) -> int:
        return self._made("layout", place, *facts)

    def _MatmulPreferenceCreate(self, place: Any) -> int:
        return self._made("preference", place)

    def _destroy(self, kind: str, number: int) -> None:
        super()._destroy(kind, number)
        assert getattr(LIBRARY, f"cublasLt{KINDS[kind][0]}Destroy")(number) == 0

    def _MatmulDescSetAttribute(self, *given: Any) -> int:
        return int(LIBRARY.cublasLtMatmulDescSetAttribute(*given))

    def _MatmulPreferenceSetAttribute(self, *given: Any) -> int:
        return int(LIBRARY.cublasLtMatmulPreferenceSetAttribute(*given))

    def _thing(self, number: int, kind: str) -> Any:
        it = super()._thing(number, kind)
        if kind == "handle":
            return it
        read = {attribute: self._read(number, kind, attribute) for attribute in KINDS[kind][1]}
        if kind == "layout":
            dtype, order, rows, columns, leading = read.values()
            assert order == BY_COLUMNS
            return SimpleNamespace(dtype=TYPES[dtype], rows=rows, columns=columns, leading=leading)
        return SimpleNamespace(compute=read.get(0), scale=read.get(1), set=read)

    @staticmethod
    def _read(number: int, kind: str, attribute: int) -> int:
        name, attributes = KINDS[kind]
        value, written = attributes[attribute](), c_size_t()
        get = getattr(LIBRARY, f"cublasLt{name}GetAttribute")
        get.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, c_size_t, ctypes.c_void_p)
        assert get(number, attribute, byref(value), sizeof(value), byref(written)) == 0
        assert written.value == sizeof(value)
        return int(value.value)


@pytest.fixture
def lt(monkeypatch: pytest.MonkeyPatch) -> Iterator[DescribedLt]:
    machine.reset()
    machine.cublaslt = DescribedLt()
    monkeypatch.setenv("NNX_GEMM", "blas")
    yield machine.cublaslt
    assert machine.cublaslt.complaints == []


@pytest.mark.parametrize("precision", ["full", "tf32", "bf16"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flips", [*itertools.product((False, True), repeat=2)])
def test_products_are_described_as_the_library_takes_them(
    flips: tuple[bool, bool], dtype: str, precision: str, lt: DescribedLt
):
    backend = CupyBackend(fake_cupy, precision=precision)
    if backend.products is None:
        backend = CupyBackend(fake_cupy, precision="bf16")
        backend.precision = "full"  # whose products are cuBLASLt's in graphs alone
    random = np.random.default_rng(7)
    a, b, bias = (random.normal(size=shape).astype(dtype) for shape in ((5, 7), (7, 3), (1, 3)))
    left, right = (
        backend.asarray(f.T.copy()).T if flip else backend.asarray(f) for f, flip in zip((a, b), flips, strict=True)
    )
    for activation in (None, "relu", "tanh"):
        got = backend.to_numpy(backend.dense(left, right, backend.asarray(bias), activation))
        total = a.astype(float) @ b.astype(float) + bias
        wanted = {None: total, "relu": np.maximum(total, 0), "tanh": np.tanh(total)}[activation]
        np.testing.assert_allclose(got, wanted, atol=0.1 if precision == "bf16" and dtype == "float32" else 0.01)
    assert {epilogue for epilogue, _ in lt.multiplied} == {1, 4, 6}


def test_a_network_trains_by_them(lt: DescribedLt):
    states = []
    for backend in (CupyBackend(fake_cupy), "numpy"):
        model = NETS["relu"].model("float64", backend)
        model.fit(*NETS["relu"].samples(), epochs=5, batch_size=16, verbose=0)
        assert (model.eager_reason, model.replay_reason) == (None, None)
        states.append(model.backend.to_numpy(model.flat.state))
    np.testing.assert_allclose(*states, **ALIKE)
    assert lt.open == 0
    assert lt.multiplied.total() > 10


def test_without_a_gpu_its_handle_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    handle = ctypes.c_void_p()
    if LIBRARY.cublasLtCreate(byref(handle)) == 0:
        pytest.skip("there is a GPU here")
    machine.reset()
    machine.cublaslt = LIBRARY
    assert CupyBackend(fake_cupy).lt() == "cublasLtCreate: not initialized (status 1)"
    with pytest.raises(nnx.errors.InputError, match="precision='tf32' needs cuBLASLt, and cublasLtCreate: not init"):
        CupyBackend(fake_cupy, precision="tf32")
