"""Every arm against a reference: one record an arm with all that a table, a forest plot and a verdict need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Direction, check_level, finite, sign_of
from analysis.stats.bootstrap import Interval, crossed_bootstrap
from analysis.stats.ledger import Ledger
from analysis.stats.margins import MarginTest, equivalence, non_inferiority
from analysis.stats.paired import (
    EffectSize,
    TestResult,
    seed_effect_size,
    seed_t_test,
    sign_flip_tests,
    user_differences,
    user_effect_size,
    user_t_test,
)
from analysis.stats.power import PowerAnalysis, power_analysis


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the reference in one stratum.

    Attributes:
        arm: The arm.
        reference: The reference arm.
        metric: The metric.
        direction: "max" where larger is better.
        mean: Interval of the arm's mean.
        reference_mean: Interval of the reference's mean.
        difference: Crossed bootstrap interval of arm minus reference.
        ratio: Crossed bootstrap interval of arm over reference; None where the reference's mean is not above 0.
        adjusted_p: p-value of the difference (`difference.p_value`) corrected over the family: Holm where planned,
            otherwise Benjamini-Hochberg.
        seeds_t: Paired t test over seeds (teachers).
        users_t: Paired t test over users; about these trained models only.
        sign_flip: Randomization test over users; about these trained models only.
        seed_effect: Effect size over seeds; None for one replicate.
        user_effect: Effect size over users.
        non_inferiority: Test against the margin; None where the reference's mean is not above 0.
        non_inferiority_p: Its corrected p-value; NaN where there is none.
        equivalence: TOST; None where the reference's mean is not above 0.
        equivalence_p: Its corrected p-value; NaN where there is none.
        power: What the data can resolve, asked about `resolve` of the reference's mean; None where that is not
            above 0.
        resolve: The relative effect that `power` is asked about.
        level: Error rate.
        margin: Relative margin.
    """

    arm: str
    reference: str
    metric: str
    direction: Direction
    mean: Interval
    reference_mean: Interval
    difference: Interval
    ratio: Interval | None
    adjusted_p: float
    seeds_t: TestResult
    users_t: TestResult
    sign_flip: TestResult
    seed_effect: EffectSize | None
    user_effect: EffectSize
    non_inferiority: MarginTest | None
    non_inferiority_p: float
    equivalence: MarginTest | None
    equivalence_p: float
    power: PowerAnalysis | None
    resolve: float
    level: float
    margin: float


def compare_arms(
    values: ArrayLike,
    arms: Sequence[str],
    *,
    reference: str,
    metric: str,
    direction: Direction = "max",
    margin: float = 0.02,
    level: float = 0.05,
    resolve: float = 0.01,
    n_resamples: int = 2000,
    n_flips: int = 10_000,
    seed: int = 0,
    ledger: Ledger | None = None,
    family: str | None = None,
    planned: bool = True,
) -> tuple[ArmComparison, ...]:
    """Return the comparison of every arm but the reference with the reference, corrected over the family.

    Difference, non-inferiority and equivalence are three families, each corrected over the arms. The tests over seeds
    alone and users alone describe and are not used for verdicts; they are entered in the ledger as exploratory.

    Args:
        values: `[arm, seed, user]` or `[arm, teacher, seed, user]` of one stratum, paired across arms.
        arms: `[arm]` names.
        reference: Name of the reference arm.
        metric: Name of the metric.
        direction: "max" where larger is better.
        margin: Relative margin of non-inferiority and equivalence.
        level: Error rate.
        resolve: Relative effect that the power analysis is asked about.
        n_resamples: Bootstrap resamples.
        n_flips: Sign flips.
        seed: Seed of resampling and flips.
        ledger: Where to count the tests.
        family: Name of the family in the ledger; by default made of metric and reference.
        planned: Whether the family was planned in the sweep file (Holm), otherwise Benjamini-Hochberg.

    Raises:
        ValueError: Names and values do not match, an unknown reference, NaN.
    """
    array = finite(values, "values", ndim=(3, 4))
    if len(arms) != len(array) or len(set(arms)) != len(arms):
        raise ValueError(f"{len(array)} arms in values, but the names are {list(arms)}")
    if reference not in arms:
        raise ValueError(f"reference {reference!r} is not among the arms {list(arms)}")
    sign_of(direction)
    check_level(level)
    place = list(arms).index(reference)
    base, others = array[place], [i for i in range(len(arms)) if i != place]
    if not others:
        return ()
    boot = crossed_bootstrap(array, reference=place, level=level, n_resamples=n_resamples, seed=seed)
    flips = sign_flip_tests(np.stack([user_differences(array[i], base) for i in others]), n_flips=n_flips, seed=seed)
    base_mean = boot.means[place].estimate
    margins = {
        i: (
            non_inferiority(array[i], base, margin=margin, direction=direction, level=level),
            equivalence(array[i], base, margin=margin, direction=direction, level=level),
        )
        if base_mean > 0
        else (None, None)
        for i in others
    }
    ledger, family = ledger or Ledger(), family or f"{metric} against {reference}"
    seeds_t, users_t = ([test(array[i], base) for i in others] for test in (seed_t_test, user_t_test))

    def enter(kind: str, p_values: list[float], is_planned: bool) -> list[float]:
        tests = {arms[i]: p for i, p in zip(others, p_values, strict=True)}
        return list(ledger.enter(f"{family}: {kind}", tests, planned=is_planned).values())

    difference_p = enter("difference", [boot.differences[i].p_value for i in others], planned)
    non_inferiority_p, equivalence_p = (
        enter(kind, [margins[i][k].p_value if margins[i][k] else float("nan") for i in others], planned)
        for k, kind in enumerate(("non-inferiority", "equivalence"))
    )
    for kind, tests in (("t over seeds", seeds_t), ("t over users", users_t), ("sign flip over users", flips)):
        enter(kind, [test.p_value for test in tests], False)
    return tuple(
        ArmComparison(
            arm=arms[i],
            reference=reference,
            metric=metric,
            direction=direction,
            mean=boot.means[i],
            reference_mean=boot.means[place],
            difference=boot.differences[i],
            ratio=boot.ratios[i] if boot.ratios else None,
            adjusted_p=difference_p[row],
            seeds_t=seeds_t[row],
            users_t=users_t[row],
            sign_flip=flips[row],
            seed_effect=seed_effect_size(array[i], base, level=level),
            user_effect=user_effect_size(array[i], base, level=level),
            non_inferiority=margins[i][0],
            non_inferiority_p=non_inferiority_p[row],
            equivalence=margins[i][1],
            equivalence_p=equivalence_p[row],
            power=power_analysis(array[i] - base, effect=resolve * base_mean, level=level) if base_mean > 0 else None,
            resolve=resolve,
            level=level,
            margin=margin,
        )
        for row, i in enumerate(others)
    )
