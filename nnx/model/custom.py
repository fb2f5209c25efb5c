"""User-defined classes and functions in a model's file: the file holds their names, and `load` is given the classes.

A file holds no code, and nothing is imported because a file names it (docs/security.md).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnx.errors import FileFormatError, InputError, InputTypeError

NAME, ARGUMENTS = "custom", "arguments"  # keys of a part's description: the class's name and its arguments
TRAINABLE = "trainable"  # and, for a layer that is not trained, False


class Custom:
    """The classes and functions that a user gave to `load`, by name.

    Args:
        given: a list of them; or a mapping from the names in the file, for those that have been renamed since.
    """

    def __init__(self, given: Any = ()) -> None:
        if not isinstance(given, Mapping | Sequence) or isinstance(given, str):
            raise InputTypeError(f"load: custom={given!r}: expected a list of classes and functions, such as [MyLayer]")
        pairs = given.items() if isinstance(given, Mapping) else [(getattr(one, "__name__", ""), one) for one in given]
        self._known: dict[str, Any] = {}
        for name, one in pairs:
            if not callable(one) or not name:
                raise InputTypeError(f"load: custom: {one!r}: expected a class, or a function that is a metric")
            if self._known.setdefault(name, one) is not one:
                raise InputError(f"load: custom: two are called {name!r}; give them by a dict, with the file's names")

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> Any:
        return self._known[name]

    def check(self, described: Mapping[str, Any], path: Any) -> None:
        """Refuse a model's description that names a class which was not given."""
        try:
            missing = [name for name in dict.fromkeys(classes(described)) if name not in self]
        except RecursionError as error:
            raise FileFormatError(f"{path}: the description of the model has too many layers within layers") from error
        if missing:
            names = ", ".join(missing)
            raise InputError(
                f"{path} is of a model with a class of its author's own, {names}, which no file can hold: load it in "
                f"Python, and give the class, nnx.load(path, custom=[{names}])"
            )

    def make(self, described: Mapping[str, Any], base: type) -> Any:
        """Make a layer, loss or optimizer from its description in a file."""
        kind, arguments = self[described[NAME]], described[ARGUMENTS]
        if not isinstance(kind, type) or not issubclass(kind, base):
            raise InputError(f"custom: {described[NAME]} is {kind!r}, expected a class made from {base.__name__}")
        return kind(**arguments)


def classes(described: Any) -> Iterator[str]:
    """Yield the names of all user-defined classes in a description, including those inside blocks."""
    if isinstance(described, Mapping):
        name = described.get(NAME)
        if isinstance(name, str) and described.keys() - {TRAINABLE} == {NAME, ARGUMENTS}:
            if not name.isidentifier():  # messages show it
                raise FileFormatError(
                    "the description of the model is damaged: the name of a class is none of Python's"
                )
            yield name
        for key in ("layers", "loss", "optimizer", ARGUMENTS):
            yield from classes(described.get(key))
    elif isinstance(described, list):
        for one in described:
            yield from classes(one)


def describe(part: Any, what: str) -> dict[str, Any]:
    """Return the description, for a file, of a part whose class is user-defined.

    Raises:
        InputError: the part cannot be made again from it.
    """
    arguments = arguments_of(part, what)
    try:
        if json.loads(json.dumps(arguments, allow_nan=False)) != _as_lists(arguments):
            raise TypeError("keys of dictionaries are text there, and would come back as such")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"save: {what}, {part}: what it is made of is beyond JSON: {error}; write config()") from error
    return {NAME: type(part).__name__, ARGUMENTS: arguments}


def _as_lists(value: Any) -> Any:
    """Return a value with lists for tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _as_lists(each) for name, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value


def arguments_of(part: Any, what: str) -> dict[str, Any]:
    """Return the arguments that make a part again: its `config`, or else its attributes with the arguments' names."""
    kinds = type(part).__mro__
    makes, says = (next(n for n, kind in enumerate(kinds) if name in vars(kind)) for name in ("__init__", "config"))
    if says <= makes:
        found = part.config()
        if not isinstance(found, dict):
            raise InputError(f"save: {what}, {part}: config() returned {found!r}, expected a dict of arguments")
        return {name: plain(value) for name, value in found.items()}
    return {name: plain(attribute(part, name, what)) for name in parameters(part, what)}


def parameters(part: Any, what: str) -> list[str]:
    """Return the names of the arguments that a part's class takes."""
    found = inspect.signature(type(part)).parameters.values()
    if any(one.kind is not one.POSITIONAL_OR_KEYWORD and one.kind is not one.KEYWORD_ONLY for one in found):
        raise InputError(f"save: {what}, {part}: its __init__ takes arguments without names; write config()")
    return [one.name for one in found]


def attribute(part: Any, name: str, what: str) -> Any:
    """Return the attribute in which a part keeps an argument."""
    try:
        return getattr(part, name)
    except AttributeError:
        raise InputError(
            f"save: {what}, {part}: its argument {name} cannot be found again: keep it as self.{name}, or write "
            "config(), which returns the arguments that make it again"
        ) from None


def plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
