"""Precision of the book's classes: the book's own rounding, or nnx's fast backends.

The book's `nnfs.init()` replaces functions of NumPy for the whole process, so that normal numbers and zeros are float32
and dot products are computed in float64 and rounded to float32. Here NumPy is not changed: the classes round by
themselves, and `BookBackend` has the operations on whose rounding the printed digits depend.
"""

from __future__ import annotations

from typing import Any
from warnings import warn

import numpy as np

from nnx import checks
from nnx.backends import Backend, get_backend, resolve
from nnx.backends.base import FLOATS, host_array
from nnx.backends.numpy import NumpyBackend, rate_of
from nnx.backends.operation_table import quiet, write
from nnx.errors import BackendFallbackWarning, BackendUnavailable, InputError
from nnx.kernels.step_state import BETA_1, BETA_2, CLIP, EPSILON, STEP, WEIGHT_DECAY
from nnx.nnfs.shadowed import warn_of_own_classes

Array = Any


@quiet
class BookBackend(NumpyBackend):
    """NumPy with the book's order of operations and the book's rounding, so that the printed digits are the book's.

    Dot products, exponentials and logarithms are computed in float64 and rounded, because BLAS libraries and NumPy's
    own float32 `exp` differ in the last bit between processors, which changes the figures of a training. What is
    float64 in the book (a dropout's mask, the targets of a regression) stays float64.

    Args:
        dtype: the type that dot products are rounded to, whatever their operands are. So the backend is of no use for
            other types.
    """

    name = "book"

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype

    def dot(self, a: Array, b: Array) -> Array:
        """Return the matrix product, computed in float64 and rounded once."""
        return np.matmul(np.asarray(a, "float64"), np.asarray(b, "float64")).astype(self.dtype, copy=False)

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        """Return `x @ w + b`: the product is rounded, then the bias is added (chapter 3)."""
        y = write(out, self.dot(x, w) + b)
        return y if activation is None else getattr(self, activation)(y, out=y)

    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        """Write the parameters' gradients, and return that of the inputs (chapter 9)."""
        self.dense_gradients(x, dy, dw, db)
        return write(out, self.dot(dy, w.T))

    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        """Write the parameters' gradients; that of the biases is a plain sum over samples (chapter 9)."""
        write(dw, self.dot(x.T, dy))
        self._in_runs(len(dy), lambda run: np.sum(dy[run], axis=0, keepdims=True), db)

    def softmax(self, x: Array, out: Array | None = None) -> Array:
        """Return exp(x - max) / sum for each row (chapter 4)."""
        e = exact(np.exp, x - np.max(x, axis=1, keepdims=True))
        return write(out, e / np.sum(e, axis=1, keepdims=True))

    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        """Return each sample's Jacobian times its gradient; the Jacobian is computed and rounded as in chapter 9."""
        identity = np.eye(y.shape[1], dtype=y.dtype)
        jacobian = y[:, :, None] * identity - self.dot(y[:, :, None], y[:, None, :])
        return write(out, self.dot(jacobian, dy[:, :, None])[:, :, 0].astype(dy.dtype, copy=False))

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        """Return 1 / (1 + exp(-x)) (chapter 16); if exp(-x) overflows, that is 0."""
        return write(out, 1 / (1 + exact(np.exp, -x)))

    def sigmoid_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        """Return `dy * (1 - y) * y` (chapter 16)."""
        return write(out, dy * (1 - y) * y)

    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return -log of the probability of the true class, for each row (chapter 5)."""
        p = np.clip(p, CLIP, 1 - CLIP)
        if target.ndim == 1:
            wanted = p[np.arange(len(p)), np.clip(target, 0, p.shape[1] - 1)]
            return write(out, self._known(target, p, -exact(np.log, wanted)))
        return write(out, -np.sum(target * exact(np.log, p), axis=1))

    def binary_cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return the mean over outputs of -(t log p + (1 - t) log(1 - p)) (chapter 16)."""
        p = np.clip(p, CLIP, 1 - CLIP)
        return write(out, np.mean(-(target * exact(np.log, p) + (1 - target) * exact(np.log, 1 - p)), axis=-1))

    def mean_squared_error_backward(self, prediction: Array, target: Array, out: Array | None = None) -> Array:
        """Return 2 (prediction - target), divided by outputs, then by samples (chapter 17)."""
        return write(out, 2 * (prediction - target) / prediction.shape[1] / len(prediction))

    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        """Adam (chapter 10), in the book's order: correct both moments, then divide."""
        rate, epsilon, time = rate_of(hyper, counters), float(hyper[EPSILON]), int(counters[STEP]) + 1
        beta_1, beta_2 = float(hyper[BETA_1]), float(hyper[BETA_2])
        m[...] = beta_1 * m + (1 - beta_1) * g
        v[...] = beta_2 * v + (1 - beta_2) * g**2
        if hyper[WEIGHT_DECAY]:  # never in the book
            p *= 1 - rate * float(hyper[WEIGHT_DECAY])
        p -= rate * (m / (1 - beta_1**time)) / (np.sqrt(v / (1 - beta_2**time)) + epsilon)


