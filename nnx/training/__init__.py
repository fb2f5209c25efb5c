"""Training: one step, recorded and replayed, and the loop of epochs around it."""
