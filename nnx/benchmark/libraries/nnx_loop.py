"""Adapter of nnx where many networks are trained one after the other: what `fit_many` is measured against."""

from __future__ import annotations

from typing import Any

import nnx
from nnx.benchmark.libraries import Absent, Ready
from nnx.benchmark.libraries.nnx import many
from nnx.benchmark.workloads import MANY


def prepare(workload: Any, name: str, device: str) -> Ready:
    """Get a workload of many networks ready on a backend."""
    if workload.kind != MANY:
        raise Absent("is not measured here")
    return many(workload.what, nnx.get_backend(name), loop=True)
