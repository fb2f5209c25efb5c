"""Ownership of a model among threads: who may train it, who may read it; a model and its layers share it.

One thread trains at a time: any other waits for its turn for half a second, in which some steps are done, and is then
refused; so is, at once, whatever would change the model from within a fit. Any number may predict. Where one of them
meets a step it waits for the steps at hand (at most some 0.2 s of them, see `Pace`), so that what it gives is of the
parameters between two steps, never of half a step.

Ctrl-C, or any other signal whose handler raises, may come between any two bytecodes, but for those that only read and
store plain attributes and items. So what must be undone is undone by such stores, in a `finally` and without a call;
a context manager written in Python would not do, for its `__exit__` is a call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from nnx.errors import InUseError
from nnx.kernels.forking import in_forked

if TYPE_CHECKING:
    from nnx.backends.inference import Forward
    from nnx.flat_buffer import ParameterBuffer

Method = TypeVar("Method", bound=Callable[..., Any])
LOOK = 0.0005  # seconds between two looks whether it is one's turn
PATIENCE = 0.5  # seconds that a thread waits for a model that another trains; some steps are done by then, a fit is not
COURTESY = 0.05  # seconds for which steps let those go first who have waited for them


class Owner:
    """One for each model. It travels neither with copies nor with pickles, nor is anything held after a fork.

    Attributes:
        flat: the buffer that holds all parameters, once there is one.
        native: what `predict` asks first: predicts in one call what is ready as it is, or returns None.
        recorder: what the layers compute with instead of their backend while a step is recorded, or None.
        holder: (what, thread) that trains or changes the model, or None.
        queue: until when each of those waits who would be the next holder, in order.
        mark: None while parameters change; after each change another object.
        readers: who reads the parameters, with its thread, or who waits to do so, with None.
        wanted: whether somebody has waited since this was last made False.
        layers: held by whoever uses the layers themselves to predict: they have one workspace.
    """

    # Slots, because `predict`, which takes a microsecond, looks at `native` and twice at `mark`.
    __slots__ = ("__weakref__", "flat", "holder", "layers", "mark", "native", "queue", "readers", "recorder", "wanted")

    flat: ParameterBuffer
    native: Forward

    def __init__(self) -> None:
        self._begin()
        _all.add(ref(self, _all.discard))  # not a WeakSet: it would be told in Python, where an interrupt would be lost

    def _begin(self) -> None:
        self.recorder: Any = None
        self.holder: tuple[str, int] | None = None
        self.queue: dict[object, float] = {}
        self.mark: object | None = object()
        self.readers: dict[object, int | None] = {}
        self.wanted = False
        self.layers = threading.RLock()

    def __reduce__(self) -> tuple[type[Owner], tuple[()]]:
        return type(self), ()

    # ---- one thread trains -------------------------------------------------------------------------------------------

    def take(self, mine: tuple[str, int]) -> None:
        """Hold the model, perhaps after a while; or raise InUseError, at once where this thread holds it already."""
        with _gate:
            if self.holder is None and not self.queue:
                self.holder = mine
                return
            what, (held, thread) = mine[0], self.holder or ("steps", 0)
        if thread == get_ident():
            raise InUseError(
                f"{what}: {held}() of this model is running, and this was called from within it, such as by a "
                "callback. Do it after that has returned; model.stop_training = True ends a fit after the epoch. "
                "While it runs, the parameters, the learning rate and the layers' own numbers may be changed"
            )
        self._wait_for_turn(mine)

    def _wait_for_turn(self, mine: tuple[str, int]) -> None:
        """Stand in line until the model is free; whoever comes later stands behind, so that nobody waits for ever."""
        end, place = time.monotonic() + PATIENCE, object()
        held = "steps", 0
        try:
            self.queue[place] = end
            while time.monotonic() < end:
                with _gate:
                    held = self.holder or held
                    if self.holder is None and self._next() is place:
                        self.holder = mine
                        return
                time.sleep(LOOK)
        finally:
            self.queue.pop(place, None)
        self._refuse(mine[0], *held)

    def _next(self) -> object:
        """Return whose turn it is: the first in line that has not given up."""
        now = time.monotonic()
        return next((place for place, end in self.queue.copy().items() if now < end), None)

    def allow(self, what: str) -> None:
        """Refuse to change parameters that another thread trains."""
        holder = self.holder
        if holder is not None and holder[1] != get_ident():
            self._refuse(what, *holder)

    def is_mine(self) -> bool:
        """Whether this thread holds the model."""
        holder = self.holder
        return holder is not None and holder[1] == get_ident()

    def _refuse(self, what: str, held: str, thread: int) -> None:
        name = next((f" {t.name!r}" for t in threading.enumerate() if t.ident == thread), "")
        raise InUseError(
            f"{what}: another thread{name} is in {held}() of this model. One thread trains a model: wait until that "
            "has returned, or give each thread a model of its own: copy.deepcopy(model)"
        )

    # ---- steps and those who read ------------------------------------------------------------------------------------

    def let_others_read(self) -> None:
        """Let those begin who waited while the last steps ran."""
        end = time.monotonic() + COURTESY
        while None in self.readers.copy().values() and time.monotonic() < end:
            time.sleep(LOOK)

    def wait_for_readers(self) -> None:
        """Wait until nobody reads but this thread itself. Whoever comes meanwhile waits: `mark` is None."""
        while not {None, get_ident()}.issuperset(self.readers.copy().values()):
            time.sleep(LOOK)

    def wait_for_steps(self, reader: object) -> None:
        """Wait until no parameters change, unless it is this thread that changes them.

        Nor does one wait that reads already, from within which this was called: the steps wait for it.
        """
        within = any(thread == get_ident() for other, thread in self.readers.copy().items() if other is not reader)
        while self.mark is None and not within and not self.is_mine():
            self.readers[reader], self.wanted = None, True
            time.sleep(LOOK)
            self.readers[reader] = get_ident()


_gate = threading.Lock()  # for a moment, by whoever looks whether a model is held
_all: set[ref[Owner]] = set()


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and its models are held by none of them."""
    global _gate
    _gate = threading.Lock()
    for owner in [known() for known in list(_all)]:
        if owner is not None:
            owner._begin()


