"""Arms against each other, inside a stratum: means, differences, intervals and tests in one tidy frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.run import PerUser, Run
from analysis.stats import ArmComparison, Ledger, PowerAnalysis, compare_arms, correct_together
from analysis.students import SIMPLE, cheapest_first, label, namesakes
from analysis.tasks import direction, sign
from analysis.verdicts import improvement, judge

SEEDLESS = ("teacher", "popularity")
"""Controls that are not trained again for every seed: one result stands against every seed."""

COLUMNS = [
    *("keep_ratio", "arm", "names", "kind", "against", "group", "mean", "mean_low", "mean_high", "reference_mean"),
    *("difference", "low", "high", "relative", "relative_low", "relative_high", "p_value", "p_adjusted"),
    *("non_inferior", "p_non_inferior", "p_inferior", "equivalent", "p_equivalent"),
    *("p_seeds", "p_users", "p_sign_flip", "effect_seeds", "effect_users"),
    *("detectable_low", "detectable_high", "more_low", "more_high", "unit", "n_replicates", "n_users"),
    *("word", "sentence", "method_claim", "drawn", "trials", "reference_trials"),
]

Stratum = tuple[float, str, PerUser, dict[str, PerUser]]
"""A keep-ratio, the name and the values of the arm that is compared with, and the arms that are."""


@dataclass(frozen=True)
class Paired:
    """Two arms over the same teachers, seeds and users; each ``[seed, user]`` or ``[teacher, seed, user]``.

    Attributes:
        values, reference: The arms.
        keys: ``(teacher_seed, seed)`` of the runs in them; runs of an arm that the other lacks are left out.
    """

    values: np.ndarray
    reference: np.ndarray
    keys: list[tuple[int, int]]


def pair(arm: PerUser, reference: PerUser, *, reference_seedless: bool, arm_seedless: bool = False) -> Paired | None:
    """Return the two arms over the seeds that both have, or None where they share none."""
    (values, keys), (others, other_keys) = arm.by_seed(), reference.by_seed()
    ours, theirs = dict(zip(keys, values, strict=True)), dict(zip(other_keys, others, strict=True))
    if arm_seedless and (arm.teacherless or not reference_seedless):
        ours = _for_each(ours, list(theirs), arm)
    elif reference_seedless:
        theirs = _for_each(theirs, list(ours), reference)
    wanted = balanced([key for key in ours if key in theirs])
    if not wanted:
        return None
    return Paired(_shaped(ours, wanted), _shaped(theirs, wanted), wanted)


def _for_each(
    rows: dict[tuple[int, int], np.ndarray], keys: list[tuple[int, int]], arm: PerUser
) -> dict[tuple[int, int], np.ndarray]:
    """Return the one result of a seedless arm for every key: that of the key's teacher, or of all where it has none."""
    found = {}
    for key in keys:
        same = [row for (teacher, _), row in rows.items() if arm.teacherless or teacher == key[0]]
        if same:
            found[key] = np.mean(same, axis=0)
    return found


