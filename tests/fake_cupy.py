"""A stand-in for CuPy that computes with NumPy and runs kernels by cuda_on_cpu: the backend's own code, without a GPU.

Current are, as in CUDA, a GPU and a stream of each thread. A kernel that goes where nothing is (`machine.breaks`) is
told when the host next waits, and from then on everything fails. A graph that reads pinned memory does so as late as it
may: when the host next waits, or asks for something else.

It is stricter than CuPy where CuPy would be slow or wrong in silence. Its arrays are no NumPy arrays, and no function
takes both; a kernel takes contiguous arrays only; what runs on one GPU takes that GPU's arrays only; and three things
can be forbidden: reading a number on the host, allocating, and all that a stream cannot do while it is captured.

Work is done at once, but streams are kept apart all the same: what one is given must be ordered, by events, after all
work that the others were given before. Copies from and to pinned memory alone may go on beside work on other bytes, and
are done as late as may be (fake_copies.py). A graph keeps no array alive, as CUDA's does not, and refuses to run
without one.

Tests keep this to the names and parameters of the real one (test_cupy_stand_in.py), and look at `machine`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_on_cpu import CpuModule
from fake_copies import DOWN, UP, Copies, PinnedMemory, as_bytes, span, transfer
from numpy import (  # noqa: F401
    bool_,
    e,
    float32,
    float64,
    inf,
    int32,
    int64,
    nan,
    newaxis,
    pi,
    uint8,
    uint32,
    uint64,
)

from nnx.backends.cupy.matmul import cublaslt
from nnx.kernels.cuda import program_table
from nnx.kernels.step_state import CURSOR

__version__ = "14.1 (a stand-in)"
STATIC_SHARED = 48 << 10  # bytes of shared memory that a kernel gets without asking
REGISTERS = 1 << 16  # of a block, on every GPU from sm_75 to sm_120
MOST_REGISTERS = 128  # of a thread, to which test_cuda_compile.py holds kernels


class OutOfMemoryError(MemoryError):
    """With CuPy's words."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class Here(threading.local):
    """What CUDA keeps for each thread: the current GPU, and on each the streams that were made current."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, list[Stream]] = defaultdict(list)


class Machine:
    """The GPUs, what is on them, what was launched, and what is forbidden just now."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, devices: int = 1, memory: int = 1 << 30) -> None:
        """Begin anew."""
        self.devices, self.memory, self.here = devices, memory, Here()
        self.used, self.held, self.limit = Counter[int](), Counter[int](), Counter[int]()
        self.launched: Counter[str] = Counter()
        self.forbidden: set[str] = set()
        self.captured: list[Node] | None = None
        self.capturing: Stream | None = None
        self.launching = 0  # the stream that a graph is launched on
        self.late: Callable[[], None] | None = None  # what a graph that was launched has still to do
        self.turn = threading.RLock()
        self.clocks: dict[int, Counter[int]] = {}  # for each stream, how much of each it comes after
        self.worked = Counter[int]()  # how much of each stream there was when it last got work other than a copy
        self.waited = Counter[int]()  # how much of each stream the host has seen done
        self.copies = Copies()
        self.graphs = Counter[str]()  # how often each stage was reached
        self.faults: dict[str, int] = {}  # the how manyth time a stage fails
        self.allocator: Callable[[int], Any] | None = None
        self.live: dict[int, tuple[int, weakref.ref[np.ndarray]]] = {}  # by address: where it ends, and what is there
        self.cublaslt: Any = None
        self.clock: float | None = None  # seconds, of a clock that only what takes a given time moves; None: the host's
        self.takes: dict[str, float] = {}  # seconds that a kernel takes by that clock
        self.compute_type, self.capability, self.shared = 1, (9, 0), 227 << 10
        self.allocations = 0
        self.breaks: int | None = None  # the how manyth kernel from now on goes where nothing is
        self.broken, self.told = False, False  # whether one has, and whether the host has been told

    @property
    def current(self) -> int:
        """The current GPU, of this thread."""
        return self.here.device

    @current.setter
    def current(self, device: int) -> None:
        self.here.device = device

    @property
    def streams(self) -> list[Stream]:
        """Those made current in this thread on this GPU, the innermost last."""
        return self.here.streams[self.current]

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, where there is one."""
        if self.clock is not None:
            self.clock += seconds

    def count_kernel(self) -> None:
        """Count one that is launched."""
        if self.breaks is not None:
            self.breaks -= 1
            self.broken |= self.breaks == 0

    def catch_up(self) -> None:
        """Do what a graph that was launched has still to do."""
        with self.turn:
            work, self.late = self.late, None
            if work is not None:
                work()

    def waits(self) -> None:
        """Tell the host what went wrong, now that it waits; from then on everything fails, as CUDA's context does."""
        self.catch_up()
        self.told |= self.broken
        self.answers()

    def answers(self) -> None:
        """Fail if the host has been told."""
        if self.told:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    @contextmanager
    def without(self, *what: str) -> Iterator[None]:
        """Forbid "allocation", "host" (any look of the host into an array), "copies" to and from the host."""
        before, self.forbidden = self.forbidden, self.forbidden | set(what)
        try:
            yield
        finally:
            self.forbidden = before

    def about_to(self, what: str) -> None:
        if what in self.forbidden:
            raise AssertionError(f"{what}: forbidden here")
        if self.captured is not None:
            raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream is captured")

    def stage(self, name: str) -> None:
        """Count a stage of making and running a graph; fail if it is to."""
        self.catch_up()
        self.answers()
        self.graphs[name] += 1
        if self.faults.get(name) == self.graphs[name]:
            raise RuntimeError(f"cudaErrorUnknown: {name} fails, as it was told to")

    def tick(self, stream: int) -> Counter[int]:
        """Count something new on a stream; return its clock, which says what it comes after."""
        self.catch_up()
        self.answers()
        clock = self.clocks.setdefault(stream, Counter())
        for other, seen in self.waited.items():
            clock[other] = max(clock[other], seen)
        clock[stream] += 1
        return clock

    def work(self, stream: Stream, spans: Iterable[tuple[int, int]] = ()) -> None:
        """Count work on a stream, on these bytes: it must come after all work that other streams were given."""
        clock = self.tick(stream.ptr)
        for other, last in self.worked.items():
            if clock[other] < last:
                raise AssertionError(f"a race: nothing orders work on stream {stream.ptr} after that on {other}")
        self.worked[stream.ptr] = clock[stream.ptr]
        self.copies.touch(stream.ptr, clock, spans)

    def wait_for(self, clock: Counter[int]) -> None:
        """Let the host wait for all that a clock has seen."""
        if self.captured is not None:
            self.about_to("synchronize")
        self.waits()
        self.waited |= clock
        self.copies.finish(self.waited)

    def holder(self, address: int, size: int) -> weakref.ref[np.ndarray]:
        """Return what holds some bytes, if it is there and they all are within it."""
        for begin, (end, array) in self.live.copy().items():  # garbage may be collected meanwhile, and arrays freed
            if begin <= address and address + size <= end:
                return array
        raise AssertionError(f"{size} bytes at {address:#x} are in no array")

    def allocate(self, array: np.ndarray) -> None:
        """Take room for a new array; it is given back with the array."""
        self.answers()
        if self.allocator is not None:
            self.allocator(array.nbytes)
        self.about_to("allocation")
        device, size = self.current, array.nbytes
        most = self.limit[device] or self.memory
        if self.used[device] + size > most:
            raise OutOfMemoryError(size, self.used[device], self.limit[device])
        self.allocations += 1
        self.used[device] += size
        self.held[device] = max(self.held[device], self.used[device])
        begin = array.__array_interface__["data"][0]
        self.live[begin] = begin + size, weakref.ref(array)
        weakref.finalize(array, self._freed, self.used, self.live, self.copies, device, size, begin)

    @staticmethod
    def _freed(used: Counter[int], live: dict[int, Any], copies: Copies, device: int, size: int, begin: int) -> None:
        used[device] -= size
        copies.freed((begin, begin + size))
        if begin in live and live[begin][1]() is None:  # no other array has taken its place
            del live[begin]


