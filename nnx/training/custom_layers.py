"""State of user-defined parts that a recording would miss: counters, random draws, changed inputs.

Parts are layers, losses and optimizers. Recording runs a step that does not count, so a part's own attributes are
restored afterwards. If the step changed one of them, it cannot be replayed, because the recording would repeat the old
value. Attributes that did not change are contained in the recording too, so they are compared before each replay
(`Held`). The same holds for the variables around the part's methods, and for nnx's own parts with a user-defined
method.
"""

from __future__ import annotations

import copy
import dis
import types
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nnx.errors import NotReplayable
from nnx.layers import Layer
from nnx.settings import Assignable, is_own, package, replaced, users

PLAIN = (int, float, complex, str, bytes, np.generic, type(None))
NAMESPACES = ("types", "argparse")  # modules whose objects, such as SimpleNamespace, hold a user's values


def is_custom(part: Assignable) -> bool:
    """Return whether a part is user-defined, or one of nnx's with a method that was replaced."""
    return not is_own(type(part)) or replaced(part)


class CustomParts:
    """The state, before a step, of the user-defined and modified parts and of the step's inputs.

    Attributes:
        any: whether there are such parts.
    """

    def __init__(self, parts: Sequence[Assignable], inputs: Any, xp: Any) -> None:
        self._kept = [Kept(part) for part in parts if is_custom(part)]
        self.any, self._inputs, self._xp = bool(self._kept), inputs, xp
        self._copy = xp.asarray(inputs, copy=True) if self._kept else None
        self._draws = draws() if self._kept else None

    def check(self) -> None:
        """Raise NotReplayable if a part counted, drew random numbers, or changed another of its attributes."""
        for kept in self._kept:
            kept.check()
        if self._have_drawn():
            raise NotReplayable("a layer, the loss or the optimizer draws from the random numbers of the whole process")

    def _have_drawn(self) -> bool:
        return self._draws is not None and frozen(self._draws) != frozen(draws())

    def restore(self) -> None:
        """Put the parts and the inputs back to what they were."""
        for kept in self._kept:
            kept.restore()
        if self._draws is not None and self._have_drawn():
            put_back(*self._draws)
        if self._copy is not None and not bool(self._xp.all(self._inputs == self._copy)):
            self._inputs[...] = self._copy

    def held(self) -> Held | None:
        """Return the values of these parts that a recording contains; to be called after `restore`."""
        return Held([(kept.part, kept.touched) for kept in self._kept]) if self._kept else None


class Kept:
    """A part's own attributes as they were before a step, without its parameters and its workspace.

    Attributes:
        touched: names of attributes that the step itself sets, so that it does not matter what others set them to.
    """

    def __init__(self, part: Assignable) -> None:
        self.part, self.touched = part, set[str]()
        self._values = {name: value for name, value in vars(part).items() if name not in part._runtime}
        self._copies: dict[str, Any] = {}
        for name, value in self._values.items():
            if getattr(value, "__self__", None) is part:  # a copy of the part's method would belong to another part
                continue
            with suppress(Exception):  # a lock or an open file cannot be copied; it is left alone
                self._copies[name] = copy.deepcopy(value)
        self._frozen = {name: frozen(value) for name, value in self._values.items()}
        self._methods = methods(type(part))

    def check(self) -> None:
        """Raise NotReplayable if an attribute changed."""
        for name, value in vars(self.part).items():
            if name in self.part._runtime:
                continue
            if name not in self._values or self._values[name] is not value:
                self.touched.add(name)
            before = self._frozen.get(name, frozen(getattr(type(self.part), name, None)))
            if not (before is None or isinstance(before, str | Same)) and before != frozen(value):
                raise NotReplayable(f"{self.part} keeps numbers of its own from step to step: its {name} changed")
        if methods(type(self.part)) != self._methods:
            raise NotReplayable(f"{self.part} changes variables around its methods from step to step")

    def restore(self) -> None:
        """Undo what the step changed; objects that others may share with the part keep their identity."""
        attributes = self.part.__dict__
        for name in attributes.keys() - self._values.keys() - set(self.part._runtime):  # the step made them
            del attributes[name]
        for name, value in self._values.items():
            same = frozen(value) == self._frozen[name] == frozen(self._copies.get(name, value))
            attributes[name] = value if same else self._copies.get(name, value)


def draws() -> tuple[Any, Any]:
    """Return the states of the process-wide random number generators of Python and NumPy."""
    import random  # here, because it imports many other modules

    return random.getstate(), np.random.get_state()  # noqa: NPY002


