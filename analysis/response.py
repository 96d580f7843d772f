"""How validation quality answers to what was searched: temperature, alpha weights, keep-ratio, budget.

Everything here is about search trials, which a sampler chose while it learned: it describes and does not prove.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.run import Run
from analysis.stats import Interaction, expected_best, importances, interactions, marginal_curve, variance_split

FEWEST = 8
"""Finished search trials below which nothing is fitted to them."""

ALL = "all arms"
KNOWN = ["id", "arm", "same_as", "value"]
"""Columns of a search trial beside its parameters."""

CURVES = ["arm", "parameter", "x", "mean", "low", "high", "n"]
IMPORTANCE = ["arm", "method", "parameter", "value"]
PAIRS = ["arm", "x", "y", "strength", "r_squared", "n", "n_points"]
SURFACE = ["x", "y", "mean", "strength", "r_squared", "n_points"]


@dataclass(frozen=True)
class Sensitivity:
    """What the search trials of a run directory, or of one arm, show.

    Attributes:
        arm: The arm, or None for all arms together.
        trials: One row a finished search trial: ``id``, ``arm``, ``same_as`` (the trial that did the same computation
            for another arm), ``value`` and one column a parameter.
        parameters: The parameters that were varied, without those that follow from others.
        curves: Mean over each parameter in bins of equal count, with t intervals: of all trials (``all arms``, each
            computation once, as in what follows) and of each arm that has enough.
        importance: Share of each parameter by fANOVA and by PED-ANOVA, the same.
        pairs: How much of the fitted surface over two parameters is interaction (``strength``), with the fit's R
            squared on trials that it has not seen: at or below 0 the surface is noise.
        surface: ``x``, ``y``, ``mean`` of the surface of temperature and alpha, its strength and fit; empty without
            both.
    """

    arm: str | None
    trials: pd.DataFrame
    parameters: tuple[str, ...] = ()
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CURVES))
    importance: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=IMPORTANCE))
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PAIRS))
    surface: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SURFACE))


def searched(run: Run, arm: str | None = None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the finished search trials that have every varied parameter, and the parameters' names."""
    metric = f"validation.{run.settings['metric']}"
    trials = run.trials[(run.trials["phase"] == "search") & (run.trials["status"] == "success")]
    trials = trials[trials["arm"] == arm] if arm else trials
    if trials.empty or metric not in trials:
        return pd.DataFrame(columns=KNOWN), ()
    names = {c.removeprefix("configuration."): c for c in trials.columns if c.startswith("configuration.")}
    names["keep_ratio"] = "keep_ratio"
    trials = trials[trials[metric].notna()]
    table = trials.reindex(columns=["id", "arm", "same_as", metric]).rename(columns={metric: "value"})
    kept: list[str] = []
    for name, column in names.items():
        values = trials[column]
        # What only some arms have, or what follows from another parameter, cannot be judged beside it.
        if values.nunique() > 1 and values.notna().mean() > 0.5 and not _follows(values, [table[k] for k in kept]):
            table[name] = values
            kept.append(name)
    return table.dropna(subset=kept).reset_index(drop=True), tuple(kept)


