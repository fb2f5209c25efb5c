"""The layout of a training step's state arrays, for kernels and operations alike.

`counters` is int64 [3]: optimizer steps done, next row of the shuffled order, rows of history written. `hyper` is
float64 [7], of which only `nadam` reads the last; SGD has its momentum in BETA_1 and, in BETA_2, 1 for Nesterov's or 0.
`stats` is float64 [3]: mean loss, hits, regularization penalty; `history` [capacity, 3] holds one such row for every
step.
"""

STEP, CURSOR, DONE = range(3)
LEARNING_RATE, DECAY, BETA_1, BETA_2, EPSILON, WEIGHT_DECAY, MOMENTUM_DECAY = range(7)
LOSS, HITS, PENALTY = range(3)

# Probabilities are clipped to [CLIP, 1 - CLIP] before a logarithm or a division (chapter 5).
CLIP = 1e-7
