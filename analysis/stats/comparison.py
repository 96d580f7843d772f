"""Every arm against a reference: one record an arm with all that a table, a forest plot and a verdict need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Direction, Floats, check_level, finite, sign_of
from analysis.stats.bootstrap import Interval, crossed_bootstrap
from analysis.stats.crossed import CrossedMean, crossed_mean
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
from analysis.stats.power import PowerAnalysis, power_of

CANDIDATES, YARDSTICKS, MODELS, SAME = "candidates", "yardsticks", "these models only", "same students"
"""Groups of comparisons that are corrected apart; of the last nothing is tested."""


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
        crossed: The same difference with its variance parts.
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
        inferiority_p: Corrected p-value of "worse by more than the margin", the other side of the same test; NaN where
            there is none.
        equivalence: TOST; None where the reference's mean is not above 0.
        equivalence_p: Its corrected p-value; NaN where there is none.
        power: What the data can resolve, asked about `resolve` of the reference's mean, at `level` divided by the
            tests of the family (what the smallest p-value of Holm's must reach, so that corrections are not
            forgotten in "more seeds"); None where the reference's mean is not above 0.
        resolve: The relative effect that `power` is asked about.
        level: Error rate.
        margin: Relative margin.
        drawn: Random layer sets that one of the two arms stands for, 0 where neither does. How they vary is in no
            interval, so what is found is about these sets.
        same: Whether both arms are the same students under two names, so that there is nothing to test.
        candidate: Whether the arm is one that could be chosen, and not a yardstick such as the teacher.
    """

    arm: str
    reference: str
    metric: str
    direction: Direction
    mean: Interval
    reference_mean: Interval
    difference: Interval
    crossed: CrossedMean
    ratio: Interval | None
    adjusted_p: float
    seeds_t: TestResult
    users_t: TestResult
    sign_flip: TestResult
    seed_effect: EffectSize | None
    user_effect: EffectSize
    non_inferiority: MarginTest | None
    non_inferiority_p: float
    inferiority_p: float
    equivalence: MarginTest | None
    equivalence_p: float
    power: PowerAnalysis | None
    resolve: float
    level: float
    margin: float
    drawn: int = 0
    same: bool = False
    candidate: bool = True

    @property
    def method_claim(self) -> bool:
        """Return whether it supports a claim about methods, not only about the models that were trained."""
        return self.difference.method_claim and not self.drawn

    @property
    def group(self) -> str:
        """Return which comparisons it is corrected together with."""
        if self.same:
            return SAME
        if not self.method_claim:
            return MODELS
        return CANDIDATES if self.candidate else YARDSTICKS


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

    The corrected families and what is counted are those of `correct_together`, which this calls for the arms given.
    Arms of which every value is the same are one test, and none where the reference has these values too. The tests
    over seeds alone and users alone describe and are not used for verdicts.

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
    common = {
        "reference": reference,
        "metric": metric,
        "direction": direction,
        "reference_mean": boot.means[place],
        "resolve": resolve,
        "level": level,
        "margin": margin,
    }
    found = tuple(
        ArmComparison(
            arm=arms[i],
            mean=boot.means[i],
            difference=boot.differences[i],
            ratio=boot.ratios[i] if boot.ratios else None,
            sign_flip=flips[row],
            same=np.array_equal(array[i], base),
            **_tests(array[i], base, margin, direction, level),
            **common,
        )
        for row, i in enumerate(others)
    )
    labels = [" = ".join(arms[j] for j in others if np.array_equal(array[i], array[j])) for i in others]
    family = family or f"{metric} against {reference}"
    return correct_together(found, family=family, labels=labels, ledger=ledger, planned=planned)


def _tests(values: Floats, base: Floats, margin: float, direction: Direction, level: float) -> dict[str, object]:
    """Return the fields of one comparison that need this pair alone, with corrections left open."""
    against_margin = None, None
    if base.mean() > 0:
        against_margin = tuple(
            test(values, base, margin=margin, direction=direction, level=level)
            for test in (non_inferiority, equivalence)
        )
    return {
        "crossed": crossed_mean(values - base),
        "adjusted_p": np.nan,
        "seeds_t": seed_t_test(values, base),
        "users_t": user_t_test(values, base),
        "seed_effect": seed_effect_size(values, base, level=level),
        "user_effect": user_effect_size(values, base, level=level),
        "non_inferiority": against_margin[0],
        "non_inferiority_p": np.nan,
        "inferiority_p": np.nan,
        "equivalence": against_margin[1],
        "equivalence_p": np.nan,
        "power": None,
    }


