"""Error analysis: for which users and items a student loses, and how its lists differ from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from analysis.comparison import SEEDLESS, Paired, pair
from analysis.run import PerUser, Run
from analysis.stats import (
    Grouping,
    Ledger,
    attribute_groups,
    group_means,
    history_groups,
    popularity_groups,
    top_k_overlap,
)
from analysis.students import namesakes

GROUPS = ["family", "group", "metric", "users", "keep_ratio", "arm", "mean", "difference", "low", "high", "p_value"]

ITEM_METRIC = "user_log_loss"
"""What is compared by group of candidates: means over the candidates of a group make sense of it, unlike of ranks."""


def groupings(run: Run) -> list[Grouping]:
    """Return users grouped by history length and, where each has one target, by its popularity and attributes."""
    users = run.about_users()
    if users is None:
        return []
    groups = [history_groups(users["history_length"])]
    items = run.items()
    if items is None or not run.task.has_target:
        return groups
    groups.append(popularity_groups(users["target_popularity"], items["popularity"].to_numpy()))
    return [*groups, *_by_attribute(items, users["target"])]


def _by_attribute(items: pd.DataFrame, wanted: np.ndarray) -> list[Grouping]:
    """Return rows grouped by their items' attributes, or nothing where these group nobody."""
    known = items.set_index("item")["attributes"].reindex(wanted)
    attributes = [() if values is None or isinstance(values, float) else tuple(values) for values in known]
    found = attribute_groups(attributes, most=6, least_users=10)
    some = ~found.members.all(axis=1)  # what every item has groups nothing
    names = tuple(name for name, kept in zip(found.names, some, strict=True) if kept)
    return [Grouping(found.by, names, found.members[some])] if len(names) > 1 else []


def errors(run: Run, arms: Iterable[str], *, against: str, ledger: Ledger) -> pd.DataFrame:
    """Return the difference of each arm to another by group of users and, where candidates have labels, of items.

    Groups of users are compared in the metric of the sweep, groups of candidates in the log loss of their labels, a
    user's candidates averaged. Exploratory. Columns :data:`GROUPS` and ``p_adjusted``.
    """
    rows, metric, arms = [], run.settings["metric"], [arm for arm in arms if arm != against]
    users = groupings(run)
    candidates = [] if run.task.has_target else item_groupings(run)
    for ratio in run.strata():
        for arm in arms:
            both = _pair(run, arm, against, ratio, lambda identity: run.values(identity, metric)) if users else None
            for family in users if both is not None else ():
                rows += _rows(both, family, metric, arm, ratio, run.settings["level"])
            for name, group, chosen in candidates:
                both = _pair(run, arm, against, ratio, lambda i, chosen=chosen: run.values_of(i, ITEM_METRIC, chosen))
                if both is not None and both.values.shape[-1] > 1:
                    everyone = Grouping(name, (group,), np.ones((1, both.values.shape[-1]), dtype=bool))
                    rows += _rows(both, everyone, ITEM_METRIC, arm, ratio, run.settings["level"])
    frame = pd.DataFrame(rows, columns=[*GROUPS, "p_adjusted"])
    if len(frame):
        # One set of students is one test, whatever the arms that share it are called.
        names = {ratio: namesakes({arm: run.chosen(arm, ratio) for arm in arms}) for ratio in run.strata()}
        shared = [" = ".join(names[r.keep_ratio][r.arm]) for r in frame.itertuples()]
        keys = [
            f"{n}, {r.family} {r.group}, keep {r.keep_ratio:g}" for n, r in zip(shared, frame.itertuples(), strict=True)
        ]
        adjusted = ledger.enter(
            f"groups against {against}", dict(zip(keys, frame["p_value"], strict=True)), planned=False
        )
        frame["p_adjusted"] = [adjusted[key] for key in keys]
    return frame


def _pair(run: Run, arm: str, against: str, ratio: float, values: Callable[[str], np.ndarray]) -> Paired | None:
    found = []
    for name in (arm, against):
        trials = run.chosen(name, ratio)
        trials = trials[trials["ranks_sha256"].notna()].reset_index(drop=True)
        if trials.empty:
            return None
        found.append(PerUser(np.stack([values(identity) for identity in trials["id"]]), trials))
    return pair(*found, reference_seedless=against in SEEDLESS, arm_seedless=arm in SEEDLESS)


def _rows(both: Paired, family: Grouping, metric: str, arm: str, ratio: float, level: float) -> list[dict]:
    found = []
    for group in group_means(both.values, family, reference=both.reference, level=level):
        if group.difference is not None:
            d = group.difference
            found.append({"family": family.by, "group": group.group, "metric": metric, "users": group.n_users,
                          "keep_ratio": ratio, "arm": arm, "mean": group.mean.estimate, "difference": d.estimate,
                          "low": d.low, "high": d.high, "p_value": d.p_value})  # fmt: skip
    return found


def item_groupings(run: Run) -> list[tuple[str, str, np.ndarray]]:
    """Return candidates grouped by popularity and attributes: family, group, and the item ids in it."""
    items = run.items()
    if items is None:
        return []
    ids, popularity = items["item"].to_numpy(), items["popularity"].to_numpy()
    families = []
    if popularity.sum() > 0:
        by = popularity_groups(popularity, popularity)
        families.append(Grouping("candidate popularity", by.names, by.members))
    families += [Grouping("candidate attribute", f.names, f.members) for f in _by_attribute(items, ids)]
    return [
        (family.by, name, ids[member])
        for family in families
        for name, member in zip(family.names, family.members, strict=True)
    ]


def lists(run: Run, arms: Iterable[str]) -> pd.DataFrame:
    """Return how the ten best items of each arm differ from those of its own teacher (of popularity: of every one).

    Columns ``arm``, ``keep_ratio``; ``overlap``, the share of the teacher's ten that are among the arm's ten; shares
    of users whose target is among the ten of ``both``, ``only_teacher``, ``only_student``, ``neither``; ``trials``
    and ``teacher_trials``, the ids. Means over users and runs.
    """
    names = ["arm", "keep_ratio", "overlap", "both", "only_teacher", "only_student", "neither"]
    rows = []
    teacher = run.per_user("teacher", None, "hr@10")
    for ratio in run.strata():
        for arm in arms if teacher is not None else ():
            own = run.per_user(arm, ratio, "hr@10") if arm != "teacher" else None
            both = None if own is None else pair(own, teacher, reference_seedless=True, arm_seedless=arm in SEEDLESS)
            if both is None:
                continue
            hit, wanted = both.values, both.reference
            shares = (hit * wanted, wanted * (1 - hit), hit * (1 - wanted), (1 - hit) * (1 - wanted))
            found = dict(zip(names[3:], (float(share.mean()) for share in shares), strict=True))
            ids = {"trials": list(own.trials["id"]), "teacher_trials": list(teacher.trials["id"])}
            rows.append({"arm": arm, "keep_ratio": ratio, "overlap": _overlap(run, own, teacher), **found, **ids})
    return pd.DataFrame(rows, columns=[*names, "trials", "teacher_trials"])


def _overlap(run: Run, own: PerUser, teacher: PerUser) -> float:
    best = {seed: run.top(i) for seed, i in zip(teacher.trials["teacher_seed"], teacher.trials["id"], strict=True)}
    found = [(seed, i) for seed, i in zip(own.trials["teacher_seed"], own.trials["id"], strict=True) if seed in best]
    found = [(seed, i) for i in own.trials["id"] for seed in best] if own.teacherless else found
    return float(np.mean([top_k_overlap(run.top(i), best[seed]).mean() for seed, i in found])) if found else np.nan
