"""The CuPy backend: NVIDIA GPUs by CUDA kernels of nnx's own, cuBLAS and CUDA graphs.

From the bottom up:

* driver, diagnosis: is there a GPU, and if not, why; device: memory, copies, timing; multi_gpu: more than one GPU.
* launch, operands: kernels compiled (NVRTC) and launched, on arrays that are made fit for them.
* matmul/: matrix products by nnx's kernel, cuBLAS or cuBLASLt (dispatch says which); dense: dense layers.
* programs/: recorded training steps, as single operations (replay), a CUDA graph (graph, capture), or many of them in
  one launch of a persistent kernel (persistent, lowering, barriers, shared_memory).
* inference: predictions by CUDA graphs; streaming, pinned: data sets larger than the GPU's memory.
* backend: all of it in one class, and `create`, which makes one.
"""

from nnx.backends.cupy.backend import CupyBackend, create

__all__ = ["CupyBackend", "create"]
