"""Kernels, the hot loops, and nothing else: a kernel knows arrays and numbers, never a layer."""
