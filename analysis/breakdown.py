"""Test results taken apart: ROC curves, groups of users and items, variance, cost against depth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis import describe
from analysis.comparison import SEEDLESS, pair
from analysis.run import Run
from analysis.stats import (
    Grouping,
    Ledger,
    attribute_groups,
    fit_linear,
    group_means,
    history_groups,
    popularity_groups,
    roc_from_ranks,
    variance_components,
)

SCALED = {
    "training time (s)": "training_seconds",
    "peak memory (bytes)": "peak_memory_bytes",
    "parameters, no item table": "backbone_parameters",
    "operations (FLOPs)": "flops",
    "latency, one request (ms)": "latency_ms",
    "latency, batch of 32 (ms)": "batch_latency_ms",
}


def roc(run: Run, arms: Iterable[str]) -> pd.DataFrame:
    """Return ROC curves over the full catalogue, averaged over users and seeds, with bands over users.

    Columns ``arm``, ``keep_ratio``, ``false_positive``, ``mean``, ``low``, ``high``, ``auc``, ``auc_low``,
    ``auc_high``.
    """
    frames = []
    for ratio in run.strata():
        for arm in arms:
            trials = run.chosen(arm, ratio)
            trials = trials[trials["ranks_sha256"].notna()]
            if trials.empty:
                continue
            ranks = [run.ranks(identity) for identity in trials["id"]]
            rank, candidates = (np.stack([r[name] for r in ranks]) for name in ("rank", "candidates"))
            ranked = (candidates > 1).all(axis=0)  # a user who has seen all other items has no negative
            if not ranked.any():
                continue
            curve = roc_from_ranks(
                rank[:, ranked],
                candidates[:, ranked],
                points=101,
                level=run.settings["level"],
                n_resamples=300,
            )
            columns = {
                "false_positive": curve.false_positive_rate,
                "mean": curve.true_positive_rate,
                "low": curve.low,
                "high": curve.high,
            }
            area = {"auc": curve.auc, "auc_low": curve.auc_low, "auc_high": curve.auc_high}
            frames.append(pd.DataFrame({"arm": arm, "keep_ratio": ratio, **columns, **area}))
    return pd.concat(frames) if frames else pd.DataFrame(columns=["arm", "keep_ratio", "false_positive", "mean", "auc"])


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


def variance(run: Run) -> pd.DataFrame:
    """Return the shares of variance over selector, seed, user and their interactions, a stratum.

    Only selectors with every seed take part. Columns ``keep_ratio``, ``source``, ``share``, ``arms``, ``estimator``.
    """
    rows = []
    for ratio in run.strata():
        values = {}
        for arm in run.arms():
            own = run.per_user(arm, ratio)
            if own is not None and own.trials["kind"].iloc[0] == "selector":
                values[arm] = own.by_seed()
        keys = max((tuple(k) for _, k in values.values()), key=len, default=())
        stack = [rows_of for rows_of, own_keys in values.values() if tuple(own_keys) == keys]
        if len(stack) < 2 or stack[0].shape[1] < 2:
            continue
        split = variance_components(np.stack(stack))
        rows += [
            {"keep_ratio": ratio, "source": s, "share": v, "arms": len(stack), "estimator": split.estimator}
            for s, v in split.shares.items()
        ]
    return pd.DataFrame(rows, columns=["keep_ratio", "source", "share", "arms", "estimator"])


def scaling(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return measured costs against depth, and the fitted line of each.

    The first frame has ``cost``, ``depth``, ``value``; the second ``cost``, ``label``, ``depth``, ``value``, where
    two depths at least were measured.
    """
    confirmed = run.confirmed()
    depth = confirmed["n_student_layers"].where(confirmed["arm"] != "teacher", confirmed["n_teacher_layers"])
    points, fits = [], []
    for label, name in SCALED.items():
        column = describe.COSTS[name]
        if column not in confirmed:
            continue
        known = pd.DataFrame({"cost": label, "depth": depth, "value": confirmed[column]}).dropna()
        known = known[confirmed.loc[known.index, "arm"] != "popularity"]
        if known["depth"].nunique() < 2:
            continue
        fit = fit_linear(known["depth"], known["value"], level=run.settings["level"])
        points.append(known)
        line = np.array([0.0, known["depth"].max()])
        text = _fit_text(fit.constant / fit.predict(line)[1], fit.r_squared)
        fits.append(pd.DataFrame({"cost": label, "label": text, "depth": line, "value": fit.predict(line)}))
    empty = pd.DataFrame(columns=["cost", "depth", "value"])
    return (pd.concat(points), pd.concat(fits)) if points else (empty, empty.assign(label=""))


def _fit_text(fixed: float, r_squared: float) -> str:
    """Return what a line of cost against depth says: how much of the cost is not that of layers."""
    if not r_squared >= 0.5 or fixed > 1:
        return "no clear dependence on depth" + (f"\nR² = {r_squared:.2f}" if np.isfinite(r_squared) else "")
    words = f"{100 * fixed:.0f} % of the deepest model's cost\ndoes not depend on depth\n" if fixed > 0.005 else ""
    return f"{words}R² = {r_squared:.2f}"
