"""Which hyper-parameters matter, by Optuna's evaluators.

This describes trials that a search chose, so it is exploratory.
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

from analysis.stats.arrays import Direction, Floats, finite, sign_of

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
    metric, columns = trial_columns(parameters, values, log)
    if evaluator == "PED-ANOVA":
        judges = [PedAnovaImportanceEvaluator(target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True)]
    elif evaluator == "fANOVA":
        judges = [FanovaImportanceEvaluator(n_trees=64, max_depth=64, seed=seed + i) for i in range(n_forests)]
    else:
        raise ValueError(f"evaluator is {evaluator!r}, but 'fANOVA' or 'PED-ANOVA' is needed")
    # Optuna shares out the whole among parameters that all have importance 0, so constant ones are not given to it.
    varying = {name: column for name, column in columns.items() if len(np.unique(column)) > 1}
    if np.ptp(metric) == 0 or not varying:
        zeros = dict.fromkeys(columns, 0.0)
        return Importance(evaluator, zeros, dict(zeros), len(metric))
    study = _study(varying, metric, direction)
    found = [
        dict.fromkeys(columns, 0.0) | optuna.importance.get_param_importances(study, evaluator=judge)
        for judge in judges
    ]
    mean = {name: float(np.mean([one[name] for one in found])) for name in columns}
    order = sorted(mean, key=lambda name: -mean[name])
    deviations = {name: float(np.std([one[name] for one in found])) for name in order}
    return Importance(evaluator, {name: mean[name] for name in order}, deviations, len(metric))


def trial_columns(
    parameters: Mapping[str, ArrayLike], values: ArrayLike, log: Collection[str]
) -> tuple[Floats, dict[str, np.ndarray]]:
    """Return the metric and the parameters as columns, those searched on a log scale as logarithms.

    Raises:
        ValueError: Too few trials, lengths differ, missing values, mixed kinds, a log scale with values not above 0.
    """
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
