"""What the CuPy backend (../cupy.py) is made of, from the driver up.

* Is there a GPU, and if not, why: driver, reasons.
* Kernels: launch compiles them, operands makes operands fit, operations and device call them, dense and products choose
  who multiplies, lt is cuBLASLt.
* Recorded steps: program runs one operation after the other, graph is one CUDA graph, captured by capture with memory
  from rooms; persistent is one launch for many steps, whose table layout makes. forward is prediction.
* Data: stream and pinned bring what does not fit on the GPU; several is for more than one GPU.
"""
