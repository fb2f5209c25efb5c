"""Every operation of the backend protocol, written once over `xp` with the array-API standard alone.

A backend inherits these bodies and replaces those it can do faster. An operation writes into `out` when given one and
returns it; what changes from one training step to the next (step number, learning rate, cursor) is read from arrays,
never from Python numbers, so that a recorded step can be replayed. `@operation` declares what is read and written.
"""

from nnx.backends.operations.activations import ActivationOperations
from nnx.backends.operations.blocks import BlockOperations
from nnx.backends.operations.dense import DenseOperations
from nnx.backends.operations.formulas import FormulaOperations
from nnx.backends.operations.losses import LossOperations
from nnx.backends.operations.noise import NoiseOperations
from nnx.backends.operations.normalization import NormOperations
from nnx.backends.operations.optimizers import OptimizerOperations
from nnx.backends.operations.step import StepOperations


class Operations(
    DenseOperations,
    ActivationOperations,
    FormulaOperations,
    NormOperations,
    LossOperations,
    NoiseOperations,
    BlockOperations,
    StepOperations,
    OptimizerOperations,
):
    """The named operations with their default bodies. `self.xp` is the array namespace."""
