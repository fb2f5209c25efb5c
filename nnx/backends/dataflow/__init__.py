"""Data flow of a recorded step: which operation reads which value. It is the first pass of compiling for CPU and GPU.

`Reader` reads the recorded calls, with a file for each topic as in `operations`; `fuse` combines operations.
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
