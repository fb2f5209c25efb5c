"""Test cases for every operation: difficult operands, and the correct results.

Sizes are odd, there are single rows and columns, and numbers are huge, infinite or equal. `CASES` has every operation
except the optimizers, which are run over many steps instead (optimizers.py).
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
