"""The normal distribution, which neither NumPy nor the array-API standard has.

erfc(a) = exp(-a**2) P(t) / (3 + a), t = (3 - a) / (3 + a), for a >= 0: with such a t, one polynomial will do for all
numbers (Shepherd and Laframboise, Mathematics of Computation 36, 1981, whose t is (a - 3.75) / (a + 3.75)). These were
found by interpolation at Chebyshev's points with 60 digits, up to where exp(-a**2) is 0, and are within 1e-9 (degree 9)
and 3e-17 (degree 21) of the exact one. Measured, the share is within 4e-7 relative of the exact one in float32, 1.1e-15
in float64, from x = -2 on; below, the rounding of the exponent x**2 / 2 adds up to as many roundings as that is.
"""

from __future__ import annotations

from typing import Any

SHORT = (
    3.278954315e-4, -4.869148608e-4, -3.081177641e-3, -1.223811288e-3, 2.683978534e-2, 0.1195284612, 0.3104660254,
    0.5902283453, 0.8833944866, 1.074006907,
)  # fmt: skip
LONG = (
    2.89969016486731343e-9, -1.14180228958578638e-9, -3.69915718018717337e-8, 4.19120420501639837e-8,
    2.15944199270567822e-7, -4.00275505436346206e-7, -9.85359459300577386e-7, 2.75876116592589462e-6,
    4.74262603600256237e-6, -1.74672832326483542e-5, -3.03960835821577838e-5, 1.07560501902065284e-4,
    2.76777426677683846e-4, -5.48309513962536923e-4, -3.03406194916432262e-3, -1.2124166455136897e-3,
    2.68272346208479486e-2, 0.119527761288241574, 0.310467261900686571, 0.590228357104082791, 0.883394453169882448,
    1.07400690708833976,
)  # fmt: skip
ROOT_HALF, INVERSE_ROOT = 0.7071067811865476, 0.3989422804014327  # sqrt(1 / 2), 1 / sqrt(2 pi)


def normal(m: Any, x: Any) -> tuple[Any, Any]:
    """Return distribution function and density of the standard normal distribution at x.

    Args:
        m: the functions for x (nnx/kernels/elementwise.py). x: an array, or a number in compiled code.
    """
    size = abs(x)
    e = m.exp(-0.5 * size * size)
    a = size * ROOT_HALF
    inverse = 1 / (3 + a)
    t = 6 * inverse - 1  # (3 - a) / (3 + a), also where a is infinite
    first, second, *more = SHORT if m.single(x) else LONG
    p = first * t + second
    for coefficient in more:
        p *= t
        p += coefficient
    tail = (0.5 * e) * (p * inverse)
    return m.where(x < 0, tail, 1 - tail), INVERSE_ROOT * e
