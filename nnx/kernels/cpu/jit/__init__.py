"""How kernels are compiled: the cache on disk, the argument types, and arrays and vectors as compiled code has them."""
