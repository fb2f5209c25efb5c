"""Kernels for the CPU, compiled by Numba when first called, with a folder for each subject.

Nothing here is imported before the Numba backend is used. `jit/cache.py` keeps the compiled code on disk; kernels are
written with the functions of `jit/simd.py` and `ops/math.py`.
"""