def correct_together(
    comparisons: Sequence[ArmComparison],
    *,
    family: str,
    labels: Sequence[str] | None = None,
    ledger: Ledger | None = None,
    planned: bool = True,
) -> tuple[ArmComparison, ...]:
    """Return the comparisons with their p-values corrected as one family, and count their tests.

    For a family that goes over several strata or groups of arms: call `compare_arms` for each without a ledger, and
    this once with all of them. What was corrected before is replaced, since the raw p-values are kept.

    Difference, non-inferiority, inferiority and equivalence are families of their own (Holm where planned, otherwise
    Benjamini-Hochberg). The groups of :attr:`ArmComparison.group` are in families apart: tiny p-values of what allows
    no claim about methods (one seed, random draws), or of yardsticks that nobody chooses between, must not make room
    for others. Comparisons with one label are the same students under several names, and one test. The tests over
    seeds alone and users alone describe; they count as exploratory.

    Args:
        comparisons: Comparisons, such as every arm in every stratum.
        family: Name of the family.
        labels: A name for each comparison in the ledger, one for each set of students; by default the arm.
        ledger: Where to count the tests.
        planned: Whether the family was planned in the sweep file.

    Raises:
        ValueError: Not as many labels as comparisons, or one for different students; a family entered before.
    """
    labels = [one.arm for one in comparisons] if labels is None else list(labels)
    _check_labels(labels, comparisons)
    ledger = Ledger() if ledger is None else ledger

    def enter(kind: str, p_values: list[float], is_planned: bool) -> list[float]:
        adjusted = [float("nan")] * len(p_values)
        for group in (CANDIDATES, YARDSTICKS, MODELS):
            rows = [i for i, one in enumerate(comparisons) if one.group == group]
            if rows:
                name = family if group == CANDIDATES else f"{family}, {group}"
                found = ledger.enter(f"{name}: {kind}", {labels[i]: p_values[i] for i in rows}, planned=is_planned)
                for i in rows:
                    adjusted[i] = found[labels[i]]
        return adjusted

    def margin_p(test: MarginTest | None) -> float:
        return float("nan") if test is None else test.p_value

    difference = enter("difference", [one.difference.p_value for one in comparisons], planned)
    against_margin = [margin_p(one.non_inferiority) for one in comparisons]
    non_inferior = enter("non-inferiority", against_margin, planned)
    inferior = enter("inferiority", [1 - p_value for p_value in against_margin], planned)
    equivalent = enter("equivalence", [margin_p(one.equivalence) for one in comparisons], planned)
    enter("t over seeds", [one.seeds_t.p_value for one in comparisons], False)
    enter("t over users", [one.users_t.p_value for one in comparisons], False)
    enter("sign flip over users", [one.sign_flip.p_value for one in comparisons], False)
    sizes = {one.group: len({n for n, o in zip(labels, comparisons, strict=True) if o.group == one.group})
             for one in comparisons}  # fmt: skip
    return tuple(
        replace(
            one,
            adjusted_p=difference[i],
            non_inferiority_p=non_inferior[i],
            inferiority_p=inferior[i],
            equivalence_p=equivalent[i],
            power=_power(one, sizes[one.group]),
        )
        for i, one in enumerate(comparisons)
    )


def _check_labels(labels: list[str], comparisons: Sequence[ArmComparison]) -> None:
    if len(labels) != len(comparisons):
        raise ValueError(f"{len(labels)} labels, but {len(comparisons)} comparisons")
    known: dict[tuple[str, str], tuple[float, float]] = {}
    for label, one in zip(labels, comparisons, strict=True):
        found = (one.difference.estimate, one.difference.p_value)
        if not np.array_equal(known.setdefault((label, one.group), found), found, equal_nan=True):
            raise ValueError(f"label {label!r} stands for different students, whose labels must be different")


def _power(one: ArmComparison, n_tests: int) -> PowerAnalysis | None:
    mean = one.reference_mean.estimate
    if one.same or not mean > 0:
        return None
    return power_of(one.crossed, effect=one.resolve * mean, level=one.level / n_tests)
