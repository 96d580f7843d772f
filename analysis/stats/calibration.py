"""Reliability of predicted probabilities, with bands from a bootstrap over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Floats, check_level, finite
from analysis.stats.bootstrap import user_weights


@dataclass(frozen=True)
class CalibrationCurve:
    """Accuracy against confidence in bins of equal width.

    Attributes:
        confidence: `[bin]`, mean confidence; bins without examples are left out.
        accuracy: `[bin]`, share of right predictions.
        low: `[bin]`, lower end of the pointwise band; NaN where too few resamples hold the bin.
        high: `[bin]`, upper end.
        share: `[bin]`, share of all examples.
        error: Expected calibration error (Guo et al. 2017), the mean over seeds.
        error_low: Lower end of its interval.
        error_high: Upper end.
        level: Error rate of band and interval.
        n_users: Users resampled.
    """

    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats
    share: Floats
    error: float
    error_low: float
    error_high: float
    level: float
    n_users: int


def calibration_curve(
    confidence: ArrayLike,
    correct: ArrayLike,
    users: ArrayLike,
    *,
    bins: int = 15,
    level: float = 0.05,
    n_resamples: int = 500,
    seed: int = 0,
) -> CalibrationCurve:
    """Return the reliability diagram of predicted classes, with bands that resample users.

    The interval of the error is a basic bootstrap one, because resampling adds noise to every bin and so moves the
    error upwards; it is cut at 0.

    Args:
        confidence: `[seed, example]` or `[example]`, probability of the predicted class, above 0 and at most 1.
        correct: The same axes, 1 where the predicted class is the label.
        users: `[example]`, whose example it is.
        bins: Bins of equal width from 0 to 1, each without its lower and with its upper end.
        level: Error rate of the band.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: Wrong axes, NaN, a confidence outside 0 to 1.
    """
    sure = np.atleast_2d(finite(confidence, "confidence", ndim=(1, 2)))
    right = np.atleast_2d(finite(correct, "correct", ndim=(1, 2)))
    owner = np.unique(np.asarray(users), return_inverse=True)[1]
    if sure.shape != right.shape or owner.shape != sure.shape[1:]:
        raise ValueError(f"confidence {sure.shape}, correct {right.shape} and users {owner.shape} differ in length")
    if (sure < 0).any() or (sure > 1).any():
        raise ValueError("a confidence lies outside 0 to 1")
    check_level(level)
    n_users, n_seeds = int(owner.max()) + 1, len(sure)
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    cell = (owner[None, :] * n_seeds + np.arange(n_seeds)[:, None]) * bins + place

    def sums(weights: Floats) -> Floats:
        flat = np.bincount(cell.ravel(), weights.ravel(), n_users * n_seeds * bins)
        return flat.reshape(n_users, n_seeds * bins)

    # Sums of users in bins carry everything, so that a resample is a product of matrices.
    parts = [sums(values) for values in (np.ones_like(sure), sure, right)]
    estimate = _of_sums(*(part.sum(axis=0, keepdims=True) for part in parts), n_seeds)
    found = [
        _of_sums(*(weights @ part for part in parts), n_seeds)
        for _, weights in user_weights(n_users, n_resamples, np.random.default_rng(seed))
    ]
    accuracy, error = (np.concatenate([one[i] for one in found]) for i in (1, 2))
    used = estimate[3][0] > 0
    low, high = np.full(bins, np.nan), np.full(bins, np.nan)
    for index in np.flatnonzero(used):
        known = accuracy[:, index][np.isfinite(accuracy[:, index])]
        if len(known) >= n_resamples / 2:
            low[index], high[index] = np.quantile(known, [level / 2, 1 - level / 2])
    ends = 2 * estimate[2][0] - np.quantile(error, [1 - level / 2, level / 2])
    return CalibrationCurve(
        confidence=estimate[0][0][used],
        accuracy=estimate[1][0][used],
        low=low[used],
        high=high[used],
        share=estimate[3][0][used],
        error=float(estimate[2][0]),
        error_low=float(max(ends[0], 0.0)),
        error_high=float(max(ends[1], 0.0)),
        level=level,
        n_users=n_users,
    )


def _of_sums(count: Floats, sure: Floats, right: Floats, n_seeds: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return `[resample, bin]` mean confidence and accuracy, `[resample]` error, and `[resample, bin]` shares."""
    shape = (len(count), n_seeds, -1)
    gaps = np.abs((right - sure).reshape(shape)).sum(axis=2)
    error = (gaps / count.reshape(shape).sum(axis=2)).mean(axis=1)
    whole, sure, right = (part.reshape(shape).sum(axis=1) for part in (count, sure, right))
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty bin has no mean
        means = sure / whole, right / whole
    return *means, error, whole / whole.sum(axis=1, keepdims=True)
