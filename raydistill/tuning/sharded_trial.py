"""One Tune trial that is several processes: Ray Train inside Ray Tune, for trials that take minutes.

The first start of the workers costs many seconds, and the end of each trial some, so a trial that one process can train
runs as :class:`raydistill.tuning.trainable.DistillTrainable` instead. Both write the same record.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray._raylet import setproctitle
from ray.train import Result
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

from raydistill.config import Sweep
from raydistill.records import Record, RunDirectory, read_record
from raydistill.tuning import checkpoints
from raydistill.tuning.capacity import Workers, node_resources, with_cpus_that_fit
from raydistill.tuning.kept_workers import LastingCleaner, LastingController
from raydistill.tuning.machine import check_machine
from raydistill.tuning.refusals import RefusedError, refusal
from raydistill.tuning.sharded import InterruptibleTrainer, run_sharded
from raydistill.tuning.workers import train_in_worker

_FIT_FOR: set[str] = set()
"""Run directories for which this process has looked at its machine."""


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
    asked = Workers(number, execution.cpus_per_trial, gpus)
    less = [tenths / 10 for tenths in range(math.ceil(10 * asked.cpus) - 1, 0, -1)]
    return with_cpus_that_fit(asked, [asked.cpus, *less], node_resources(), waiting=1)


class TrainerInActor(InterruptibleTrainer):
    """A trainer whose controller runs in the actor that calls ``fit``, which Tune reuses from trial to trial.

    Ray's own would start a process for the controller of each trial, import torch there, and only then begin
    with the workers, which it would start anew for each trial too.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        own = super()._create_default_callbacks()
        return [LastingCleaner() if isinstance(each, PlacementGroupCleanerCallback) else each for each in own]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        controller = LastingController(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()


def run_sharded_trial(config: Mapping[str, Any]) -> None:
    """Run the trial of ``config["spec"]`` on its workers; the first of them writes the record.

    Where this machine, or one of a worker, cannot run any trial, or none has room, the result says so and ends the
    sweep.

    A trial whose driver was lost continues from its last epoch. Tune, and the trackers through it, get the numbers
    of the epochs at the end: a queue to send them on the way would be one more process.

    Raises:
        RaydistillError: The workers were lost too often.
    """
    try:
        record = _run(config)
    except RefusedError as error:
        tune.report(refusal(error))
        return
    for row in record.curves:
        tune.report({key: value for key, value in row.items() if key != "epoch"})
    tune.report({"record": record.id, "status": record.status})


def _run(config: Mapping[str, Any]) -> Record:
    setproctitle(f"ray::{run_sharded_trial.__name__} {config['name']}")  # what `ps` and the dashboard show, to its end
    if config["run"] not in _FIT_FOR:
        check_machine(config)
        _FIT_FOR.add(config["run"])
    identity, storage = config["identity"], config["storage"]
    checkpoints.check_seen(storage, config["probe"])  # Ray's list of them is written by this process
    run_sharded(
        train_in_worker,
        {name: config[name] for name in ("spec", "run", "cache", "versions")},
        Workers(**config["workers"]),
        name=f"trial-{identity}",
        storage=storage,
        probe=config["probe"],
        waits=True,
        trainer=TrainerInActor,
    )
    checkpoints.remove(storage, f"trial-{identity}")
    return read_record(RunDirectory(config["run"]).record_file(identity))
