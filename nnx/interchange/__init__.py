"""Interchange with other libraries: networks written as ONNX files, and read from ONNX files and from PyTorch."""
