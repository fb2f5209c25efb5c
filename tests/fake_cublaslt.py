"""A stand-in for cuBLASLt: its C functions, called through ctypes, with NumPy's arithmetic on the stand-in's addresses.

It believes nothing: every handle must be one it gave, every attribute of its size, every matrix within a live array and
as aligned as was promised, and an algorithm is good for the very product and workspace that it was found for. What is
wrong goes into `complaints`, and gives the status that the library gives.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import fake_cupy
import numpy as np
from fake_cupy import machine

INVALID, INTERNAL, UNSUPPORTED = 7, 14, 15
V = c_void_p
# As cublasLt.h has them; enumerations are ints.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (POINTER(V),),
    "cublasLtMatmulDescCreate": (POINTER(V), c_int, c_int),
    "cublasLtMatmulDescSetAttribute": (V, c_int, V, c_size_t),
    "cublasLtMatmulDescDestroy": (V,),
    "cublasLtMatrixLayoutCreate": (POINTER(V), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (V,),
    "cublasLtMatmulPreferenceCreate": (POINTER(V),),
    "cublasLtMatmulPreferenceSetAttribute": (V, c_int, V, c_size_t),
    "cublasLtMatmulPreferenceDestroy": (V,),
    "cublasLtMatmulAlgoGetHeuristic": (V, V, V, V, V, V, V, c_int, V, POINTER(c_int)),
    "cublasLtMatmul": (V, V, V, V, V, V, V, V, V, V, V, V, V, V, c_size_t, V),
}
DESCRIPTION = {3: c_int32, 4: c_int32, 7: c_uint32, 8: c_uint64}  # transpose A and B, epilogue, bias
PREFERENCE = {1: c_uint64, 5: c_uint32, 6: c_uint32, 7: c_uint32, 8: c_uint32}
BFLOAT16, TF32 = 14, 77  # a type, and a way to compute
TYPES = {0: np.dtype("f4"), 1: np.dtype("f8"), BFLOAT16: np.dtype("u2")}
# Epilogues by the type of the factors. In CUDA 13.1 a bias's gradient is none for those that nnx asks it for.
EPILOGUES = {0: (1, 4, 6), 1: (1, 4, 6), BFLOAT16: (1, 4, 6, 256)}


@dataclass(frozen=True)
class Candidate:
    """An algorithm that it proposes.

    Attributes:
        seconds: what it takes, where the stand-in's clock is one of given times. workspace: None: the library's.
        fails: whether it refuses to run. state: whether it says so when it is proposed.
        wrong: whether one of its numbers is. idle: whether it writes none at all.
        name: what it is known by, wherever it stands among the proposals; None: its place there.
    """

    seconds: float = 0.0
    workspace: int | None = None
    fails: bool = False
    state: int = 0
    wrong: bool = False
    idle: bool = False
    name: str | None = None


class Result(ctypes.Structure):
    _fields_ = [
        ("algorithm", c_uint64 * 8), ("workspace", c_size_t), ("state", c_int), ("waves", c_float),
        ("reserved", c_int * 4),
    ]  # fmt: skip


class FakeLt:
    """What a loaded library is: functions by name.

    Args:
        without: epilogues that it has for no type. all_gradients: whether it has a bias's gradient for all of them.
        candidates: what it proposes. gradients: the same for a bias's gradient.

    Attributes:
        known: epilogues by the type of the factors. workspace: what algorithms need, in bytes.
        asked, multiplied: how often, by (epilogue, compute type). complaints: what was wrong.
        taken: how often it was done, in graphs too, by (epilogue, place of the algorithm among the proposals).
    """

    def __init__(
        self, without: tuple[int, ...] = (), workspace: int = 4096, all_gradients: bool = False,
        candidates: Sequence[Candidate] = (Candidate(),), gradients: Sequence[Candidate] = (Candidate(),),
    ) -> None:  # fmt: skip
        self.workspace, self.candidates, self.gradients = workspace, candidates, gradients
        self.taken: Counter[Any] = Counter()
        self.version = 130100
        self.cublasLtGetVersion = CFUNCTYPE(c_size_t)(lambda: self.version)
        self.known = {
            TYPES[kind]: {*has, *((256,) if all_gradients else ())} - {*without} for kind, has in EPILOGUES.items()
        }
        self.asked: Counter[Any] = Counter()
        self.multiplied: Counter[Any] = Counter()
        self.complaints: list[str] = []
        self._things: dict[int, Any] = {}
        self._algorithms: dict[int, Any] = {}
        self._known_by: dict[Any, int] = {}
        self._numbers = iter(range(0x1000, 1 << 30))
        for name, types in PROTOTYPES.items():
            function = CFUNCTYPE(c_int, *types)(functools.partial(self._call, getattr(self, f"_{name[8:]}")))
            setattr(self, name, function)

    def _call(self, function: Callable[..., int | None], *arguments: Any) -> int:
        try:
            return function(*arguments) or 0
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
            return INVALID

    @property
    def open(self) -> int:
        """How many descriptors, layouts and preferences were not destroyed."""
        return sum(thing.kind != "handle" for thing in self._things.values())

    # ---- things ------------------------------------------------------------------------------------------------------

    def _new(self, place: Any, kind: str, **facts: Any) -> None:
        number = next(self._numbers)
        self._things[number] = SimpleNamespace(kind=kind, set={}, **facts)
        place[0] = number

    def _thing(self, number: int, kind: str) -> Any:
        assert number in self._things, f"{number} is no handle"
        assert self._things[number].kind == kind, f"a {self._things[number].kind} given, expected a {kind}"
        return self._things[number]

    def _destroy(self, kind: str, number: int) -> None:
        self._thing(number, kind)
        del self._things[number]

    def _Create(self, place: Any) -> int | None:
        machine.graphs["handle"] += 1
        if machine.faults.get("handle") == machine.graphs["handle"]:
            return 1
        return self._new(place, "handle")

    def _MatmulDescCreate(self, place: Any, compute: int, scale: int) -> None:
        self._new(place, "product", compute=compute, scale=scale)

    def _MatrixLayoutCreate(self, place: Any, dtype: int, rows: int, columns: int, leading: int) -> None:
        assert leading >= rows, "the leading dimension is below the rows"
        self._new(place, "layout", dtype=TYPES[dtype], rows=rows, columns=columns, leading=leading)

    def _MatmulPreferenceCreate(self, place: Any) -> None:
        self._new(place, "preference")

    def _MatmulDescDestroy(self, number: int) -> None:
        self._destroy("product", number)

    def _MatrixLayoutDestroy(self, number: int) -> None:
        self._destroy("layout", number)

    def _MatmulPreferenceDestroy(self, number: int) -> None:
        self._destroy("preference", number)

    def _attribute(self, thing: Any, known: dict[int, Any], attribute: int, value: int, size: int) -> None:
        kind = known[attribute]
        assert size == ctypes.sizeof(kind), f"attribute {attribute} has {ctypes.sizeof(kind)} bytes, given {size}"
        thing.set[attribute] = kind.from_address(value).value

    def _MatmulDescSetAttribute(self, number: int, attribute: int, value: int, size: int) -> None:
        self._attribute(self._thing(number, "product"), DESCRIPTION, attribute, value, size)

    def _MatmulPreferenceSetAttribute(self, number: int, attribute: int, value: int, size: int) -> None:
        self._attribute(self._thing(number, "preference"), PREFERENCE, attribute, value, size)

    # ---- algorithms --------------------------------------------------------------------------------------------------

    def _kind(self, product: Any, layouts: tuple[int, ...]) -> tuple[Any, ...]:
        """What an algorithm is found for."""
        shapes = tuple((m.dtype, m.rows, m.columns, m.leading) for m in (self._thing(x, "layout") for x in layouts))
        attributes = tuple(product.set.get(attribute, 0) for attribute in (3, 4, 7))
        return product.compute, product.scale, attributes, shapes

    def _MatmulAlgoGetHeuristic(
        self, handle: int, product: int, a: int, b: int, c: int, d: int, preference: int, wanted: int, results: int,
        count: Any,
    ) -> int | None:  # fmt: skip
        machine.graphs["heuristics"] += 1
        if machine.captured is not None or machine.faults.get("heuristics") == machine.graphs["heuristics"]:
            return INTERNAL
        self._thing(handle, "handle")
        it, wishes = self._thing(product, "product"), self._thing(preference, "preference").set
        assert wanted >= 1
        epilogue = it.set.get(7, 1)
        self.asked[epilogue, it.compute] += 1
        if epilogue not in self.known[self._thing(a, "layout").dtype]:
            return UNSUPPORTED
        if epilogue != 1:
            assert it.set[8] % 16 == 0, "how the bias is aligned must be told, by an address like its own"
        alignments = tuple(wishes.get(wish, 256) for wish in (5, 6, 7, 8))
        proposed = (self.gradients if epilogue == 256 else self.candidates)[:wanted]
        for place, candidate in enumerate(proposed):
            found = Result.from_address(results + place * ctypes.sizeof(Result))
            facts = self._kind(it, (a, b, c, d)), alignments, place if candidate.name is None else candidate.name
            number = self._known_by.setdefault(facts, next(self._numbers))  # the same whenever it is asked for
            needed = min(self.workspace, wishes.get(1, 0)) if candidate.workspace is None else candidate.workspace
            found.algorithm[0], found.workspace, found.state = number, needed, candidate.state
            self._algorithms[number] = *facts[:2], needed, candidate, place
        count[0] = len(proposed)
        return None

    # ---- the product -------------------------------------------------------------------------------------------------

    def _Matmul(
        self, handle: int, product: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, algorithm: int, workspace: int | None, size: int, stream: int | None,
    ) -> int | None:  # fmt: skip
        machine.graphs["matmul"] += 1
        if machine.faults.get("matmul") == machine.graphs["matmul"]:
            return 13
        self._thing(handle, "handle")
        it = self._thing(product, "product")
        kind, alignments, needed, candidate, place = self._algorithms[c_uint64.from_address(algorithm).value]
        if candidate.fails or candidate.state:
            return UNSUPPORTED
        layouts = a_layout, b_layout, c_layout, d_layout
        assert kind == self._kind(it, layouts), "the algorithm is another product's"
        for address, aligned in zip((a, b, c, d), alignments, strict=True):
            assert address % aligned == 0, f"{address:#x} is not aligned to {aligned} bytes, as was promised"
        current = fake_cupy.cuda.get_current_stream()
        assert (stream or 0) == current.ptr, f"stream {stream} given, {current.ptr} is the current one"
        assert size >= needed, f"workspace: {needed} bytes needed, {size} given"
        if needed:
            room = numbers(workspace or 0, needed, np.dtype("u1"))
        views = [self._matrix(layout, x) for layout, x in zip(layouts, (a, b, c, d), strict=True)]
        scale = TYPES[it.scale]
        one, zero = (number(x, scale) for x in (alpha, beta))
        epilogue, flips = it.set.get(7, 1), (it.set.get(3, 0), it.set.get(4, 0))
        assert epilogue == 1 or it.set[8] % 16 == 0, "the bias is not aligned as was told"
        bias = numbers(it.set[8], views[3].shape[0], scale) if epilogue in (4, 6, 256) else np.zeros(0)

        def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, bias: np.ndarray, *rooms: Any) -> None:
            machine.pass_time(candidate.seconds)
            self.taken[epilogue, place] += 1
            if candidate.idle:
                return
            for given in rooms:
                given[:] = 0x5A
            a, b = (factor(x, it.compute) for x in (a, b))
            total = one * ((a.T if flips[0] else a) @ (b.T if flips[1] else b))
            if zero:
                total = total + zero * c
            if epilogue == 256:
                bias[:] = (a.T if flips[0] else a).sum(axis=1)
            if epilogue in (4, 6):
                total = total + bias[:, None]
            d[...] = np.where(total < 0, 0, total) if epilogue == 6 else total
            if candidate.wrong:
                d[-1, -1] += 1 + np.abs(d[-1, -1])

        inner = [(v.T if flip else v).shape for v, flip in zip(views, (*flips, 0, 0), strict=True)]
        assert inner[0][1] == inner[1][0], f"{inner[0]} @ {inner[1]}"
        assert (inner[0][0], inner[1][1]) == inner[3] == inner[2], f"{inner[0]} @ {inner[1]} into {inner[3]}"
        fake_cupy.submit(multiply, *views, *([bias] if bias.size else [None]), *([room] if needed else []))
        self.multiplied[epilogue, it.compute] += 1
        return None

    def _matrix(self, layout: int, address: int) -> np.ndarray:
        """A matrix as it stands in memory: column after column."""
        it = self._thing(layout, "layout")
        flat = numbers(address, it.leading * (it.columns - 1) + it.rows, it.dtype)
        step = it.dtype.itemsize
        return np.lib.stride_tricks.as_strided(flat, (it.rows, it.columns), (step, it.leading * step))


def factor(x: np.ndarray, compute: int) -> np.ndarray:
    """What is multiplied: bf16 is the upper half of a float32, and TF32 one with 10 bits behind the point."""
    if x.dtype == TYPES[BFLOAT16]:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return to_tf32(x) if compute == TF32 else x


def to_tf32(x: np.ndarray) -> np.ndarray:
    """Round to the nearest number with 10 bits behind the point, ties away from 0, as cvt.rna.tf32.f32 does."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return np.where(np.isfinite(x), ((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32), x)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round to the nearest bf16, ties to even, still as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    with np.errstate(over="ignore"):
        even = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1).astype(np.uint32)
    return np.where(np.isnan(x), x, (even & ~np.uint32(0xFFFF)).view(np.float32))


def numbers(address: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Numbers at an address on the stand-in, where they must be within one array."""
    machine.holder(address, count * dtype.itemsize)
    interface = {"shape": (count,), "typestr": dtype.str, "data": (address, False), "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def number(address: int, dtype: np.dtype) -> float:
    """A number of the host's."""
    return float({4: ctypes.c_float, 8: ctypes.c_double}[dtype.itemsize].from_address(address).value)
