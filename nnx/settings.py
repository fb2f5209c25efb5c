"""Settings: what may be assigned to a layer, loss, optimizer or model; the rest is refused, for nothing would read it.

A recorded step holds Python numbers fast. So a setting tells the model that owns it when it changes, and what was
recorded is recorded anew before the next step. A replaced method does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ReferenceType, ref

from nnx.arguments import explain_init, meant
from nnx.errors import InputAttributeError


class Assignable:
    """The base of everything of nnx that has attributes to assign. A subclass of the user's own takes any name."""

    _results: ClassVar[frozenset[str]] = frozenset()  # what steps write, and nothing is recorded of
    _names: ClassVar[tuple[str, ...]] = ()  # plain attributes that may be assigned
    _facts: ClassVar[Mapping[str, str]] = {}  # what stays as it was made, and what to do instead of assigning it
    _listener: ReferenceType[Any] | None = None  # the model whose recordings hold the settings
    _runtime: ClassVar[tuple[str, ...]] = ("_listener",)  # what it has from its model, or makes anew when it computes

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if is_own(cls):
            explain_init(cls)

    if not TYPE_CHECKING:  # to mypy it would mean that any name may be assigned

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; refuse one that nothing would read."""
            if name in self._results:
                object.__setattr__(self, name, value)
                return
            if name[:1] != "_":
                self._admit(name)
            object.__setattr__(self, name, value)
            if callable(getattr(type(self), name, None)):  # as `is_method` has it, for everything comes through here
                self._changed()

    def __delattr__(self, name: str) -> None:
        """Delete an attribute, such as a method that replaced the class's."""
        object.__delattr__(self, name)
        if is_method(self, name):
            self._changed()

    def _admit(self, name: str) -> None:
        """Refuse a name that is not to be assigned; those that begin with an underscore are not asked about."""
        kind = type(self)
        present = getattr(kind, name, None)
        if name in self._facts:
            self._refuse_new(name, self._facts[name])
        elif not is_own(kind):
            return
        elif isinstance(present, property) and present.fset is None:
            raise InputAttributeError(f"{self}: {name} is computed, and cannot be assigned")
        elif not (callable(present) or isinstance(present, property | Setting) or name in self._names):
            raise InputAttributeError(self._unknown(name))

    def _refuse_new(self, name: str, instead: str) -> None:
        """Refuse to assign what is there already."""
        if name in self.__dict__:
            raise InputAttributeError(f"{self}: {name} cannot be assigned: {instead}")

    def _unknown(self, name: str) -> str:
        names = sorted([*self._names, *assignable(type(self))])
        near = meant(name, names)
        guess = f"did you mean {near}? " if near else ""
        return f"{self} takes no attribute {name!r}: {guess}What can be assigned: {', '.join(names) or 'nothing'}"

    def listen(self, model: Any) -> None:
        """Let a model know of every change from now on."""
        object.__setattr__(self, "_listener", ref(model))

    def _changed(self) -> None:
        """Tell the model that a recording may hold what is no more. A class of the user's own is looked at instead."""
        if is_own(type(self)):
            self._tell()

    def _tell(self) -> None:
        """Tell the model."""
        model = None if self._listener is None else self._listener()
        if model is not None:
            model.settings_changed()


class Setting:
    """A value that may be assigned at any time: checked first, and right from the next step on.

    Args:
        check: returns the value in its plain type, given it and its name, or raises InputError.
        in_model: why it cannot be assigned in a model, if that is so.
        default: (value,) of a part that was never given one, as by a class of one's own with another `__init__`.
    """

    def __init__(
        self, check: Callable[[Any, str], Any], in_model: str | None = None, default: tuple[Any, ...] = ()
    ) -> None:
        self._check, self._in_model, self._default = check, in_model, default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, part: Any, owner: type | None = None) -> Any:
        if part is None:
            return self
        try:
            return part.__dict__[self._name]
        except KeyError:
            if self._default:
                return self._default[0]
            raise AttributeError(f"{type(part).__name__} has no {self._name} before it is made") from None

    def __set__(self, part: Any, value: Any) -> None:
        if self._in_model is not None and part.in_model:
            raise InputAttributeError(f"{part}: {self._name} cannot be assigned: {self._in_model}")
        owner = getattr(part, "_owner", None)
        if owner is not None:
            owner.allow(f"{part}: {self._name}")
        checked = self._check(value, f"{type(part).__name__}: {self._name}")
        before = part.__dict__.get(self._name, self._default[0] if self._default else checked)
        part.__dict__[self._name] = checked
        if before != checked:
            part._changed()


def is_own(kind: type) -> bool:
    """Tell whether a class is nnx's own."""
    return kind.__module__.startswith("nnx.")


def is_method(part: Any, name: str) -> bool:
    """Tell whether the class of a part has a method of that name."""
    return callable(getattr(type(part), name, None))


def replaced(part: Any) -> bool:
    """Tell whether a part has a method that its class was not written with, on itself or by a change of the class."""
    kind = type(part)
    if any(map(rewritten, _own.get(kind) or own_of(kind))):
        return True
    return not vars(part).keys().isdisjoint(_methods.get(kind) or methods_of(kind))


def written(part: Any, name: str) -> bool:
    """Tell whether a method is the user's own, and not nnx's."""
    if name in vars(part):
        return True
    for kind in type(part).__mro__:
        if name in vars(kind):
            return not is_own(kind)
    return True


_as_written: dict[type, dict[str, Any]] = {}  # what nnx's classes have, as found when none of it was the user's
_own: dict[type, tuple[type, ...]] = {}  # which of nnx's classes they are made of
_methods: dict[type, frozenset[str]] = {}  # names of nnx's classes' methods, while they are as written


def own_of(kind: type) -> tuple[type, ...]:
    """Return which classes of nnx's a class is made of; of one of nnx's they are kept."""
    found = tuple(filter(is_own, kind.__mro__))
    if is_own(kind):
        _own[kind] = found
    return found


def rewritten(kind: type) -> bool:
    """Tell whether a class of nnx's has a method that is not nnx's own."""
    if vars(kind) == _as_written.get(kind):  # a look at the same objects again, the usual case, is twenty times as fast
        return False
    found = any(users(value) for value in vars(kind).values())
    if not found:
        _as_written[kind] = dict(vars(kind))
        _methods.clear()
    return found


def methods_of(kind: type) -> frozenset[str]:
    """Return the names of a class's methods; of one of nnx's they are kept until any of these has others."""
    names = set(dir(kind)) - {"__annotations__"}  # which a class has once somebody asks for them
    found = frozenset(name for name in names if callable(getattr(kind, name, None)))
    if is_own(kind):
        _methods[kind] = found
    return found


def users(value: Any) -> bool:
    """Tell whether what a class of nnx's has is a method, and not nnx's own."""
    if isinstance(value, FunctionType):
        return package(value) != "nnx"
    return callable(value) and not isinstance(value, type | staticmethod | classmethod)


def package(value: FunctionType | type) -> str:
    """Return the package that a function or a class was written in."""
    if isinstance(value, FunctionType):  # whose __module__ may be another's, by functools.wraps
        return str(value.__globals__.get("__name__")).partition(".")[0]
    return value.__module__.partition(".")[0]


def assignable(kind: type) -> Iterator[str]:
    """Yield the public names that a class lets its instances assign, methods aside."""
    for name in dir(kind):
        value = None if name.startswith("_") else getattr(kind, name)
        if isinstance(value, Setting) or (isinstance(value, property) and value.fset is not None):
            yield name
