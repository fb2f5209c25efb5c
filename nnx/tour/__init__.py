"""The tour of the notes in a terminal: `python -m nnx.tour` shows the pages of docs/tour and computes their results."""
