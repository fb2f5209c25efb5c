"""Progress output that cannot fail: stdout may be closed, a broken pipe, an object with `write` alone, or None.

Training must not fail because its progress cannot be shown. The results of a command are another matter: `nnx predict`
ends with an error if they cannot be written.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import Any, ClassVar

FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class Output:
    """A stream for text that never fails; after the first failure it is silent.

    Attributes:
        encoding: the stream's. gone: whether nothing can be written any more.
        lost: a class attribute: the error, if text for stdout was lost because a disk is full, so that the file that
            it went to is incomplete.
    """

    lost: ClassVar[OSError | None] = None

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding, self.gone = "utf-8", stream is None
        with suppress(Exception):  # here and below: the stream may be any object, and raise anything
            self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write, with escapes for characters that the stream's encoding does not have."""
        if not self.gone:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except Exception as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it has such a method."""
        if not self.gone:
            try:
                if hasattr(self._stream, "flush"):
                    self._stream.flush()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.gone = True
        if isinstance(error, OSError) and error.errno in FULL and self._stream is sys.stdout:
            Output.lost = error

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return not self.gone and bool(self._stream.isatty())
        except Exception:
            return False


def say(text: str) -> None:
    """Print a line, if that is possible."""
    Output(sys.stdout).write(f"{text}\n")