def put_back(python: Any, numpy: Any) -> None:
    """Set the states of the process-wide random number generators of Python and NumPy."""
    import random

    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


class Held:
    """The values of user-defined parts that a recording contains: their attributes and their methods.

    Args:
        parts: each with the names of attributes that a step sets.
    """

    def __init__(self, parts: Sequence[tuple[Assignable, set[str]]]) -> None:
        self._parts = parts
        self._numbers = self._read()

    def changed(self) -> bool:
        """Return whether any of them has changed since."""
        return self._read() != self._numbers

    def _read(self) -> list[Any]:
        return [(attributes(part, touched), methods(type(part))) for part, touched in self._parts]


class Unknown:
    """Stands for a value that changes when it is read, such as an iterator: never equal, so it counts as changed."""


@dataclass(frozen=True)
class Same:
    """A value that is compared by identity, not by its contents."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value


def attributes(part: Any, skip: set[str], seen: set[int] | None = None, home: str = "") -> dict[str, Any]:
    """Return a part's own attributes in a form that can be compared."""
    unread = {*getattr(part, "_runtime", ()), *skip}
    slots = [name for kind in type(part).__mro__ for name in slotted(kind) if hasattr(part, name)]
    read = {name: getattr(part, name) for name in slots} | getattr(part, "__dict__", {})
    return {name: frozen(value, seen, home) for name, value in read.items() if name not in unread}


def slotted(kind: type) -> list[str]:
    """Return the names of a class's attributes in slots."""
    return [name for name, value in vars(kind).items() if isinstance(value, types.MemberDescriptorType)]


def methods(kind: type) -> list[dict[str, Any]]:
    """Return the user-defined attributes and methods of a class, in a form that can be compared."""
    return [
        {
            name: frozen(value)
            for name, value in vars(each).items()
            if name[:2] != "__" and (not is_own(each) or users(value))
        }
        for each in kind.__mro__
        if each is not object
    ]


def frozen(value: Any, seen: set[int] | None = None, home: str = "") -> Any:
    """Return a value in a form that can be compared later and does not change when the value does.

    Args:
        value: anything. seen: the ids of objects already visited, so that cycles end and nothing is read twice.
        home: the package of the function that reads it; objects defined elsewhere are not looked into.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.random.Generator):
        return frozen(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return frozen(value.get_state())
    if type(value).__module__ == "random":
        return value.getstate() if type(value).__name__ == "Random" else Unknown()
    if isinstance(value, bytearray | array):
        return bytes(value)
    if isinstance(value, Iterator):
        return Unknown()
    seen = set() if seen is None else seen
    if id(value) in seen:
        return Same(value)
    seen.add(id(value))
    if isinstance(value, list | tuple | deque | set | frozenset | np.ndarray):
        return tuple(frozen(item, seen, home) for item in value)
    if isinstance(value, dict):
        return {key: frozen(item, seen, home) for key, item in value.items()}
    if isinstance(value, types.MethodType):
        return frozen(value.__func__, seen, home), frozen(value.__self__, seen, home)
    if isinstance(value, types.FunctionType) and package(value) in ({home} if home else {package(value)} - {"nnx"}):
        return Same(value), {name: frozen(item, seen, package(value)) for name, item in around(value)}
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
        return Same(value)
    if isinstance(value, type):
        held = vars(value).items() if home == package(value) else ()
        return Same(value), {name: frozen(item, seen, home) for name, item in held if name[:2] != "__"}
    known = package(type(value)) in (home, *NAMESPACES) if home else not is_own(type(value))
    if isinstance(value, Layer) or (known and (hasattr(value, "__dict__") or any(map(slotted, type(value).__mro__)))):
        return type(value), attributes(value, set(), seen, home)
    return Same(value)


def around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the variables that a function uses from outside: closure and module variables."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the variable has no value yet
            if name != "__class__":
                yield name, cell.cell_contents
    variables, fields = names(function.__code__)
    for name in sorted(variables & function.__globals__.keys()):
        value = function.__globals__[name]
        yield name, value
        if isinstance(value, types.ModuleType):
            yield from ((f"{name}.{field}", vars(value)[field]) for field in sorted(fields & vars(value).keys()))


@lru_cache(1024)
def names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return two sets of names that code, with the functions defined in it, looks up: globals, and all names."""
    within = [names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = frozenset(i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return own.union(*(own for own, _ in within)), frozenset(code.co_names).union(*(fields for _, fields in within))
