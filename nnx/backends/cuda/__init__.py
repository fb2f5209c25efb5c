"""What the CuPy backend (../cupy.py) is made of, from the driver up.

* Is there a GPU, and if not, why: driver, reasons.
* Arrays and kernels: device is the GPU as their home, operands makes them fit, launch compiles kernels and calls them;
  several is for more than one GPU.
* Products: dense chooses who multiplies; products and lt are cuBLASLt.
* Recorded steps: program runs one operation after the other, graph makes one CUDA graph of them (capture), persistent
  does many steps in one launch, by a table (layout) of operations and of rooms in shared memory.
* Prediction is forward. Data that does not fit on the GPU comes by stream, through pinned memory.
"""
