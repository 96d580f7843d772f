"""Where an arm stands: in the distribution of random draws, and in ranks over several data sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import special, stats

from analysis.stats.arrays import Direction, Floats, check_level, finite, sign_of


@dataclass(frozen=True)
class Placement:
    """The place of one value among random draws.

    Attributes:
        percentile: Share of draws that are worse, ties counted half, 0 to 1.
        low, high: Clopper-Pearson interval of the share of all possible draws that are worse; a tie may be either.
        p_value: `(b + 1) / (n + 1)`, with b draws at least as good: how often a random draw would do as well.
        smallest_p_value: `1 / (n + 1)`, what `p_value` can be at best with so few draws.
        n_draws: Number of draws.
        draws_mean: Mean of the draws.
        draws_low: The smallest draw.
        draws_high: The largest draw.
    """

    percentile: float
    low: float
    high: float
    p_value: float
    smallest_p_value: float
    n_draws: int
    draws_mean: float
    draws_low: float
    draws_high: float


@dataclass(frozen=True)
class FriedmanResult:
    """Friedman's test with Nemenyi's comparisons.

    Attributes:
        statistic: Friedman's chi-square (corrected for ties).
        p_value: Its p-value; 1 where all arms tie everywhere.
        mean_ranks: `[arm]`, 1 is best.
        critical_difference: Mean ranks closer than this are not told apart at `level`.
        pairwise_p: `[arm, arm]`, Nemenyi's p-values, already corrected for all pairs.
        cliques: Maximal groups of arms (indices, best first) that are not told apart: the bars of the diagram.
        level: Error rate.
        n_datasets: Data sets, the blocks of the test.
    """

    statistic: float
    p_value: float
    mean_ranks: Floats
    critical_difference: float
    pairwise_p: Floats
    cliques: tuple[tuple[int, ...], ...]
    level: float
    n_datasets: int


def place_in_draws(value: float, draws: ArrayLike, *, direction: Direction = "max", level: float = 0.05) -> Placement:
    """Return where `value` stands among the metric of random draws.

    Args:
        value: Mean metric of the selector.
        draws: `[draw]`, mean metric of each random layer set, measured in the same way.
        direction: "max" where larger is better.
        level: Error rate of the interval.

    Raises:
        ValueError: No draws, or NaN.
    """
    sign = sign_of(direction)
    array = sign * finite(draws, "draws", ndim=1)
    place = sign * float(finite(value, "value", ndim=0))
    n = len(array)
    percentile = float(((array < place) + 0.5 * (array == place)).mean())
    worse, no_better = (int(np.sum(found)) for found in (array < place, array <= place))
    check_level(level)
    ends = np.sort(sign * array)
    return Placement(
        percentile=percentile,
        low=float(special.betaincinv(worse, n - worse + 1, level / 2)) if worse else 0.0,
        high=float(special.betaincinv(no_better + 1, n - no_better, 1 - level / 2)) if no_better < n else 1.0,
        p_value=float((np.sum(array >= place) + 1) / (n + 1)),
        smallest_p_value=1 / (n + 1),
        n_draws=n,
        draws_mean=float(ends.mean()),
        draws_low=float(ends[0]),
        draws_high=float(ends[-1]),
    )


def friedman(scores: ArrayLike, *, direction: Direction = "max", level: float = 0.05) -> FriedmanResult:
    """Return Friedman's test over data sets with Nemenyi's critical difference (Demšar 2006).

    Args:
        scores: `[dataset, arm]`, one mean metric each; at least 2 data sets and 3 arms.
        direction: "max" where larger is better.
        level: Error rate.

    Raises:
        ValueError: Too few data sets or arms, wrong axes, NaN.
    """
    array = finite(scores, "scores", ndim=2)
    n, k = array.shape
    if n < 2 or k < 3:
        raise ValueError(f"Friedman's test needs 2 data sets and 3 arms at least, not {n} and {k}")
    check_level(level)
    ranks = stats.rankdata(-sign_of(direction) * array, axis=1)
    mean_ranks = ranks.mean(axis=0)
    difference = stats.studentized_range.isf(level, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    if (ranks == ranks[:, :1]).all():
        return FriedmanResult(0.0, 1.0, mean_ranks, float(difference), np.ones((k, k)), (tuple(range(k)),), level, n)
    statistic, p_value = stats.friedmanchisquare(*ranks.T)
    pairwise = posthoc_nemenyi_friedman(array).to_numpy(dtype=np.float64)
    cliques = _cliques(mean_ranks, float(difference))
    return FriedmanResult(float(statistic), float(p_value), mean_ranks, float(difference), pairwise, cliques, level, n)


def _cliques(mean_ranks: Floats, difference: float) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(mean_ranks, kind="stable")
    spans: list[tuple[int, int]] = []
    for start in range(len(order)):
        near = np.flatnonzero(mean_ranks[order] - mean_ranks[order[start]] < difference)
        stop = int(near[-1])
        if stop > start and (not spans or stop > spans[-1][1]):
            spans.append((start, stop))
    return tuple(tuple(int(arm) for arm in order[start : stop + 1]) for start, stop in spans)
