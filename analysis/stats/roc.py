"""ROC curves with bands, from ranks (next item) and from scores with labels (preference)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Floats, check_level, finite
from analysis.stats.bootstrap import user_weights


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve on a grid.

    Attributes:
        false_positive_rate: `[point]`, from 0 to 1.
        true_positive_rate: `[point]`.
        low: `[point]`, lower end of the pointwise band.
        high: `[point]`, upper end.
        auc: Area under the curve.
        auc_low: Lower end of its interval.
        auc_high: Upper end.
        level: Error rate of band and interval.
        n_users: Users resampled.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats
    low: Floats
    high: Floats
    auc: float
    auc_low: float
    auc_high: float
    level: float
    n_users: int


def roc_from_ranks(
    ranks: ArrayLike,
    candidates: ArrayLike,
    *,
    points: int = 201,
    level: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
) -> RocCurve:
    """Return the ROC curve of next-item ranking, averaged over users, with bands over users.

    Each user has one positive, the target. The share of its negatives that rank above it is
    `(rank - 1) / (candidates - 1)`, and the curve at x is the share of users for which that is at most x. Ties count
    against the model, as they do in the ranks.

    Args:
        ranks: `[user]` or `[seed, user]`, 1 is best; seeds are averaged inside a user.
        candidates: `[user]` or the axes of `ranks`, ranked items including the target, at least 2.
        points: Grid points from 0 to 1.
        level: Error rate of the band.
        n_resamples: Bootstrap resamples of users.
        seed: Seed of the resampling.

    Raises:
        ValueError: Wrong axes, NaN, a rank outside 1 to `candidates`, fewer than 2 candidates.
    """
    rank = np.atleast_2d(finite(ranks, "ranks", ndim=(1, 2)))
    number = np.broadcast_to(finite(candidates, "candidates", ndim=(1, 2)), rank.shape)
    if (number < 2).any():
        raise ValueError("a ROC curve needs at least 2 candidates for every user")
    if ((rank < 1) | (rank > number)).any():
        raise ValueError("a rank lies outside 1 to the number of candidates")
    check_level(level)
    rate = (rank - 1) / (number - 1)
    grid = np.linspace(0, 1, points)
    n_users = rate.shape[1]
    # A user's curve is a step at the first grid point that reaches its rate, so counting steps is the whole curve.
    step = np.searchsorted(grid, rate, side="left").ravel()
    area = (1 - rate).mean(axis=0)

    def curve(weight: Floats) -> Floats:
        steps = np.bincount(step, weights=np.tile(weight, len(rate)), minlength=points)
        return np.append(np.cumsum(steps) / len(rate), weight @ area) / n_users

    draws = user_weights(n_users, n_resamples, np.random.default_rng(seed))
    resampled = np.array([curve(weight) for _, weights in draws for weight in weights])
    return _curve(grid, curve(np.ones(n_users)), resampled, level, n_users)


def roc_from_scores(
    labels: ArrayLike,
    scores: ArrayLike,
    users: ArrayLike | None = None,
    *,
    points: int = 201,
    level: float = 0.05,
    n_resamples: int = 500,
    seed: int = 0,
) -> RocCurve:
    """Return the ROC curve of scored examples, pooled, with bands that resample users (all examples of one together).

    Scores of several seeds give one curve each, which are averaged: scores of different models are never mixed.

    Args:
        labels: `[example]`, 1 is positive and 0 negative; both must occur.
        scores: `[example]` or `[seed, example]`, larger says positive; tied scores give one straight segment.
        users: `[example]`, whose example it is; without it every example is its own user.
        points: Grid points from 0 to 1.
        level: Error rate of the band.
        n_resamples: Bootstrap resamples; those that happen to hold one class only are left out.
        seed: Seed of the resampling.

    Raises:
        ValueError: Wrong axes, NaN, one class only, labels other than 0 and 1.
    """
    label, score = finite(labels, "labels", ndim=1), np.atleast_2d(finite(scores, "scores", ndim=(1, 2)))
    owner = np.arange(len(label)) if users is None else np.unique(np.asarray(users), return_inverse=True)[1]
    if not label.shape == score.shape[1:] == owner.shape:
        raise ValueError(f"labels {label.shape}, scores {score.shape} and users {owner.shape} differ in length")
    if not np.isin(label, (0, 1)).all() or np.ptp(label) == 0:
        raise ValueError("labels are 0 and 1, and both must occur")
    check_level(level)
    orders = np.argsort(-score, axis=1, kind="stable")
    ends = [
        np.flatnonzero(np.append(row[order][1:] != row[order][:-1], True))
        for row, order in zip(score, orders, strict=True)
    ]
    grid = np.linspace(0, 1, points)

    def curve(counts: Floats) -> Floats:
        curves = [_weighted(label[o], counts[o], last, grid) for o, last in zip(orders, ends, strict=True)]
        return np.mean(curves, axis=0)

    n_users = int(owner.max()) + 1
    resampled = []
    for _, weights in user_weights(n_users, n_resamples, np.random.default_rng(seed)):
        for weight in weights:
            counts = weight[owner]
            positive = counts @ label
            if 0 < positive < counts.sum():
                resampled.append(curve(counts))
    return _curve(grid, curve(np.ones_like(label)), np.array(resampled), level, n_users)


def _weighted(label: Floats, weight: Floats, last: np.ndarray, grid: Floats) -> Floats:
    """Return the curve on the grid with the area appended, for examples sorted by score."""
    true = np.append(0.0, np.cumsum(weight * label)[last])
    false = np.append(0.0, np.cumsum(weight * (1 - label))[last])
    true, false = true / true[-1], false / false[-1]
    # At a vertical step np.interp takes the last point, the top, as a ROC curve does.
    return np.append(np.interp(grid, false, true), np.trapezoid(true, false))


def _curve(grid: Floats, estimate: Floats, resampled: Floats, level: float, n_users: int) -> RocCurve:
    low, high = np.quantile(resampled, [level / 2, 1 - level / 2], axis=0)
    return RocCurve(
        false_positive_rate=grid,
        true_positive_rate=estimate[:-1],
        low=low[:-1],
        high=high[:-1],
        auc=float(estimate[-1]),
        auc_low=float(low[-1]),
        auc_high=float(high[-1]),
        level=level,
        n_users=n_users,
    )
