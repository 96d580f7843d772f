"""What was run and what it showed, before any test: one tidy frame for each table and figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.run import Run

COSTS = {
    "parameters": "cost.parameters",
    "backbone_parameters": "cost.backbone_parameters",
    "flops": "cost.flops",
    "training_seconds": "cost.training_seconds",
    "evaluation_seconds": "cost.evaluation_seconds",
    "evidence_seconds": "cost.evidence_seconds",
    "peak_memory_bytes": "cost.peak_memory_bytes",
    "latency_ms": "cost.latency_ms.1.p50",
    "latency_p95_ms": "cost.latency_ms.1.p95",
    "batch_latency_ms": "cost.latency_ms.32.p50",
}
"""Short names of the costs, and the columns of the table of trials that hold them."""

OF_TRAINING = ("training_seconds", "peak_memory_bytes")
"""Costs that only a trial that trained something can tell."""


def costs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of trials, those that are there, by their short names; one row a trial, the same index.

    Teacher and popularity are only evaluated by their own trials: what training costs is NaN there, and not 0.
    """
    known = {name: column for name, column in COSTS.items() if column in trials}
    table = trials[list(known.values())].set_axis(list(known), axis=1)
    return table.assign(**{name: table[name].where(trials["epochs"] > 0) for name in OF_TRAINING if name in known})


def counts(run: Run) -> pd.DataFrame:
    """Return planned and finished trials of every arm, by phase.

    Columns ``arm``, ``phase``, ``planned``, ``success``, ``stopped``, ``failed``, ``missing``; ``planned`` and
    ``missing`` are NaN where plan.json is missing. What confirm runs is settled when the search has ended; how many
    trials it has is planned before, so a sweep that was cut off does not look complete.
    """
    rows = []
    arms = run.plan.get("arms", [])
    plan = {
        "search": {arm["name"]: arm.get("trials", 0) for arm in arms},
        "confirm": {arm["name"]: arm.get("confirm_trials", 0) for arm in arms},
    }
    found = run.trials.groupby(["arm", "phase", "status"]).size()
    for phase in ("search", "confirm"):
        for arm in run.arms():
            done = {status: int(found.get((arm, phase, status), 0)) for status in ("success", "stopped", "failed")}
            planned = plan[phase].get(arm, 0)
            if not planned and not sum(done.values()):
                continue
            known = float(planned) if run.plan else np.nan
            rows.append({"arm": arm, "phase": phase, "planned": known, **done,
                         "missing": max(known - sum(done.values()), 0) if run.plan else np.nan})  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "phase", "planned", "success", "stopped", "failed", "missing"])


def failures(run: Run) -> pd.DataFrame:
    """Return the failed trials: ``id``, ``arm``, ``phase``, ``keep_ratio``, ``error``."""
    failed = run.trials[run.trials["status"] == "failed"]
    return failed[["id", "arm", "phase", "keep_ratio", "error"]].reset_index(drop=True)


def cost_table(run: Run) -> pd.DataFrame:
    """Return the mean costs of the confirmed students: ``arm``, ``keep_ratio`` and the keys of :data:`COSTS`.

    ``search_seconds`` is the time of all search trials of the arm, ``n_layers`` the depth.
    """
    confirmed = run.standing()
    if confirmed.empty:
        return pd.DataFrame(columns=["arm", "keep_ratio", "n_layers", "search_seconds", *COSTS])
    known = costs(confirmed)
    columns = confirmed[["arm", "keep_ratio", "n_student_layers"]].rename(columns={"n_student_layers": "n_layers"})
    table = pd.concat([columns, known], axis=1).groupby(["arm", "keep_ratio"], dropna=False).mean().reset_index()
    teacher = table["arm"] == "teacher"
    table.loc[teacher, "n_layers"] = table.loc[teacher, "n_layers"].fillna(confirmed["n_teacher_layers"].max())
    table["search_seconds"] = table["arm"].map(search_seconds(run))
    table = table[table[list(known.columns)].notna().any(axis=1)]
    order = {arm: index for index, arm in enumerate(run.arms())}
    return table.sort_values("arm", key=lambda arms: arms.map(order), kind="stable").reset_index(drop=True)


