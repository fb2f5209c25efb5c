"""Interchange: networks written for other libraries, and read from what these write."""
