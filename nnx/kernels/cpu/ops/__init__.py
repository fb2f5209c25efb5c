"""One module for each kind of operation: the formulas, and the kernels that Python calls."""
