"""Errors that nnx raises on purpose. Each says what was given, what was expected and what to do."""

from __future__ import annotations

from typing import Any

from nnx.backends.printable import printable


class InputError(ValueError):
    """An argument, an array or a file's contents cannot be used; nothing was changed.

    Args:
        message: the text; control characters in it, as from a file's name or contents, are escaped.

    Attributes:
        history: that of the fit that the error ended, if one had begun: data that are read during it may be damaged.
    """

    history: Any = None

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message, keep="\n"))


class InputTypeError(InputError, TypeError):
    """An argument or an array is of the wrong type; nothing was changed."""


class InUseError(InputError, RuntimeError):
    """A model is being trained, by another thread or by the fit whose callback made this call; nothing was changed."""


class InputAttributeError(InputError, AttributeError):
    """An attribute cannot be assigned, or nothing would read it; nothing was changed."""


class FileFormatError(InputError):
    """A file is truncated, damaged, or not of the kind that was expected."""


class MissingExtra(ImportError):
    """An optional package is not installed, or cannot be imported.

    Args:
        package: the package, as it is imported.
        extra: the extra of nnx-backends that installs it.
        purpose: what it is needed for.
        error: the exception from importing it, which tells whether it is installed.
    """

    def __init__(self, package: str, extra: str, purpose: str, error: object = None) -> None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package:
            error = None
        elif isinstance(error, Exception):
            error = f"{type(error).__name__}: {error}"
        how = "is not installed" if error is None else f"cannot be imported ({error}); mend that, or install it anew"
        super().__init__(
            printable(f'{purpose} needs {package}, which {how}: pip install "nnx-backends[{extra}]"', keep="\n"),
            name=package,
        )
        self.package, self.extra, self.purpose, self.error = package, extra, purpose, error

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[Any, ...]]:
        return type(self), (self.package, self.extra, self.purpose, self.error)


class BackendUnavailable(RuntimeError):
    """A backend does not work here. It is falsy, so that `if available()["cupy"]` works.

    Attributes:
        name: the backend.
        reason: why it does not work.
        remedy: what to do about it.
    """

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"backend {name!r} is unavailable: {reason}. {remedy}")
        self.name, self.reason, self.remedy = name, reason, remedy

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[type[BackendUnavailable], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.remedy)


class BackendFallbackWarning(UserWarning):
    """A backend in a list did not work, and a later one is used."""


class NotReplayable(Exception):
    """A step cannot be recorded or replayed; the message says which operation and why. Steps then run eagerly."""


class NonFiniteError(ArithmeticError):
    """The loss became nan or infinite; the message names the layer where it began."""


class DeviceMemoryError(MemoryError):
    """A GPU has no room for an array; the message has the figures and what to do."""
