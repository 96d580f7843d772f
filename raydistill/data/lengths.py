"""Sequences put together by length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raydistill.seeding import stream

GROUP_OVERHEAD = 256
"""Padded positions that one more group has to save, to be worth one more pass through the model."""


def random_steps(
    lengths: np.ndarray,
    epoch: int,
    *,
    batch_size: int,
    seed: int,
    groups: int,
    parts: int = 1,
    rank: int = 0,
    world_size: int = 1,
    overhead: int = GROUP_OVERHEAD,
) -> Iterator[tuple[np.ndarray, list[list[np.ndarray]]]]:
    """Yield the steps of one epoch as indices: the examples of the whole step, and this worker's share of them.

    Every example comes once an epoch, in an order that seed and epoch decide. The share is cut into at most ``parts``
    equal parts and each of those into length groups; it has no parts where a small step leaves this worker nothing.

    Args:
        lengths: Length of each example.
        epoch: 0-based.
        batch_size: Examples in a step, over all workers.
        seed: Master seed; arms of one seed share the order.
        groups: Most groups that a part of a step is split into by length.
        parts: Parts that a step is run in, one after the other.
        rank: This worker; every worker draws the same step and takes its own share of it.
        world_size: Number of workers.
        overhead: See :func:`split_by_length`.
    """
    order = stream(seed, "order", epoch).permutation(lengths.size)
    for start in range(0, lengths.size, batch_size):
        whole = order[start : start + batch_size]
        own = whole[even_share(lengths[whole], rank, world_size)]
        shares = [share for share in np.array_split(own, parts) if share.size]
        yield whole, [split_by_length(share, lengths[share], groups, overhead) for share in shares]


def even_share(lengths: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return which examples of a step are this worker's, in their order, so that no worker waits long for another.

    From the longest to the shortest they are dealt to the workers forth and back (0, 1, 1, 0, ...): all have as many,
    one more or less, and the sums of their lengths differ by no more than the longest example.
    """
    dealt = np.argsort(-lengths, kind="stable")
    turn, seat = np.divmod(np.arange(lengths.size), world_size)
    return np.sort(dealt[np.where(turn % 2, world_size - 1 - seat, seat) == rank])


def ordered_runs(lengths: np.ndarray, batch_tokens: int, *, rank: int = 0, world_size: int = 1) -> Iterator[np.ndarray]:
    """Yield every example once over all workers, longest first, about ``batch_tokens`` positions at a time."""
    order = np.argsort(lengths, kind="stable")[::-1]
    for number, run in enumerate(cut_by_tokens(order, lengths[order], batch_tokens)):
        if number % world_size == rank:
            yield run


def split_by_length(
    examples: np.ndarray, lengths: np.ndarray, groups: int, overhead: int = GROUP_OVERHEAD
) -> list[np.ndarray]:
    """Return the examples in at most ``groups`` parts of neighbouring lengths with the least padding.

    The best cut of the sorted lengths is found exactly, by dynamic programming over distinct lengths;
    a further group must save ``overhead`` padded positions.
    """
    if examples.size == 0:
        return []
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    n = distinct.size
    # padded[i, j]: positions of a group that holds the distinct lengths i..j, padded to the longest.
    padded = (ends[None, 1:] - ends[:-1, None]) * distinct[None, :] + overhead
    padded = np.where(np.arange(n)[:, None] <= np.arange(n)[None, :], padded, np.iinfo(np.int64).max // 4)
    best = padded[0].copy()
    cuts: list[np.ndarray] = []
    for _ in range(min(groups, n) - 1):
        through = np.concatenate([[np.iinfo(np.int64).max // 4], best[:-1]])[:, None] + padded
        start = through.argmin(axis=0)
        better = through[start, np.arange(n)] < best
        cuts.append(np.where(better, start, -1))
        best = np.where(better, through[start, np.arange(n)], best)
    bounds, last = [], n - 1
    for cut in reversed(cuts):
        if last >= 0 and cut[last] > 0:
            bounds.append(ends[cut[last]])
            last = cut[last] - 1
    return np.split(examples[order], sorted(bounds))


def cut_by_tokens(order: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield runs of ``order`` whose padded size stays within ``batch_tokens`` (at least one example each)."""
    start = 0
    while start < order.size:
        ahead = lengths[start : start + max(1, batch_tokens)]
        padded = np.arange(1, ahead.size + 1) * np.maximum.accumulate(ahead)
        size = max(1, int(np.searchsorted(padded, batch_tokens, side="right")))
        yield order[start : start + size]
        start += size
