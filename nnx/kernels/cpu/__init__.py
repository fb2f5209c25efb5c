"""Kernels for the CPU, compiled by Numba when first called; one subject a file.

Nothing here is imported before the Numba backend is asked for. `cache.py` keeps the compiled code on disk, `vectors.py`
and `math.py` are the vocabulary that the kernels are written in.
"""
