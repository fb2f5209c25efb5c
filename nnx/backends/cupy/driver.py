"""NVIDIA's driver, queried by ctypes alone: whether it is there, which CUDA it runs, which GPUs it sees.

Without a driver this takes a millisecond, and saves the half second of `import cupy`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

Explanation = tuple[str, str]  # (reason, as half a sentence; remedy, as sentences)

NO_DEVICE, TOO_OLD = 100, 35
# The error codes of `cuInit` and of the runtime: their meaning, and what to do.
STATUSES: dict[int, Explanation] = {
    NO_DEVICE: ("the NVIDIA driver finds no GPU", "Run `nvidia-smi`; in a container, start it with `--gpus all`."),
    TOO_OLD: ("the NVIDIA driver is too old for this CuPy", "Update the driver."),
    3: (
        "the NVIDIA driver does not start",
        'A process forked from one that uses the GPU cannot use it: start it by multiprocessing\'s "spawn".',
    ),
    304: (
        "the operating system keeps the NVIDIA driver from the GPU",
        "Run `nvidia-smi`; in a container, start it with `--gpus all`.",
    ),
    802: ("the GPUs are not ready yet", "Start NVIDIA's fabric manager, which GPUs joined by NVSwitch need."),
    803: ("the NVIDIA driver's library and its kernel module are of different versions", "Reboot."),
    804: ("CUDA's compatibility package does not support this GPU", "Remove `cuda-compat`, or update the driver."),
    999: ("the NVIDIA driver is broken", "Run `nvidia-smi`; reload its module (`nvidia_uvm`), or reboot."),
}


@dataclass(frozen=True)
class Driver:
    """Facts about the driver.

    Attributes:
        library: its file. version: the newest CUDA version that it supports, such as (13, 1); None: there is no driver.
        status: 0 if it works, else a key of STATUSES, or another of CUDA's error codes. devices: the GPUs' names.
    """

    library: str
    version: tuple[int, int] | None = None
    status: int = 0
    devices: tuple[str, ...] = ()

    @property
    def cuda(self) -> str | None:
        """The newest CUDA version that it supports, such as "13.1"."""
        return None if self.version is None else "{}.{}".format(*self.version)

    @property
    def wheel(self) -> str:
        """The CuPy distribution for this driver; without a driver, the one for a current driver."""
        return "cupy-cuda12x" if self.version is not None and self.version < (13, 0) else "cupy-cuda13x"


def ask() -> Driver:
    """Query the driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version, count, text = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    try:
        driver = ctypes.CDLL(library)
        driver.cuDriverGetVersion(ctypes.byref(version))
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
        devices = []
        for number in range(0 if status else count.value):
            driver.cuDeviceGetName(text, len(text), number)
            devices.append(text.value.decode(errors="replace"))
    except (OSError, AttributeError):  # no driver, or an empty stand-in for it
        return Driver(library)
    if not devices:
        status = status or NO_DEVICE
    return Driver(library, (version.value // 1000, version.value % 1000 // 10), status, tuple(devices))


def explain(driver: Driver) -> Explanation | None:
    """Return why this driver cannot be used, and what to do; None if it can."""
    if driver.version is None:
        return (
            f"there is no NVIDIA driver ({driver.library})",
            'With an NVIDIA GPU: install its driver. Without one: use backend="numba", or "auto".',
        )
    return explain_status(driver.status, driver) if driver.status else None


def explain_status(status: int, driver: Driver) -> Explanation:
    """Return the meaning of an error code of CUDA, and what to do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if status == NO_DEVICE and visible is not None:
        return (
            f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU",
            "Unset it, or let it name a GPU: CUDA_VISIBLE_DEVICES=0.",
        )
    if status == TOO_OLD and driver.version is not None and driver.version >= (12, 0):
        return (
            f"the NVIDIA driver runs CUDA up to {driver.cuda}, and this CuPy needs a newer one",
            f"Update the driver, or take the CuPy that fits it: uninstall this one, then pip install {driver.wheel}.",
        )
    reason, remedy = STATUSES.get(status, ("the NVIDIA driver does not work", "Run `nvidia-smi`."))
    return f"{reason} (status {status})", remedy
