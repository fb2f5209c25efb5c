"""The conformance suite: checks everything that the protocol requires of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np

from nnx.backends import Backend
from nnx.backends.operation_table import OPERATIONS
from nnx.testing.calls import check_case
from nnx.testing.cases import CASES, Maker
from nnx.testing.compare import CLASS, DTYPES, Report
from nnx.testing.facts import check_arrays, check_info
from nnx.testing.optimizers import OPTIMIZERS, check_optimizer
from nnx.testing.programs import check_program, check_recorder
from nnx.testing.reference import noise


def check_backend(backend: Backend) -> Report:
    """Check a backend: its arrays and facts, every operation, optimizers over 200 steps, and replayed recordings.

    Operations are called in float32 and float64, with and without `out`, on difficult numbers (`cases`). The results
    are compared with formulas in float64 (`reference`), with the tolerances of compare.py. An operation must accept
    inputs in any memory layout and leave them unchanged; arrays that it writes are contiguous.

    Returns:
        A report of what was checked, which can be printed.

    Raises:
        AssertionError: the backend is wrong. The message names operation, case, type, error and tolerance.
    """
    if not __debug__:
        raise RuntimeError("check_backend checks by assert statements, which python -O leaves out: run it without -O")
    assert isinstance(backend, Backend), f"{backend!r} is no instance of nnx.backends.Backend"
    report = Report(backend.name)
    with np.errstate(all="ignore"):
        for _, check in checks(backend, report):
            check()
    return report


def checks(backend: Backend, report: Report) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of `check_backend`: a name and a function each. A check adds its comparisons to `report`."""
    yield "the suite", check_coverage
    for what, check in (("arrays", check_arrays), ("info", check_info), ("recorder", check_recorder)):
        yield what, partial(check, backend)
    for operation, dtype in product(OPERATIONS, DTYPES):
        yield f"{operation}, {dtype}", partial(check_operation, backend, operation, dtype, report)
    yield "all operations", partial(check_compared, report)


def check_compared(report: Report) -> None:
    """Check that results of every operation were compared."""
    missing = OPERATIONS.keys() - report.operations.keys()
    assert not missing, f"{', '.join(sorted(missing))}: nothing was compared"


def check_operation(backend: Backend, operation: str, dtype: str, report: Report) -> None:
    """Check one operation in one type. An optimizer is also checked in a program of its own."""
    if operation in OPTIMIZERS:
        check_optimizer(backend, operation, dtype, report)
        check_program(backend, operation, dtype)
        return
    make = Maker(dtype)
    for case in CASES[operation](make):
        check_case(backend, case, dtype, make.random, report)


def check_coverage() -> None:
    """Check the suite itself: that it covers every operation, and that its random numbers are the right ones."""
    for table, cure in (
        (CASES.keys() | OPTIMIZERS.keys(), "cases in nnx/testing/cases"),
        (CLASS.keys(), "a class in compare.py"),
    ):
        missing = OPERATIONS.keys() - table
        assert not missing, f"nnx.testing does not cover {', '.join(sorted(missing))}: write {cure}"
    for counter, key, words in noise.KNOWN_ANSWERS:
        assert noise.philox(counter, key) == words, "reference.philox misses Random123's known answers"
