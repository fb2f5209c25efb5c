"""Training: one step, which is recorded and replayed, the loop of epochs around it, and evaluation."""
