"""Daily notes, said once a day instead of in every run: a stamp beside the compiled kernels tells when they were."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from nnx.errors import FileFormatError
from nnx.files import read_file

DAY = 86_400.0  # seconds


def is_due(text: str) -> bool:
    """Tell whether this text is to be said now: unless it was within a day. Where no stamp can be kept, always."""
    try:
        from nnx.kernels.cpu.jit.cache import make, places, replace
    except Exception:  # Numba is not there, or does not load, whatever it raises then: nothing is compiled, or kept
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
    """Tell whether a stamp is that of this text, and of today; one of the future is not."""
    try:
        return read_file(stamp, "a stamp", len(content)) == content and 0 <= time.time() - stamp.stat().st_mtime < DAY
    except (OSError, FileFormatError):
        return False
