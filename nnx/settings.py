"""Settings: the attributes of layers, losses, optimizers and models that may be assigned; others are refused.

A recorded step contains the Python numbers that it was recorded with. So when a setting changes, its model is notified,
and the step is recorded again before it next runs. The same happens when a method is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ReferenceType, ref

from nnx.arguments import explain_init, meant
from nnx.errors import InputAttributeError


class Assignable:
    """The base of all nnx classes with assignable attributes. On a user-defined subclass any name may be assigned."""

    _results: ClassVar[frozenset[str]] = frozenset()  # attributes that steps write; no recording depends on them
    _names: ClassVar[tuple[str, ...]] = ()  # plain attributes that may be assigned
    _facts: ClassVar[Mapping[str, str]] = {}  # attributes that cannot be assigned, each with what to do instead
    _listener: ReferenceType[Any] | None = None  # the model whose recordings contain the settings
    _runtime: ClassVar[tuple[str, ...]] = ("_listener",)  # attributes given by the model or made while computing

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if is_own(cls):
            explain_init(cls)

    if not TYPE_CHECKING:  # from this method mypy would conclude that any name may be assigned

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; refuse one that nothing would read."""
            if name in self._results:
                object.__setattr__(self, name, value)
                return
            if name[:1] != "_":
                self._admit(name)
            object.__setattr__(self, name, value)
            if callable(getattr(type(self), name, None)):  # `is_method`, written out: every assignment comes by here
                self._changed()

    def __delattr__(self, name: str) -> None:
        """Delete an attribute, such as a method that replaced the class's."""
        object.__delattr__(self, name)
        if is_method(self, name):
            self._changed()

    def _admit(self, name: str) -> None:
        """Raise InputAttributeError for a name that may not be assigned; names with an underscore are not checked."""
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
        """Raise the error for an attribute that exists and cannot be assigned; `instead` says what to do."""
        if name in self.__dict__:
            raise InputAttributeError(f"{self}: {name} cannot be assigned: {instead}")

    def _unknown(self, name: str) -> str:
        names = sorted([*self._names, *assignable(type(self))])
        near = meant(name, names)
        guess = f"did you mean {near}? " if near else ""
        return f"{self} takes no attribute {name!r}: {guess}What can be assigned: {', '.join(names) or 'nothing'}"

    def listen(self, model: Any) -> None:
        """Notify a model of every change from now on."""
        object.__setattr__(self, "_listener", ref(model))

    def _changed(self) -> None:
        """Notify the model that recordings are out of date. User-defined parts are compared before replays instead."""
        if is_own(type(self)):
            self._tell()

    def _tell(self) -> None:
        """Notify the model, if there is one."""
        model = None if self._listener is None else self._listener()
        if model is not None:
            model.settings_changed()


class Setting:
    """A descriptor for a value that may be assigned at any time: it is checked, and the next step uses it.

    Args:
        check: a function of the value and its name that returns the value in its plain type, or raises InputError.
        in_model: the reason why it cannot be assigned while its layer is in a model, if that is so.
        default: (value,) for an object that was never given one, as by a user-defined `__init__` that does not.
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
    """Return whether a class is defined by nnx."""
    return kind.__module__.startswith("nnx.")


def is_method(part: Any, name: str) -> bool:
    """Return whether the class of a part has a method of that name."""
    return callable(getattr(type(part), name, None))


def replaced(part: Any) -> bool:
    """Return whether a method of a part was replaced, on the object itself or on its class."""
    kind = type(part)
    if any(map(rewritten, _own.get(kind) or own_of(kind))):
        return True
    return not vars(part).keys().isdisjoint(_methods.get(kind) or methods_of(kind))


def written(part: Any, name: str) -> bool:
    """Return whether a part's method is user-defined and not nnx's."""
    if name in vars(part):
        return True
    for kind in type(part).__mro__:
        if name in vars(kind):
            return not is_own(kind)
    return True


_as_written: dict[type, dict[str, Any]] = {}  # attributes of nnx's classes, as found when none was user-defined
_own: dict[type, tuple[type, ...]] = {}  # the classes of nnx's that nnx's classes derive from, themselves included
_methods: dict[type, frozenset[str]] = {}  # names of the methods of nnx's classes, kept while none is replaced


def own_of(kind: type) -> tuple[type, ...]:
    """Return which classes of nnx's a class is made of; of one of nnx's they are kept."""
    found = tuple(filter(is_own, kind.__mro__))
    if is_own(kind):
        _own[kind] = found
    return found


def rewritten(kind: type) -> bool:
    """Return whether one of nnx's classes has a method that is user-defined."""
    if vars(kind) == _as_written.get(kind):  # the usual case; comparing the same objects is twenty times as fast
        return False
    found = any(users(value) for value in vars(kind).values())
    if not found:
        _as_written[kind] = dict(vars(kind))
        _methods.clear()
    return found


def methods_of(kind: type) -> frozenset[str]:
    """Return the names of a class's methods; for nnx's classes they are cached until one of these is changed."""
    names = set(dir(kind)) - {"__annotations__"}  # a class has it only once it has been asked for
    found = frozenset(name for name in names if callable(getattr(kind, name, None)))
    if is_own(kind):
        _methods[kind] = found
    return found


def users(value: Any) -> bool:
    """Return whether an attribute of one of nnx's classes is a method that is user-defined."""
    if isinstance(value, FunctionType):
        return package(value) != "nnx"
    return callable(value) and not isinstance(value, type | staticmethod | classmethod)


def package(value: FunctionType | type) -> str:
    """Return the package that a function or a class was written in."""
    if isinstance(value, FunctionType):  # its __module__ may be that of another function, by functools.wraps
        return str(value.__globals__.get("__name__")).partition(".")[0]
    return value.__module__.partition(".")[0]


def assignable(kind: type) -> Iterator[str]:
    """Yield the public attributes, other than methods, that may be assigned on instances of a class."""
    for name in dir(kind):
        value = None if name.startswith("_") else getattr(kind, name)
        if isinstance(value, Setting) or (isinstance(value, property) and value.fset is not None):
            yield name
