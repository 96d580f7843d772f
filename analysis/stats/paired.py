"""Paired tests and effect sizes: over seeds (claims about a method) and over users (claims about trained models)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from analysis.stats.arrays import Alternative, Floats, Unit, check_level, finite, paired_difference, replicates


@dataclass(frozen=True)
class TestResult:
    """One test.

    Attributes:
        name: Which test.
        statistic: Its statistic; NaN where it has none.
        p_value: Its p-value; NaN where the data cannot carry the test (a single replicate).
        estimate: Mean difference.
        n: How many units it was taken over.
        unit: The units.
        alternative: "two-sided", "greater" or "less".
    """

    __test__ = False  # the name is the field's word; pytest must not collect it

    name: str
    statistic: float
    p_value: float
    estimate: float
    n: int
    unit: Unit
    alternative: Alternative


@dataclass(frozen=True)
class EffectSize:
    """A standardized paired difference.

    Attributes:
        cohens_d: Mean difference over the standard deviation of differences (Cohen's d_z).
        hedges_g: The same with Hedges' small-sample correction; NaN for two differences, which it is not defined for.
        low: Lower end of the interval of d.
        high: Upper end.
        level: Error rate of that interval.
        n: Number of differences.
    """

    cohens_d: float
    hedges_g: float
    low: float
    high: float
    level: float
    n: int


def seed_t_test(values: ArrayLike, reference: ArrayLike, alternative: Alternative = "two-sided") -> TestResult:
    """Return the paired t test over seeds (over teachers where there are several) of user-averaged metrics.

    A single replicate gives p-value NaN: it cannot say anything about the method. Replicates that all differ by
    exactly the same amount give p-value 1 where that amount is 0 and otherwise 0.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.
        reference: The same axes, paired.
        alternative: "greater" tests that `values` are larger.

    Raises:
        ValueError: Not paired, wrong axes, NaN.
    """
    rows, unit = replicates(paired_difference(values, reference))
    return _t_test(rows.mean(axis=1), "paired t over replicates", unit, alternative)


def user_t_test(values: ArrayLike, reference: ArrayLike, alternative: Alternative = "two-sided") -> TestResult:
    """Return the paired t test over users of seed-averaged metrics: a claim about these trained models only.

    Args and errors as `seed_t_test`.
    """
    return _t_test(user_differences(values, reference), "paired t over users", "users", alternative)


def user_differences(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Return `[user]`, the paired differences averaged over every seed and teacher.

    Raises:
        ValueError: Not paired, wrong axes, NaN.
    """
    differences = paired_difference(values, reference)
    return differences.reshape(-1, differences.shape[-1]).mean(axis=0)


def sign_flip_tests(
    differences: ArrayLike, *, n_flips: int = 10_000, seed: int = 0, alternative: Alternative = "two-sided"
) -> tuple[TestResult, ...]:
    """Return the sign-flip randomization test of each row's mean difference over users.

    Under "no difference" each user's difference is as likely with either sign (Fisher 1935; for rankings, Smucker,
    Allan and Carterette 2007). Up to 13 users all flips are tried and the p-value is exact; beyond that it is
    `(b + 1) / (n_flips + 1)`, with b flips at least as extreme. All rows share the flips.

    Args:
        differences: `[arm, user]` or `[user]`, seed-averaged (`user_differences`).
        n_flips: Random flips; the smallest p-value is one over one more than that.
        seed: Seed of the flips.
        alternative: "greater" tests that the differences are above 0.

    Raises:
        ValueError: Wrong axes or NaN.
    """
    array = np.atleast_2d(finite(differences, "differences", ndim=(1, 2)))
    n_arms, n_users = array.shape
    observed = array.sum(axis=1)
    exact = n_users <= 13
    extreme, tried = np.zeros(n_arms, dtype=np.int64), 0
    columns = np.ascontiguousarray(array.T)
    # A flip that equals the observed sum but for round-off counts as extreme.
    tolerance = 1e-9 * np.abs(array).sum(axis=1)
    for bits in _all_bits(n_users) if exact else _random_bits(n_users, n_flips, np.random.default_rng(seed)):
        sums = 2 * (bits @ columns) - observed
        extreme += _at_least_as_extreme(sums, observed, tolerance, alternative).sum(axis=0)
        tried += len(bits)
    p_values = extreme / tried if exact else (extreme + 1) / (tried + 1)
    return tuple(
        TestResult(
            "sign flip over users", float(total), float(p), float(total / n_users), n_users, "users", alternative
        )
        for total, p in zip(observed, p_values, strict=True)
    )


def sign_flip_test(
    values: ArrayLike,
    reference: ArrayLike,
    *,
    n_flips: int = 10_000,
    seed: int = 0,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Return the sign-flip randomization test over users for one pair of arms; see `sign_flip_tests`."""
    differences = user_differences(values, reference)
    return sign_flip_tests(differences, n_flips=n_flips, seed=seed, alternative=alternative)[0]


def effect_size(differences: ArrayLike, *, level: float = 0.05) -> EffectSize:
    """Return the paired effect size of `differences`.

    The interval inverts the noncentral t distribution up to 100 differences, beyond that it is the normal one with
    variance `1/n + d^2 / (2 n)`. No variation: d is 0 where all differences are 0, otherwise infinite, with NaN ends.

    Args:
        differences: `[n]`, over seeds or over seed-averaged users; at least two.
        level: Error rate of the interval.

    Raises:
        ValueError: Wrong axes, NaN, fewer than two.
    """
    array = finite(differences, "differences", ndim=1)
    n = len(array)
    if n < 2:
        raise ValueError("an effect size needs at least two differences")
    check_level(level)
    mean, df = _steady_mean(array), n - 1
    # With one degree of freedom the expectation of d does not exist, so nothing corrects it.
    correction = float("nan")
    if df > 1:
        correction = float(np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2))
    spread = float(array.std(ddof=1)) if np.ptp(array) > 0 else 0.0
    if spread == 0:
        d = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
        return EffectSize(d, d * correction, float("nan"), float("nan"), level, n)
    d = mean / spread
    if n <= 100:
        low, high = (_noncentrality(d * np.sqrt(n), df, tail) / np.sqrt(n) for tail in (1 - level / 2, level / 2))
    else:
        half = stats.norm.isf(level / 2) * np.sqrt(1 / n + d * d / (2 * n))
        low, high = d - half, d + half
    return EffectSize(d, d * correction, float(low), float(high), level, n)


def seed_effect_size(values: ArrayLike, reference: ArrayLike, *, level: float = 0.05) -> EffectSize | None:
    """Return the paired effect size over seeds (teachers where there are several); None for a single replicate."""
    rows, unit = replicates(paired_difference(values, reference))
    return None if unit == "users" else effect_size(rows.mean(axis=1), level=level)


def user_effect_size(values: ArrayLike, reference: ArrayLike, *, level: float = 0.05) -> EffectSize:
    """Return the paired effect size over seed-averaged users."""
    return effect_size(user_differences(values, reference), level=level)


def _steady_mean(array: Floats) -> float:
    """Return the mean, exactly the common value where all are equal."""
    return float(array.mean()) if np.ptp(array) > 0 else float(array[0])


def _t_test(differences: Floats, name: str, unit: Unit, alternative: Alternative) -> TestResult:
    n, mean = len(differences), _steady_mean(differences)
    if n < 2:
        return TestResult(name, float("nan"), float("nan"), mean, n, unit, alternative)
    if np.ptp(differences) <= 4 * np.finfo(np.float64).eps * np.abs(differences).max():
        statistic = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
        certain = {"two-sided": mean != 0, "greater": mean > 0, "less": mean < 0}[alternative]
        return TestResult(name, statistic, 0.0 if certain else 1.0, mean, n, unit, alternative)
    result = stats.ttest_1samp(differences, 0.0, alternative=alternative)
    return TestResult(name, float(result.statistic), float(result.pvalue), mean, n, unit, alternative)


def _all_bits(n: int):
    yield ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _random_bits(n: int, n_rows: int, rng: np.random.Generator):
    # Half a million flips at once stay in the processor's cache; larger pieces are several times slower.
    n_bytes, chunk = -(-n // 8), max(1, 500_000 // n)
    for start in range(0, n_rows, chunk):
        rows = min(chunk, n_rows - start)
        packed = rng.integers(0, 256, size=(rows, n_bytes), dtype=np.uint8)
        yield np.unpackbits(packed, axis=1, count=n).astype(np.float64)


def _at_least_as_extreme(sums: Floats, observed: Floats, tolerance: Floats, alternative: Alternative):
    if alternative == "two-sided":
        return np.abs(sums) >= np.abs(observed) - tolerance
    return sums >= observed - tolerance if alternative == "greater" else sums <= observed + tolerance


def _noncentrality(t: float, df: int, tail: float) -> float:
    """Return the noncentrality at which `t` is the `tail` quantile of the noncentral t distribution.

    The distribution function is averaged over slices of the chi distribution, since scipy's is NaN far out.
    """
    slices = (np.arange(2000) + 0.5) / 2000
    places = t * np.sqrt(stats.chi2.ppf(slices, df) / df)
    reach = 10 + 3 * abs(t)
    return float(optimize.brentq(lambda nc: special.ndtr(places - nc).mean() - tail, t - reach, t + reach))