machine = Machine()


# ---- arrays ----------------------------------------------------------------------------------------------------------


class ndarray:
    """An array on a GPU."""

    __array_priority__ = 100
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: np.ndarray) -> None:
        self._a, self._device = a, machine.current
        if a.base is None:
            machine.allocate(a)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    T = property(lambda self: lift(seen(self).T))
    data = property(lambda self: SimpleNamespace(ptr=self._a.__array_interface__["data"][0]))
    device = property(lambda self: Device(self._device))
    __cuda_array_interface__ = property(lambda self: self._a.__array_interface__)

    @property
    def flags(self) -> Any:
        flags = self._a.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata, forc=flags.forc
        )

    # What the host sees it must wait for.

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        machine.about_to("copies")
        machine.waits()
        return np.array(lower(self), order=order)  # type: ignore[call-overload]

    def item(self) -> Any:
        machine.about_to("host")
        return lower(self).item()

    def tolist(self) -> Any:
        machine.about_to("host")
        return lower(self).tolist()

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        key = lower(key)
        whole = key if isinstance(key, tuple) else (key,)
        if not any(part is Ellipsis for part in whole):
            whole = (*whole, Ellipsis)  # a single number is a view too, as CuPy's are
        return lift(seen(self)[whole])

    def __setitem__(self, key: Any, value: Any) -> None:
        machine.about_to("arithmetic")
        with np.errstate(all="ignore"):
            lower(self)[lower(key)] = lower(value)

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return asarray, (self.get(),)

    def copy(self, order: str = "C") -> ndarray:
        return lift(np.array(lower(self), order=order))  # type: ignore[call-overload]

    def fill(self, value: Any) -> None:
        self[...] = value

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        with np.errstate(all="ignore"):
            return lift(lower(self).astype(dtype))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return lift(lower(self).reshape(*shape))

    def view(self, dtype: Any) -> ndarray:
        return lift(lower(self).view(dtype))

    def __repr__(self) -> str:
        return f"fake {self._a!r}"


