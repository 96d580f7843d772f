"""Intervals from a bootstrap that resamples replicates (seeds, teachers) and users, paired across arms.

The pigeonhole bootstrap (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)) draws rows and
columns with replacement, independently, and weighs each cell by the product of the two counts. All arms share the
draws, so differences and ratios stay paired.

With S seeds it underestimates the seeds' variance by (S - 1) / S, knows nothing of the few degrees of freedom, and
counts the residual up to three times. So the resamples give the shape (how far the two ends lie from the estimate,
relative to each other) and the crossed variance with Student quantiles (see `analysis.stats.crossed`) gives the width.
By simulation the interval then covers at its level or slightly above from two seeds on; the tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Floats, Unit, check_level, finite
from analysis.stats.crossed import CrossedMean, crossed_mean

# Resamples held in memory at once: 64 x 100,000 users x 8 bytes are 51 MB.
CHUNK = 64


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and what it is about.

    Attributes:
        estimate: The point estimate.
        low: Lower end.
        high: Upper end.
        level: Error rate of the two-sided interval: 0.05 for a 95 % interval.
        p_value: Two-sided p-value of "no difference" (difference 0, ratio 1) by the rule that gives the width; NaN
            for a plain mean.
        unit: What a claim can range over: "teachers", "seeds" or, for a single replicate, "users".
        n_replicates: Teachers or seeds resampled.
        n_users: Users resampled.
    """

    estimate: float
    low: float
    high: float
    level: float
    p_value: float
    unit: Unit
    n_replicates: int
    n_users: int

    @property
    def method_claim(self) -> bool:
        """Return whether it supports a claim about a method, not only about the models that were trained."""
        return self.unit != "users"


@dataclass(frozen=True)
class CrossedBootstrap:
    """Intervals of many arms from one set of resamples.

    Attributes:
        means: One interval an arm.
        differences: Arm minus reference, one an arm (the reference's own is 0 to 0); None without a reference.
        ratios: Arm over reference, one an arm; None without a reference or where its mean is not above 0.
        resampled: `[resample, arm]`, the resampled means, for any other contrast.
        reference: Index of the reference arm.
    """

    means: tuple[Interval, ...]
    differences: tuple[Interval, ...] | None
    ratios: tuple[Interval, ...] | None
    resampled: Floats
    reference: int | None


def crossed_bootstrap(
    values: ArrayLike,
    *,
    reference: int | None = None,
    level: float = 0.05,
    n_resamples: int = 2000,
    seed: int = 0,
) -> CrossedBootstrap:
    """Return intervals of each arm's mean, and of its difference from and ratio to the reference arm.

    Args:
        values: `[arm, seed, user]` or `[arm, teacher, seed, user]`, paired across arms. With several teachers,
            teachers are resampled and seeds inside each, and the teacher is the unit. One replicate only: users alone
            are resampled, and `Interval.method_claim` is False.
        reference: Index of the arm to compare with.
        level: Error rate of the intervals.
        n_resamples: Resamples; their extreme quantiles need about 1,000 or more.
        seed: Seed of the resampling; the same seed gives the same intervals.

    Raises:
        ValueError: Wrong axes, NaN, fewer than two users, an unknown reference.
    """
    array = finite(values, "values", ndim=(3, 4))
    check_level(level)
    if reference is not None and not 0 <= reference < len(array):
        raise ValueError(f"reference is arm {reference}, but there are {len(array)} arms")
    if n_resamples < 100:
        raise ValueError(f"n_resamples is {n_resamples}, but an interval needs at least 100")
    resampled = _resampled_means(array, n_resamples, np.random.default_rng(seed))
    means = tuple(
        _interval(crossed_mean(arm), resampled[:, index], level, null=None) for index, arm in enumerate(array)
    )
    if reference is None:
        return CrossedBootstrap(means, None, None, resampled, None)
    base, base_mean = array[reference], means[reference].estimate
    differences = tuple(
        _interval(crossed_mean(arm - base), resampled[:, index] - resampled[:, reference], level, null=0.0)
        for index, arm in enumerate(array)
    )
    ratios = None
    if base_mean > 0 and (resampled[:, reference] > 0).all():
        ratios = tuple(
            _interval(
                _linear_ratio(arm, base, base_mean), resampled[:, index] / resampled[:, reference], level, null=1.0
            )
            for index, arm in enumerate(array)
        )
    return CrossedBootstrap(means, differences, ratios, resampled, reference)


