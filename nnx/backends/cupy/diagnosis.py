"""Diagnosis of a CuPy that does not work: from the exception that it raises to the reason and the remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.driver import Driver, Explanation, explain_status
from nnx.backends.errors import BackendUnavailable, InputError

OLDEST = (14, 1)  # CuPy: `asarray(copy=)` and `astype` came with 14.0, `matrix_transpose` with 14.1

WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-5-0", "cupy-rocm-7-0", "amd-cupy")
LIBRARIES = {  # a part of the error's text: (the library, what it does)
    "nvrtc": ("NVRTC", "compiles kernels"),
    "cublas": ("cuBLAS", "multiplies matrices"),
    "curand": ("cuRAND", "draws random numbers"),
    "nvjitlink": ("nvJitLink", "links kernels"),
}
# Parts of NVRTC's messages, and of CuPy's.
NO_HEADERS = ("cannot open source file", "could not open source file", "failed to find cuda headers")


def wheels() -> list[str]:
    """Return the installed CuPy distributions; several of them overwrite each other's files."""
    found = []
    for name in WHEELS:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def explain_version(version: str, driver: Driver) -> Explanation | None:
    """Return why a CuPy of this version cannot be used, and what to do; None if it can."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST:  # unusual versions are left to the probe
        return None
    wanted = "{}.{}".format(*OLDEST)
    return f"CuPy {version} is too old: nnx needs {wanted}", f'Run `pip install "{_installed(driver)}>={wanted}"`.'


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn exceptions of CuPy, a driver, a compiler or a linker within the block into the reason why `name` fails.

    Raises:
        BackendUnavailable: there was such an exception. InputError: passed on; a user's argument cannot be used.
    """
    try:
        yield
    except (InputError, BackendUnavailable):
        raise
    except Exception as error:
        raise BackendUnavailable(name, *explain_error(error, cuda_driver.ask())) from error


def explain_error(error: BaseException, driver: Driver) -> Explanation:
    """Return the meaning of an exception, and what to do."""
    reason, remedy = _meaning(error, driver)
    several = wheels()
    if len(several) < 2:
        return reason, remedy
    return (
        f"{' and '.join(several)} are installed, which overwrite one another's files ({reason})",
        f"Uninstall all of them, then install one: pip uninstall -y {' '.join(several)}; pip install {driver.wheel}.",
    )


def _meaning(error: BaseException, driver: Driver) -> Explanation:
    text, kind = first_line(error), type(error).__name__
    status = getattr(error, "status", None)
    if kind == "CUDARuntimeError" and isinstance(status, int):
        return explain_status(status, driver)
    toolkit = (
        f'Run `pip install "{_installed(driver)}[ctk]"`, which brings CUDA\'s libraries and headers, or install the '
        "CUDA toolkit."
    )
    if isinstance(error, OSError) and _is_of_the_cache(error):
        reason = f"CuPy cannot keep compiled kernels where it is to ({text})"
        return reason, "Set CUPY_CACHE_DIR to a folder that can be written, or make it so."
    if isinstance(error, ImportError | RuntimeError | OSError):
        for mark, (library, task) in LIBRARIES.items():
            if f"lib{mark}" in text.lower():
                return f"CUDA's {library}, which {task}, is missing ({text})", toolkit
    if any(mark in str(error).lower() for mark in NO_HEADERS):
        return f"CUDA's headers are missing ({text})", toolkit
    if kind == "CompileException":
        return f"a kernel does not compile ({text})", "CuPy's NVRTC may be of another CUDA than its wheel. " + toolkit
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return "CuPy is not installed", f'Run `pip install "nnx-backends[{_extra(driver)}]"`.'
    if isinstance(error, ImportError | OSError):
        return f"CuPy does not load ({kind}: {text})", f"Install it again: pip install {_installed(driver)}."
    return f"the GPU cannot be used ({kind}: {text})", "Run `nnx doctor` and `nvidia-smi`; see docs/gpu.md."


def _is_of_the_cache(error: OSError) -> bool:
    """Return whether an error is about CuPy's folder of compiled kernels, or a parent of that folder."""
    cache = kernel_cache()
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    return named is not None and (cache.is_relative_to(named) or named.is_relative_to(cache))


def kernel_cache() -> Path:
    """Return the folder in which CuPy keeps compiled kernels."""
    return Path(os.path.expanduser(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank, shortened."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("=")), "no message")[:160]


def _installed(driver: Driver) -> str:
    return next((name for name in wheels() if name.startswith("cupy-cuda")), driver.wheel)


def _extra(driver: Driver) -> str:
    return {"cupy-cuda12x": "cuda12", "cupy-cuda13x": "cuda13"}[driver.wheel]
