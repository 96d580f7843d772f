"""Tests against a margin: not worse than the reference by more than so much, and equivalent to it.

p > 0.05 is not equivalence; these tests put the burden of proof on the claim. The margin is relative to the
reference's mean, and the reference's own uncertainty is part of the test, because the contrast
`values - (1 - margin) * reference` is linear. Both are one-sided tests at the level, that is, they agree with the
two-sided interval of twice the level (Schuirmann 1987; Wellek 2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Direction, Floats, Unit, check_level, finite, paired_difference, sign_of
from analysis.stats.crossed import CrossedMean, crossed_mean


@dataclass(frozen=True)
class MarginTest:
    """A test against a relative margin.

    Attributes:
        kind: "non-inferiority" or "equivalence".
        margin: The margin, as a share of the reference's mean.
        relative: Estimated improvement over the reference as a share of its mean; positive is better in the metric's
            own direction.
        p_value: p-value of the hypothesis that the margin is exceeded; small means the claim holds.
        holds: Whether `p_value` is at most `level`.
        level: Error rate of the one-sided test.
        unit: What a claim can range over.
    """

    kind: str
    margin: float
    relative: float
    p_value: float
    holds: bool
    level: float
    unit: Unit


def non_inferiority(
    values: ArrayLike, reference: ArrayLike, *, margin: float, direction: Direction = "max", level: float = 0.05
) -> MarginTest:
    """Return the test that `values` are not worse than `reference` by more than `margin` of its mean.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.
        reference: The same axes, paired; one seed stands against every seed.
        margin: Share of the reference's mean, such as 0.02.
        direction: "max" where larger is better, "min" where smaller is.
        level: Error rate of the one-sided test.

    Raises:
        ValueError: Not paired, NaN, a margin outside 0 to 1, a reference whose mean is not above 0.
    """
    sign, base, mean = _checked(values, reference, margin, direction, level)
    shortfall = crossed_mean(paired_difference(values, (1 - sign * margin) * base))
    p_value = shortfall.p_value(alternative="greater" if sign > 0 else "less")
    relative = sign * float(np.mean(paired_difference(values, base))) / mean
    return MarginTest("non-inferiority", margin, relative, p_value, p_value <= level, level, shortfall.unit)


def equivalence(
    values: ArrayLike, reference: ArrayLike, *, margin: float, direction: Direction = "max", level: float = 0.05
) -> MarginTest:
    """Return the two one-sided tests (TOST) that `values` lie within `margin` of `reference` on both sides.

    Args and errors as `non_inferiority`; the direction only gives `relative` its sign.
    """
    sign, base, mean = _checked(values, reference, margin, direction, level)
    above: CrossedMean = crossed_mean(paired_difference(values, (1 - margin) * base))
    below: CrossedMean = crossed_mean(paired_difference(values, (1 + margin) * base))
    p_value = max(above.p_value(alternative="greater"), below.p_value(alternative="less"))
    relative = sign * float(np.mean(paired_difference(values, base))) / mean
    return MarginTest("equivalence", margin, relative, p_value, p_value <= level, level, above.unit)


def _checked(
    values: ArrayLike, reference: ArrayLike, margin: float, direction: Direction, level: float
) -> tuple[int, Floats, float]:
    check_level(level)
    if not 0 < margin < 1:
        raise ValueError(f"margin is {margin}, but it is a share of the reference's mean, between 0 and 1")
    base = finite(reference, "reference", ndim=(2, 3))
    mean = float(base.mean())
    if mean <= 0:
        raise ValueError(f"the reference's mean is {mean}; a relative margin needs one above 0")
    return sign_of(direction), base, mean
