"""What the seeds and users at hand can show, and how many would be needed.

Power is that of the crossed interval (see `analysis.stats.crossed`): the estimate is normal with variance
`(var(a) + var(e) / U) / S + var(b) / U`, and the seeds' mean square, on S - 1 degrees of freedom, is independent of
it. With no variance from users this is the power of the paired t test over seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from analysis.stats.arrays import check_level
from analysis.stats.crossed import CrossedMean, crossed_mean

MOST_SEEDS = 100_000

FEW = 5
"""Replicates below which their own variance is barely known: with three, the standard deviation may be half or six
times what was seen, so what follows from it is no number to print."""

# Midpoints of equal slices of probability, over which the mean square's distribution is averaged.
_SLICES = (np.arange(200) + 0.5) / 200


@dataclass(frozen=True)
class PowerAnalysis:
    """What a paired comparison can resolve.

    Attributes:
        detectable: Smallest true difference found with probability `power`; infinite for one replicate.
        effect: The difference that is asked about, in the metric's own unit.
        power_at_effect: Probability that a true difference of `effect` is found with the data at hand.
        n_replicates: Seeds (teachers where there are several) at hand.
        needed: Replicates needed to find `effect` with probability `power`; None where no number would do, because
            the users at hand are too few.
        more: `needed` minus those at hand, not below 0; None where `needed` is.
        detectable_range, more_range: The same at both ends of the 95 % chi-square interval of the replicates' variance,
            which is what is known of it.
        level: Error rate of the two-sided test.
        power: The wanted power.
    """

    detectable: float
    effect: float
    power_at_effect: float
    n_replicates: int
    needed: int | None
    more: int | None
    detectable_range: tuple[float, float]
    more_range: tuple[int | None, int | None]
    level: float
    power: float

    @property
    def is_known(self) -> bool:
        """Return whether there are enough replicates to say from their variance what others would find."""
        return self.n_replicates >= FEW


def power_analysis(differences: ArrayLike, *, effect: float, level: float = 0.05, power: float = 0.8) -> PowerAnalysis:
    """Return what the paired `differences` can resolve and how many replicates `effect` would take.

    The variances are those estimated from the data, so with few seeds the answer is rough: see the ranges. One
    replicate carries no estimate of the seeds' variance: `detectable` is infinite, `power_at_effect` 0, `needed` and
    `more` None.

    Args:
        differences: `[seed, user]` or `[teacher, seed, user]`, paired differences.
        effect: True difference to find, such as 1 % of the reference's mean; its sign does not matter.
        level: Error rate of the two-sided test.
        power: Wanted power.

    Raises:
        ValueError: Wrong axes, NaN, `effect` 0, a level or power that is none.
    """
    return power_of(crossed_mean(differences), effect=effect, level=level, power=power)


def power_of(mean: CrossedMean, *, effect: float, level: float = 0.05, power: float = 0.8) -> PowerAnalysis:
    """Return `power_analysis` of a paired difference whose crossed mean is at hand; args and errors are the same."""
    effect = abs(effect)
    if not effect > 0 or not np.isfinite(effect):
        raise ValueError(f"effect is {effect}, but a difference to find is needed")
    _check_power(level, power)
    if mean.n_replicates == 1:
        unknown = float("inf"), effect, 0.0, 1, None, None, (float("inf"), float("inf")), (None, None)
        return PowerAnalysis(*unknown, level, power)
    seeds, users = float(np.sqrt(mean.seed_part * mean.n_replicates)), float(np.sqrt(mean.user_part))
    n, known = mean.n_replicates, {"user_error": users, "level": level}

    def more(deviation: float) -> int | None:
        found = replicates_needed(effect, deviation, **known, power=power)
        return None if found is None else max(found - n, 0)

    ends = deviation_range(seeds, n)
    return PowerAnalysis(
        detectable=minimum_detectable_effect(seeds, n, **known, power=power),
        effect=effect,
        power_at_effect=detection_power(effect, seeds, n, **known),
        n_replicates=n,
        needed=replicates_needed(effect, seeds, **known, power=power),
        more=more(seeds),
        detectable_range=tuple(minimum_detectable_effect(end, n, **known, power=power) for end in ends),
        more_range=tuple(more(end) for end in ends),
        level=level,
        power=power,
    )


def deviation_range(deviation: float, n: int, *, level: float = 0.05) -> tuple[float, float]:
    """Return the chi-square interval of a standard deviation that was estimated from `n` normal values."""
    low, high = (float(np.sqrt((n - 1) / special.chdtri(n - 1, tail))) for tail in (level / 2, 1 - level / 2))
    return low * deviation, high * deviation


def detection_power(effect: float, deviation: float, n: int, *, user_error: float = 0.0, level: float = 0.05) -> float:
    """Return the probability that a true difference of `effect` is found by the two-sided crossed test.

    Args:
        effect: True mean difference.
        deviation: Standard deviation of the replicates' mean differences.
        n: Replicates, at least two.
        user_error: Standard error that comes from users alone and that replicates do not reduce.
        level: Error rate.

    Raises:
        ValueError: Fewer than two replicates.
    """
    if n < 2:
        raise ValueError(f"power over {n} replicate is not defined; at least two are needed")
    spread = np.sqrt(deviation**2 / n + user_error**2)
    if spread == 0:
        return 1.0 if effect != 0 else level
    t, z = special.stdtrit(n - 1, level / 2), special.ndtri(level / 2)
    mean_square = _mean_squares(n) * deviation**2 / n
    half = np.sqrt(t**2 * mean_square + z**2 * user_error**2)
    return float(np.mean(special.ndtr((effect - half) / spread) + special.ndtr((-half - effect) / spread)))


@lru_cache(maxsize=1024)
def _mean_squares(n: int) -> np.ndarray:
    """Return the quantiles of a mean square on n - 1 degrees of freedom, over its expectation."""
    return 2 * special.gammaincinv((n - 1) / 2, _SLICES) / (n - 1)


def minimum_detectable_effect(
    deviation: float, n: int, *, user_error: float = 0.0, level: float = 0.05, power: float = 0.8
) -> float:
    """Return the smallest true difference that is found with probability `power`; args as `detection_power`.

    Raises:
        ValueError: Fewer than two replicates, a level or power that is none.
    """
    _check_power(level, power)
    spread = float(np.sqrt(deviation**2 / n + user_error**2))
    if spread == 0:
        return 0.0
    highest = spread * (abs(special.stdtrit(max(n - 1, 1), level / 2)) + 1) * 10
    return float(
        optimize.brentq(
            lambda effect: detection_power(effect, deviation, n, user_error=user_error, level=level) - power,
            0.0,
            highest,
        )
    )


def replicates_needed(
    effect: float, deviation: float, *, user_error: float = 0.0, level: float = 0.05, power: float = 0.8
) -> int | None:
    """Return the fewest replicates that find `effect` with probability `power`; args as `detection_power`.

    None where more than 100,000 would be needed: then users, not seeds, are what is missing.

    Raises:
        ValueError: A level or power that is none.
    """
    _check_power(level, power)

    def enough(n: int) -> bool:
        return detection_power(abs(effect), deviation, n, user_error=user_error, level=level) >= power

    if enough(2):
        return 2
    if not enough(MOST_SEEDS):
        return None
    low, high = 2, 4
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_power(level: float, power: float) -> None:
    check_level(level)
    if not level < power < 1:
        raise ValueError(f"power is {power}, but it lies between the level and 1")
