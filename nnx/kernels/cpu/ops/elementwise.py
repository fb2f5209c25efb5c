# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Elementwise kernels: activations and their gradients, and in a recorded step the parts of the losses.

Lower bound of the time: moving 8 bytes for each float32 number (12 for a gradient), at the speed of the memory that
they are in. In the second-level cache relu and the gradients reach it; sigmoid and tanh take 0.3 ns for each number
with AVX-512 (NumPy 1.5 and 2 ns).
"""

from __future__ import annotations

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, PART, claim, flat, row, smaller, view
from nnx.kernels.cpu.ops.traced import made_of
from nnx.kernels.cpu.threads.team import LINE, divided, make_together, share_at
from nnx.kernels.elementwise import FUNCTIONS, HELD_UP, KINDS, number_of
from nnx.kernels.losses import PARTS

RELU, NONE = number_of("relu"), -1  # NONE: no function follows a dense layer
BLOCK = 512  # numbers whose lines are claimed at once: 128 to 1024 are much the same


# ---- formulas by kind, as functions of x, y and two constants --------------------------------------------------------


def function(f):
    """A function's formula, as a function of x, y and two constants."""
    return (lambda m, x, y, a, _: f.forward(m, x, a)) if f.parameter else (lambda m, x, *_: f.forward(m, x))


def gradient(f):
    """The formula of its gradient, in the same form."""
    return (lambda m, x, y, a, _: f.backward(m, x, y, a)) if f.parameter else (lambda m, x, y, *_: f.backward(m, x, y))


FORWARD = {f.number: function(f) for f in FUNCTIONS}
BACKWARD = {f.gradient_number: gradient(f) for f in FUNCTIONS}
ALL = FORWARD | BACKWARD | {number_of(name): formula for name, formula in PARTS.items()}
assert len(ALL) == len(KINDS)
apply_function, apply = made_of(FORWARD), made_of(ALL, more=True)
apply_relu = made_of({RELU: FORWARD[RELU]})


# ---- kernels of operations -------------------------------------------------------------------------------------------
# `board` is the address of the threads' board, `parts` the most parts to divide the work into: see team.py.


def make_share(formulas, light):
    """Return the function for one share of an operation's numbers. `light`: kinds that hardly compute.

    These are limited by writing, unless cache lines are claimed first, which makes relu 9% faster; it would slow down
    the others.
    """
    apply_light = made_of({kind: formulas[kind] for kind in light})
    apply_other = made_of({kind: formula for kind, formula in formulas.items() if kind not in light})

    @njit(**PART)
    def share(operands, number):
        x, y, out, kind, a, step = operands
        first, size = share_at(number, step, x.size)
        if kind not in light:  # apart, since in one loop with the light ones others would take 5% more
            apply_other(kind, view(x, first, size), view(y, first, size), view(out, first, size), a, 0.0)
            return
        for at in range(first, first + size, BLOCK):
            count = smaller(BLOCK, first + size - at)
            result = view(out, at, count)
            claim(result)
            apply_light(kind, view(x, at, count), view(y, at, count), result, a, 0.0)

    return share


forward_share = make_share(FORWARD, tuple(f.number for f in FUNCTIONS if f.cost == HELD_UP))
backward_share = make_share(BACKWARD, tuple(f.gradient_number for f in FUNCTIONS if f.slope_cost == HELD_UP))
forward_together, backward_together = make_together(forward_share), make_together(backward_share)


@takes("mm")
@njit(**OPTIONS)
def forward(x, y, board, parts, kind, a):
    """y = f(x), for f's parameter a. y may be x."""
    if not behaved(x, y) or x.shape != y.shape or not x.size or not apart_or_same(y, x):
        return False
    step, parts = divided(x.size, parts, LINE)
    forward_together(board, (flat(x), flat(x), flat(y), kind, a, step), parts)
    return True


@takes("mmm")
@njit(**OPTIONS)
def backward(of, dy, dx, board, parts, kind, a):
    """dx = dy * f'(x); `of` is x, or y = f(x), as the function's row in the table says. dx may be one of the others."""
    if not behaved(of, dy, dx) or of.shape != dy.shape or of.shape != dx.shape or not of.size:
        return False
    if not apart_or_same(dx, of, dy):
        return False
    step, parts = divided(of.size, parts, LINE)
    backward_together(board, (flat(of), flat(dy), flat(dx), kind, a, step), parts)
    return True


@takes("mm")
@njit(**OPTIONS)
def finish(y, b, kind):
    """y = f(y + b), with the biases b [1, O] added to each row: the rest of a dense layer after BLAS."""
    n, outputs = y.shape
    if not behaved(y, b) or b.shape != (1, outputs) or not apart(y, b):
        return False
    bias, zero = flat(b), y.dtype.type(0)
    for i in range(n):
        out = row(y, i)
        if kind == RELU:
            for j in range(outputs):
                v = out[j] + bias[j]
                out[j] = zero if v < zero else v
        else:
            for j in range(outputs):
                out[j] += bias[j]
    if kind not in (NONE, RELU):
        forward_share((flat(y), flat(y), flat(y), kind, 0.0, y.size), 0)
    return True


# ---- kernels of recorded steps ---------------------------------------------------------------------------------------


@njit(**PART)
def elementwise(kind, x, y, out, c0, c1):
    """Write `kind` of x, or of x and y, to `out`; c0 and c1 are the kind's constants. out may be x or y."""
    apply(kind, x, y, out, c0, c1)
