"""The CuPy backend: CUDA GPUs. backend.py is the whole of it; this is what it is made of, from the driver up.

* Is there a GPU, and if not, why: driver, diagnosis.
* Arrays and kernels: device is the GPU as their home, operands makes them fit, launch compiles kernels and calls them;
  multi_gpu is for more than one GPU.
* Matrix products: dense is the layer's; those in a CUDA graph, and the rounded ones, are cuBLASLt's (matmul/).
* Recorded steps (programs/): replay runs one operation after the other, graph makes one CUDA graph of them (capture),
  persistent does many steps in one launch, by a table (lowering) of operations and of places in shared memory.
* Prediction is inference. Data that does not fit on the GPU is streamed, through pinned memory.
"""

from nnx.backends.cupy.backend import CupyBackend, create

__all__ = ["CupyBackend", "create"]
