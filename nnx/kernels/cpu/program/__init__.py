"""Compiled programs: a whole training step, or a prediction, in one function that interprets a table of integers."""
