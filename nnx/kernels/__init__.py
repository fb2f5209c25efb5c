"""Kernels: the hot loops. A kernel knows arrays and numbers, never a layer."""
