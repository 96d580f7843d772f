"""Which hyper-parameters matter, and how: importances, marginal curves, pairwise interactions.

Everything here describes trials that a search chose, so it is exploratory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from scipy import stats
from sklearn.ensemble import RandomForestRegressor

from analysis.stats.arrays import Direction, Floats, check_level, finite, sign_of

FEWEST_TRIALS = 4
_DIRECTIONS = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True)
class Importance:
    """Importances of hyper-parameters.

    Attributes:
        evaluator: "fANOVA" (share of a forest's variance that the parameter alone explains; Hutter et al. 2014) or
            "PED-ANOVA" (how much the best tenth of the trials differ from all; Watanabe et al. 2023).
        shares: Parameter to importance, normalized to sum 1 (all 0 where nothing matters), largest first.
        deviations: Parameter to standard deviation over forests; 0 for PED-ANOVA, which is deterministic.
        n_trials: Trials used.
    """

    evaluator: str
    shares: dict[str, float]
    deviations: dict[str, float]
    n_trials: int


@dataclass(frozen=True)
class MarginalCurve:
    """The metric against one hyper-parameter, all others as they were searched.

    Attributes:
        name: The parameter.
        points: `[point]`: mean parameter value in each bin, or the grid; texts for a categorical one.
        mean: `[point]`, mean metric.
        low: `[point]`, lower end of the pointwise interval; NaN where a bin has one trial.
        high: `[point]`, upper end.
        n_trials: `[point]`, trials in each bin; for a surrogate, all trials at every point.
        method: "binned means, t interval" or "random forest, partial dependence, bootstrap over trials".
    """

    name: str
    points: np.ndarray
    mean: Floats
    low: Floats
    high: Floats
    n_trials: np.ndarray
    method: str


@dataclass(frozen=True)
class Interaction:
    """The metric over two hyper-parameters, by a random-forest surrogate (partial dependence).

    Attributes:
        names: The two parameters, x and y.
        x: `[x]` grid.
        y: `[y]` grid.
        surface: `[y, x]`, mean predicted metric.
        strength: Share of the surface's variance that no sum of two curves explains (after Friedman and Popescu
            2008), 0 to 1.
        r_squared: The forest's out-of-bag R^2: near 0 or below, the surface is noise.
        n_trials: Trials used.
    """

    names: tuple[str, str]
    x: Floats
    y: Floats
    surface: Floats
    strength: float
    r_squared: float
    n_trials: int


def importances(
    parameters: Mapping[str, ArrayLike],
    values: ArrayLike,
    *,
    evaluator: Literal["fANOVA", "PED-ANOVA"],
    direction: Direction = "max",
    log: Collection[str] = (),
    n_forests: int = 5,
    seed: int = 0,
) -> Importance:
    """Return hyper-parameter importances from finished trials, by the named evaluator of Optuna.

    Args:
        parameters: Name to `[trial]`, numbers or texts, none missing. A constant one has importance 0.
        values: `[trial]`, the metric; at least 4 trials.
        evaluator: "fANOVA" or "PED-ANOVA".
        direction: "max" where larger is better.
        log: Parameters that were searched on a log scale.
        n_forests: fANOVA forests with different seeds to average over.
        seed: Seed of the first forest.

    Raises:
        ValueError: Too few trials, lengths differ, missing values, an unknown evaluator.
    """
    metric, columns = _trials(parameters, values, log)
    if evaluator == "PED-ANOVA":
        judges = [PedAnovaImportanceEvaluator(target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True)]
    elif evaluator == "fANOVA":
        judges = [FanovaImportanceEvaluator(n_trees=64, max_depth=64, seed=seed + i) for i in range(n_forests)]
    else:
        raise ValueError(f"evaluator is {evaluator!r}, but 'fANOVA' or 'PED-ANOVA' is needed")
    if np.ptp(metric) == 0:
        zeros = dict.fromkeys(parameters, 0.0)
        return Importance(evaluator, zeros, dict(zeros), len(metric))
    study = _study(columns, metric, direction)
    found = [optuna.importance.get_param_importances(study, evaluator=judge) for judge in judges]
    mean = {name: float(np.mean([one[name] for one in found])) for name in columns}
    order = sorted(mean, key=lambda name: -mean[name])
    deviations = {name: float(np.std([one[name] for one in found])) for name in order}
    return Importance(evaluator, {name: mean[name] for name in order}, deviations, len(metric))


def marginal_curve(
    parameters: Mapping[str, ArrayLike],
    values: ArrayLike,
    name: str,
    *,
    method: Literal["binned", "forest"] = "binned",
    log: Collection[str] = (),
    points: int = 5,
    level: float = 0.05,
    n_resamples: int = 30,
    seed: int = 0,
) -> MarginalCurve:
    """Return the metric against one hyper-parameter.

    "binned" takes means in bins of equal count (each value of its own where there are at most `points`), with t
    intervals: simple, and what the trials say. "forest" takes the partial dependence of a random forest, which holds
    the other parameters at their searched distribution, with an interval over resampled trials.

    Args:
        parameters: Name to `[trial]`, none missing.
        values: `[trial]`, the metric; at least 4 trials.
        name: The parameter to plot.
        method: "binned" or "forest".
        log: Parameters that were searched on a log scale.
        points: Bins, or grid points.
        level: Error rate of the interval.
        n_resamples: Resamples for "forest".
        seed: Seed of forest and resampling.

    Raises:
        ValueError: An unknown parameter or method, too few trials, missing values.
    """
    metric, columns = _trials(parameters, values, log)
    if name not in columns:
        raise ValueError(f"parameter {name!r} is not among {sorted(columns)}")
    check_level(level)
    if method == "binned":
        return _binned(name, np.asarray(parameters[name]), metric, points, level)
    if method != "forest":
        raise ValueError(f"method is {method!r}, but 'binned' or 'forest' is needed")
    design, places = _design(columns)
    grid = _grid(columns[name], points)
    rng = np.random.default_rng(seed)
    curves = []
    for resample in range(n_resamples + 1):
        rows = np.arange(len(metric)) if resample == 0 else rng.integers(0, len(metric), len(metric))
        forest = _forest(design[rows], metric[rows], seed)
        curves.append([float(np.mean(forest.predict(_at(design, places[name], value)))) for value in _codes(grid)])
    low, high = np.quantile(np.array(curves[1:]), [level / 2, 1 - level / 2], axis=0)
    shown = np.exp(grid) if name in log else grid
    count = np.full(len(grid), len(metric))
    text = "random forest, partial dependence, bootstrap over trials"
    return MarginalCurve(name, shown, np.array(curves[0]), low, high, count, text)


def interaction(
    parameters: Mapping[str, ArrayLike],
    values: ArrayLike,
    x: str,
    y: str,
    *,
    log: Collection[str] = (),
    points: int = 15,
    seed: int = 0,
) -> Interaction:
    """Return the metric's surface over two numeric hyper-parameters and how much of it is interaction.

    Args:
        parameters: Name to `[trial]`, none missing.
        values: `[trial]`, the metric; at least 4 trials.
        x: First parameter.
        y: Second parameter.
        log: Parameters that were searched on a log scale.
        points: Grid points an axis.
        seed: Seed of the forest.

    Raises:
        ValueError: Unknown, equal or text parameters, too few trials, missing values.
    """
    metric, columns = _trials(parameters, values, log)
    for name in (x, y):
        if name not in columns or columns[name].dtype.kind not in "f":
            raise ValueError(f"parameter {name!r} is not among the numeric ones")
    if x == y:
        raise ValueError(f"an interaction needs two parameters, not {x!r} twice")
    design, places = _design(columns)
    forest = _forest(design, metric, seed)
    grids = [_grid(columns[name], points) for name in (x, y)]
    surface = np.empty((len(grids[1]), len(grids[0])))
    for row, y_value in enumerate(grids[1]):
        fixed = _at(design, places[y], y_value)
        stacked = np.concatenate([_at(fixed, places[x], x_value) for x_value in grids[0]])
        surface[row] = forest.predict(stacked).reshape(len(grids[0]), -1).mean(axis=1)
    centred = surface - surface.mean()
    additive = centred.mean(axis=0, keepdims=True) + centred.mean(axis=1, keepdims=True)
    whole = float((centred**2).sum())
    strength = float(((centred - additive) ** 2).sum()) / whole if whole > 0 else 0.0
    shown = [np.exp(g) if name in log else g for g, name in zip(grids, (x, y), strict=True)]
    return Interaction((x, y), shown[0], shown[1], surface, strength, float(forest.oob_score_), len(metric))


def _trials(
    parameters: Mapping[str, ArrayLike], values: ArrayLike, log: Collection[str]
) -> tuple[Floats, dict[str, np.ndarray]]:
    metric = finite(values, "values", ndim=1)
    if len(metric) < FEWEST_TRIALS:
        raise ValueError(f"{len(metric)} trials are too few; at least {FEWEST_TRIALS} are needed")
    columns = {}
    for name, given in parameters.items():
        column = np.asarray(given)
        if column.shape != metric.shape:
            raise ValueError(f"parameter {name!r} has shape {column.shape}, but there are {len(metric)} trials")
        if column.dtype.kind in "biuf":
            column = finite(column, f"parameter {name!r}", ndim=1)
            if name in log and (column <= 0).any():
                raise ValueError(f"parameter {name!r} is searched on a log scale but has values that are not above 0")
            columns[name] = np.log(column) if name in log else column
        elif all(isinstance(value, str) for value in column):
            columns[name] = column.astype(str)
        else:
            raise ValueError(f"parameter {name!r} is neither all numbers nor all texts")
    if not columns:
        raise ValueError("there is no parameter")
    return metric, columns


def _study(columns: Mapping[str, np.ndarray], metric: Floats, direction: Direction) -> optuna.Study:
    sign_of(direction)
    distributions = {
        name: FloatDistribution(float(column.min()), float(column.max()))
        if column.dtype.kind == "f"
        else CategoricalDistribution(sorted(set(column.tolist())))
        for name, column in columns.items()
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # "a new study created" is no news here
    study = optuna.create_study(direction=_DIRECTIONS[direction], sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(verbosity)
    rows = [{name: column[i].item() for name, column in columns.items()} for i in range(len(metric))]
    study.add_trials(
        [
            optuna.trial.create_trial(params=row, distributions=distributions, value=float(value))
            for row, value in zip(rows, metric, strict=True)
        ]
    )
    return study


def _binned(name: str, column: np.ndarray, metric: Floats, points: int, level: float) -> MarginalCurve:
    kinds, groups = np.unique(column, return_inverse=True)
    numeric = column.dtype.kind in "biuf"
    if numeric and len(kinds) > points:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, points + 1)[1:-1]))
        groups = np.unique(np.searchsorted(edges, column, side="right"), return_inverse=True)[1]
    count = np.bincount(groups)
    mean = np.bincount(groups, weights=metric) / count
    shown = np.bincount(groups, weights=column.astype(np.float64)) / count if numeric else kinds
    half = np.full(len(count), np.nan)
    for group in np.flatnonzero(count > 1):
        error = metric[groups == group].std(ddof=1) / np.sqrt(count[group])
        half[group] = stats.t.isf(level / 2, count[group] - 1) * error
    return MarginalCurve(name, shown, mean, mean - half, mean + half, count, "binned means, t interval")


def _design(columns: Mapping[str, np.ndarray]) -> tuple[Floats, dict[str, int]]:
    """Return `[trial, column]` with texts as codes, and each parameter's column."""
    coded = [
        c if c.dtype.kind == "f" else np.unique(c, return_inverse=True)[1].astype(np.float64) for c in columns.values()
    ]
    return np.stack(coded, axis=1), {name: place for place, name in enumerate(columns)}


def _grid(column: np.ndarray, points: int) -> np.ndarray:
    kinds = np.unique(column)
    if column.dtype.kind != "f" or len(kinds) <= points:
        return kinds
    return np.linspace(column.min(), column.max(), points)


def _codes(grid: np.ndarray) -> np.ndarray:
    return grid if grid.dtype.kind == "f" else np.arange(len(grid), dtype=np.float64)


def _at(design: Floats, place: int, value: float) -> Floats:
    changed = design.copy()
    changed[:, place] = value
    return changed


def _forest(design: Floats, metric: Floats, seed: int) -> RandomForestRegressor:
    forest = RandomForestRegressor(
        n_estimators=100, min_samples_leaf=2, max_features=1.0, oob_score=True, n_jobs=1, random_state=seed
    )
    return forest.fit(design, metric)
