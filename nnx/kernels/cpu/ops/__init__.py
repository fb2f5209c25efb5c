"""Kernels of the operations that Python calls one by one, and their formulas; one module for each kind."""
