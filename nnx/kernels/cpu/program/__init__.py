"""A whole training step, or a prediction, in one compiled function that interprets a table of integers."""
