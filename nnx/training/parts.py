"""Parts of a batch: those that this process takes, where several processes share each batch."""

from __future__ import annotations

from dataclasses import replace

from nnx.distributed.pool import Pool
from nnx.distributed.shares import Shares
from nnx.training.step import Feed, Part


def divided(feed: Feed, shares: Shares) -> Feed:
    """Return a feed whose `parts` are this process's parts of a batch, as views of the same buffers.

    A process that has no row of the batch takes the first row with weight 0, so that all processes run the same steps.
    """
    parts = []
    for place, (first, end) in enumerate(shares.bounds(feed.x.shape[0])):
        if first < end:
            parts.append(_part(feed, shares, place, first, end))
    parts = parts or [_part(feed, shares, 0, 0, 1, counted=False)]
    return replace(feed, parts=tuple(parts))


def _part(feed: Feed, shares: Shares, place: int, first: int, end: int, counted: bool = True) -> Part:
    """Return the part with rows `first` to `end`; `counted` is False if it has weight 0."""
    batch = feed.x.shape[0]
    share = (end - first) / batch if counted else 0.0
    factors = None if feed.factors is None else feed.factors[first:end, ...]
    pool = None if shares.fixed else Pool(shares.comm, share, batch)
    rows = Feed(feed.x[first:end, ...], feed.y[first:end, ...], feed.source, factors=factors, first=first, pool=pool)
    return Part(place, (end - first) * counted, share, rows)
