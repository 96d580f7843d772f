"""Error analysis: for which users and items a student loses, and how its lists differ from the teacher's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.comparison import SEEDLESS, pair
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


def groupings(run: Run) -> list[Grouping]:
    """Return users grouped by history length, target popularity and, where items have them, target attributes."""
    users = run.about_users()
    if users is None:
        return []
    groups = [history_groups(users["history_length"])]
    items = run.items()
    if items is None:
        return groups
    groups.append(popularity_groups(users["target_popularity"], items["popularity"].to_numpy()))
    known = items.set_index("item")["attributes"]
    wanted = known.reindex(users["target"])
    attributes = [() if values is None or isinstance(values, float) else tuple(values) for values in wanted]
    found = attribute_groups(attributes, most=6, least_users=10)
    some = ~found.members.all(axis=1)  # what every target has groups nobody
    names = tuple(name for name, kept in zip(found.names, some, strict=True) if kept)
    return [*groups, Grouping(found.by, names, found.members[some])] if len(names) > 1 else groups


def errors(run: Run, arms: Iterable[str], *, against: str, ledger: Ledger) -> pd.DataFrame:
    """Return the difference of each arm to another by group of users; exploratory.

    Columns ``family``, ``group``, ``users``, ``keep_ratio``, ``arm``, ``mean``, ``difference``, ``low``, ``high``,
    ``p_value``, ``p_adjusted``.
    """
    rows = []
    families = groupings(run)
    for ratio in run.strata():
        base = run.per_user(against, ratio)
        for arm in arms if base is not None else ():
            own = run.per_user(arm, ratio) if arm != against else None
            both = None if own is None else pair(own, base, reference_seedless=against in SEEDLESS,
                                                 arm_seedless=arm in SEEDLESS)  # fmt: skip
            if both is None:
                continue
            for family in families:
                found = group_means(both.values, family, reference=both.reference, level=run.settings["level"])
                for group in found:
                    if group.difference is None:
                        continue
                    d = group.difference
                    rows.append({"family": family.by, "group": group.group, "users": group.n_users, "keep_ratio": ratio,
                                 "arm": arm, "mean": group.mean.estimate, "difference": d.estimate, "low": d.low,
                                 "high": d.high, "p_value": d.p_value})  # fmt: skip
    names = ["family", "group", "users", "keep_ratio", "arm", "mean", "difference", "low", "high", "p_value"]
    frame = pd.DataFrame(rows, columns=[*names, "p_adjusted"])
    if len(frame):
        keys = [f"{r.arm}, {r.family} {r.group}, keep {r.keep_ratio:g}" for r in frame.itertuples()]
        adjusted = ledger.enter(
            f"groups of users against {against}", dict(zip(keys, frame["p_value"], strict=True)), planned=False
        )
        frame["p_adjusted"] = [adjusted[key] for key in keys]
    return frame


def lists(run: Run, arms: Iterable[str]) -> pd.DataFrame:
    """Return how the ten best items of each arm differ from those of its own teacher.

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
    first = next(iter(best.values()))
    found = zip(own.trials["teacher_seed"], own.trials["id"], strict=True)
    return float(np.mean([top_k_overlap(run.top(i), best.get(seed, first)).mean() for seed, i in found]))
