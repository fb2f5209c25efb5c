"""Choice of a backend: from a wish ("auto", a name, a list) to a backend that works, with the reasons for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, Literal

from nnx.backends import environment, threads
from nnx.backends.base import Backend
from nnx.backends.errors import BackendFallbackWarning, BackendUnavailable, InputError, InputTypeError
from nnx.backends.memory import Memory
from nnx.backends.once import Once
from nnx.kernels.uninterrupted import uninterrupted
from nnx.kernels.user_warnings import warn

AUTO = ("cupy", "numba", "numpy")
Name = Literal["auto", "numpy", "numba", "cupy"]  # for editors' suggestions; lists, devices and plugins' names are str
Wish = Name | str | Sequence[str] | Backend | None


@dataclass(frozen=True)
class Resolution:
    """The backend that was chosen, and why those before it were not.

    Attributes:
        backend: the one to use.
        wish: what was asked for, as text.
        skipped: why each earlier choice does not work; the same reason of two names of one backend is listed once.
    """

    backend: Backend
    wish: str
    skipped: tuple[BackendUnavailable, ...] = ()

    @property
    def reason(self) -> str:
        """Why this backend was chosen, in one line."""
        why = "; ".join(f"no {s.name}: {s.reason}" for s in self.skipped)
        return f"asked for {self.wish!r}" + (f" ({why})" if why else "")


def names() -> list[str]:
    """Return every backend's name: nnx's own, then those that other packages register under "nnx.backends"."""
    return [*AUTO, *(name for name in _entry_points() if name not in AUTO)]


def available() -> dict[str, bool | BackendUnavailable]:
    """Return, for each backend, True, or a falsy `BackendUnavailable` with its reason and remedy."""
    found = {name: _try(name) for name in sorted(names(), key=lambda n: (n != "numpy", n != "numba"))}
    return {name: b if isinstance(b, BackendUnavailable) else True for name, b in found.items()}


def _try(name: str) -> Backend | BackendUnavailable:
    """Return a backend, or why it does not work; for `available`, a wrong environment variable is a reason too."""
    try:
        return _load(name)
    except InputError as error:
        return BackendUnavailable(name, str(error), "Correct or unset it.")


def resolve(wish: Wish = None) -> Resolution:
    """Find the backend to use.

    The wish is the first of these that was given: the argument, `use_backend`, `set_backend`, NNX_BACKEND, "auto".

    Args:
        wish: a backend; its name, which may carry a device ("cupy:1"); names in order of preference, as a list or
            "cupy,numba"; or "auto", the best that works.

    Raises:
        BackendUnavailable: the named backend, or every one in the list, does not work; with NNX_STRICT=1, the first one
            in the list does not.
        InputError: no backend has that name, or an environment variable NNX_... has an invalid value.
    """
    threads.check()
    what = "backend"
    if wish is None:
        wish = _current.get() or _default
    if wish is None:
        wish, what = os.environ.get("NNX_BACKEND", "").strip() or "auto", "NNX_BACKEND"
    if isinstance(wish, Backend):
        return Resolution(wish, wish.name)
    wanted = _parse(wish, what)
    automatic = wanted == ["auto"]
    wish = ",".join(wanted)
    skipped: list[BackendUnavailable] = []
    for name in AUTO if automatic else wanted:
        found = _load(name)
        if isinstance(found, Backend):
            if skipped and not automatic:
                _tell(found, skipped)
            return Resolution(found, wish, tuple(skipped))
        if (found.name, found.reason) not in ((s.name, s.reason) for s in skipped):  # "cupy:0,cupy", without a GPU
            skipped.append(found)
        if not automatic and _strict():
            break
    raise _none_left(skipped)


def get_backend(wish: Wish = None) -> Backend:
    """Return a backend that works; see `resolve` for what wishes can be, and for the errors."""
    return resolve(wish).backend


def set_backend(wish: Wish) -> Backend:
    """Make a backend the default of this process, and return it; None restores NNX_BACKEND, or "auto"."""
    global _default
    if wish is None:
        _default = None
        return get_backend()
    _default = get_backend(wish)
    return _default


@contextmanager
def use_backend(wish: Wish) -> Iterator[Backend]:
    """Use a backend within a `with` block, only in this thread or task; `as` gives the backend."""
    backend = get_backend(wish)
    token = _current.set(backend)
    try:
        yield backend
    finally:
        _current.reset(token)


def memory(wish: Wish = None) -> Memory:
    """Return how much memory a backend, by default the active one, uses and holds, and how much is free."""
    return get_backend(wish).memory()


def release(wish: Wish = None) -> int:
    """Return unused memory that a backend holds to its device, for other programs; return how many bytes.

    Memory is in use as long as Python refers to it: delete models and arrays first.
    """
    return get_backend(wish).release()


_default: Backend | None = None
_current: ContextVar[Backend | None] = ContextVar("nnx_backend", default=None)


def _parse(wish: Any, what: str) -> list[str]:
    """Return the names in a wish, without duplicates; raise an error for anything that cannot be a name."""
    if isinstance(wish, str):
        wanted = [part.strip() for part in wish.split(",")]
    elif isinstance(wish, Sequence) and all(isinstance(part, str) for part in wish):
        wanted = [part.strip() for part in wish]
    else:
        raise InputTypeError(f'{what}={wish!r}: expected a name, names such as "cupy,numba", or "auto"')
    if not wanted:
        raise InputError(f'{what}={wish!r}: expected at least one name, such as "numpy", or "auto"')
    wanted = list(dict.fromkeys(wanted))
    for name in wanted:
        base, colon, device = name.partition(":")
        if wanted != ["auto"] and base not in AUTO and base not in _entry_points():
            raise InputError(
                f"{what}={wish!r}: {name!r} is no backend; expected one or several of {', '.join(names())}, "
                "or auto alone"
            )
        if base in AUTO and colon and not device.isdecimal():
            raise InputError(f"{what}={wish!r}: {device!r} is no device; expected a number, such as {base}:0")
    return wanted


def _strict() -> bool:
    return environment.flag("NNX_STRICT") is True


def _tell(found: Backend, skipped: list[BackendUnavailable]) -> None:
    why = "; ".join(f"{s.name} is unavailable: {s.reason}. {s.remedy}" for s in skipped)
    warn(f"using backend {found.name!r}; {why}", BackendFallbackWarning)


def _none_left(skipped: list[BackendUnavailable]) -> BackendUnavailable:
    if len(skipped) == 1:  # a new one, because a raised error keeps the frames that it passed, and their arrays
        return BackendUnavailable(skipped[0].name, skipped[0].reason, skipped[0].remedy)
    reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped)
    remedies = " ".join(f"{s.name}: {s.remedy}" for s in skipped)
    return BackendUnavailable(",".join(s.name for s in skipped), reasons, remedies)


@Once
def _load(name: str) -> Backend | BackendUnavailable:
    """Make and probe a backend once for each process.

    Raises:
        InputError: an environment variable for one of nnx's backends has an invalid value, such as NNX_GEMM=fast.
    """
    if name.partition(":")[0] != "numba":
        return _make(name)
    found = uninterrupted(partial(_make, name))  # an interrupted import would leave Numba's registries half filled
    if isinstance(found, Backend):
        threads.apply()  # in this thread, as a BLAS that uses OpenMP has a number of threads for each calling thread
    return found


def _make(name: str) -> Backend | BackendUnavailable:
    """Make and probe a backend; if it does not work, return the reason."""
    base, _, device = name.partition(":")
    backend: Any = None
    try:
        backend = _factory(base)(device) if device else _factory(base)()
        if not isinstance(backend, Backend):
            raise TypeError(f"it makes a {type(backend).__name__}, which is no nnx.backends.Backend")
        backend.probe()
    except BackendUnavailable as unavailable:
        return unavailable.with_traceback(None)
    except Exception as error:  # any exception of a driver, a compiler or a plugin is a reason, not a crash
        if isinstance(error, InputError) and backend is None and base in AUTO:
            raise
        return BackendUnavailable(name, f"{type(error).__name__}: {error}", "Run `nnx doctor` for details.")
    return backend


def _factory(base: str) -> Callable[..., Backend]:
    if base in AUTO:
        factory: Callable[..., Backend] = import_module(f"nnx.backends.{base}").create
        return factory
    loaded: Callable[..., Backend] = _entry_points()[base].load()
    return loaded


@cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points  # here, because it takes a third of the time of `import nnx`

    return {point.name: point for point in entry_points(group="nnx.backends")}
