"""Matrix products: packed panels, the tile of registers that multiplies them, and NumPy's BLAS."""
