"""The description of a CUDA kernel for launching it: its file and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

REALS = {"float32": "float", "float64": "double"}
SCALARS: dict[str, Any] = {
    "long long": np.int64,
    "int": np.int32,
    "unsigned int": np.uint32,
    "unsigned long long": np.uint64,
    "double": np.float64,
}


@dataclass(frozen=True)
class Kernel:
    """A CUDA kernel.

    Attributes:
        name: its name. file: the file with its code.
        signature: its parameters as in that file, "const REAL* x, REAL* y, long long n".
        summary: what it does.
    """

    name: str
    file: str
    signature: str
    summary: str

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Type and name of each parameter: ("const REAL*", "x")."""
        pairs = (text.strip().rpartition(" ") for text in self.signature.split(","))
        return tuple((kind, name) for kind, _, name in pairs)

    def arguments(self, dtype: str, *values: Any) -> tuple[Any, ...]:
        """Return values for a launch: each number in its parameter's type, None as the null pointer.

        A plain Python float would always be passed as a double, and be misread by a kernel that expects a float.

        Args:
            dtype: "float32" or "float64": the type that REAL stands for. values: one for each parameter.
        """
        if len(values) != len(self.parameters):
            raise TypeError(f"{self.name}: {len(values)} arguments given, expected ({self.signature})")
        return tuple(argument(kind, value, dtype) for (kind, _), value in zip(self.parameters, values, strict=True))


def argument(kind: str, value: Any, dtype: str) -> Any:
    """Return a value for a parameter of this C type."""
    if kind.endswith("*"):
        return np.uintp(0) if value is None else value
    return np.dtype(dtype).type(value) if kind == "REAL" else SCALARS[kind](value)
