"""A backend over `array_api_strict`, which refuses whatever the array-API standard does not name.

It has only what a backend must have, so every operation runs by its default body. On its second device an array cannot
be read by NumPy, and here not even by `int()` or `if`: what runs there never touches the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import array_api_strict
import numpy as np
from array_api_strict import Device

from nnx.backends import Backend

DEVICES = ("CPU_DEVICE", "device1")
Array = Any


class StrictBackend(Backend):
    """Arrays are `array_api_strict` arrays on one device."""

    name = "strict"
    xp = array_api_strict

    def __init__(self, device: str = "CPU_DEVICE") -> None:
        self.device = device

    def from_numpy(self, a: np.ndarray) -> Array:
        return self.xp.asarray(a, device=Device(self.device))

    def to_numpy(self, a: Array) -> np.ndarray:
        return np.from_dlpack(a.to_device(Device("CPU_DEVICE")))

    def owns(self, a: Any) -> bool:
        return isinstance(a, type(self.xp.asarray(0))) and a.device == Device(self.device)

    def address(self, a: Array) -> int:
        return int(a._array.__array_interface__["data"][0])  # the standard knows no addresses


@contextmanager
def host_out_of_reach() -> Iterator[None]:
    """Forbid to read a single number of an array: on a GPU each such look waits for all that was asked for before."""

    def refuse(self: Array) -> Any:
        raise AssertionError(f"the host looked into an array {self.shape}")

    names = ("__int__", "__float__", "__bool__", "__index__", "__iter__")
    with mock.patch.multiple(type(array_api_strict.asarray(0)), **dict.fromkeys(names, refuse)):
        yield
