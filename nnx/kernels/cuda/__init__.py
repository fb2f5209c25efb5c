"""The CUDA kernels as data: the parameters of each, its file, and how it is launched for a shape.

Nothing here touches a GPU. `source(file)` is the text to compile, `options(dtype)` are the compiler's options,
`KERNELS` is the table of all kernels, `KERNELS[name].arguments(...)` are the arguments of a launch, and launches.py
plans launches.

    launch = softmax_rows("softmax", 128, 10)             # Launch("softmax_warp", (8,), (256,), 0)
    kernel = KERNELS[launch.kernel]
    module = cupy.RawModule(code=source(kernel.file), options=options("float32"))
    run = module.get_function(kernel.name)
    run(launch.grid, launch.block, kernel.arguments("float32", x, y, 128, 10), shared_mem=launch.shared)

All arrays are C-contiguous. `REAL` is float or double, fixed at compile time. A pointer described as "or null" takes
None.
"""

from nnx.kernels.cuda.formulas import ACTIVATIONS, own
from nnx.kernels.cuda.kernel import Kernel
from nnx.kernels.cuda.launches import (
    Launch,
    bands,
    batch_moments,
    bias_activation,
    clip,
    column_sums,
    dropout,
    elementwise,
    product,
    regularize,
    row_groups,
    slices,
    softmax_jacobian,
    softmax_rows,
    tally,
)
from nnx.kernels.cuda.sources import options, source
from nnx.kernels.cuda.table import FILES, KERNELS

__all__ = [
    "ACTIVATIONS",
    "FILES",
    "KERNELS",
    "Kernel",
    "Launch",
    "bands",
    "batch_moments",
    "bias_activation",
    "clip",
    "column_sums",
    "dropout",
    "elementwise",
    "options",
    "own",
    "product",
    "regularize",
    "row_groups",
    "slices",
    "softmax_jacobian",
    "softmax_rows",
    "source",
    "tally",
]
