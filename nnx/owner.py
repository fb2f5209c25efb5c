"""Ownership of a model among threads: which one may train it, which may read it. A model and its layers share an owner.

One thread trains at a time. Another one that wants to waits for half a second, time enough for a few steps to end, and
is then refused. What would change the model from within its own fit, such as a callback, is refused at once. Any number
of threads may predict; one that finds training steps running waits for them (some 0.2 s at most, see `Pace`). So its
result belongs to the parameters between two steps, never to a half-done step.

Ctrl-C, or any other signal whose handler raises, may interrupt between any two bytecodes, except those that only read
and store plain attributes and items. So whatever must be undone is undone by such stores, in a `finally` and without a
call. A context manager written in Python would not do, because its `__exit__` is a call.
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
LOOK = 0.0005  # seconds between two checks while a thread waits for its turn
PATIENCE = 0.5  # seconds that a thread waits for a model that another trains: enough for some steps, not for a fit
COURTESY = 0.05  # seconds for which the next steps wait for readers that waited for the last ones


class Owner:
    """The locks of one model. Copies and pickles get a new one, and in a forked process nothing is held.

    Attributes:
        flat: the buffer that holds all parameters, once there is one.
        native: a function that `predict` tries first: it predicts inputs that need no conversion in one call, or
            returns None.
        recorder: what the layers compute with instead of their backend while a step is recorded, or None.
        holder: (name of the method, thread) that trains or changes the model, or None.
        queue: the threads that wait to be the next holder, in order, each with the time until which it waits.
        mark: None while parameters change; after each change a new object.
        readers: each reader of the parameters with its thread, or with None while it waits.
        wanted: whether a reader has waited since this was last set to False.
        layers: a lock for predicting through the layers themselves, whose workspace only one thread can use.
    """

    # Slots, because `predict`, which takes a microsecond, looks at `native` and twice at `mark`.
    __slots__ = ("__weakref__", "flat", "holder", "layers", "mark", "native", "queue", "readers", "recorder", "wanted")

    flat: ParameterBuffer
    native: Forward

    def __init__(self) -> None:
        self._begin()
        _all.add(ref(self, _all.discard))  # not a WeakSet, whose callback is Python code: it would lose an interrupt

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
        """Become the holder, after waiting if need be.

        Raises:
            InUseError: this thread is the holder already, or another one stays it for longer than PATIENCE.
        """
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
        """Wait in the queue until the model is free; first come, first served, so that no thread waits for ever."""
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
        """Return the place in the queue whose turn it is: the first whose thread has not given up."""
        now = time.monotonic()
        return next((place for place, end in self.queue.copy().items() if now < end), None)

    def allow(self, what: str) -> None:
        """Raise InUseError if another thread is training the parameters that `what` would change."""
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
        """Give the readers that waited for the last steps time to begin."""
        end = time.monotonic() + COURTESY
        while None in self.readers.copy().values() and time.monotonic() < end:
            time.sleep(LOOK)

    def wait_for_readers(self) -> None:
        """Wait until no other thread reads. `mark` is None, so no new reader begins meanwhile."""
        while not {None, get_ident()}.issuperset(self.readers.copy().values()):
            time.sleep(LOOK)

    def wait_for_steps(self, reader: object) -> None:
        """Wait until no parameters change, unless this thread is the one that changes them.

        A call from within another reading method of the same thread does not wait either: the steps wait for that one.
        """
        within = any(thread == get_ident() for other, thread in self.readers.copy().items() if other is not reader)
        while self.mark is None and not within and not self.is_mine():
            self.readers[reader], self.wanted = None, True
            time.sleep(LOOK)
            self.readers[reader] = get_ident()


_gate = threading.Lock()  # held for a moment by a thread that looks whether a model is free
_all: set[ref[Owner]] = set()


def _after_fork() -> None:
    """Release everything in a forked process, which has none of its parent's threads."""
    global _gate
    _gate = threading.Lock()
    for owner in [known() for known in list(_all)]:
        if owner is not None:
            owner._begin()


in_forked(_after_fork)


# ---- decorators for methods of objects with an `_owner` --------------------------------------------------------------


def alone(method: Method) -> Method:
    """Hold the model while the method runs, so that neither another thread nor a callback can train or change it."""
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
    """Hold the model like `alone`, but allow the call from within the holder too, as by a callback."""
    outside = alone(method)

    @wraps(method)
    def held(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (method if self._owner.is_mine() else outside)(self, *args, **kwargs)

    return held  # type: ignore[return-value]


def changing(method: Method) -> Method:
    """Keep other threads from reading the parameters while the method changes them."""

    @wraps(method)
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner = self._owner
        after = None if owner.mark is None else object()  # None: this is within another change, which continues
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
    """Keep the parameters from being changed while the method reads them. Any number of threads may read at once."""

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
