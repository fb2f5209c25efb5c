"""Progress output that cannot fail: stdout may be closed, a broken pipe, an object with `write` alone, or None.

That there is nowhere to tell of it is no reason for a training to fail. What a command is for is another matter: `nnx
predict` ends with an error where its answers cannot be written.
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
        encoding: of the stream. gone: whether nothing can be written any more.
        lost: of the class: the error, if text for stdout was lost because a disk is full, and so cut short for whoever
            reads it later.
    """

    lost: ClassVar[OSError | None] = None

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding, self.gone = "utf-8", stream is None
        with suppress(Exception):  # whatever an object of somebody's raises, here and below
            self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write, with escapes for what the stream cannot show."""
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
        """Have it shown, if the stream knows how."""
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
        """Tell whether it is a terminal."""
        try:
            return not self.gone and bool(self._stream.isatty())
        except Exception:
            return False


def say(text: str) -> None:
    """Print a line, if it can be done."""
    Output(sys.stdout).write(f"{text}\n")