def balanced(keys: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the keys ``(teacher_seed, seed)`` with as many seeds of every teacher as the poorest has, the first."""
    teachers = sorted({teacher for teacher, _ in keys})
    seeds = [[key for key in keys if key[0] == teacher] for teacher in teachers]
    common = min(map(len, seeds), default=0)
    return [key for s in seeds for key in s[:common]]


def _shaped(rows: dict[tuple[int, int], np.ndarray], keys: list[tuple[int, int]]) -> np.ndarray:
    stack, teachers = np.stack([rows[key] for key in keys]), len({teacher for teacher, _ in keys})
    return stack if teachers == 1 else stack.reshape(teachers, -1, stack.shape[-1])


def own_values(arm: PerUser) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return an arm's values as ``[seed, user]``, or ``[teacher, seed, user]`` for several teachers, and their keys."""
    values, keys = arm.by_seed()
    used = balanced(keys)
    return _shaped(dict(zip(keys, values, strict=True)), used), used


def best_simple(run: Run, keep_ratio: float) -> str | None:
    """Return the simple selector with the best mean validation quality in a stratum; the test set has no say."""
    metric = run.settings["metric"]
    column, means = f"validation.{metric}", {}
    for arm in SIMPLE:
        trials = run.chosen(arm, keep_ratio)
        if len(trials) and column in trials and trials[column].notna().any():
            means[arm] = sign(metric) * trials[column].mean()
    return max(means, key=means.get) if means else None


def compare(
    run: Run,
    against: str | None = None,
    *,
    metric: str | None = None,
    ledger: Ledger | None = None,
    planned: bool = True,
) -> pd.DataFrame:
    """Return every arm against one arm, in every stratum: the columns of :data:`COLUMNS`.

    Args:
        run: A run directory, from ``load``.
        against: The arm to compare with, ``best simple`` for the best selector that looks at no evidence; by
            default the reference of the sweep.
        metric: By default the metric of the sweep.
        ledger: Where the tests are counted.
        planned: Whether the comparison was planned in the sweep file (Holm) or not (Benjamini-Hochberg).
    """
    strata: list[Stratum] = []
    for ratio in run.strata():
        name = against or run.settings["reference"]
        name = best_simple(run, ratio) if name == "best simple" else name
        reference = run.per_user(name, ratio, metric) if name else None
        arms = {arm: run.per_user(arm, ratio, metric) for arm in cheapest_first(run.arms()) if arm != name}
        if reference is not None:
            strata.append((ratio, name, reference, {arm: own for arm, own in arms.items() if own is not None}))
    family = f"against {against or run.settings['reference']}"
    return compare_strata(run, strata, family=family, metric=metric, ledger=ledger, planned=planned)


def compare_strata(
    run: Run,
    strata: Iterable[Stratum],
    *,
    family: str,
    metric: str | None = None,
    ledger: Ledger | None = None,
    planned: bool = True,
) -> pd.DataFrame:
    """Return the arms of every stratum against the one that they are compared with: the columns of :data:`COLUMNS`.

    ``difference`` and its interval are in the metric's unit, ``relative`` is the improvement as a share of the other
    arm's mean, positive where the arm is better, also where smaller values are better. ``p_value`` belongs to the
    interval (seeds and users are both random), ``p_adjusted`` is corrected over the ``group`` of comparisons, those of
    all strata, in which each set of students is one test, whatever the ``names`` of the arms that share it.
    ``detectable`` and ``more`` are ranges: what could be found, and how many seeds more would find 1 %, at both ends
    of what is known of the seeds' variance; NaN with so few seeds that this is next to nothing, infinite where no
    number would do. ``word`` and ``sentence`` are the verdict; ``method_claim`` whether it is one about methods;
    ``drawn`` how many random layer sets one of the arms is; ``trials`` the ids of the records behind a row.
    Sorted by stratum, best mean first.
    """
    found: list[ArmComparison] = []
    about: list[dict] = []
    for ratio, name, reference, arms in strata:
        names = namesakes({arm: own.trials for arm, own in {name: reference, **arms}.items()})
        for one, keys in _stratum(run, name, reference, arms, metric):
            own = arms[one.arm]
            found.append(replace(one, same=name in names[one.arm], candidate=one.arm not in SEEDLESS))
            about.append({"keep_ratio": ratio, "names": names[one.arm], "kind": own.trials["kind"].iloc[0],
                          "trials": own.ids_of(keys, seedless=one.arm in SEEDLESS),
                          "reference_trials": reference.ids_of(keys, seedless=name in SEEDLESS)})  # fmt: skip
    if found:
        labels = [label(a["names"], a["keep_ratio"]) for a in about]
        found = correct_together(found, family=family, labels=labels, ledger=ledger, planned=planned)
    rows = [{**_row(one), **known} for one, known in zip(found, about, strict=True)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    best_first = direction(metric or run.settings["metric"]) == "min"
    return frame.sort_values(["keep_ratio", "mean"], ascending=[True, best_first], kind="stable").reset_index(drop=True)


def _stratum(
    run: Run, name: str, reference: PerUser, arms: dict[str, PerUser], metric: str | None
) -> list[tuple[ArmComparison, list[tuple[int, int]]]]:
    """Return the comparisons of one stratum, not corrected yet, each with its keys ``(teacher_seed, seed)``.

    Arms over the same seeds share resamples; an arm that lost a seed is compared over the seeds that are left.
    """
    pairs: dict[str, Paired] = {}
    groups: dict[bytes, list[str]] = {}
    settings = run.settings
    pooled = not run.task.is_mean_over_users(metric or settings["metric"])
    for arm, values in arms.items():
        both = pair(values, reference, reference_seedless=name in SEEDLESS, arm_seedless=arm in SEEDLESS)
        # A metric that is one number a trial says nothing about a single pair of trials.
        alone = both is not None and np.prod(both.values.shape[:-1]) == 1
        if both is not None and not (alone and pooled):
            pairs[arm] = both
            groups.setdefault(f"{both.values.shape}".encode() + both.reference.tobytes(), []).append(arm)
    found, n_users = [], run.users() if pooled else 0
    for members in groups.values():
        stack = np.stack([pairs[members[0]].reference, *(pairs[arm].values for arm in members)])
        compared = compare_arms(
            stack,
            [name, *members],
            reference=name,
            metric=metric or settings["metric"],
            direction=direction(metric or settings["metric"]),
            margin=settings["margin"],
            level=settings["level"],
        )
        for one in compared:
            keys = pairs[one.arm].keys
            if pooled:
                runs = arms[one.arm].ids_of(keys, seedless=one.arm in SEEDLESS)
                one = _without_users(one, n_users, single=len(runs) == 1)
            drawn = max(int(values.trials["draw"].nunique()) for values in (arms[one.arm], reference))
            found.append((replace(one, drawn=drawn), keys))
    return found


def _without_users(found: ArmComparison, n_users: int, *, single: bool) -> ArmComparison:
    """Return a comparison in a metric that is one number a run, without what only users could have told.

    The two equal users that stand for a run (:meth:`Run.per_user`) would make every difference certain: tests and
    effect sizes over them are NaN, and so is the interval of the mean of a ``single`` run.
    """
    nan = float("nan")
    ends = {"low": nan, "high": nan} if single else {}
    return replace(
        found,
        mean=replace(found.mean, n_users=n_users, **ends),
        difference=replace(found.difference, n_users=n_users),
        users_t=replace(found.users_t, statistic=nan, p_value=nan, n=n_users),
        sign_flip=replace(found.sign_flip, statistic=nan, p_value=nan, n=n_users),
        user_effect=replace(found.user_effect, cohens_d=nan, hedges_g=nan, low=nan, high=nan, n=n_users),
    )


def _row(found: ArmComparison) -> dict:
    verdict = judge(found)
    base = found.reference_mean.estimate
    middle, low, high = improvement(found) if found.ratio else (np.nan, np.nan, np.nan)
    return {
        "arm": found.arm,
        "against": found.reference,
        "group": found.group,
        "mean": found.mean.estimate,
        "mean_low": found.mean.low,
        "mean_high": found.mean.high,
        "reference_mean": base,
        "difference": found.difference.estimate,
        "low": found.difference.low,
        "high": found.difference.high,
        "relative": middle,
        "relative_low": low,
        "relative_high": high,
        "p_value": found.difference.p_value,
        "p_adjusted": found.adjusted_p,
        "non_inferior": bool(found.non_inferiority_p <= found.level),
        "p_non_inferior": found.non_inferiority_p,
        "p_inferior": found.inferiority_p,
        "equivalent": bool(found.equivalence_p <= found.level),
        "p_equivalent": found.equivalence_p,
        "p_seeds": found.seeds_t.p_value,
        "p_users": found.users_t.p_value,
        "p_sign_flip": found.sign_flip.p_value,
        "effect_seeds": np.nan if found.seed_effect is None else found.seed_effect.hedges_g,
        "effect_users": found.user_effect.cohens_d,
        **_resolved(found.power, base),
        "unit": found.difference.unit,
        "n_replicates": found.difference.n_replicates,
        "n_users": found.difference.n_users,
        "word": str(verdict.word),
        "sentence": verdict.sentence,
        "method_claim": verdict.method_claim,
        "drawn": found.drawn,
    }


def _resolved(power: PowerAnalysis | None, base: float) -> dict[str, float]:
    """Return what could be found, as a share of the reference's mean, and how many more replicates 1 % takes."""
    names = ("detectable_low", "detectable_high", "more_low", "more_high")
    if power is None or not power.is_known:
        return dict.fromkeys(names, np.nan)
    more = (np.inf if end is None else float(end) for end in power.more_range)
    return dict(zip(names, (*(end / base for end in power.detectable_range), *more), strict=True))
