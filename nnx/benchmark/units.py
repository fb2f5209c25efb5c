"""Number formatting: durations, rates and shares in a readable form."""

from __future__ import annotations


def duration(us: float) -> str:
    """Write a time given in us, with three digits."""
    for unit, size in (("ns", 1e-3), ("us", 1.0), ("ms", 1e3)):
        if us < 999.5 * size:
            return f"{_three(us / size)} {unit}"
    return f"{_three(us / 1e6)} s"


def count(value: float) -> str:
    """Write a number with three digits and k, M or G."""
    for unit, size in (("", 1.0), (" k", 1e3), (" M", 1e6)):
        if value < 999.5 * size:
            return f"{_three(value / size)}{unit}"
    return f"{_three(value / 1e9)} G"


def share(value: float) -> str:
    """Write a share as a percentage."""
    return "<1%" if 0 < value < 0.01 else f"{value:.0%}"


def times(value: float) -> str:
    """Write a ratio."""
    return f"{_three(value)}x" if value >= 0.095 else f"{value:.2g}x"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
