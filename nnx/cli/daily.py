"""Notes that are shown once a day instead of in every run: a stamp file beside the compiled kernels keeps the time."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from nnx.errors import FileFormatError
from nnx.files import read_file

DAY = 86_400.0  # seconds


def is_due(text: str) -> bool:
    """Return whether to show a text now: if it was not shown within a day, or if no stamp can be written."""
    try:
        from nnx.kernels.cpu.jit.cache import make, places, replace
    except Exception:  # without Numba, or if it fails to load, nothing is compiled, so there is no folder for the stamp
        return True
    folders, content = list(places()), hashlib.sha256(text.encode()).hexdigest().encode()
    if any(_is_fresh(folder / "said", content) for folder in folders):
        return False
    for folder in folders:
        with suppress(OSError):
            make(folder)
            replace(folder / "said", content)
            break
    return True


def _is_fresh(stamp: Path, content: bytes) -> bool:
    """Return whether a stamp is of this text and less than a day old; one from the future is not fresh."""
    try:
        return read_file(stamp, "a stamp", len(content)) == content and 0 <= time.time() - stamp.stat().st_mtime < DAY
    except (OSError, FileFormatError):
        return False
