"""Test cases for every operation: ugly operands, and what it must make of them.

Sizes are odd, rows and columns are single, numbers are huge, infinite or equal. `CASES` names every operation but the
optimizers, which are run over many steps instead (optimizers.py).
"""

from nnx.testing.cases import activations, blocks, dense, formulas, losses, noise, normalization, optimizers, step
from nnx.testing.cases.maker import Case, Cases, Maker

__all__ = ["CASES", "Case", "Maker"]

CASES: Cases = {
    **dense.CASES,
    **activations.CASES,
    **losses.CASES,
    **normalization.CASES,
    **formulas.CASES,
    **blocks.CASES,
    **noise.CASES,
    **step.CASES,
    **optimizers.CASES,
}
