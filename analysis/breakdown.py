"""Test results taken apart: ROC curves, variance, cost against depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import describe
from analysis.response import once
from analysis.run import PerUser, Run
from analysis.stats import (
    fit_linear,
    mixed_split,
    variance_components,
)

SCALED = {
    "training time (s)": "training_seconds",
    "peak memory (bytes)": "peak_memory_bytes",
    "parameters, no embeddings": "backbone_parameters",
    "parameters, all": "parameters",
    "operations (FLOPs)": "flops",
    "latency, one request (ms)": "latency_ms",
    "latency, batch of 32 (ms)": "batch_latency_ms",
}


def roc(run: Run, arms: Iterable[str]) -> pd.DataFrame:
    """Return ROC curves, averaged over seeds, with bands over users.

    Of next-item ranks over the full catalogue, averaged over users; of preference scores over all labelled candidates.
    Columns ``arm``, ``keep_ratio``, ``false_positive``, ``mean``, ``low``, ``high``, ``auc``, ``auc_low``,
    ``auc_high``.
    """
    frames = []
    for arm, ratio, files in _stored(run, arms):
        curve = run.task.roc(files, run.settings["level"])
        if curve is None:
            continue
        columns = {
            "false_positive": curve.false_positive_rate,
            "mean": curve.true_positive_rate,
            "low": curve.low,
            "high": curve.high,
        }
        area = {"auc": curve.auc, "auc_low": curve.auc_low, "auc_high": curve.auc_high}
        frames.append(pd.DataFrame({"arm": arm, "keep_ratio": ratio, **columns, **area}))
    return pd.concat(frames) if frames else pd.DataFrame(columns=["arm", "keep_ratio", "false_positive", "mean", "auc"])


def calibration(run: Run, arms: Iterable[str]) -> pd.DataFrame:
    """Return reliability diagrams of predicted classes over all labelled candidates, with bands over users.

    Columns ``arm``, ``keep_ratio``, ``confidence``, ``mean`` (accuracy), ``low``, ``high``, ``share`` (of candidates
    in the bin), ``error`` (expected calibration error), ``error_low``, ``error_high``; empty for a task without
    classes.
    """
    frames = []
    for arm, ratio, files in _stored(run, arms):
        curve = run.task.calibration(files, run.settings["level"])
        if curve is None:
            continue
        columns = {
            "confidence": curve.confidence,
            "mean": curve.accuracy,
            "low": curve.low,
            "high": curve.high,
            "share": curve.share,
        }
        error = {"error": curve.error, "error_low": curve.error_low, "error_high": curve.error_high}
        frames.append(pd.DataFrame({"arm": arm, "keep_ratio": ratio, **columns, **error}))
    return pd.concat(frames) if frames else pd.DataFrame(columns=["arm", "keep_ratio", "confidence", "mean", "error"])


def _stored(run: Run, arms: Iterable[str]) -> Iterator[tuple[str, float, list[tuple[Path, str]]]]:
    for ratio in run.strata():
        for arm in arms:
            files = run.files(run.chosen(arm, ratio))
            if files:
                yield arm, ratio, files


def variance(run: Run) -> pd.DataFrame:
    """Return the shares of variance over selector, seed, user and their interactions, a stratum.

    Only selectors with every seed take part. Columns ``keep_ratio``, ``source``, ``share``, ``arms``, ``estimator``,
    ``trials`` (the ids).
    """
    rows = []
    for ratio in run.strata():
        found = _selectors(run, ratio)
        keys = max((tuple(own.by_seed()[1]) for own in found.values()), key=len, default=())
        found = {arm: own for arm, own in found.items() if tuple(own.by_seed()[1]) == keys}
        if len(found) < 2 or not run.task.is_mean_over_users(run.settings["metric"]):
            continue
        split = variance_components(np.stack([own.by_seed()[0] for own in found.values()]))
        known = {"arms": len(found), "estimator": split.estimator,
                 "trials": [identity for own in found.values() for identity in own.trials["id"]]}  # fmt: skip
        rows += [{"keep_ratio": ratio, "source": s, "share": v, **known} for s, v in split.shares.items()]
    return pd.DataFrame(rows, columns=["keep_ratio", "source", "share", "arms", "estimator", "trials"])


def student_variance(run: Run) -> pd.DataFrame:
    """Return the shares of variance between the test means of the selectors' students, all strata, by a mixed model.

    Missing runs and several draws of random layers are allowed. The keep-ratio is fixed; selector, seed, teacher, draw
    and selector by keep-ratio are random. Columns ``source``, ``share``, ``estimator``, ``trials`` (the ids).
    """
    frames = []
    for ratio in run.strata():
        for arm, own in _selectors(run, ratio).items():
            known = own.trials[["id", "teacher_seed", "seed", "draw"]].fillna({"teacher_seed": 0})
            frames.append(known.assign(arm=arm, keep_ratio=ratio, value=own.values.mean(axis=1)))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["arm", "seed"])
    empty = pd.DataFrame(columns=["source", "share", "estimator", "trials"])
    if table["arm"].nunique() < 2 or table["seed"].nunique() < 2:
        return empty
    random: dict[str, list] = {"arm": table["arm"].tolist()}
    teacher, ratio = table["teacher_seed"].astype(str), table["keep_ratio"].astype(str)
    if teacher.nunique() > 1:
        random["teacher"] = teacher.tolist()
    random["seed"] = (teacher + "/" + table["seed"].astype(str)).tolist()
    if ratio.nunique() > 1:
        random["arm x keep_ratio"] = (table["arm"] + "/" + ratio).tolist()
    if table["draw"].nunique() > 1:
        drawn = ratio + "/" + table["draw"].astype(str)
        random["draw"] = [text if known else None for text, known in zip(drawn, table["draw"].notna(), strict=True)]
    fixed = ("keep_ratio", ratio.tolist()) if ratio.nunique() > 1 else None
    if len(table) <= ratio.nunique() + 1:
        return empty
    split = mixed_split(random, table["value"], fixed=fixed)
    known = {"estimator": split.estimator, "trials": table["id"].tolist()}
    return pd.DataFrame([{"source": s, "share": v, **known} for s, v in split.shares.items()])


def _selectors(run: Run, ratio: float) -> dict[str, PerUser]:
    found = {arm: run.per_user(arm, ratio) for arm in run.arms()}
    return {arm: own for arm, own in found.items() if own is not None and own.trials["kind"].iloc[0] == "selector"}


def scaling(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return measured costs against depth, and the fitted line of each.

    The first frame has ``cost``, ``depth``, ``value``, ``id``; the second ``cost``, ``label``, ``depth``, ``value``
    and the fit (``intercept``, ``slope`` a layer with its interval, ``r_squared``), where two depths at least were
    measured. What several arms share was measured once and counts once.
    """
    confirmed = once(run.standing())
    costs = describe.costs(confirmed)
    depth = confirmed["n_student_layers"].where(confirmed["arm"] != "teacher", confirmed["n_teacher_layers"])
    points, fits = [], []
    for label, name in SCALED.items():
        if name not in costs:
            continue
        known = pd.DataFrame({"cost": label, "depth": depth, "value": costs[name], "id": confirmed["id"]}).dropna()
        known = known[confirmed.loc[known.index, "arm"] != "popularity"]
        if known["depth"].nunique() < 2:
            continue
        fit = fit_linear(known["depth"], known["value"], level=run.settings["level"])
        points.append(known)
        line = np.array([0.0, known["depth"].max()])
        text = _fit_text(fit.constant / fit.predict(line)[1], fit.r_squared)
        numbers = {"intercept": fit.constant, "slope": fit.rate, "slope_low": fit.rate_low, "slope_high": fit.rate_high,
                   "r_squared": fit.r_squared}  # fmt: skip
        fits.append(pd.DataFrame({"cost": label, "label": text, "depth": line, "value": fit.predict(line), **numbers}))
    empty = pd.DataFrame(columns=["cost", "depth", "value", "id"])
    return (pd.concat(points), pd.concat(fits)) if points else (empty, empty.assign(label=""))


def _fit_text(fixed: float, r_squared: float) -> str:
    """Return what a line of cost against depth says: how much of the cost is not that of layers."""
    if not r_squared >= 0.5 or fixed > 1:
        return "no clear dependence on depth" + (f"\nR² = {r_squared:.2f}" if np.isfinite(r_squared) else "")
    words = f"{100 * fixed:.0f} % of the deepest model's cost\ndoes not depend on depth\n" if fixed > 0.005 else ""
    return f"{words}R² = {r_squared:.2f}"