def search_seconds(run: Run) -> dict[str, float]:
    """Return the seconds that the search trials of each arm took, all statuses, its evidence once."""
    search = run.trials[run.trials["phase"] == "search"]
    columns = [c for c in search.columns if c.startswith("cost.") and c.endswith("_seconds") and "evidence" not in c]
    result = search.groupby("arm")[columns].sum().sum(axis=1).to_dict() if columns else {}
    evidence = run.trials.groupby("arm")["cost.evidence_seconds"].max() if "cost.evidence_seconds" in run.trials else {}
    return {arm: float(value + np.nan_to_num(evidence.get(arm, 0.0))) for arm, value in result.items()}


def kept_layers(run: Run) -> pd.DataFrame:
    """Return the share of confirmed students of an arm that keep each layer.

    Columns ``arm``, ``keep_ratio``, ``layer``, ``share``; layers that no student kept have a share of 0.
    """
    frame = run.standing()
    frame = frame[frame["layer_map"].notna() & frame["keep_ratio"].notna()]
    rows = []
    for arm in run.arms():
        for ratio, part in frame[frame["arm"] == arm].groupby("keep_ratio"):
            depth = int(part["n_teacher_layers"].max())
            maps = [np.bincount(np.asarray(m, dtype=int), minlength=depth)[:depth] for m in part["layer_map"]]
            share = np.mean(maps, axis=0)
            rows += [{"arm": arm, "keep_ratio": ratio, "layer": i, "share": float(s)} for i, s in enumerate(share)]
    return pd.DataFrame(rows, columns=["arm", "keep_ratio", "layer", "share"])


def learning(run: Run, level: float) -> pd.DataFrame:
    """Return the validation metric over epochs of the confirm trials, with a t interval over runs.

    Columns ``arm``, ``keep_ratio``, ``epoch``, ``mean``, ``low``, ``high``, the ends NaN for a single run.
    """
    metric = run.settings["metric"]
    if metric not in run.curves:
        return pd.DataFrame(columns=["arm", "keep_ratio", "epoch", "mean", "low", "high"])
    keys = run.standing()[["id", "arm", "keep_ratio"]].dropna(subset=["keep_ratio"])
    joined = run.curves.merge(keys, on="id")
    groups = joined.groupby(["arm", "keep_ratio", "epoch"])[metric]
    table = groups.agg(["mean", "sem", "count"]).reset_index()
    half = stats.t.isf(level / 2, (table["count"] - 1).clip(lower=1)) * table["sem"]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    order = {arm: index for index, arm in enumerate(run.arms())}
    return table.sort_values(["arm", "epoch"], key=lambda c: c.map(order) if c.name == "arm" else c)


def metric_table(run: Run) -> pd.DataFrame:
    """Return the mean of every recorded test metric over the runs of each arm.

    Columns ``arm``, ``keep_ratio``, ``metric``, ``mean``, ``deviation`` (standard deviation over runs), ``n``,
    ``trials`` (the ids).
    """
    standing, rows = run.standing(), []
    names = [column for column in standing.columns if column.startswith("test.")]
    for (arm, ratio), part in standing.groupby(["arm", "keep_ratio"], dropna=False, sort=False):
        for name in names:
            values = part[name].dropna()
            if len(values):
                deviation = values.std() if len(values) > 1 else np.nan
                rows.append({"arm": arm, "keep_ratio": ratio, "metric": name.removeprefix("test."),
                             "mean": values.mean(), "deviation": deviation, "n": len(values),
                             "trials": list(part.loc[values.index, "id"])})  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "keep_ratio", "metric", "mean", "deviation", "n", "trials"])