in_forked(_after_fork)


# ---- for methods of what has an `_owner` -----------------------------------------------------------------------------


def alone(method: Method) -> Method:
    """Hold the model while the method runs: neither another thread nor a callback may come in between."""
    name = method.__name__

    @wraps(method)
    def held(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner, mine = self._owner, (name, get_ident())
        try:
            owner.take(mine)
            return method(self, *args, **kwargs)
        finally:
            if owner.holder is mine:
                owner.holder = None

    return held  # type: ignore[return-value]


def alone_or_within(method: Method) -> Method:
    """Do the same, but let callbacks of the thread that holds the model call the method too."""
    outside = alone(method)

    @wraps(method)
    def held(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (method if self._owner.is_mine() else outside)(self, *args, **kwargs)

    return held  # type: ignore[return-value]


def changing(method: Method) -> Method:
    """Keep those out who read parameters while the method changes them."""

    @wraps(method)
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner = self._owner
        after = None if owner.mark is None else object()  # None: within another change, which goes on
        try:
            if owner.readers:
                owner.let_others_read()
            owner.mark = None
            if owner.readers:
                owner.wait_for_readers()
            return method(self, *args, **kwargs)
        finally:
            owner.mark = after

    return changed  # type: ignore[return-value]


def reading(method: Method) -> Method:
    """Keep parameters as they are while the method reads them. Any number may read at once."""

    @wraps(method)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner, reader = self._owner, object()
        try:
            owner.readers[reader] = get_ident()
            if owner.mark is None:
                owner.wait_for_steps(reader)
            return method(self, *args, **kwargs)
        finally:
            owner.readers.pop(reader, None)

    return read  # type: ignore[return-value]
