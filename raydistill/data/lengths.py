"""Sequences put together by length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

GROUP_OVERHEAD = 256
"""Padded positions that one more group has to save, to be worth one more pass through the model."""


def split_by_length(examples: np.ndarray, lengths: np.ndarray, groups: int) -> list[np.ndarray]:
    """Return the examples in at most ``groups`` parts of neighbouring lengths with the least padding.

    The best cut of the sorted lengths is found exactly, by dynamic programming over distinct lengths;
    a further group must save :data:`GROUP_OVERHEAD` padded positions.
    """
    if examples.size == 0:
        return []
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    n = distinct.size
    # padded[i, j]: positions of a group that holds the distinct lengths i..j, padded to the longest.
    padded = (ends[None, 1:] - ends[:-1, None]) * distinct[None, :] + GROUP_OVERHEAD
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
