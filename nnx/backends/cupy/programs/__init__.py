"""Recorded steps on the GPU: one operation at a time, a CUDA graph, or the persistent kernel."""
