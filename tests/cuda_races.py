"""What ThreadSanitizer is shown: kernels and small trainings on the CPU, as they are or with one barrier taken out.

It runs in a process of its own (`cuda_on_cpu.run_sanitized`), where each CUDA thread is a thread to the sanitizer, and
nothing but barriers and shuffles orders them. Its reports go to standard error, after a line that names what is shown.
Races between blocks are not looked for: they run one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import cuda_proofs
import fake_cupy
import numpy as np
from cuda_on_cpu import CpuModule
from networks import NETS

from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.cupy.programs import lowering
from nnx.errors import NonFiniteError
from nnx.kernels.cuda import KERNELS, options, program_table, source
from nnx.testing.cases import CASES, Maker

FLAGS = ("-fsanitize=thread", "-g1")
BARRIER = "__syncthreads();"
PROGRAM_THREADS = 96  # in place of 512: the sanitizer tells up to some 200 threads apart surely


def shown(what: str) -> None:
    """Say what comes next, in the order of the sanitizer's reports."""
    sys.stderr.write(f"@@ {what}\n")
    sys.stderr.flush()


def kernels(operation: str) -> set[str]:
    """Run an operation's kernels on its largest cases, each in one block, in a shuffled order; return their names."""
    run = cuda_proofs.Run("float32", seed=3, crowded=True, sanitize="thread")
    proof = cuda_proofs.PROOFS[operation]
    for case in sorted(CASES[operation](Maker("float32")), key=lambda case: -next(iter(case.operands.values())).size):
        operands = case.operands | ({"rows": case.out[0]} if operation == "gather_rows" and case.out else {})
        for _ in proof.run(run, operands):
            pass
        if run.kernels >= set(proof.kernels):
            break
    for file in {KERNELS[name].file for name in run.kernels}:
        cuda_proofs.module(file, "float32", "thread").forget_threads()
    return run.kernels


def column_sums(rows: int = 600, columns: int = 40) -> None:
    """Run them on more rows than the cases have: each thread then has several, and lines are folded more than once."""
    run = cuda_proofs.Run("float32", seed=3, crowded=True, sanitize="thread")
    x = np.ones((rows, columns), np.float32)
    cuda_proofs.column_sums(run, "column_sums", (x,), rows, columns, 2)


def without_barrier(file: str, number: int) -> None:
    """From now on, a file's kernels lack that barrier, counted in the text with its headers."""
    before, *after = source(file).split(BARRIER)
    text = before + "".join((";" if place == number else BARRIER) + part for place, part in enumerate(after))
    assert len(after) > number, f"{file} has {len(after)} barriers"
    changed = CpuModule.of_text(text, options("float32"), FLAGS)
    cuda_proofs.module = lambda *what: changed  # type: ignore[assignment]


def training(name: str, without: int | None = None) -> None:
    """Train a network by the persistent kernel, in both sizes of its steps; `without`: a barrier of theirs left out."""
    program_table.THREADS = PROGRAM_THREADS
    fake_cupy.compiled = lambda code, options: CpuModule.of_text(code, options, FLAGS)  # type: ignore[assignment]
    with_barriers = lowering.with_barriers

    def dropped(operations: Any) -> Iterator[np.ndarray]:
        seen = -1
        for row in with_barriers(operations):
            seen += bool(row[BARRIER_WORD])
            if row[BARRIER_WORD] and seen == without:
                row[BARRIER_WORD] = 0
            yield row

    lowering.with_barriers = dropped  # type: ignore[assignment]
    try:
        fake_cupy.machine.reset()
        backend = CupyBackend(fake_cupy)
        backend.persistent = True
        net = NETS[name]
        model = net.model("float32", backend)
        with nullcontext() if without is None else suppress(NonFiniteError):
            model.fit(*net.samples(), epochs=1, batch_size=net.batch, verbose=0, **net.fit)
        assert fake_cupy.machine.launched["program"], backend.info().notes
    finally:
        lowering.with_barriers = with_barriers  # type: ignore[assignment]


BARRIER_WORD = program_table.FIELDS.index("barrier")
