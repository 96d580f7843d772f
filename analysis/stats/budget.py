"""How good a search is expected to be for every budget up to the one that was spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.stats.arrays import Direction, Floats, check_level, finite, sign_of


@dataclass(frozen=True)
class BudgetCurve:
    """Expected best validation quality against the number of trials.

    Attributes:
        budgets: `[budget]`, numbers of trials.
        expected: `[budget]`, expected best value.
        low: `[budget]`, lower end of the bootstrap band.
        high: `[budget]`, upper end.
        level: Error rate of the band, pointwise.
        estimator: "without replacement" (unbiased) or "with replacement".
        n_trials: Trials that the curve is made of.
    """

    budgets: np.ndarray
    expected: Floats
    low: Floats
    high: Floats
    level: float
    estimator: str
    n_trials: int


def expected_best(
    values: ArrayLike,
    *,
    direction: Direction = "max",
    estimator: Literal["without replacement", "with replacement"] = "without replacement",
    level: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
) -> BudgetCurve:
    """Return the expected best of a random subset of the trials, for each size of subset.

    Without replacement the mean over all subsets of size k is exact, an unbiased estimate for k fresh random trials
    (Tang et al. 2020, "Showing Your Work Doesn't Always Work"); with replacement it is the formula of Dodge et al.
    (2019), which is biased low for the best. Both assume exchangeable trials: for a model-based sampler the curve is
    exploratory. The band resamples trials; it is too narrow at the right end, where it hangs on the single best trial.

    Args:
        values: `[trial]`, validation quality of every finished trial.
        direction: "max" where larger is better.
        estimator: Which of the two.
        level: Error rate of the band.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: No trials, NaN (drop failed trials and say how many), an unknown estimator.
    """
    sign = sign_of(direction)
    array = sign * finite(values, "values", ndim=1)
    check_level(level)
    n = len(array)
    weights = _weights(n, estimator)
    drawn = np.random.default_rng(seed).choice(array, size=(n_resamples, n))
    curves = np.sort(drawn, axis=1) @ weights
    low, high = np.quantile(curves, [level / 2, 1 - level / 2], axis=0)
    if sign < 0:
        low, high = -high, -low
    return BudgetCurve(np.arange(1, n + 1), sign * (np.sort(array) @ weights), low, high, level, estimator, n)


def _weights(n: int, estimator: str) -> Floats:
    """Return `[order, budget]`: the probability that the i-th smallest of `n` is the best of k drawn."""
    order, size = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    if estimator == "with replacement":
        return (order / n) ** size - ((order - 1) / n) ** size
    if estimator != "without replacement":
        raise ValueError(f"estimator is {estimator!r}, but 'without replacement' or 'with replacement' is needed")
    # C(i - 1, k - 1) / C(n, k), in logarithms because the binomials overflow.
    possible = order >= size
    rest = np.where(possible, order - size, 0)
    log = special.gammaln(order) - special.gammaln(size) - special.gammaln(rest + 1)
    log -= special.gammaln(n + 1) - special.gammaln(size + 1) - special.gammaln(n - size + 1)
    return np.where(possible, np.exp(np.where(possible, log, 0.0)), 0.0)
