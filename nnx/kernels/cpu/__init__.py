"""Kernels for the CPU, compiled by Numba when first called; one subject a folder.

Nothing here is imported before the Numba backend is asked for. `jit/cache.py` keeps the compiled code on disk;
`jit/simd.py` and `ops/math.py` are the vocabulary that the kernels are written in.
"""
