"""Parts of a batch: what this process takes of it, where several share it."""

from __future__ import annotations

from dataclasses import replace

from nnx.distributed.shares import Shares
from nnx.training.step import Feed, Part


def divided(feed: Feed, shares: Shares) -> Feed:
    """Return a batch in its buffers as a feed of this process's parts, which lie in the same buffers.

    A process without a row takes the first one for nothing, so that all do the same.
    """
    batch, parts = feed.x.shape[0], []
    for place, (first, end) in enumerate(shares.bounds(batch)):
        if first < end:
            parts.append(Part(place, end - first, (end - first) / batch, _rows(feed, first, end)))
    parts = parts or [Part(0, 0, 0.0, _rows(feed, 0, 1))]
    return replace(feed, parts=tuple(parts))


def _rows(feed: Feed, first: int, end: int) -> Feed:
    factors = None if feed.factors is None else feed.factors[first:end, ...]
    return Feed(feed.x[first:end, ...], feed.y[first:end, ...], feed.source, factors=factors, first=first)
