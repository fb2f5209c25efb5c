"""Data flow of a recorded step, the first pass of compiling it: which operation reads which value. For CPUs and GPUs.

`Reader` reads the recorded calls, with a file for each topic as in `operations`; `fuse` finds what one pass can do.
"""

from nnx.backends.dataflow.fusion import fuse
from nnx.backends.dataflow.nodes import Gradient, Moments, Node, Scatter, Step, Sum, Value
from nnx.backends.dataflow.reader import Reader

__all__ = [
    "Gradient",
    "Moments",
    "Node",
    "Reader",
    "Scatter",
    "Step",
    "Sum",
    "Value",
    "fuse",
]