ndarray.__module__ = "cupy"


def seen(a: ndarray) -> np.ndarray:
    """Return NumPy's array in place of ours, to take a view of it; refuse another GPU's."""
    if a._device != machine.current:
        raise ValueError(
            f"Array device must be same as the current device: array device = {a._device} while current = "
            f"{machine.current}"
        )
    return a._a


def lower(value: Any) -> Any:
    """Return a value with NumPy arrays in place of ours, to work on; refuse NumPy arrays in it, and another GPU's."""
    if isinstance(value, ndarray):
        if machine.captured is None:
            machine.work(cuda.get_current_stream(), [span(value._a)])
        return seen(value)
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(lower(part) for part in value)
    return value


def lift(value: Any) -> Any:
    """Return a result with our arrays in place of NumPy's, and of its numbers."""
    if isinstance(value, np.ndarray | np.generic):
        a = np.asarray(value)
        return ndarray(a if isinstance(value, np.ndarray) else a.reshape(()).copy())
    return type(value)(lift(part) for part in value) if isinstance(value, list | tuple) else value


def operated(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    def apply(self: ndarray, *others: Any) -> Any:
        operands = (self, *others)
        with np.errstate(all="ignore"):
            return lift(function(*(lower(a) for a in (operands[::-1] if swapped else operands))))

    return apply


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: ndarray, other: Any) -> ndarray:
        machine.about_to("arithmetic")
        with np.errstate(all="ignore"):
            function(lower(self), lower(other), out=lower(self))
        return self

    return apply


ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
for _name, _function in ARITHMETIC.items():
    setattr(ndarray, f"__{_name}__", operated(_function))
    setattr(ndarray, f"__r{_name}__", operated(_function, swapped=True))
    setattr(ndarray, f"__i{_name}__", in_place(_function))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "invert", "abs"):
    setattr(ndarray, f"__{_name}__", operated(getattr(operator, _name)))


