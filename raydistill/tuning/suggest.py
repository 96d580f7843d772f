"""Optuna's part in the search: suggestions for one arm, and the study that shows what came of them.

Cost depends on depth alone, so the front of quality against cost is found by the best quality in each
stratum (keep-ratio). Every stratum of every arm therefore gets the same number of trials, and the sampler
learns from quality *relative to the trial's own stratum*: raw quality would only teach it that deep is
good. (Optuna's TPE cannot take pruned trials of a multi-objective study at all.)

A suggestion depends on the seed, the trial's number and the results of earlier groups of trials of its own
arm, never on timing: an interrupted search that continues, or one with more workers, suggests the same.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydistill.config import COSTS, Sweep
from raydistill.records import Record, gain
from raydistill.seeding import stream_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {"success": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return the searched dimensions but for keep-ratio, which is dealt out evenly, not sampled."""
    return {
        name: _distribution(dimension)
        for name, dimension in sweep.search.space.dimensions().items()
        if name != "keep_ratio"
    }


def _distribution(dimension: Any) -> BaseDistribution:
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.values)
    low, high = dimension.values
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=dimension.kind == "log_uniform")


def suggest(sweep: Sweep, numbers: Sequence[int], finished: Sequence[Record], metric: str) -> list[dict[str, Any]]:
    """Return the searched values of some trials of an arm, in the order of their numbers.

    Each has a sampler and a seed of its own, so what a trial gets does not depend on which others are asked for;
    what the samplers learn from is the same for all, and is built once.

    Args:
        sweep: Space, sampler and seed.
        numbers: Numbers of the trials in their arm. Arms share the seeds, so their first, random trials are the
            same configurations and the comparison starts paired.
        finished: The arm's trials of earlier groups.
        metric: Validation metric that is to become as good as can be.
    """
    space = distributions(sweep)
    if not space:
        return [{} for _ in numbers]
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        _relative(record, standing, space)
        for record, standing in zip(finished, standings(finished, metric), strict=True)
    )
    suggested = []
    for number in numbers:
        # Trials that were asked for and have not ended are nothing to a sampler without constant liar.
        study.sampler = _sampler(sweep, stream_seed(sweep.search.seed, "suggestion", number) % 2**32)
        suggested.append(study.ask(space).params)
    return suggested


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    if sweep.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=sweep.search.startup, multivariate=True, constant_liar=False
    )


def _relative(record: Record, standing: float, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """Return a finished trial as the sampler sees it: its value is its standing in its own stratum."""
    outcome: dict[str, Any] = {}
    if record.status == "success":
        outcome["value"] = standing
    elif record.status == "stopped":
        outcome["intermediate_values"] = {record.epochs: standing}
    params = {name: record.configuration[name] for name in space}
    return create_trial(state=_STATES[record.status], params=params, distributions=space, **outcome)


def standings(finished: Sequence[Record], metric: str) -> list[float]:
    """Return, for each trial, the share of its stratum's trials, itself among them, that it equals or beats.

    A stopped trial is compared with all that reached its last epoch, as they stood then; a failed one stands at 0.

    Args:
        finished: Trials of one arm.
        metric: Validation metric.
    """
    ended: dict[int | None, list[float]] = defaultdict(list)
    at_epoch: dict[tuple[int | None, int], list[float]] = defaultdict(list)
    for record in finished:
        if record.status == "success":
            ended[record.n_student_layers].append(gain(metric, record.validation[metric]))
        for epoch, row in enumerate(record.curves, start=1):
            at_epoch[record.n_student_layers, epoch].append(gain(metric, row[metric]))
    for values in (*ended.values(), *at_epoch.values()):
        values.sort()

    def standing(record: Record) -> float:
        if record.status == "failed":
            return 0.0
        if record.status == "success":
            own, rivals = gain(metric, record.validation[metric]), ended[record.n_student_layers]
        else:
            own, rivals = gain(metric, record.curves[-1][metric]), at_epoch[record.n_student_layers, record.epochs]
        return bisect_right(rivals, own) / len(rivals)

    return [standing(record) for record in finished]


class Studies:
    """The studies on disk, one an arm, for a person to look at in optuna-dashboard.

    They are copies: the records are the truth, and a study is written anew from them when a sweep continues.

    Args:
        folder: ``studies/`` of the run directory.
        sweep: Names the objectives and the space.
        strata: Keep-ratios that are dealt out.
    """

    def __init__(self, folder: Path, sweep: Sweep, strata: Sequence[float]) -> None:
        self.folder = folder
        self.objectives = sweep.search.objectives
        self.space = distributions(sweep) | {"keep_ratio": CategoricalDistribution(list(strata))}
        self._open: dict[str, optuna.Study] = {}

    def start(self, arm: str, records: Sequence[Record]) -> None:
        """Write an arm's study anew, with the trials that are already finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{arm}.log"
        path.unlink(missing_ok=True)
        self._open[arm] = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=arm,
            directions=["maximize" if direction == "max" else "minimize" for direction in self.objectives.values()],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # only names axes in the dashboard
            self._open[arm].set_metric_names(list(self.objectives))
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Add a finished trial; one that was stopped early counts as pruned, never as complete."""
        state = _STATES[record.status]
        quality = next(name for name in self.objectives if name not in COSTS)
        complete = state is TrialState.COMPLETE
        self._open[record.arm].add_trial(
            create_trial(
                state=state,
                params={name: record.configuration.get(name, record.keep_ratio) for name in self.space},
                distributions=self.space,
                values=[self._value(record, name) for name in self.objectives] if complete else None,
                intermediate_values={row["epoch"]: row[quality] for row in record.curves if quality in row},
                user_attrs={"record": record.id, "layer_map": list(record.layer_map or ())},
            )
        )

    def _value(self, record: Record, objective: str) -> float:
        return float(record.validation.get(objective, record.cost.get(objective, float("nan"))))