def once(trials: pd.DataFrame) -> pd.DataFrame:
    """Return each computation once: what several arms share under their own names is one observation."""
    taken = trials["same_as"].notna()
    computation = trials["same_as"].where(taken, trials["id"])[taken.sort_values(kind="stable").index]
    return trials[~computation.duplicated().reindex(trials.index)]


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
    """Return curves, importances, interactions and the temperature-by-alpha surface from the search trials.

    Args:
        run: A run directory, from ``load``.
        arm: One arm, or None for all together.
        per_arm: Also give curves, importances and interactions of each arm alone, where it has enough trials.
    """
    trials, names = searched(run, arm)
    pooled = trials if arm else once(trials)
    if len(pooled) < FEWEST or not names:
        return Sensitivity(arm, trials, names)
    log = [name for name in names if log_scaled(trials[name])]
    parts = {arm or ALL: pooled}
    if per_arm and arm is None:
        parts |= {name: part for name, part in trials.groupby("arm", sort=False) if len(part) >= FEWEST}
    curves, importance, pairs, surface = [], [], [], pd.DataFrame(columns=SURFACE)
    for label, part in parts.items():
        whole = label == (arm or ALL)
        parameters = {name: part[name].to_numpy() for name in names if part[name].nunique() > 1}
        own = [name for name in log if name in parameters]
        # An arm alone has few trials: three bins, one forest, a coarse grid.
        for name in parameters:
            curves.append(_curve(label, parameters, part["value"], name, own, run.settings["level"], 6 if whole else 3))
        if len(parameters) < 2:  # shares of a single parameter say nothing
            continue
        forests = 3 if whole else 1
        importance += _importances(label, parameters, part["value"], own, run.direction, forests)
        found = _interactions(parameters, part["value"], own, points=15 if whole else 6)
        pairs += [{"arm": label, "x": f.names[0], "y": f.names[1], "strength": f.strength,
                   "r_squared": f.r_squared, "n": f.n_trials, "n_points": f.n_points} for f in found]  # fmt: skip
        wanted = [f for f in found if f.names == ("temperature", "alpha_dist")]
        surface = _surface(wanted[0]) if whole and wanted else surface
    tables = (pd.concat(curves), pd.DataFrame(importance, columns=IMPORTANCE), pd.DataFrame(pairs, columns=PAIRS))
    return Sensitivity(arm, trials, names, *tables, surface)


def _curve(
    arm: str, parameters: dict, values: pd.Series, name: str, log: list[str], level: float, points: int
) -> pd.DataFrame:
    curve = marginal_curve(parameters, values, name, log=log, level=level, points=points)
    columns = (curve.points, curve.mean, curve.low, curve.high, curve.n_trials)
    return pd.DataFrame({"arm": arm, "parameter": name, **dict(zip(CURVES[2:], columns, strict=True))})


def _importances(
    arm: str, parameters: dict, values: pd.Series, log: list[str], direction: str, forests: int
) -> list[dict]:
    rows: list[dict] = []
    for method in ("fANOVA", "PED-ANOVA"):
        found = importances(parameters, values, evaluator=method, direction=direction, log=log, n_forests=forests)
        rows += [{"arm": arm, "method": method, "parameter": n, "value": v} for n, v in found.shares.items()]
    return rows


def _interactions(parameters: dict, values: pd.Series, log: list[str], points: int) -> list[Interaction]:
    order = sorted(parameters, key=lambda name: ("temperature", "alpha_dist").index(name) if name in
                   ("temperature", "alpha_dist") else 2)  # fmt: skip
    numeric = [name for name in order if parameters[name].dtype.kind in "biuf"]
    return interactions(parameters, values, combinations(numeric, 2), log=log, points=points)


def _surface(found: Interaction) -> pd.DataFrame:
    x, y = np.meshgrid(found.x, found.y)
    known = {"strength": found.strength, "r_squared": found.r_squared, "n_points": found.n_points}
    return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "mean": found.surface.ravel(), **known})


def budget(run: Run) -> pd.DataFrame:
    """Return the expected best validation quality against the number of search trials, per arm and stratum.

    Columns ``arm``, ``keep_ratio``, ``budget`` (number of trials), ``mean``, ``low``, ``high``. Stopped trials count
    with what they had reached, failed ones not at all.
    """
    metric = f"validation.{run.settings['metric']}"
    trials = run.trials[(run.trials["phase"] == "search") & (run.trials["status"] != "failed")]
    rows = []
    if metric in trials:
        trials = trials[trials[metric].notna() & trials["keep_ratio"].notna()]
        for arm in run.arms():
            for ratio, part in trials[trials["arm"] == arm].groupby("keep_ratio"):
                if len(part) > 1:
                    curve = expected_best(
                        part[metric].to_numpy(), direction=run.direction, level=run.settings["level"], n_resamples=500
                    )
                    frame = {"budget": curve.budgets, "mean": curve.expected, "low": curve.low, "high": curve.high}
                    rows.append(pd.DataFrame({"arm": arm, "keep_ratio": ratio, **frame}))
    return pd.concat(rows) if rows else pd.DataFrame(columns=["arm", "keep_ratio", "budget", "mean", "low", "high"])


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
