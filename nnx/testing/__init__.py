"""Conformance testing for whoever writes a backend: `check_backend` holds it to the protocol. It needs NumPy alone."""

from nnx.testing.compare import Report
from nnx.testing.conformance import check_backend

__all__ = ["Report", "check_backend"]
