"""How the metric moves with the hyper-parameters: marginal curves and pairwise interactions.

This describes trials that a search chose, so it is exploratory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GroupKFold

from analysis.stats.arrays import Floats, check_level
from analysis.stats.importance import trial_columns

MOST_BACKGROUND = 500
"""Trials that a partial dependence is averaged over at most; its cost grows with trials x grid points."""


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
        r_squared: The forest's R^2 in trials that it was not fitted to, at points where it was not: at 0 or below, the
            surface is noise; NaN for a constant metric or a single point.
        n_trials: Trials used.
        n_points: Distinct points of the two parameters among them.
    """

    names: tuple[str, str]
    x: Floats
    y: Floats
    surface: Floats
    strength: float
    r_squared: float
    n_trials: int
    n_points: int


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
    metric, columns = trial_columns(parameters, values, log)
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
        others = _background(design)
        curves.append([float(np.mean(forest.predict(_at(others, places[name], value)))) for value in _codes(grid)])
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
    return interactions(parameters, values, [(x, y)], log=log, points=points, seed=seed)[0]


def interactions(
    parameters: Mapping[str, ArrayLike],
    values: ArrayLike,
    pairs: Iterable[tuple[str, str]],
    *,
    log: Collection[str] = (),
    points: int = 15,
    seed: int = 0,
) -> list[Interaction]:
    """Return one surface a pair of hyper-parameters, all from one forest; args and errors as `interaction`."""
    metric, columns = trial_columns(parameters, values, log)
    pairs = list(pairs)
    for name in {name for pair in pairs for name in pair}:
        if name not in columns or columns[name].dtype.kind not in "f":
            raise ValueError(f"parameter {name!r} is not among the numeric ones")
    for x, y in pairs:
        if x == y:
            raise ValueError(f"an interaction needs two parameters, not {x!r} twice")
    design, places = _design(columns)
    forest = _forest(design, metric, seed)
    r_squared = _r_squared(forest, design, metric, seed)
    background = _background(design)
    found = []
    for pair in pairs:
        grids = [_grid(columns[name], points) for name in pair]
        surface = _surface(forest, background, [places[name] for name in pair], grids)
        strength = _strength(surface) if np.ptp(metric) > 0 else 0.0
        x, y = (np.exp(grid) if name in log else grid for grid, name in zip(grids, pair, strict=True))
        n_points = len(np.unique(design[:, [places[name] for name in pair]], axis=0))
        found.append(Interaction(pair, x, y, surface, strength, r_squared, len(metric), n_points))
    return found


def _r_squared(forest: RandomForestRegressor, design: Floats, metric: Floats, seed: int) -> float:
    """Return how much of the variation a forest explains in trials that it was not fitted to.

    Out of bag; where several trials share a point (arms share configurations), also by cross-validation over points,
    and the poorer of the two: another trial at the same point can give the answer away, or its noise.
    """
    points = np.unique(design, axis=0, return_inverse=True)[1].ravel()
    n_points = int(points.max()) + 1
    if np.ptp(metric) == 0 or n_points < 2:
        return np.nan
    if n_points == len(metric):
        return float(forest.oob_score_)
    predicted = np.empty(len(metric))
    for fitted, left_out in GroupKFold(min(5, n_points)).split(design, metric, points):
        predicted[left_out] = _forest(design[fitted], metric[fitted], seed).predict(design[left_out])
    over_points = 1 - ((metric - predicted) ** 2).sum() / ((metric - metric.mean()) ** 2).sum()
    return float(min(forest.oob_score_, over_points))


def _surface(forest: RandomForestRegressor, background: Floats, places: list[int], grids: list[np.ndarray]) -> Floats:
    """Return `[y, x]`, the forest's mean prediction with both parameters set and the others as in `background`."""
    surface = np.empty((len(grids[1]), len(grids[0])))
    for row, y_value in enumerate(grids[1]):
        fixed = _at(background, places[1], y_value)
        stacked = np.concatenate([_at(fixed, places[0], x_value) for x_value in grids[0]])
        surface[row] = forest.predict(stacked).reshape(len(grids[0]), -1).mean(axis=1)
    return surface


def _strength(surface: Floats) -> float:
    centred = surface - surface.mean()
    additive = centred.mean(axis=0, keepdims=True) + centred.mean(axis=1, keepdims=True)
    whole = float((centred**2).sum())
    return float(((centred - additive) ** 2).sum()) / whole if whole > 0 else 0.0


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


def _background(design: Floats) -> Floats:
    """Return at most :data:`MOST_BACKGROUND` rows, evenly spaced: a mean over them is close to one over all."""
    if len(design) <= MOST_BACKGROUND:
        return design
    return design[np.linspace(0, len(design) - 1, MOST_BACKGROUND).astype(int)]


def _at(design: Floats, place: int, value: float) -> Floats:
    changed = design.copy()
    changed[:, place] = value
    return changed


def _forest(design: Floats, metric: Floats, seed: int) -> RandomForestRegressor:
    forest = RandomForestRegressor(
        n_estimators=100, min_samples_leaf=2, max_features=1.0, oob_score=True, n_jobs=1, random_state=seed
    )
    return forest.fit(design, metric)
