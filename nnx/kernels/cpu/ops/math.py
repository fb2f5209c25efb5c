# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""exp, expm1, log, log1p and tanh, for loops that LLVM vectorises.

float32: polynomials with a relative error of at most 2e-7 (all float32 numbers were tried for exp, 7.8e-8, and for
tanh, 1.8e-7), right for infinities, NaN and overflow; 0.1 to 0.3 ns for each element in an AVX-512 loop (`np.exp` in
Numba calls the C library for each element: 2.3 ns; NumPy takes 0.5 ns). Results below the smallest normal number may be
0, since subnormal numbers would slow down all later work. float64: the C library's exp, expm1 and log. The coefficients
are those of Cephes (S. Moshier, netlib.org/cephes), except for exp and tanh in float32.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, PART

F, I = np.float32, np.int32  # noqa: E741
ZERO, HALF, ONE, TWO, INFINITY, NAN = F(0), F(0.5), F(1), F(2), F(np.inf), F(np.nan)
LOG2E, LN2_HIGH, LN2_LOW = F(1.4426950408889634), F(0.693359375), F(-2.12194440e-4)
EXP_LOW, EXP_HIGH, EXP_END, EXPM1_LOW = F(-86.9), F(88.722839), F(89), F(-20)  # e**EXP_HIGH is the largest number
E0, E1, E2, E3, E4, E5 = map(
    F, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = map(F, (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
))  # fmt: skip
# Minimax fits up to ln(2) / 2 of 2 exp(x), whose first two coefficients are 2, and of (exp(x) - 1 - x) / x**2 from 1/2.
X0, X1, X2, X3, X4 = map(F, (2.762921e-3, 1.6737422e-2, 8.333678e-2, 0.33333042, 0.9999999))
T0, T1, T2, T3 = map(F, (1.3898293e-3, 8.366038e-3, 4.1666854e-2, 0.1666655))
P0, P1, P2 = -9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3
Q0, Q1, Q2 = 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3
TINY, ROOT_HALF = F(1.17549435e-38), F(0.70710678)
TANH_ONE = F(18.04)  # twice the number from which tanh is rounded to 1
ROUND = F(1.5 * 2**23)  # adding this rounds a number to an integer, which is then in the lowest bits
BITS, SIGN, WHOLE, HALVED = I(23), I(-(2**31)), I(127), I(126)  # the last two: exponents' bits of 1 and of 1/2
UP, UP_BITS = F(2.0**23), F(23)  # brings subnormal numbers into the normal range


@intrinsic
def _as_float(typing, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _as_bits(typing, number):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _floor(typing, x):
    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [ir.FloatType()]), args)

    return types.float32(types.float32), codegen


@njit(**EXACT)
def _power_of_two(shifted, bias):
    """2**(n + bias - 127), `shifted` being n + ROUND."""
    return _as_float((_as_bits(shifted) << BITS) + (bias << BITS))


@njit(**EXACT)
def exp_float32(x):
    """2**n times a polynomial of the remainder, which is between -ln(2) / 2 and ln(2) / 2.

    NaN and infinity come out right without comparisons, each of which would take as long as a multiply-add.
    """
    inside = EXP_LOW if x < EXP_LOW else x
    inside = EXP_END if inside > EXP_END else inside
    shifted = inside * LOG2E + ROUND
    n = shifted - ROUND
    r = inside - n * LN2_HIGH - n * LN2_LOW
    twice = (((((X0 * r + X1) * r + X2) * r + X3) * r + X4) * r + TWO) * r + TWO
    y = twice * _power_of_two(shifted, HALVED)  # half of 2**n, since 2**128 itself would overflow
    return ZERO if x < EXP_LOW else y


@njit(**EXACT)
def expm1_float32(x):
    """2**n (e**r - 1) + (2**n - 1), with the polynomial and the r of `exp_float32`: exact to the last bits near 0."""
    inside = x if x > EXPM1_LOW else EXPM1_LOW
    inside = inside if inside < EXP_HIGH else EXP_HIGH
    n = _floor(inside * LOG2E + HALF)
    r = inside - n * LN2_HIGH - n * LN2_LOW
    p = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
    half = _as_float((I(n) + I(126)) << I(23))  # half of 2**n, since 2**128 itself would overflow
    p = (p * (r * r) + r) * half + (half - HALF)
    p = INFINITY if x > EXP_HIGH else p + p
    return x if x != x else p


