"""Where the variance lies: over selector, keep-ratio, hyper-parameters, seed, calibration sample and user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Floats, finite


@dataclass(frozen=True)
class VarianceSplit:
    """Shares of the total variance.

    Attributes:
        estimator: How they were estimated, in words for a caption.
        shares: Share of each source by name, between 0 and 1; with "residual", and "shared" for what factors that
            were not varied independently explain only together. They sum to 1 (all 0 where nothing varies).
        total: Total variance of the response.
        n: Number of observations.
    """

    estimator: str
    shares: dict[str, float]
    total: float
    n: int


def variance_split(factors: Mapping[str, ArrayLike], response: ArrayLike, *, bins: int = 4) -> VarianceSplit:
    """Return how much of the response's variance each factor explains (ANOVA, type II sums of squares).

    A factor's share is what the additive model loses without it, over the total sum of squares. Text factors and
    numbers with at most `bins` values are groups; other numbers are cut into `bins` groups of equal count. Unbalanced
    and confounded designs are allowed: what only several factors together explain is the share "shared" (it can be
    slightly negative where factors mask each other). Interactions are part of "residual".

    Args:
        factors: Name to `[observation]`, such as selector, keep_ratio, temperature, seed; None or NaN is a group of
            its own ("no value"), as the temperature of an arm that is not distilled.
        response: `[observation]`, such as validation NDCG@10 of each trial.
        bins: Groups of a continuous factor.

    Raises:
        ValueError: Lengths differ, no factor, NaN in the response, fewer than three observations.
    """
    y = finite(response, "response", ndim=1)
    if len(y) < 3 or not factors:
        raise ValueError("a variance split needs at least three observations and one factor")
    columns = {name: _dummies(values, len(y), name, bins) for name, values in factors.items()}
    centred = y - y.mean()
    total = float(centred @ centred)
    estimator = "ANOVA, type II sums of squares of an additive model"
    if np.ptp(y) == 0:
        return VarianceSplit(estimator, dict.fromkeys([*factors, "shared", "residual"], 0.0), 0.0, len(y))
    residual = _residual(centred, list(columns.values()))
    shares = {
        name: max(_residual(centred, [c for other, c in columns.items() if other != name]) - residual, 0.0) / total
        for name in factors
    }
    shares["shared"] = 1 - residual / total - sum(shares.values())
    shares["residual"] = residual / total
    return VarianceSplit(estimator, shares, total / (len(y) - 1), len(y))


def variance_components(values: ArrayLike, *, names: tuple[str, str, str] = ("arm", "seed", "user")) -> VarianceSplit:
    """Return the variance components of three crossed factors and their interactions (balanced random effects).

    Expected mean squares of the three-way crossed random-effects ANOVA are solved for the components (method of
    moments; Searle, Casella and McCulloch 1992, chapter 4); a component estimated below 0 is 0. With one seed its
    terms cannot be told from the residual and are left out.

    Args:
        values: `[arm, seed, user]`, paired across arms, with at least two arms and two users. Several teachers:
            flatten teacher and seed.
        names: What the axes are called in the shares; interactions are `arm x seed`.

    Raises:
        ValueError: Wrong axes, NaN, fewer than two arms or users.
    """
    array = finite(values, "values", ndim=3)
    n_arms, n_seeds, n_users = array.shape
    if n_arms < 2 or n_users < 2:
        raise ValueError(f"variance components need two {names[0]}s and {names[2]}s, not {n_arms} and {n_users}")
    estimator = "random-effects ANOVA, method of moments, components below 0 set to 0"
    if n_seeds == 1:
        ms = _mean_squares(array[:, 0, :])
        parts = {
            names[0]: (ms["0"] - ms["01"]) / n_users,
            names[2]: (ms["1"] - ms["01"]) / n_arms,
            "residual": ms["01"],
        }
    else:
        ms = _mean_squares(array)
        parts = {
            names[0]: (ms["0"] - ms["01"] - ms["02"] + ms["012"]) / (n_seeds * n_users),
            names[1]: (ms["1"] - ms["01"] - ms["12"] + ms["012"]) / (n_arms * n_users),
            names[2]: (ms["2"] - ms["02"] - ms["12"] + ms["012"]) / (n_arms * n_seeds),
            f"{names[0]} x {names[1]}": (ms["01"] - ms["012"]) / n_users,
            f"{names[0]} x {names[2]}": (ms["02"] - ms["012"]) / n_seeds,
            f"{names[1]} x {names[2]}": (ms["12"] - ms["012"]) / n_arms,
            "residual": ms["012"],
        }
    parts = {name: max(float(value), 0.0) for name, value in parts.items()}
    total = sum(parts.values()) if np.ptp(array) > 0 else 0.0
    shares = {name: value / total if total > 0 else 0.0 for name, value in parts.items()}
    return VarianceSplit(estimator, shares, total, array.size)


def _mean_squares(array: Floats) -> dict[str, float]:
    """Return the mean square of every effect of a full factorial, keyed by the digits of its axes."""
    axes = range(array.ndim)
    effects: dict[str, Floats] = {"": np.full((1,) * array.ndim, array.mean())}
    squares: dict[str, float] = {}
    keys = sorted(
        ("".join(str(a) for a in axes if mask >> a & 1) for mask in range(1, 2**array.ndim)), key=lambda k: (len(k), k)
    )
    for key in keys:
        effect = array.mean(axis=tuple(a for a in axes if str(a) not in key), keepdims=True)
        for smaller, part in effects.items():
            if set(smaller) < set(key):
                effect = effect - part
        effects[key] = effect
        freedom = np.prod([array.shape[int(a)] - 1 for a in key])
        squares[key] = float((effect**2).sum()) * (array.size / effect.size) / float(freedom)
    return squares


def _dummies(values: ArrayLike, n: int, name: str, bins: int) -> Floats:
    """Return `[observation, group]` of zeros and ones."""
    array = np.asarray(values, dtype=object)
    if array.shape != (n,):
        raise ValueError(f"factor {name} has shape {array.shape}, but the response has {n} observations")
    numbers = np.array([v if isinstance(v, int | float | np.number) else np.nan for v in array], dtype=np.float64)
    texts = [str(v) for v in array]
    known = np.isfinite(numbers)
    if known.any() and all(v is None or isinstance(v, int | float | np.number) for v in array):
        if len(np.unique(numbers[known])) > bins:
            edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, bins + 1)[1:-1]))
            groups = np.searchsorted(edges, numbers, side="right")
        else:
            groups = np.unique(numbers, return_inverse=True)[1]
        groups = np.where(known, groups, -1)
    else:
        groups = np.unique(texts, return_inverse=True)[1]
    return (groups[:, None] == np.unique(groups)).astype(np.float64)


def _residual(centred: Floats, columns: list[Floats]) -> float:
    """Return the sum of squares that an intercept and `columns` leave."""
    design = np.hstack([np.ones((len(centred), 1)), *columns])
    rest = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    return float(rest @ rest)
