"""How validation quality answers to what was searched: temperature, alpha weights, keep-ratio, budget.

Everything here is about search trials, which a sampler chose while it learned: it describes and does not prove.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.run import Run
from analysis.stats import expected_best, importances, interaction, marginal_curve, variance_split

FEWEST = 8
"""Finished search trials below which nothing is fitted to them."""

CURVES = ["parameter", "x", "mean", "low", "high", "n"]
IMPORTANCE = ["arm", "method", "parameter", "value"]


@dataclass(frozen=True)
class Sensitivity:
    """What the search trials of a run directory, or of one arm, show.

    Attributes:
        arm: The arm, or None for all arms together.
        trials: One row a finished search trial: ``id``, ``arm``, ``value`` and one column a parameter.
        parameters: The parameters that were varied, without those that follow from others.
        curves: Mean over each parameter in bins of equal count, with t intervals.
        importance: Share of each parameter by fANOVA and by PED-ANOVA.
        surface: ``x``, ``y``, ``mean`` of the fitted surface of temperature and alpha; empty without both.
        strength, r_squared: Of that surface: share that is interaction, and the fit's out-of-bag R squared.
    """

    arm: str | None
    trials: pd.DataFrame
    parameters: tuple[str, ...]
    curves: pd.DataFrame
    importance: pd.DataFrame
    surface: pd.DataFrame
    strength: float
    r_squared: float


def searched(run: Run, arm: str | None = None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the finished search trials that have every varied parameter, and the parameters' names."""
    metric = f"validation.{run.settings['metric']}"
    trials = run.trials[(run.trials["phase"] == "search") & (run.trials["status"] == "success")]
    trials = trials[trials["arm"] == arm] if arm else trials
    if trials.empty or metric not in trials:
        return pd.DataFrame(columns=["id", "arm", "value"]), ()
    names = {c.removeprefix("configuration."): c for c in trials.columns if c.startswith("configuration.")}
    names["keep_ratio"] = "keep_ratio"
    trials = trials[trials[metric].notna()]
    table = trials[["id", "arm", metric]].rename(columns={metric: "value"})
    kept: list[str] = []
    for name, column in names.items():
        values = trials[column]
        # What only some arms have, or what follows from another parameter, cannot be judged beside it.
        if values.nunique() > 1 and values.notna().mean() > 0.5 and not _follows(values, [table[k] for k in kept]):
            table[name] = values
            kept.append(name)
    return table.dropna(subset=kept).reset_index(drop=True), tuple(kept)


def _follows(values: pd.Series, others: list[pd.Series]) -> bool:
    if not pd.api.types.is_numeric_dtype(values):
        return False
    return any(
        pd.api.types.is_numeric_dtype(other) and abs(np.corrcoef(values.fillna(0), other.fillna(0))[0, 1]) > 0.9999
        for other in others
    )


