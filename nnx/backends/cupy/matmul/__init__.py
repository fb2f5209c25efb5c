"""Matrix products (GEMM): nnx's own kernel, cuBLAS or cuBLASLt."""
