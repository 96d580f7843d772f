"""How selectors' scores lie over the depth, agree with each other, and hold over calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np


def depth_concentration(scores: np.ndarray) -> tuple[float, float]:
    """Return the depth concentration ratio, mean and standard error over the replicates.

    The ratio of one replicate is the mean score of the deepest quarter of the layers over that of the shallowest
    quarter; a quarter has ``max(1, layers // 4)`` layers.

    Args:
        scores: ``Float64[replicates, layers]``.

    Returns:
        Both NaN where a shallowest quarter is not above zero (a ratio would say nothing); the standard error is NaN
        where there is one replicate.
    """
    quarter = max(1, scores.shape[1] // 4)
    deepest, shallowest = scores[:, -quarter:].mean(axis=1), scores[:, :quarter].mean(axis=1)
    if (shallowest <= 0).any():
        return float("nan"), float("nan")
    ratios = deepest / shallowest
    error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else float("nan")
    return float(ratios.mean()), float(error)


def kendall(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return Kendall's tau-b between the mean scores of each two selectors; NaN where one has all scores equal.

    Args:
        scores: ``Float64[replicates, layers]`` by selector.
    """
    means = {name: array.mean(axis=0) for name, array in scores.items()}
    return {a: {b: _tau(means[a], means[b]) for b in means} for a in means}


def overlap(layer_maps: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
    """Return the share of layers that each two selectors have in common, of layer maps of equal length."""
    return {a: {b: _shared(layer_maps[a], layer_maps[b]) for b in layer_maps} for a in layer_maps}


def score_stability(scores: np.ndarray) -> float:
    """Return the mean of Kendall's tau-b over all pairs of replicates.

    Args:
        scores: ``Float64[replicates, layers]``.

    Returns:
        1 where all replicates rank the layers alike; NaN with one replicate or where all scores of one are equal.
    """
    taus = [_tau(a, b) for a, b in combinations(scores, 2)]
    return float(np.mean(taus)) if taus else float("nan")


def map_stability(layer_maps: Sequence[Sequence[int]]) -> float:
    """Return the mean share of common layers over all pairs of layer maps, one chosen from each replicate alone.

    Returns:
        1 where all replicates choose alike; NaN with fewer than two maps.
    """
    shares = [_shared(a, b) for a, b in combinations(layer_maps, 2)]
    return float(np.mean(shares)) if shares else float("nan")


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy.stats import kendalltau  # takes most of a second to import, in every process of a sweep

    return float(kendalltau(a, b).statistic)


def _shared(a: Sequence[int], b: Sequence[int]) -> float:
    return len(set(a) & set(b)) / len(a)
