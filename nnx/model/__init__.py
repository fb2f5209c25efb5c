"""A model: layers in a row, its forward pass, what it looks like in words, and how it is saved."""