def exact(function: Any, x: Array) -> Array:
    """Return `function(x)`, computed in float64 and rounded to the type of x."""
    return function(np.asarray(x, "float64")).astype(x.dtype, copy=False)


# ---- the process's choice, which the book makes by nnfs.init() -------------------------------------------------------

_backend: Backend | None = None  # None: to be found at the first use
_book = False  # whether it is a BookBackend
_dtype = "float32"


def init(
    dot_precision_workaround: bool = True,
    default_dtype: str | None = "float32",
    random_seed: int | None = 0,
    *,
    precision: str | None = None,
) -> None:
    """Start a script like those of the book: seed the random numbers, and choose how all classes here compute.

    NumPy is not changed: `np.random.randn` in your own script still returns float64. Call this before making layers.

    Args:
        dot_precision_workaround: True means precision="book", False means precision="fast".
        default_dtype: type of weights, biases and rounded dot products: "float32", or "float64" (the same as None),
            which rounds nowhere.
        random_seed: seed for NumPy's global generator, which gives weights, data and dropout masks; None: don't seed.
        precision: "book" computes with `BookBackend`, for the book's digits; "fast" computes with the active backend
            if that is one for the CPU (otherwise numba, otherwise numpy).

    Raises:
        InputError: an argument is none of these.
    """
    global _backend, _book, _dtype
    warn_of_own_classes()
    dtype = checks.choice(default_dtype or "float64", "init: default_dtype", FLOATS)
    wish = precision or ("book" if dot_precision_workaround else "fast")
    book = checks.choice(wish, "init: precision", ("book", "fast")) == "book"
    _backend, _book, _dtype = BookBackend(dtype) if book else _fast(), book, dtype
    if random_seed is not None:
        np.random.seed(random_seed)  # noqa: NPY002 - the stream of the book's figures


def default_dtype() -> str:
    """Return the type of new weights: "float32", or the type given to `init`."""
    return _dtype


def is_book() -> bool:
    """Tell whether the classes compute with the book's rounding."""
    return _book


def randn(*shape: int) -> Array:
    """Draw normal numbers from NumPy's global generator, rounded to the type given to `init`, as in the book."""
    return np.random.randn(*shape).astype(_dtype)  # noqa: NPY002 - the stream of the book's figures


def backend() -> Backend:
    """Return the backend that computes: the book's after `init()`, otherwise the fast one."""
    global _backend
    if _backend is None:
        _backend = _fast()
    return _backend


def _fast() -> Backend:
    """Return the active backend if its arrays are NumPy's, otherwise another: the book's scripts call np.argmax etc.

    If a GPU was asked for by name, there is a warning that it is not used.
    """
    active = resolve()
    if active.backend.xp is np:
        return active.backend
    try:
        found = get_backend("numba")
    except BackendUnavailable:
        found = get_backend("numpy")
    if active.wish != "auto":
        reason = f"nnx.nnfs computes on NumPy's arrays: backend {found.name!r} takes the place of {active.wish!r}"
        warn(reason, BackendFallbackWarning, stacklevel=3)
    return found


# ---- what the classes make of their arguments ------------------------------------------------------------------------


def floats(a: Any, like: Array | None = None) -> Array:
    """Return `a` as an array of floats; integers and lists become float64, as in NumPy's arithmetic.

    Args:
        like: an array whose type the result must have. Ignored in book precision, where types mix as in the book.
    """
    kept = type(a) is np.ndarray and a.dtype.char in "fd"
    if like is None or _book:
        return a if kept else host_array(a, "float64")
    return a if kept and a.dtype == like.dtype else host_array(a, like.dtype)


def target_type(y: Any, outputs: Array) -> str:
    """Return the type of prepared targets y: that of the outputs or, in book precision, the one of NumPy's rules.

    So the sine of chapter 17, which is float64, makes its losses float64.
    """
    kind = getattr(y, "dtype", outputs.dtype)
    return str(np.result_type(kind, outputs.dtype) if _book else outputs.dtype)


def outputs_of(part: Any) -> Array:
    """Return `part.output`; raise InputError if forward() has not been called."""
    try:
        return part.output
    except AttributeError:
        who = type(part).__name__
        raise InputError(f"{who}: backward() was called before forward(): there is nothing to go back from") from None