def log_scaled(values: pd.Series) -> bool:
    """Return whether a parameter is better seen on a log scale: positive, continuous, wide, and spread more
    evenly there."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= 6:
        return False
    if values.min() <= 0 or values.max() / values.min() < 5:
        return False
    return abs(stats.skew(np.log(values))) < abs(stats.skew(values))


def sensitivity(run: Run, arm: str | None = None, *, per_arm: bool = True) -> Sensitivity:
    """Return curves, importances and the temperature-by-alpha surface from the search trials.

    Args:
        run: A run directory, from ``load``.
        arm: One arm, or None for all together.
        per_arm: Also give the importances of each arm alone, where it has enough trials.
    """
    trials, names = searched(run, arm)
    curves, importance = pd.DataFrame(columns=CURVES), pd.DataFrame(columns=IMPORTANCE)
    surface, strength, r_squared = pd.DataFrame(columns=["x", "y", "mean"]), np.nan, np.nan
    if len(trials) < FEWEST or not names:
        return Sensitivity(arm, trials, names, curves, importance, surface, strength, r_squared)
    parameters = {name: trials[name].to_numpy() for name in names}
    log = [name for name in names if log_scaled(trials[name])]
    curves = pd.concat([_curve(parameters, trials["value"], n, log, run.settings["level"]) for n in names])
    rows = _importances(arm or "all arms", trials, names, log, forests=3)
    for name in dict.fromkeys(trials["arm"]) if per_arm and arm is None else ():
        part = trials[trials["arm"] == name]
        if len(part) >= FEWEST:
            rows += _importances(name, part, names, log, forests=1)
    rows = rows if len(names) > 1 else []  # shares of a single parameter say nothing
    if {"temperature", "alpha_dist"} <= set(names):
        found = interaction(parameters, trials["value"], "temperature", "alpha_dist", log=log)
        x, y = np.meshgrid(found.x, found.y)
        surface = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "mean": found.surface.ravel()})
        strength, r_squared = found.strength, found.r_squared
    importance = pd.DataFrame(rows, columns=IMPORTANCE)
    return Sensitivity(arm, trials, names, curves, importance, surface, strength, r_squared)


def _curve(parameters: dict, values: pd.Series, name: str, log: list[str], level: float) -> pd.DataFrame:
    curve = marginal_curve(parameters, values, name, log=log, level=level, points=6)
    columns = (curve.points, curve.mean, curve.low, curve.high, curve.n_trials)
    return pd.DataFrame({"parameter": name, **dict(zip(CURVES[1:], columns, strict=True))})


def _importances(arm: str, trials: pd.DataFrame, names: tuple[str, ...], log: list[str], forests: int) -> list[dict]:
    parameters = {name: trials[name].to_numpy() for name in names if trials[name].nunique() > 1}
    rows: list[dict] = []
    for method in ("fANOVA", "PED-ANOVA"):
        found = importances(
            parameters,
            trials["value"],
            evaluator=method,
            log=[name for name in log if name in parameters],
            n_forests=forests,
        )
        rows += [{"arm": arm, "method": method, "parameter": n, "value": v} for n, v in found.shares.items()]
    return rows


def budget(run: Run) -> pd.DataFrame:
    """Return the expected best validation quality against the number of search trials, per arm and stratum.

    Columns ``arm``, ``keep_ratio``, ``trials``, ``mean``, ``low``, ``high``. Stopped trials count with what they
    had reached, failed ones not at all.
    """
    metric = f"validation.{run.settings['metric']}"
    trials = run.trials[(run.trials["phase"] == "search") & (run.trials["status"] != "failed")]
    rows = []
    if metric in trials:
        trials = trials[trials[metric].notna() & trials["keep_ratio"].notna()]
        for arm in run.arms():
            for ratio, part in trials[trials["arm"] == arm].groupby("keep_ratio"):
                if len(part) > 1:
                    curve = expected_best(part[metric].to_numpy(), level=run.settings["level"], n_resamples=500)
                    frame = {"trials": curve.budgets, "mean": curve.expected, "low": curve.low, "high": curve.high}
                    rows.append(pd.DataFrame({"arm": arm, "keep_ratio": ratio, **frame}))
    return pd.concat(rows) if rows else pd.DataFrame(columns=["arm", "keep_ratio", "trials", "mean", "low", "high"])


def search_variance(run: Run) -> pd.DataFrame:
    """Return the share of the search trials' variance that arm, keep-ratio and hyper-parameters explain.

    Columns ``source``, ``share``, ``estimator``.
    """
    trials, names = searched(run)
    if len(trials) < FEWEST or not names:
        return pd.DataFrame(columns=["source", "share", "estimator"])
    factors = {"arm": trials["arm"].to_numpy(), **{name: trials[name].to_numpy() for name in names}}
    split = variance_split(factors, trials["value"])
    rows = [{"source": s, "share": v, "estimator": split.estimator} for s, v in split.shares.items()]
    return pd.DataFrame(rows)
