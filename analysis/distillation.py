"""Does distillation matter? Students of the very same layers, distilled against not distilled."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.comparison import compare_strata
from analysis.run import PerUser, Run
from analysis.stats import Ledger
from analysis.students import namesakes
from analysis.tasks import sign

PLAIN = "no_kd"
"""The control whose students have selected layers and are not distilled."""


def distillation(run: Run, ledger: Ledger | None = None) -> pd.DataFrame:
    """Return the distilled students of the layers of ``no_kd`` against those: the columns of ``comparison.COLUMNS``.

    Against any other students ``no_kd`` differs in its layers too, so a stratum in which no arm distilled the same
    layers, under each of its teachers, has no row. Where several did, with other settings, the best by
    validation stands for them; the test set has no say.
    """
    strata = []
    for ratio in run.strata():
        plain = run.per_user(PLAIN, ratio)
        if plain is None:
            continue
        arms = {arm: _of_these_layers(run.per_user(arm, ratio), plain.trials) for arm in run.arms()}
        found = {arm: own for arm, own in arms.items() if own is not None}
        if found:
            # The layers are given here, so that a control may have drawn them by chance does not matter.
            given = PerUser(plain.values, plain.trials.assign(draw=np.nan))
            strata.append((ratio, PLAIN, given, _best(run, found)))
    return compare_strata(run, strata, family="distilled against not distilled, the same layers", ledger=ledger)


def _of_these_layers(own: PerUser | None, plain: pd.DataFrame) -> PerUser | None:
    """Return the runs of a distilled arm that have the layers of ``plain``, None unless some of each teacher have.

    Seeds that one of the two lacks are left out by the comparison, as everywhere.
    """
    if own is None or not _is_distilled(own.trials):
        return None
    wanted = set(_places(plain))
    rows = np.array([place in wanted for place in _places(own.trials)])
    teachers = own.trials["teacher_seed"][rows]
    if set(teachers.fillna(-1)) != set(plain["teacher_seed"].fillna(-1)):
        return None
    return PerUser(own.values[rows], own.trials[rows].reset_index(drop=True).assign(draw=np.nan))


def _is_distilled(trials: pd.DataFrame) -> bool:
    weights = [f"configuration.{name}" for name in ("alpha_dist", "alpha_hidden")]
    known = [trials[name].fillna(0) > 0 for name in weights if name in trials]
    return bool(trials["layer_map"].notna().all() and np.any(known, axis=0).all()) if known else False


def _places(trials: pd.DataFrame) -> list[tuple]:
    columns = (trials["teacher_seed"], trials["seed"], trials["layer_map"])
    return [
        (teacher, seed, tuple(int(layer) for layer in layers)) for teacher, seed, layers in zip(*columns, strict=True)
    ]


def _best(run: Run, arms: dict[str, PerUser]) -> dict[str, PerUser]:
    """Return the arm with the best mean validation quality, under all of its names."""
    metric = run.settings["metric"]
    means = {arm: sign(metric) * own.trials[f"validation.{metric}"].mean() for arm, own in arms.items()}
    names = namesakes({arm: own.trials for arm, own in arms.items()})
    return {arm: arms[arm] for arm in names[max(means, key=means.get)]}
