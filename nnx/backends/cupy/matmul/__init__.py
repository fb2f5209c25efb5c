"""Matrix products on the GPU: nnx's kernel, cuBLAS, or cuBLASLt."""