def bootstrap_difference(
    values: ArrayLike, reference: ArrayLike, *, level: float = 0.05, n_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of the mean of `values - reference`, for a single pair of arms.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.
        reference: The same axes; one seed stands against every seed.
        level: Error rate of the interval.
        n_resamples: Resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: Not paired, wrong axes, NaN, fewer than two users.
    """
    first = finite(values, "values", ndim=(2, 3))
    second = np.broadcast_to(finite(reference, "reference", ndim=first.ndim), first.shape)
    result = crossed_bootstrap(np.stack([first, second]), reference=1, level=level, n_resamples=n_resamples, seed=seed)
    return result.differences[0]


def user_weights(
    n_users: int, n_resamples: int, rng: np.random.Generator, chunk: int = CHUNK
) -> Iterator[tuple[slice, Floats]]:
    """Yield slices of the resamples with `weights[resample, user]`, multinomial counts over `n_users`.

    Counting drawn indices is an exact multinomial and many times faster than drawing one binomial a user.
    """
    for start in range(0, n_resamples, chunk):
        rows = slice(start, min(start + chunk, n_resamples))
        weights = np.empty((rows.stop - rows.start, n_users))
        for row in weights:
            row[:] = np.bincount(rng.integers(0, n_users, size=n_users), minlength=n_users)
        yield rows, weights


def _replicate_weights(shape: tuple[int, ...], n_resamples: int, rng: np.random.Generator) -> Floats:
    """Return `[resample, replicate]`, shares that sum to 1, for axes `(seed,)` or `(teacher, seed)` flattened.

    Teachers are drawn first and seeds inside each drawn teacher. A single teacher or seed is always drawn.
    """
    if len(shape) == 1:
        return rng.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), size=n_resamples) / shape[0]
    n_teachers, n_seeds = shape
    teachers = _replicate_weights((n_teachers,), n_resamples, rng)
    inside = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=(n_resamples, n_teachers)) / n_seeds
    return (teachers[:, :, None] * inside).reshape(n_resamples, n_teachers * n_seeds)


def _resampled_means(array: Floats, n_resamples: int, rng: np.random.Generator) -> Floats:
    """Return `[resample, arm]`, by one matrix product a chunk instead of index gathers."""
    n_arms, *shape, n_users = array.shape
    n_replicates = int(np.prod(shape))
    replicate_weights = _replicate_weights(tuple(shape), n_resamples, rng)
    columns = np.ascontiguousarray(array.reshape(n_arms * n_replicates, n_users).T)
    resampled = np.empty((n_resamples, n_arms))
    for rows, weights in user_weights(n_users, n_resamples, rng):
        cells = (weights @ columns).reshape(-1, n_arms, n_replicates)
        resampled[rows] = np.einsum("bar,br->ba", cells, replicate_weights[rows]) / n_users
    return resampled


def _linear_ratio(arm: Floats, base: Floats, base_mean: float) -> CrossedMean:
    """Return the ratio of means as a crossed mean: its linearization (delta method) carries the variance."""
    ratio = float(arm.mean()) / base_mean
    return crossed_mean(ratio + (arm - ratio * base) / base_mean)


def _interval(mean: CrossedMean, resampled: Floats, level: float, null: float | None) -> Interval:
    """Return the interval with the crossed width and the resamples' asymmetry."""
    half = mean.half_width(level)
    low, high = np.quantile(resampled, [level / 2, 1 - level / 2]) - mean.estimate
    # Without spread on both sides the resamples say nothing of the shape: a symmetric interval.
    below, above = (-low, high) if low < 0 < high else (1.0, 1.0)
    scale = 2 * half / (below + above)
    return Interval(
        estimate=mean.estimate,
        low=float(mean.estimate - scale * below),
        high=float(mean.estimate + scale * above),
        level=level,
        p_value=np.nan if null is None else mean.p_value(null),
        unit=mean.unit,
        n_replicates=mean.n_replicates,
        n_users=mean.n_users,
    )