@njit(**EXACT)
def log_float32(x):
    """The exponent times ln(2), plus a polynomial of the mantissa, between sqrt(1/2) and sqrt(2)."""
    small = x < TINY
    bits = _as_bits(x * UP if small else x)
    exponent = F((bits >> I(23)) - I(126)) - (UP_BITS if small else ZERO)
    mantissa = _as_float((bits & I(0x007FFFFF)) | I(0x3F000000))  # in [0.5, 1)
    low = mantissa < ROOT_HALF
    exponent = exponent - ONE if low else exponent
    m = (mantissa + mantissa if low else mantissa) - ONE
    square = m * m
    p = (((((((L0 * m + L1) * m + L2) * m + L3) * m + L4) * m + L5) * m + L6) * m + L7) * m + L8
    p = p * m * square + exponent * LN2_LOW - HALF * square + m + exponent * LN2_HIGH
    p = p if x < INFINITY else x  # inf and NaN
    p = p if x != ZERO else -INFINITY
    return NAN if x < ZERO else p


@njit(**EXACT)
def log1p_small(e):
    """log(1 + e), with a factor that corrects the rounding error of 1 + e (Goldberg, 1991)."""
    one = type(e)(1)
    u = one + e
    return e if u == one else log(u) * (e / (u - one))


@njit(**EXACT)
def tanh_float32(x):
    """m / (m + 2), m = exp(2|x|) - 1 = 2**n (e**r - 1) + (2**n - 1); within 1.8e-7 for every float32."""
    twice = abs(x) + abs(x)
    twice = TANH_ONE if twice > TANH_ONE else twice  # NaN stays
    shifted = twice * LOG2E + ROUND
    n = shifted - ROUND
    r = twice - n * LN2_HIGH - n * LN2_LOW
    power = _power_of_two(shifted, WHOLE)
    m = ((((T0 * r + T1) * r + T2) * r + T3) * r + HALF) * (r * r) + r
    m = m * power + (power - ONE)
    y = m / (m + TWO)
    return _as_float(_as_bits(y) | (_as_bits(x) & SIGN))


@njit(**EXACT)
def tanh_float64(x):
    """The same in float64, by a rational function near 0: 5 ns; the C library takes 15 ns, NumPy 13."""
    a = abs(x)
    s = x * x
    near = x + x * s * ((P0 * s + P1) * s + P2) / (((s + Q0) * s + Q1) * s + Q2)
    e = math.exp(-2.0 * a)
    far = (1.0 - e) / (1.0 + e)
    far = -far if x < 0.0 else far
    return near if a < 0.625 else far


def exp(x):
    """e**x, for use inside kernels."""
    return math.exp(x)


def expm1(x):
    """e**x - 1, exact also near 0, for use inside kernels."""
    return math.expm1(x)


def log1p(e):
    """log(1 + e) for e in 0 .. 1, to the last bits also where e is small, for use inside kernels."""
    return math.log1p(e)


def log(x):
    """The natural logarithm, for use inside kernels."""
    return math.log(x)


def tanh(x):
    """The hyperbolic tangent, for use inside kernels."""
    return math.tanh(x)


@overload(exp, jit_options=EXACT)
def _exp(x):
    return (lambda x: exp_float32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(expm1, jit_options=EXACT)
def _expm1(x):
    return (lambda x: expm1_float32(x)) if x == types.float32 else (lambda x: math.expm1(x))


@overload(log1p, jit_options=EXACT)
def _log1p(e):
    return lambda e: log1p_small(e)


@overload(log, jit_options=EXACT)
def _log(x):
    return (lambda x: log_float32(x)) if x == types.float32 else (lambda x: math.log(x))


@overload(tanh, jit_options=EXACT)
def _tanh(x):
    return (lambda x: tanh_float32(x)) if x == types.float32 else (lambda x: tanh_float64(x))


# ---- whole arrays ----------------------------------------------------------------------------------------------------


@njit(**PART)
def exponentials(a):
    """a = exp(a), as one loop over a whole array: short rows of three or ten numbers would not fill a vector."""
    for j in range(len(a)):
        a[j] = exp(a[j])


@njit(**PART)
def logarithms(a):
    """a = log(a)."""
    for j in range(len(a)):
        a[j] = log(a[j])
