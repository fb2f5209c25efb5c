"""Conformance tests for authors of backends: `check_backend` tests a backend against the protocol. Needs only NumPy."""

from nnx.testing.compare import Report
from nnx.testing.conformance import check_backend

__all__ = ["Report", "check_backend"]
