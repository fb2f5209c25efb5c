"""Recorded training steps: replayed one operation at a time, as a CUDA graph, or by the persistent kernel."""
