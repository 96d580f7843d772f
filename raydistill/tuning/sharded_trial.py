"""One Tune trial that is several processes: Ray Train inside Ray Tune, for trials that take minutes.

Starting the workers costs seconds, so a trial that one process can train runs as
:class:`raydistill.tuning.trainable.DistillTrainable` instead. Both write the same record.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import ray
from ray.tune.integration.ray_train import TuneReportCallback

from raydistill.config import Sweep
from raydistill.records import RunDirectory
from raydistill.training.context import RunContext
from raydistill.training.trial import Trial, TrialSpec
from raydistill.tuning.sharded import Workers, run_sharded
from raydistill.tuning.trainable import resources_of

DRIVER_CPUS = 0.1
"""CPUs reserved by the process that waits for a trial's workers."""


def trial_workers(sweep: Sweep) -> Workers:
    """Return the processes of one trial; where it is one, no Ray Train is needed.

    On small nodes each worker reserves somewhat less than ``execution.cpus_per_trial``, so that the process
    that waits for the workers has room beside them.
    """
    execution = sweep.execution
    if execution.workers > 1:
        number, gpus = execution.workers, execution.gpus_per_worker
    elif execution.gpus_per_trial > 1:
        number, gpus = int(execution.gpus_per_trial), 1.0
    else:
        return Workers(1, execution.cpus_per_trial, execution.gpus_per_trial)
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    nodes = [cpus for cpus in nodes if cpus > 0]
    if not nodes:
        return Workers(number, execution.cpus_per_trial, gpus)
    room = (max(nodes) - DRIVER_CPUS) / -(-number // len(nodes))
    return Workers(number, min(execution.cpus_per_trial, max(0.1, int(10 * room) / 10)), gpus)


def run_sharded_trial(config: Mapping[str, Any]) -> None:
    """Run the trial of ``config["spec"]`` on its workers; the first of them writes the record.

    A trial whose driver was lost continues from its last epoch.

    Raises:
        RaydistillError: The workers were lost too often.
    """
    resources = resources_of(config["run"], config["cache"])
    identity = TrialSpec(**config["spec"]).identity(resources.sweep, resources.data.hash)
    storage = RunDirectory(config["run"]).root / "ray" / "train"
    run_sharded(
        train_in_worker,
        {name: config[name] for name in ("spec", "run", "cache")},
        resources.sweep,
        name=f"trial-{identity}",
        storage=storage,
        workers=Workers(**config["workers"]),
        callbacks=[TuneReportCallback()],
    )
    shutil.rmtree(storage / f"trial-{identity}", ignore_errors=True)


def train_in_worker(arguments: Mapping[str, Any], context: RunContext) -> str:
    """Return the identity of the trial that this worker, with the others, has run."""
    trial = Trial(TrialSpec(**arguments["spec"]), resources_of(arguments["run"], arguments["cache"]), context)
    for _row in trial.epochs():
        pass
    return trial.finish().id
