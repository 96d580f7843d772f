"""Search and confirm under one Tuner: the actors, with data and teachers attached, serve both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import RunConfig, TuneConfig, TuneError, Tuner
from ray.tune.logger import TBXLoggerCallback

from raydistill.config import Sweep
from raydistill.records import Record, RunDirectory
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning import checkpoints
from raydistill.tuning.capacity import (
    DRIVER_CPUS,
    Workers,
    can_grow,
    capacity,
    groups_that_fit,
    node_resources,
    room_for,
)
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.searcher import Bookkeeper, DealerSearcher
from raydistill.tuning.sharded_trial import run_sharded_trial, trial_workers
from raydistill.tuning.suggest import Studies
from raydistill.tuning.trainable import DistillTrainable


def run_trials(
    sweep: Sweep,
    run: RunDirectory,
    cache: Path,
    dealer: Dealer,
    *,
    probe: str,
    on_record: Callable[[Record], None],
    on_start: Callable[[TrialSpec], None],
    on_lost: Callable[[TrialSpec, str], None],
) -> None:
    """Run every trial that the dealer has left, and return when all have ended.

    Args:
        sweep: The sweep.
        run: Its run directory.
        cache: Folder of prepared data.
        dealer: Knows what an earlier run has finished.
        probe: File that was left in the place of the checkpoints.
        on_record: Called with every new record.
        on_start: Called with every spec whose trial starts.
        on_lost: Called with every spec whose trial starts again, and why.

    Raises:
        RaydistillError: The sweep cannot go on: a machine has other code, or nothing can be written any more.
        KeyboardInterrupt: Tune was told to stop before all trials had ended.
    """
    studies = Studies(run.studies, sweep, [keep_ratio for _, keep_ratio in dealer.strata])
    for name, search in dealer.searches.items():
        studies.start(name, [search.records[number] for number in sorted(search.records)])

    def note(record: Record) -> None:
        if record.phase == "search":
            studies.add(record)
        on_record(record)

    workers = trial_workers(sweep)
    searcher = DealerSearcher(dealer, run, cache, workers, storage=checkpoints.place_of(sweep, run), probe=probe)
    bookkeeper = Bookkeeper(searcher, sweep, run, on_record=note, on_start=on_start, on_lost=on_lost)
    execution = sweep.execution
    tuner = Tuner(
        _trainable(workers),
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=concurrency(sweep, workers),
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["name"].replace(" ", "_"),
            trial_dirname_creator=lambda trial: f"{trial.config['name']}_{trial.trial_id}".replace(" ", "_"),
        ),
        run_config=RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str((run.root / "ray" / "tune").resolve()),
            callbacks=[bookkeeper, *_trackers(execution.trackers, sweep.name)],
            failure_config=tune.FailureConfig(max_failures=0),
            # A trial of one process is short: it starts again from its beginning.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except TuneError as error:
        if bookkeeper.error is not None:
            raise bookkeeper.error from error
        raise
    if not searcher.has_ended:  # as after a signal; what has no record yet must not count as dropped
        raise bookkeeper.error or KeyboardInterrupt


def _trainable(workers: Workers) -> Any:
    """Return what Tune runs for a trial: one process, or one that waits for several."""
    if workers.number == 1:
        return tune.with_resources(DistillTrainable, {"cpu": workers.cpus, "gpu": workers.gpus})
    return tune.with_resources(run_sharded_trial, {"cpu": DRIVER_CPUS})


def concurrency(sweep: Sweep, workers: Workers) -> int:
    """Return how many trials run at once: what the sweep says, else what the cluster holds or can grow to.

    Tune does not see the workers inside a trial, so without this number it would start trials that wait for
    each other's CPUs. On nodes that are there for good it is counted node by node: a trial's worker fits on one.
    Trials of several workers that do not fit would wait for the others to the end, however many were asked for.
    """
    asked = sweep.execution.concurrency
    if asked != "auto" and workers.number == 1:
        return asked
    grows = can_grow()
    if grows:
        fit = _most(workers)
    elif workers.number > 1:
        fit = groups_that_fit(workers, node_resources())
    else:
        fit = room_for(workers, node_resources())
    if asked == "auto":
        return max(1, fit)
    return asked if grows else min(asked, max(1, fit))


def _most(workers: Workers) -> int:
    """Return how many trials fit on all that the cluster can grow to."""
    there = capacity()
    limits = [there["CPU"] / (workers.number * workers.cpus + (DRIVER_CPUS if workers.number > 1 else 0))]
    if workers.gpus:
        limits.append(there["GPU"] / (workers.number * workers.gpus))
    return int(min(limits) + 1e-9)


def _trackers(names: Sequence[str], project: str) -> list[tune.Callback]:
    """Return Ray's own callbacks for the trackers that the sweep names."""
    callbacks: list[tune.Callback] = []
    if "tensorboard" in names:
        callbacks.append(TBXLoggerCallback())
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks.append(MLflowLoggerCallback(experiment_name=project))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback

        callbacks.append(WandbLoggerCallback(project=project))
    return callbacks
