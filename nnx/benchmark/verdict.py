"""Verdict on a report in a sentence or two, for the terminal and the page: how fast nnx is, and how certain that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nnx.benchmark.page.findings import Work, same, winners
from nnx.benchmark.units import share, times

BUSY = 0.1  # share of the processors' time from which on others disturb the measurement


def verdict(
    data: dict[str, Any], networks: Sequence[Work], named: Callable[[str], str] = str,
    ratio: Callable[[float], str] = times,
) -> str:  # fmt: skip
    """Return what is uncertain, which of nnx's backends is the fastest, and how it compares with other libraries.

    Args:
        data: a report. networks: its training steps and predictions. Without any of nnx the verdict is empty.
        named, ratio: how a player's name and a ratio are written.
    """
    raced = [work for work in networks if work.ours]
    if not raced:
        return ""
    counted = Counter(" or ".join(sorted(named(figure.player) for figure in winners(work))) for work in raced)
    number = len(raced)
    if len(counted) == 1:
        cases = "the one case" if number == 1 else f"all {number} cases"
        said = f"{next(iter(counted))} is the fastest of nnx in {cases} of training and prediction."
    else:
        said = f"Of {number} cases of training and prediction, the fastest of nnx is "
        said += ", ".join(f"{name} in {cases}" for name, cases in counted.most_common()) + "."
    return f"{doubt(data)}{said} {_standing([work for work in raced if work.libraries], ratio)}"


def _standing(raced: Sequence[Work], ratio: Callable[[float], str]) -> str:
    """Return how often nnx is ahead of the fastest other library."""
    if not raced:
        return "No other library was measured."
    span, states = _compared(raced, ratio)
    each = ", ".join(
        f"{state} in {f'all {cases}' if 1 < cases == len(raced) else cases}" for state, cases in states.most_common()
    )
    return f"Against the fastest other library it is {each}: {span} its speed."


def _compared(raced: Sequence[Work], ratio: Callable[[float], str]) -> tuple[str, Counter[str]]:
    """Return the range of nnx's speed relative to the fastest other library, and how often nnx is ahead."""
    pairs = [(work.ours[0], work.libraries[0]) for work in raced]
    speeds = [other.median / own.median for own, other in pairs]
    states = Counter(
        "level" if same(own, other) else "ahead" if own.median < other.median else "behind" for own, other in pairs
    )
    return f"{ratio(min(speeds))} to {ratio(max(speeds))}" if len(pairs) > 1 else ratio(speeds[0]), states


def line(data: dict[str, Any], networks: Sequence[Work]) -> str:
    """Return the verdict as one line for a terminal, or two if the machine was busy."""
    raced = [work for work in networks if work.ours]
    if not raced:
        return ""
    winner, won = Counter(work.ours[0].player for work in raced).most_common(1)[0]
    others = [work for work in raced if work.libraries]
    if not others:
        return f"{doubt(data)}{winner} is the fastest of nnx in {won} of {len(raced)}; no other library was measured"
    span, states = _compared(others, times)
    each = ", ".join(f"{state} {cases}" for state, cases in states.most_common())
    return f"{doubt(data)}{winner}: {span} the best other library's speed; {each}"


def is_busy(data: dict[str, Any]) -> bool:
    """Tell whether other processes disturbed the measurement."""
    quiet = data.get("quiet") or {}
    return (quiet.get("others") or 0) > BUSY or (quiet.get("stolen") or 0) > BUSY


def doubt(data: dict[str, Any]) -> str:
    """Return the warning that must come before all figures, if there is one."""
    quiet = data.get("quiet") or {}
    taken = {"other programs": quiet.get("others") or 0.0, "other machines": quiet.get("stolen") or 0.0}
    said = " and ".join(f"{who} took {share(part)}" for who, part in taken.items() if part > BUSY)
    return f"BUSY MACHINE ({said}: ratios hold, times less so). " if said else ""
