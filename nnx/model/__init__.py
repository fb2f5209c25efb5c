"""A network: layers in a row, their forward pass, what may stand together, a summary in words, and files."""