def looked_at(convert: Callable[[np.ndarray], Any]) -> Callable[[ndarray], Any]:
    def look(self: ndarray) -> Any:
        machine.about_to("host")
        return convert(lower(self))

    return look


for _name in ("bool", "int", "float", "complex"):
    setattr(ndarray, f"__{_name}__", looked_at(operator.methodcaller(f"__{_name}__")))


# ---- functions -------------------------------------------------------------------------------------------------------

# Those that tests and default bodies use, by the keywords that CuPy's take and we need. They are found by __getattr__,
# because in this file `max` and `any` are Python's.
KEYWORDS = """
out: abs exp expm1 log log1p sqrt square sign tanh sin cos negative isfinite isnan maximum minimum multiply divide
out: subtract add equal power
axis keepdims out dtype: sum mean
axis keepdims out: max min
axis keepdims: all any argmax
axis: stack concatenate take expand_dims
dtype: zeros_like ones_like zeros ones full arange eye linspace
: where clip reshape ravel matrix_transpose transpose broadcast_arrays broadcast_to outer
"""
FUNCTIONS: dict[str, Callable[..., Any]] = {}


def function(name: str, keywords: tuple[str, ...]) -> Callable[..., Any]:
    of_numpy = getattr(np, name)

    @functools.wraps(of_numpy)
    def call(*args: Any, **kwargs: Any) -> Any:
        unknown = kwargs.keys() - set(keywords)
        if unknown:
            raise TypeError(f"cupy.{name}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        out = kwargs.get("out")
        with np.errstate(all="ignore"):
            result = of_numpy(*(lower(a) for a in args), **{key: lower(value) for key, value in kwargs.items()})
        return lift(result) if out is None else out

    return call


for _line in KEYWORDS.strip().splitlines():
    _keywords, _, _names = _line.partition(":")
    FUNCTIONS.update((_name, function(_name, tuple(_keywords.split()))) for _name in _names.split())


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(f"module 'cupy' has no attribute {name!r}, as far as fake_cupy goes")


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        wanted = a.dtype if dtype is None else np.dtype(dtype)
        return a.astype(wanted, copy=bool(copy))
    machine.about_to("copies")
    if isinstance(a, list | tuple) and any(isinstance(part, ndarray) for part in a):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")
    return ndarray(np.array(a, dtype, order=order or "K"))


array = asarray


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    return a if a.flags.c_contiguous and dtype in (None, a.dtype) else lift(np.array(lower(a), dtype, order="C"))


def astype(x: ndarray, dtype: Any, /, *, copy: bool = True) -> ndarray:
    return x.astype(dtype, copy=copy)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Not zeros: a number that looks wrong wherever it shows up."""
    a = np.empty(shape, dtype)
    a.reshape(-1).view(np.uint8)[:] = 0xA5
    return ndarray(a)


def matmul(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
    """As CuPy's: its cuBLAS cannot be captured, and `out` must be as it is wanted."""
    if machine.captured is not None:
        raise NotImplementedError("calling cublasSetStream while a stream is captured")
    machine.launched["cublas"] += 1
    if out is None:
        with np.errstate(all="ignore"):
            return lift(np.matmul(lower(a), lower(b)))
    if out.dtype != np.result_type(a.dtype, b.dtype) or not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous, and of the type of the product")
    for operand in (a, b):
        if not operand.flags.forc:
            machine.about_to("allocation")  # CuPy copies it first
    with np.errstate(all="ignore"):
        np.matmul(lower(a), lower(b), out=lower(out))
    return out


ndarray.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[attr-defined]
for _name in ("sum", "mean", "max", "min", "argmax", "all", "any", "clip", "ravel", "transpose"):
    setattr(ndarray, _name, lambda self, *args, _of=FUNCTIONS[_name], **kwargs: _of(self, *args, **kwargs))


# ---- kernels ---------------------------------------------------------------------------------------------------------


@functools.cache
def compiled(code: str, options: tuple[str, ...]) -> CpuModule:
    return CpuModule.of_text(code, options)


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not (isinstance(options, tuple) and all(isinstance(option, str) for option in options)):
            raise TypeError(f"options: a {type(options).__name__} given, expected a tuple of str")
        self._module = compiled(code, options)

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(name, self._module.kernel(name))


class RawKernel:
    def __init__(self, name: str, kernel: Any) -> None:
        self.name, self._kernel = name, kernel
        self._shared = STATIC_SHARED

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > machine.shared:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: a block has {machine.shared} bytes of shared memory at most")
        self._shared = size

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: raise max_dynamic_shared_size_bytes first")
        if math.prod(block) * MOST_REGISTERS > REGISTERS:
            raise RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch")
        machine.launched[self.name] += 1
        machine.count_kernel()
        given = [seen(a) if isinstance(a, ndarray) else lower(a) for a in args]
        touched = gathered if self.name.startswith("gather_") else spans_of
        if self.name == "program":
            touched = functools.partial(programmed, 4 if self._kernel.module.real == "float" else 8)

        def run(*arrays: Any) -> None:
            machine.pass_time(machine.takes.get(self.name, 0.0))
            self._kernel(grid, block, arrays, shared_mem=shared_mem)

        submit(run, *given, touched=touched)


def spans_of(arguments: Sequence[Any]) -> list[tuple[int, int]]:
    """Return which bytes work may touch: all of its arrays'."""
    return [span(a) for a in arguments if isinstance(a, np.ndarray)]


def gathered(arguments: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """The same for gather_*, which goes beside copies to rows, and places in their order, that it does not read.

    Which rows these are shows once the places were copied, so they are told one after the other.
    """
    source, order, counters, out, rows, *_ = arguments
    yield from spans_of([counters, out])
    places = np.clip(counters[CURSOR] + np.arange(int(rows)), 0, len(order) - 1)
    yield span(order[places.min() : places.max() + 1])
    chosen = np.clip(order[places], 0, len(source) - 1)
    read = [span(source[row : row + 1]) for row in chosen]
    yield min(read)[0], max(read)[1]


def programmed(itemsize: int, arguments: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """The same for the persistent kernel, whose arrays are addresses in its table; it gathers rows of many steps."""
    table, *_, samples, steps = arguments
    rows = [dict(zip(program_table.FIELDS, row.tolist(), strict=True)) for row in table]
    copied = {row["out"]: row["x"] for row in rows if row["op"] == program_table.OPERATIONS.index("copy")}
    yield span(table)
    for row in rows:
        places = [row[name] for name in program_table.PLACES if row[name] >= program_table.SHARED_PLACES]
        if row["y"] in places and row["also"] in copied:  # rows of a data set, in an order from a cursor on
            cursor = int(as_bytes(copied[row["also"]], 24).view(np.int64)[CURSOR])
            begin, length = row["y"] + 8 * cursor, 8 * int(samples * steps)
            yield begin, begin + length
            chosen = as_bytes(begin, length).view(np.int64)
            size = 8 if row["op"] == program_table.OPERATIONS.index("labels") else itemsize * row["inputs"]
            yield row["x"] + int(chosen.min()) * size, row["x"] + (int(chosen.max()) + 1) * size
            places = [place for place in places if place not in (row["x"], row["y"])]
        yield from ((place, place + 1) for place in places)


class Node:
    """Work that a graph does when it is launched, if the arrays are then still there: it does not keep them alive.

    Attributes:
        late: whether it reads what the host may still change.
    """

    def __init__(
        self, function: Callable[..., None], arguments: tuple[Any, ...], touched: Any, late: bool = False
    ) -> None:
        self._function, self._touched, self.late = function, touched, late
        self._arguments = [Held(a) if isinstance(a, np.ndarray) else a for a in arguments]

    def __call__(self, stream: int) -> None:
        machine.count_kernel()
        arguments = [a.array() if isinstance(a, Held) else a for a in self._arguments]
        machine.copies.touch(stream, machine.clocks[stream], self._touched(arguments))
        self._function(*arguments)


class Held:
    """An array as a graph holds it: where it is."""

    def __init__(self, a: np.ndarray) -> None:
        self.__array_interface__ = dict(a.__array_interface__)
        begin, end = span(a)
        self._holder = machine.holder(begin, end - begin)

    def array(self) -> np.ndarray:
        if self._holder() is None:
            raise AssertionError("a graph uses an array that is gone")
        return np.asarray(self)


def submit(function: Callable[..., None], *arguments: Any, touched: Any = spans_of) -> None:
    """Do it now, or while a stream is captured when its graph is launched."""
    stream = cuda.get_current_stream()
    if machine.captured is None:
        machine.work(stream, touched(arguments))
        function(*arguments)
    else:
        record(stream.ptr, Node(function, arguments, touched))


def record(stream: int, node: Node) -> None:
    """Add to what is captured."""
    assert machine.captured is not None
    machine.stage("node")
    if machine.capturing is None or stream != machine.capturing.ptr:
        raise RuntimeError("cudaErrorStreamCaptureIsolation: another stream than this is captured")
    machine.captured.append(node)


def memcpy_async(to: int, source: int, size: int, kind: int, stream: int) -> None:
    """Copy between pinned memory and an array: later, or with the graph that is captured."""
    device, host = {UP: (to, source), DOWN: (source, to)}[kind]
    machine.holder(device, size)
    there, here = as_bytes(device, size), machine.copies.bytes_at(host, size)
    if machine.captured is None:
        pair = (there, here) if kind == UP else (here, there)
        machine.copies.queue(stream, machine.tick(stream), span(there), here, transfer(*pair))
        return

    def copy(there: np.ndarray) -> None:
        here = machine.copies.bytes_at(host, size)
        if kind == UP:
            there[:] = here
        else:  # the host sees it when it has waited
            clock = machine.tick(machine.launching)
            machine.copies.queue(machine.launching, clock, span(there), here, transfer(here, there.copy()))

    record(stream, Node(copy, (there,), spans_of, late=kind == UP))


def alloc_pinned_memory(size: int) -> PinnedMemory:
    machine.about_to("allocation")
    return machine.copies.allocate(size)


# ---- cupy.cuda -------------------------------------------------------------------------------------------------------


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = machine.current if device is None else int(device)
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(machine.current)
        machine.current = self.id
        return self

    def __exit__(self, *exception: object) -> None:
        machine.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def use(self) -> None:
        machine.current = self.id

    def synchronize(self) -> None:
        machine.catch_up()
        machine.wait_for(Counter({ptr: clock[ptr] for ptr, clock in machine.clocks.items()}))


class Graph:
    def __init__(self, work: list[Node]) -> None:
        self._work = work

    def upload(self, stream: Any = None) -> None:
        machine.stage("upload")

    def launch(self, stream: Any = None) -> None:
        machine.stage("launch")
        if machine.captured is not None:
            machine.about_to("launching a graph")
        stream = stream or cuda.get_current_stream()
        with machine.turn:  # another thread's must not come between
            machine.work(stream)
            machine.late = functools.partial(self._run, stream.ptr)
        if not any(part.late for part in self._work):
            machine.catch_up()

    def _run(self, stream: int) -> None:
        machine.launching = stream
        for part in self._work:
            part(stream)


class Stream:
    _numbers = itertools.count(1)

    def __init__(self, null: bool = False, non_blocking: bool = False, ptr: int | None = None) -> None:
        self._null = null
        self.ptr = 0 if null else next(self._numbers) if ptr is None else ptr

    def __enter__(self) -> Stream:
        machine.streams.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        machine.streams.pop()

    def begin_capture(self, mode: Any = None) -> None:
        machine.stage("begin")
        if self._null:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: the null stream cannot be captured")
        if machine.captured is not None:
            raise RuntimeError("cudaErrorIllegalState: a stream is captured already")
        machine.captured, machine.capturing = [], self

    def end_capture(self) -> Graph:
        work, machine.captured, machine.capturing = machine.captured, None, None
        if work is None:
            raise RuntimeError("cudaErrorIllegalState: no stream is captured")
        machine.stage("end")  # CUDA's end, and CuPy's instantiation in the same call
        machine.stage("instantiate")
        return Graph(work)

    def wait_event(self, event: Event) -> None:
        machine.catch_up()
        machine.clocks[self.ptr] = machine.clocks.get(self.ptr, Counter()) | event.clock

    def synchronize(self) -> None:
        machine.stage("wait")
        machine.wait_for(machine.clocks.get(self.ptr, Counter()))


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.clock: Counter[int] = Counter()

    def record(self, stream: Any = None) -> None:
        machine.stage("event")
        self.time = time.perf_counter() if machine.clock is None else machine.clock
        self.clock = Counter(machine.clocks.get((stream or cuda.get_current_stream()).ptr, {}))

    def synchronize(self) -> None:
        machine.wait_for(self.clock)


@contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    before, machine.allocator = machine.allocator, allocator
    try:
        yield
    finally:
        machine.allocator = before


class MemoryPool:
    def used_bytes(self) -> int:
        return machine.used[machine.current]

    def total_bytes(self) -> int:
        return machine.held[machine.current]

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream: Any = None) -> None:
        machine.held[machine.current] = self.used_bytes()

    def get_limit(self) -> int:
        return machine.limit[machine.current]

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        machine.limit[machine.current] = size or 0


def get_default_memory_pool() -> MemoryPool:
    return MemoryPool()


def get_default_pinned_memory_pool() -> Any:
    return SimpleNamespace(free_all_blocks=lambda: None)


def _properties(number: int) -> dict[str, Any]:
    major, minor = machine.capability
    size = {"totalGlobalMem": machine.memory, "sharedMemPerBlockOptin": machine.shared, "multiProcessorCount": 132}
    return {"name": b"Stand-in", "major": major, "minor": minor, **size}


NULL = Stream(null=True)
cuda = SimpleNamespace(
    Device=Device,
    Stream=Stream,
    Event=Event,
    get_current_stream=lambda: machine.streams[-1] if machine.streams else NULL,
    using_allocator=using_allocator,
    get_elapsed_time=lambda first, last: (last.time - first.time) * 1e3,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    alloc_pinned_memory=alloc_pinned_memory,
    runtime=SimpleNamespace(
        getDevice=lambda: machine.current,
        getDeviceCount=lambda: machine.devices,
        getDeviceProperties=_properties,
        memGetInfo=lambda: (machine.memory - machine.held[machine.current], machine.memory),
        runtimeGetVersion=lambda: 13020,
        driverGetVersion=lambda: 13010,
        memcpyAsync=memcpy_async,
        memcpyHostToDevice=UP,
        memcpyDeviceToHost=DOWN,
    ),
)


def _set_compute_type(dtype: Any, kind: int) -> None:
    machine.compute_type = kind


_core = SimpleNamespace(
    get_compute_type=lambda dtype: machine.compute_type,
    set_compute_type=_set_compute_type,
    _routines_linalg=SimpleNamespace(COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7),
)


# ---- cuBLASLt --------------------------------------------------------------------------------------------------------


def _load(cupy: Any) -> Any:
    """Give a backend on this stand-in that of `machine`: the real library would follow addresses that are none."""
    if cupy.__name__ != __name__:
        return _load_real(cupy)
    if machine.cublaslt is None:
        raise cublaslt.LtError("the stand-in has no cuBLASLt")
    return machine.cublaslt


_load_real, cublaslt.load = cublaslt.load, _load
