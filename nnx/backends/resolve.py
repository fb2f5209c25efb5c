"""Choice of a backend: from a wish ("auto", a name, a list) to one that works, with the reason if not the first."""

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
Name = Literal["auto", "numpy", "numba", "cupy"]  # what an editor offers; a list, a device or a plugin's name are str
Wish = Name | str | Sequence[str] | Backend | None


@dataclass(frozen=True)
class Resolution:
    """The backend that was taken, and those before it that were not.

    Attributes:
        backend: the one to use.
        wish: what was asked for, as text.
        skipped: why each earlier choice does not work; what two names of one backend have in common comes once.
    """

    backend: Backend
    wish: str
    skipped: tuple[BackendUnavailable, ...] = ()

    @property
    def reason(self) -> str:
        """One line on why this backend."""
        why = "; ".join(f"no {s.name}: {s.reason}" for s in self.skipped)
        return f"asked for {self.wish!r}" + (f" ({why})" if why else "")


def names() -> list[str]:
    """Return every backend's name: our own, then those that other packages register under "nnx.backends"."""
    return [*AUTO, *(name for name in _entry_points() if name not in AUTO)]


def available() -> dict[str, bool | BackendUnavailable]:
    """Return, for each backend, True, or a falsy `BackendUnavailable` with its reason and remedy."""
    found = {name: _try(name) for name in sorted(names(), key=lambda n: (n != "numpy", n != "numba"))}
    return {name: b if isinstance(b, BackendUnavailable) else True for name, b in found.items()}


def _try(name: str) -> Backend | BackendUnavailable:
    """Return a backend; the environment's mistake is a reason, too, where one looks and nothing was asked for."""
    try:
        return _load(name)
    except InputError as error:
        return BackendUnavailable(name, str(error), "Correct or unset it.")


def resolve(wish: Wish = None) -> Resolution:
    """Find the backend to use.

    Order: the argument, `use_backend`, `set_backend`, the environment's NNX_BACKEND, "auto".

    Args:
        wish: a backend; its name, which may carry a device ("cupy:1"); names in order of preference, as a list or
            "cupy,numba"; or "auto", the best that works.

    Raises:
        BackendUnavailable: the one named does not work, or none of the list, or (NNX_STRICT=1) not the list's first.
        InputError: no backend has that name; or one of the environment's NNX_... variables is not as it must be.
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
    """Return one backend that works: see `resolve` for the order, the forms and the errors."""
    return resolve(wish).backend


def set_backend(wish: Wish) -> Backend:
    """Make a backend the process's default, and return it. None goes back to NNX_BACKEND, or "auto"."""
    global _default
    if wish is None:
        _default = None
        return get_backend()
    _default = get_backend(wish)
    return _default


@contextmanager
def use_backend(wish: Wish) -> Iterator[Backend]:
    """Use a backend inside a `with` block, in this thread or task alone; the block's variable is the backend."""
    backend = get_backend(wish)
    token = _current.set(backend)
    try:
        yield backend
    finally:
        _current.reset(token)


def memory(wish: Wish = None) -> Memory:
    """Return how much memory a backend, by default the active one, uses, holds and finds free."""
    return get_backend(wish).memory()


def release(wish: Wish = None) -> int:
    """Give what a backend holds and does not use back to its device, for other programs; return how many bytes.

    What counts as used is what Python still refers to: delete models and arrays first.
    """
    return get_backend(wish).release()


_default: Backend | None = None
_current: ContextVar[Backend | None] = ContextVar("nnx_backend", default=None)


def _parse(wish: Any, what: str) -> list[str]:
    """Split a wish into names, each once, and refuse what no backend can be called."""
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
    if len(skipped) == 1:  # anew, because an error that was raised keeps the frames it went through, and their arrays
        return BackendUnavailable(skipped[0].name, skipped[0].reason, skipped[0].remedy)
    reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped)
    remedies = " ".join(f"{s.name}: {s.remedy}" for s in skipped)
    return BackendUnavailable(",".join(s.name for s in skipped), reasons, remedies)


@Once
def _load(name: str) -> Backend | BackendUnavailable:
    """Make and probe a backend once for each process.

    Raises:
        InputError: the environment asks one of nnx's own for what there is not, such as NNX_GEMM=fast.
    """
    if name.partition(":")[0] != "numba":
        return _make(name)
    found = uninterrupted(partial(_make, name))  # to import Numba is to fill its registries
    if isinstance(found, Backend):
        threads.apply()  # here, as a BLAS that takes its threads from OpenMP keeps a number for each that calls it
    return found


def _make(name: str) -> Backend | BackendUnavailable:
    """Make and probe a backend; return why not where it does not work."""
    base, _, device = name.partition(":")
    backend: Any = None
    try:
        backend = _factory(base)(device) if device else _factory(base)()
        if not isinstance(backend, Backend):
            raise TypeError(f"it makes a {type(backend).__name__}, which is no nnx.backends.Backend")
        backend.probe()
    except BackendUnavailable as unavailable:
        return unavailable.with_traceback(None)
    except Exception as error:  # whatever a driver, a compiler or somebody's plugin throws is a reason, not a crash
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
