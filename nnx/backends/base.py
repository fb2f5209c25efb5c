"""The backend protocol: where arrays live, and which implementation each operation takes.

A backend is a subclass of `Backend` with a `name`, an array namespace `xp` and the few methods that touch the device.
All operations have default bodies (`operations`), so a new backend takes some thirty lines, plus the operations that it
does faster. `nnx.testing.check_backend` checks that it keeps to the protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy as np

from nnx.backends.errors import InputError, InputTypeError
from nnx.backends.inference import Forward, Scored, Scores, Stage
from nnx.backends.inputs import FEATURES, is_ready, to_numbers
from nnx.backends.memory import Memory, of_process
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.operations import Operations
from nnx.backends.precision import check_precision
from nnx.backends.recorder import Piece, Program, Recorder
from nnx.backends.streaming import Halves, HostHalves, Stream
from nnx.backends.timer import Timer

Array = Any
Method = TypeVar("Method", bound=Callable[..., Any])
FLOATS = ("float32", "float64")
NATIVE_FLOATS = (np.dtype("float32"), np.dtype("float64"))  # in this machine's byte order
DTYPES = (*FLOATS, "int64", "int32", "uint64", "bool")
NAMES: dict[Any, str] = {key: name for name in DTYPES for key in (name, np.dtype(name))}  # `dtype.name` takes 1 us


@dataclass(frozen=True)
class BackendInfo:
    """What runs where.

    Attributes:
        name: the backend. device: where its arrays live, in words.
        versions: of the libraries that it uses.
        threads: how many CPU threads it may use; None if that is not known.
        ops: for every operation, which implementation runs: "numpy:softmax", "numba:...", "cupy:..." or "xp", the
            default body over the array namespace.
        notes: what a user should know, such as a part that is missing and slows the rest.
    """

    name: str
    device: str
    versions: dict[str, str]
    threads: int | None
    ops: dict[str, str]
    notes: tuple[str, ...] = field(default=())


class Backend(Operations):
    """The base of every backend; see the module."""

    name: ClassVar[str]
    device: str = "cpu"
    precision: str = "full"

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` as an array of this backend: the only way in. No copy where none is needed.

        Args:
            x: an array of any kind, a frame of numbers, a number, or (nested) lists of numbers.
            dtype: "float32", "float64" or "int64"; None keeps a float type (Python's is float64) and turns all else
                into float32.

        Raises:
            InputTypeError: x is not numeric, or is complex. InputError: x is ragged.
        """
        wanted = None if dtype is None else self.dtype_name(dtype)
        if isinstance(x, np.ndarray) or not self.owns(x):
            return self.from_numpy(host_array(x, wanted))
        if wanted is None:  # an array of this backend stays on its device
            wanted = self.dtype_name(x.dtype) if self.dtype_name(x.dtype) in FLOATS else "float32"
        return self.xp.astype(x, getattr(self.xp, wanted), copy=False)

    def from_numpy(self, a: np.ndarray) -> Array:
        """Return a NumPy array as one of this backend."""
        raise NotImplementedError

    def to_numpy(self, a: Array) -> np.ndarray:
        """Return an array of this backend as a NumPy array: the only way out."""
        raise NotImplementedError

    def owns(self, a: Any) -> bool:
        """Return whether `a` is an array of this backend."""
        raise NotImplementedError

    def address(self, a: Array) -> int:
        """Return the address in bytes at which an array begins; arrays share memory if and only if it is the same."""
        raise NotImplementedError

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """Return an array with arbitrary contents."""
        return self.zeros(shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """Return an array of zeros."""
        return self.from_numpy(np.zeros(shape, self.dtype_name(dtype)))

    def dtype_name(self, dtype: Any) -> str:
        """Return a type's name, such as "float32", given that name, a NumPy type, or one of this backend's own."""
        if isinstance(dtype, str | np.dtype) and dtype in NAMES:
            return NAMES[dtype]
        try:
            return str(np.dtype(dtype).name)
        except TypeError:  # not NumPy's: types of the array-API standard can only be compared for equality
            found = [name for name in DTYPES if dtype == getattr(self.xp, name)]
        if not found:
            raise InputTypeError(f"an array of {dtype} was given; expected real numbers")
        return found[0]

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""

    def active(self) -> AbstractContextManager[Any]:
        """Return a context in which code that uses `xp` runs on this backend's device, if there are several devices.

        The operations do not need it.
        """
        return nullcontext()

    def timer(self) -> Timer:
        """Return a stopwatch: `with backend.timer() as timer: ...`, then `timer.seconds`."""
        return Timer(self)

    # ---- precision ---------------------------------------------------------------------------------------------------

    def with_precision(self, wanted: str) -> Backend:
        """Return this backend, or another one with the same arrays, with float32 products of the given precision.

        Args:
            wanted: "full"; or "tf32", "bf16" or "bf16x3", which may round what large products multiply (precision.py).

        Raises:
            InputError: there is no such precision, or this backend does not have it.
        """
        check_precision(wanted)
        return self if wanted == self.precision else self._with_precision(wanted)

    def _with_precision(self, wanted: str) -> Backend:
        raise InputError(
            f"precision={wanted!r}: backend {self.name!r} multiplies in full precision only; say 'full', or use "
            "backend='numba' on a CPU with AMX or AVX512_BF16, or backend='cupy' on a GPU"
        )

    # ---- memory ------------------------------------------------------------------------------------------------------

    def memory(self) -> Memory:
        """Return how much memory is used, held and free: see `Memory`."""
        return of_process(self.device)

    def release(self) -> int:
        """Return unused memory that this process holds to the device, for other programs; return how many bytes."""
        return 0

    # ---- facts -------------------------------------------------------------------------------------------------------

    def info(self) -> BackendInfo:
        """Return what runs where: see `BackendInfo`."""
        return BackendInfo(
            self.name, self.device, self.versions(), self.threads(), {op: self.implementation(op) for op in OPERATIONS}
        )

    def implementation(self, op: str) -> str:
        """Return which implementation of an operation runs: "xp" for the default body, else "name:operation"."""
        return "xp" if getattr(type(self), op) is getattr(Operations, op) else f"{self.name}:{op}"

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that this backend uses."""
        return {"numpy": np.__version__}

    def threads(self) -> int | None:
        """Return how many CPU threads this backend may use, or None if that is not known."""
        return None

    def probe(self) -> None:
        """Do a little real work, and let errors through; `resolve` turns them into the reason why it does not work."""
        x, w = self.asarray([[1, 2]]), self.asarray([[3], [4]])
        result = self.to_numpy(self.dense(x, w, self.zeros((1, 1))))
        if not np.array_equal(result, [[11.0]]):
            raise RuntimeError(f"[1 2] @ [3 4] gave {result.item()}, not 11")

    # ---- programs ----------------------------------------------------------------------------------------------------

    def record(self, known: Iterable[Array]) -> Recorder:
        """Return a stand-in for this backend that records every operation called on it (recorder.py).

        Args:
            known: the buffers whose contents exist before the step begins: data and parameters.
        """
        return Recorder(self, known)

    def compile(self, recorder: Recorder) -> Program:
        """Compile a recorded step into a program that runs many steps in one call.

        Raises:
            NotReplayable: this backend cannot replay it; the message says which operation and why.
        """
        return Program(self, recorder.calls)

    def form(self, arrays: Sequence[Array]) -> Any:
        """Return what a compiled step depends on of its data, and of this backend as it is now, to be compared.

        None: no step that was compiled is used again on other data (`Program.template`).
        """
        return None

    def compile_gradients(self, recorder: Recorder, pieces: Sequence[Piece]) -> list[Program]:
        """Compile a recorded step without its update, which would read the gradients from their buffer afterwards.

        Args:
            recorder: the recorded step. pieces: its operations, from `in_pieces`; the host does something between them.

        Returns:
            A program for each piece. Calling `run(1)` of each, in order, does one step.

        Raises:
            NotReplayable: see `compile`.
        """
        return [Program(self, piece.calls) for piece in pieces]

    def stream(self, data: Sequence[np.ndarray], batch: int) -> Stream | None:
        """Return a stream that brings data to the device in chunks, or None if all data fit there (streaming.py).

        Args:
            data: arrays with the same number of rows. batch: how many rows a step takes.
        """
        return None

    def halves(self, like: Sequence[np.ndarray], rows: int) -> Halves:
        """Return device memory for rows that the caller, not a `stream`, brings in chunks (streaming.py).

        Args:
            like: arrays of the same types and widths. rows: how many rows each of the two halves has.
        """
        return HostHalves(self, like, rows)

    def compile_forward(self, stages: Sequence[Stage], parameters: Array) -> Forward | None:
        """Return a native function for a model's whole forward pass, or None if there is none (inference.py).

        The function returns None for inputs that it does not take; then the operations run one by one.

        Args:
            stages: the model's forward pass; their weights and biases are views of `parameters`.
            parameters: the flat buffer, whose numbers may change later.
        """
        return None

    def compile_scores(self, forward: Forward, loss: Scored) -> Scores | None:
        """Return a native function that evaluates: forward pass, loss and right outputs; or None if there is none.

        Args:
            forward: the result of `compile_forward`. loss: the loss, and what counts as right.
        """
        return None

    def planned_step(self) -> str:
        """Return in words how recorded steps will run here; `Program.description` says it of a compiled one."""
        return Program.description if type(self).compile is Backend.compile else "as its compile() decides"

    def planned_prediction(self) -> str:
        """Return in words how a model will predict here; `Inference.description` says it of a compiled one."""
        ours = type(self).compile_forward is Backend.compile_forward
        return Program.description if ours else "as its compile_forward() decides"

    def __repr__(self) -> str:
        return f"<nnx backend {self.name!r} on {self.device}>"


def on_its_device(method: Method) -> Method:
    """Decorate a method of an object with a `backend`, so that it runs in that backend's `active()` context."""

    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.backend.active():
            return method(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]


def host_array(x: Any, dtype: Any = None, what: str = "") -> np.ndarray:
    """Return `x` as a NumPy array of a type that nnx computes in; see `Backend.asarray` and `real_numbers`."""
    if type(x) is np.ndarray and (x.dtype in NATIVE_FLOATS if dtype is None else x.dtype == dtype) and x.flags.aligned:
        return x
    a = real_numbers(x, what)
    if dtype is None:  # the name, not the type itself, which may have the other byte order
        dtype = a.dtype.name if a.dtype.name in FLOATS else "float32"
    return _cast(a, dtype)


@np.errstate(all="ignore")  # numbers too large for float32 become inf, which the model's own check reports
def _cast(a: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array in another type, aligned in memory."""
    cast = a.astype(dtype, copy=False)
    return cast if cast.flags.aligned else cast.copy()


def real_numbers(x: Any, what: str = "", words: str = FEATURES) -> np.ndarray:
    """Return `x` as a NumPy array of real numbers, in its own type. All of the user's data enter here.

    Args:
        x: see inputs.py. what: errors begin with it. words: the advice, in an error, on how to convert words.

    Raises:
        InputTypeError: it holds something else. InputError: it is ragged, or a number is missing.
    """
    if is_ready(x):
        return x
    what += ": " if what else ""
    x = unmasked(x, what)
    if type(x).__module__.partition(".")[0] == "cupy":
        raise InputTypeError(
            f"{what}a CuPy array {x.shape} was given to a backend on the CPU: convert it by cupy.asnumpy(x), "
            'or use the GPU by backend="cupy"'
        )
    return to_numbers(x, what, words)


def unmasked(x: Any, what: str = "") -> Any:
    """Return `x`; if it is a masked array, as from readers of netCDF, its numbers, if none is masked.

    Raises:
        InputTypeError: a number is masked: NumPy and others would use the value under the mask.
    """
    # numpy.ma is not imported here, which takes 10 ms: if nobody else has imported it, there are no masked arrays.
    module = sys.modules.get("numpy.ma")
    kind = getattr(module, "MaskedArray", None)
    if module is None or kind is None or not isinstance(x, kind):
        return x
    count = 0 if x.dtype.names else module.count_masked(x)
    if count:
        raise InputTypeError(
            f"{what}a masked array was given, in which {count} of {x.size} {'is' if count == 1 else 'are'} masked: "
            "fill or drop the masked numbers first, e.g. x.filled(0)"
        )
    return x.data
