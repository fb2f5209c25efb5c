"""Reference of random numbers: Philox in Python's own integers, dropout, and Gaussian noise."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.step_state import STEP
from nnx.testing.reference.results import Array, Results, Wanted

KNOWN_ANSWERS = (  # of Random123's own test suite: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 of one counter, in Python's own integers."""
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(10):
        high_a, low_a = divmod(a * 0xD2511F53, 2**32)
        high_c, low_c = divmod(c * 0xCD9E8D57, 2**32)
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ l, low_a
        k, l = (k + 0x9E3779B9) % 2**32, (l + 0xBB67AE85) % 2**32  # noqa: E741
    return a, b, c, d


def dropout_word(row: int, column: int, step: int, layer: int, seed: int) -> int:
    """The random word of one element. Above a layer's 32 bits is the number of the first row within its batch."""
    row, layer = row + (layer >> 32), layer % 2**32
    low, high = step % 2**32, step >> 32 << 16 & 0xFFFFFFFF
    return philox((row, column // 4, low, high ^ layer), (seed % 2**32, seed >> 32 & 0xFFFFFFFF))[column % 4]


def dropout_mask(shape: tuple[int, ...], rate: float, seed: int, layer: int, step: int) -> Array:
    """Tell which elements of [N, C] are kept."""
    limit = min(int(rate * 2**32), 2**32 - 1)
    words = [[dropout_word(row, column, step, layer, seed) for column in range(shape[1])] for row in range(shape[0])]
    return np.array(words) >= limit


def dropout(x: Array, rate: float, seed: int, layer: int, counters: Array) -> Results:
    kept = dropout_mask(x.shape, rate, seed, layer, int(counters[STEP]))
    return {"out": Wanted(np.divide(x, 1 - rate, out=np.zeros_like(x), where=kept))}


def gaussian_noise(x: Array, stddev: float, seed: int, layer: int, counters: Array) -> Results:
    noise = np.empty(x.shape)
    for row, column in np.ndindex(*x.shape):
        first, second = (dropout_word(row, column // 2 * 2 + i, int(counters[STEP]), layer, seed) for i in (0, 1))
        wave = math.sin if column % 2 else math.cos
        noise[row, column] = math.sqrt(-2 * math.log((first + 0.5) / 2**32)) * wave(2 * math.pi * second / 2**32)
    return {"out": Wanted(x + stddev * noise, np.abs(x) + stddev * (np.abs(noise) + 1))}
