"""The mean of an array whose rows (seeds) and columns (users) are both random samples.

Model: `value[seed, user] = mean + a[seed] + b[user] + e[seed, user]`, all independent. The variance of the grand mean
is `var(a)/S + var(b)/U + var(e)/(S U)`, which the mean squares of the two-way ANOVA estimate as
`(MS_seed + MS_user - MS_residual) / (S U)` (Searle, Casella and McCulloch 1992, chapter 4).

The interval takes a Student quantile for the part with few degrees of freedom and a normal-like one for the other:

    half^2 = t(S-1)^2 * MS_seed / (S U)  +  t(U-1)^2 * max(MS_user - MS_residual, 0) / (S U)

which is the sum of variances with each its own quantile (after Graybill and Wang 1980). It is the paired t interval
over seeds where seeds are all that varies, the paired t interval over users for a single seed, and keeps its level
between the two, where a Satterthwaite interval is too short for two or three seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from analysis.stats.arrays import Alternative, Unit, check_level, replicates


@dataclass(frozen=True)
class CrossedMean:
    """A mean over replicates and users, with what is needed for intervals, tests and power.

    Attributes:
        estimate: The grand mean.
        seed_part: `MS_seed / (S U)`: squared standard error from replicates (with their noise); 0 for one replicate.
        user_part: `max(MS_user - MS_residual, 0) / (S U)`: squared standard error from users alone; with one
            replicate the whole `var / U`.
        seed_variance: Estimated `var(a)`, not below 0.
        user_variance: Estimated `var(b)`, not below 0.
        residual_variance: Estimated `var(e)`; 0 for one replicate, where it cannot be told from `user_variance`.
        n_replicates: Seeds, or teachers where there are several.
        n_users: Users.
        unit: What a claim can range over.
    """

    estimate: float
    seed_part: float
    user_part: float
    seed_variance: float
    user_variance: float
    residual_variance: float
    n_replicates: int
    n_users: int
    unit: Unit

    @property
    def standard_error(self) -> float:
        """Return the estimated standard error of the mean."""
        return float(np.sqrt(self.seed_part + self.user_part))

    def half_width(self, level: float = 0.05) -> float:
        """Return the half-width of the two-sided interval that errs with probability `level`."""
        return self._half(check_level(level) / 2)

    def interval(self, level: float = 0.05) -> tuple[float, float]:
        """Return the two ends of the symmetric interval that errs with probability `level`."""
        half = self.half_width(level)
        return self.estimate - half, self.estimate + half

    def p_value(self, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
        """Return the p-value of "the mean is `null`", the error rate at which the interval just touches `null`.

        "greater" puts the burden on the claim that the mean is above `null`, "less" that it is below. Where nothing
        varies the p-value is 0 if the claim is true of the estimate, otherwise 1. Below 1e-100 it is 0.
        """
        signs = {"two-sided": 1, "greater": 1, "less": -1}
        if alternative not in signs:
            raise ValueError(f"alternative is {alternative!r}, but one of {sorted(signs)} is needed")
        distance = signs[alternative] * (self.estimate - null)
        if self.standard_error == 0:
            claim = distance != 0 if alternative == "two-sided" else distance > 0
            return 0.0 if claim else 1.0
        upper = self._tail(abs(distance))
        if alternative == "two-sided":
            return 2 * upper
        return upper if distance > 0 else 1 - upper

    def _half(self, tail: float) -> float:
        return float(np.sqrt(sum(special.stdtrit(df, tail) ** 2 * part for df, part in self._parts())))

    def _parts(self) -> list[tuple[int, float]]:
        parts = ((self.n_replicates - 1, self.seed_part), (self.n_users - 1, self.user_part))
        return [(df, part) for df, part in parts if part > 0]

    def _tail(self, distance: float) -> float:
        """Return the tail probability whose half-width is `distance`, between 0 and one half."""
        lowest, highest = 1e-100, 0.5
        if distance == 0:
            return highest
        if self._half(lowest) <= distance:
            return 0.0
        # In logarithms, since p-values span a hundred orders of magnitude.
        ends = np.log(lowest), np.log(highest)
        return float(np.exp(optimize.brentq(lambda log: self._half(np.exp(log)) - distance, *ends, xtol=1e-10)))


def crossed_mean(values: ArrayLike) -> CrossedMean:
    """Return the mean of `values` with the variance parts of its replicates and users.

    Give it one arm's metric for a mean, or a paired difference for a comparison.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.

    Raises:
        ValueError: Wrong axes, NaN, or fewer than two users.
    """
    rows, unit = replicates(values)
    n_rows, n_users = rows.shape
    # A constant array has no variance; round-off of its mean must not give it some.
    mean = float(rows.mean()) if np.ptp(rows) > 0 else float(rows.flat[0])
    users = rows.mean(axis=0) - mean
    if n_rows == 1:
        variance = float(users @ users) / (n_users - 1) if np.ptp(rows) > 0 else 0.0
        return CrossedMean(mean, 0.0, variance / n_users, 0.0, variance, 0.0, 1, n_users, unit)
    seeds = rows.mean(axis=1) - mean
    residual = rows - mean - seeds[:, None] - users[None, :]
    ms_seed = n_users * float(seeds @ seeds) / (n_rows - 1)
    ms_user = n_rows * float(users @ users) / (n_users - 1)
    ms_residual = float(np.vdot(residual, residual)) / ((n_rows - 1) * (n_users - 1))
    # Mean squares at the round-off of the data's own size are nothing: identical seeds, or a constant metric.
    floor = (16 * np.finfo(np.float64).eps * float(np.abs(rows).max())) ** 2 * rows.size
    ms_seed, ms_user, ms_residual = (ms if ms > floor else 0.0 for ms in (ms_seed, ms_user, ms_residual))
    size = n_rows * n_users
    return CrossedMean(
        estimate=mean,
        seed_part=ms_seed / size,
        user_part=max(ms_user - ms_residual, 0.0) / size,
        seed_variance=max(ms_seed - ms_residual, 0.0) / n_users,
        user_variance=max(ms_user - ms_residual, 0.0) / n_rows,
        residual_variance=ms_residual,
        n_replicates=n_rows,
        n_users=n_users,
        unit=unit,
    )
