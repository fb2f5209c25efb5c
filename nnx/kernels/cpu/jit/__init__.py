"""Just-in-time compiling of kernels: the cache on disk, argument types, and arrays and vectors in compiled code."""
