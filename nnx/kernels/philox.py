"""Philox4x32-10: random 32-bit integers ("words") as a pure function of a counter and a key.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). There is no state and no order,
so every backend draws the same dropout mask, integer for integer. Two normal numbers are made from each two words: Box
and Muller, "A note on the generation of random normal deviates" (1958).
"""

from __future__ import annotations

import math
from typing import Any

Array = Any

MULTIPLY_0, MULTIPLY_1 = 0xD2511F53, 0xCD9E8D57
ADD_0, ADD_1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF
LAYERS = 16  # the lower bits of a counter's last word, which hold the layer; the others hold a step's bits beyond 32
FIRST = 32  # from this bit on, a layer's number holds the number of the array's first row in its batch
ROUNDS = 10
TURN = 2 * math.pi / 2**32  # the factor from a word to an angle


def philox4x32(xp: Any, c0: Array, c1: Array, c2: Array, c3: Array, key: int) -> tuple[Array, Array, Array, Array]:
    """Return the four 32-bit words of each counter.

    Args:
        xp: the array namespace to compute in.
        c0, c1, c2, c3: uint64 arrays of one shape, or shapes that broadcast; each number is below 2**32.
        key: the 64-bit key.

    Returns:
        Four uint64 arrays holding 32-bit numbers. (64 bits, because the product of two 32-bit
        numbers must not overflow, and because not every array library has uint32 arithmetic.)
    """
    k0, k1 = key & LOW, (key >> 32) & LOW
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLY_0, c2 * MULTIPLY_1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & LOW, (p0 >> 32) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + ADD_0) & LOW, (k1 + ADD_1) & LOW
    return c0, c1, c2, c3


def dropout_words(xp: Any, rows: int, columns: int, step: Array, layer: int, seed: int, device: Any = None) -> Array:
    """Return the random word of every element of a [rows, columns] array: uint64 [rows, columns], below 2**32.

    Element (r, c) takes word `c % 4` of the counter (r, c // 4, low, high) with the key `seed`; low are the step's
    lower 32 bits, and high is the layer, with the step's upper bits from bit 16 on. So no mask repeats within 2**48
    steps. If the array's first row is row n of a batch that several processes share, `layer` has n in its bits from
    FIRST on, and row r counts as n + r.

    Args:
        step: a uint64 array of one number, so that a recorded step can advance it.
        device: where to make the counters, for array libraries that have several devices.
    """
    groups = -(-columns // 4)
    c0 = xp.arange(layer >> FIRST, (layer >> FIRST) + rows, dtype=xp.uint64, device=device)[:, None]
    c1 = xp.arange(groups, dtype=xp.uint64, device=device)[None, :]
    step = xp.reshape(step, (1, 1))
    c2, c3 = step & LOW, (((step >> 32) << LAYERS) ^ (layer & LOW)) & LOW
    words = xp.stack(xp.broadcast_arrays(*philox4x32(xp, c0, c1, c2, c3, seed)), axis=-1)
    return xp.reshape(words, (rows, 4 * groups))[:, :columns]


def normal_numbers(xp: Any, rows: int, columns: int, step: Array, layer: int, seed: int, device: Any = None) -> Array:
    """Return a normal number of mean 0 and variance 1 for every element: float64 [rows, columns].

    The words a and b of two neighbours, the first in an even column, give `r cos(t)` and `r sin(t)`, where
    r = sqrt(-2 log((a + 1/2) / 2**32)) and t = 2 pi b / 2**32.
    """
    even = columns + columns % 2
    words = xp.astype(dropout_words(xp, rows, even, step, layer, seed, device), xp.float64)
    radius = xp.sqrt(-2 * xp.log((words[:, ::2] + 0.5) * 2.0**-32))
    angle = words[:, 1::2] * TURN
    pairs = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=-1)
    return xp.reshape(pairs, (rows, even))[:, :columns]


def keep_threshold(rate: float) -> int:
    """Return the smallest word for which an element is kept; `rate` is the share dropped."""
    return min(int(rate * 2**32), LOW)
