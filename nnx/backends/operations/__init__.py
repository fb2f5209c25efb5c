"""Every operation of the backend protocol, with a default body that uses only the array-API standard over `xp`.

A backend inherits these bodies and replaces those that it can do faster. An operation writes its result into `out`, if
given, and returns it. Values that change from one training step to the next (step number, learning rate, cursor) are
read from arrays, never from Python numbers, so that a recorded step can be replayed. `@operation` declares which
operands are read and written.
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
