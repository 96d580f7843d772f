"""Fits of a cost against size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.stats.arrays import Floats, check_level, finite


@dataclass(frozen=True)
class ScalingFit:
    """A fitted cost.

    Attributes:
        form: "linear" (`cost = intercept + slope * x`) or "power" (`cost = factor * x ** exponent`).
        constant: The intercept, or the factor.
        rate: The slope, or the exponent.
        rate_low: Lower end of the interval of `rate`; NaN for two points.
        rate_high: Upper end.
        r_squared: Share of variance explained, of the cost ("linear") or of its logarithm ("power"); NaN where the
            cost is constant.
        level: Error rate of the interval.
        n: Number of points.
    """

    form: str
    constant: float
    rate: float
    rate_low: float
    rate_high: float
    r_squared: float
    level: float
    n: int

    def predict(self, x: ArrayLike) -> Floats:
        """Return the fitted cost at `x`."""
        x = np.asarray(x, dtype=np.float64)
        return self.constant + self.rate * x if self.form == "linear" else self.constant * x**self.rate


def fit_linear(x: ArrayLike, cost: ArrayLike, *, level: float = 0.05) -> ScalingFit:
    """Return the least-squares line of `cost` on `x`.

    Args:
        x: `[point]`, such as keep-ratio or number of layers.
        cost: `[point]`, such as seconds or bytes.
        level: Error rate of the slope's interval.

    Raises:
        ValueError: Lengths differ, NaN, fewer than two different `x`.
    """
    x, cost = _points(x, cost)
    return _fit("linear", x, cost, level)


def fit_power(x: ArrayLike, cost: ArrayLike, *, level: float = 0.05) -> ScalingFit:
    """Return the power law of `cost` on `x`, a least-squares line in logarithms; args as `fit_linear`.

    Raises:
        ValueError: As `fit_linear`, or a value that is not above 0.
    """
    x, cost = _points(x, cost)
    if (x <= 0).any() or (cost <= 0).any():
        raise ValueError("a power law needs values above 0")
    return _fit("power", np.log(x), np.log(cost), level)


def _points(x: ArrayLike, cost: ArrayLike) -> tuple[Floats, Floats]:
    x, cost = finite(x, "x", ndim=1), finite(cost, "cost", ndim=1)
    if x.shape != cost.shape:
        raise ValueError(f"x has {len(x)} points and cost {len(cost)}")
    if len(np.unique(x)) < 2:
        raise ValueError("a fit needs at least two different x")
    return x, cost


def _fit(form: str, x: Floats, y: Floats, level: float) -> ScalingFit:
    check_level(level)
    n = len(x)
    constant = np.ptp(y) == 0
    slope, intercept, r, _, error = (0.0, float(y[0]), 0.0, 1.0, 0.0) if constant else stats.linregress(x, y)
    half = stats.t.isf(level / 2, n - 2) * error if n > 2 else float("nan")
    return ScalingFit(
        form=form,
        constant=float(intercept if form == "linear" else np.exp(intercept)),
        rate=float(slope),
        rate_low=float(slope - half),
        rate_high=float(slope + half),
        r_squared=float("nan") if constant else float(r) ** 2,
        level=level,
        n=n,
    )
