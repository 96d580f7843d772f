"""Ray Train: run a training function on one worker or many, with checkpoints and recovery."""

from __future__ import annotations

import gc
import logging
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from pyarrow import fs
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from raydistill.config import Sweep
from raydistill.errors import CorruptArtifactError, RaydistillError
from raydistill.training.checkpoint import load_checkpoint
from raydistill.training.context import RunContext
from raydistill.tuning import checkpoints
from raydistill.tuning.capacity import Workers, fits, node_resources, shortage, with_cpus_that_fit
from raydistill.tuning.refusals import NoRoomError

MAX_FAILURES = 2
"""Times that lost workers are replaced before a run is given up."""

MAX_STARTS = 10
"""Times that Ray tries again to start the workers, after a minute each: so long may an autoscaler take.

Ray's own default is for ever, and without a word: after a node is lost there may be no room for them any more."""

KEPT = 2
"""Checkpoints of a run that stay: the one that it continues from, and the one before, in case that one is damaged."""

TIMEOUT_S = 24 * 3600
"""Seconds that workers wait for each other: a pass of the evidence, or the profile, is one worker's and may take hours.

Ray notices a worker that is lost by other means, long before."""

log = logging.getLogger(__name__)


class InterruptibleTrainer(TorchTrainer):
    """A trainer that leaves Ctrl+C to the sweep.

    Ray's own takes the signal for good, also after the training, and ends the process with exit code 0.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        return None

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # One would start a process that hands out Ray's own data sets, of which there are none.
        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]


def run_sharded(
    function: Callable[[Mapping[str, Any], RunContext], Any],
    arguments: Mapping[str, Any],
    workers: Workers,
    *,
    name: str,
    storage: str,
    probe: str | None = None,
    waits: bool = False,
    trainer: type[InterruptibleTrainer] = InterruptibleTrainer,
) -> Any:
    """Return what ``function(arguments, context)`` returns on the first of the workers.

    A worker that is lost is replaced, and the function is called again with the last checkpoint as
    ``context.resume_from``.

    Args:
        function: Called once in every worker; importable, and free of Ray.
        arguments: Plain values.
        workers: How many, and what each reserves.
        name: Of the run; the same name and storage continue an interrupted run.
        storage: Where checkpoints go: a folder that all nodes see, or an address that pyarrow knows.
        probe: A file that was left there: every worker looks for it first, since its machine may have joined late.
        waits: Whether it waits, for as long as that takes, where others of its kind hold the room.
        trainer: Starts and watches the workers.

    Raises:
        NoRoomError: There is no room for the workers, and has not been for minutes.
        UnseenError: A worker's machine does not see the storage.
        RaydistillError: The function raised one, or the workers were lost too often.
    """
    loop = {
        "function": function,
        "arguments": dict(arguments),
        "threads": max(1, int(workers.cpus)),
        "storage": storage,
        "probe": probe,
    }
    while True:
        _discard_broken_checkpoints(name, storage)
        try:
            return _launch(trainer, loop, workers, name, storage).fit().return_value
        except ray.train.TrainingFailedError as error:
            if waits and _waited_in_vain(error) and fits(workers, node_resources()):
                log.warning("%s waits: %s, and others have the room", name, shortage(workers, node_resources()))
                continue
            raise _cause(error, workers) from error


def _launch(
    trainer: type[InterruptibleTrainer], loop: dict[str, Any], workers: Workers, name: str, storage: str
) -> InterruptibleTrainer:
    """Return a trainer that is ready to start the workers."""
    return trainer(
        _worker,
        train_loop_config=loop,
        torch_config=TorchConfig(timeout_s=TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_STARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )


def _discard_broken_checkpoints(name: str, storage: str) -> None:
    """Remove the checkpoints of an interrupted run that Ray would refuse to continue, now and on every later try.

    Neither may Ray's list name a folder elsewhere: the oldest that it names are deleted as training goes on.
    """
    place = StorageContext(storage, name, read_only=True)
    try:
        for path in (each.checkpoint.path for each in CheckpointManager(CheckpointConfig(), place)._checkpoint_results):
            if posixpath.dirname(posixpath.normpath(path)) != posixpath.normpath(place.experiment_fs_path):
                raise ValueError(f"{path} is none of them")
    except (CheckpointManagerInitializationError, AssertionError, KeyError, TypeError, ValueError) as error:
        log.warning("the checkpoints of %s cannot be continued: %s; the training begins anew", name, error)
        checkpoints.remove(storage, name)


def teacher_workers(sweep: Sweep) -> Workers:
    """Return the workers that train a teacher, each with as many CPUs as all can have on the nodes that there are."""
    execution, nodes = sweep.execution, node_resources()
    most = int(max((node.get("CPU", 0.0) for node in nodes), default=1.0))
    asked = Workers(execution.workers, 1.0, execution.gpus_per_worker)
    return with_cpus_that_fit(asked, range(most, 0, -1), nodes)


def _worker(config: dict[str, Any]) -> Any:
    if config["probe"] is not None:  # before a checkpoint is read there
        checkpoints.check_seen(config["storage"], config["probe"])
    torch.set_num_threads(config["threads"])
    train_context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()

    def report(row: dict[str, Any], folder: Path | None) -> None:
        saved = (
            Checkpoint.from_directory(str(folder))
            if folder is not None and train_context.get_world_rank() == 0
            else None
        )
        ray.train.report(row, checkpoint=saved)

    with tempfile.TemporaryDirectory() as scratch:
        context = RunContext(
            rank=train_context.get_world_rank(),
            world_size=train_context.get_world_size(),
            device=get_device(),
            report=report,
            resume_from=_newest_whole(checkpoint, Path(scratch) / "resume"),
            checkpoint_folder=Path(scratch) / "checkpoint",
        )
        try:
            return config["function"](config["arguments"], context)
        finally:
            gc.collect()  # a sharded model refers to itself, and this process may have another trial to train
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def _newest_whole(checkpoint: Checkpoint | None, folder: Path) -> Path | None:
    """Return where the newest whole checkpoint was put; None, to begin anew, where there is none.

    Args:
        checkpoint: The last that was reported.
        folder: Where to put it, and those before it as far as they are tried.
    """
    for candidate in _newest_first(checkpoint) if checkpoint is not None else ():
        place = folder / Path(candidate.path).name
        candidate.to_directory(str(place))
        try:
            load_checkpoint(place)
        except CorruptArtifactError as error:
            log.warning("%s; the one before it is tried, without one the training begins anew", error)
        else:
            return place
    return None


def _newest_first(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """Yield a checkpoint and those before it: Ray names them by the time, and tells a worker of the last alone."""
    yield checkpoint
    parent, _, last = checkpoint.path.rpartition("/")
    entries = checkpoint.filesystem.get_file_info(fs.FileSelector(parent))
    names = [entry.base_name for entry in entries if entry.type == fs.FileType.Directory]
    for name in sorted((name for name in names if name < last), reverse=True):
        yield Checkpoint(f"{parent}/{name}", checkpoint.filesystem)


def _waited_in_vain(error: ray.train.TrainingFailedError) -> bool:
    """Return whether the workers could not be started, as often as Ray has tried."""
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _cause(error: ray.train.TrainingFailedError, workers: Workers) -> RaydistillError:
    """Return the error that a worker raised on purpose, or one that says why there are no workers any more."""
    if _waited_in_vain(error):
        nodes = node_resources()
        taken = ", but something else holds them" if fits(workers, nodes) else ""
        return NoRoomError(
            f"no room was found for the training workers in about {MAX_STARTS} minutes: "
            f"{shortage(workers, nodes)}{taken}",
            where="execution.workers, execution.gpus_per_worker, execution.cpus_per_trial",
            mend="bring back the machines that are missing, or run the same command again: it continues, with as many "
            "CPUs for each worker as fit on the machines that there are",
        )
    causes: list[BaseException] = [*getattr(error, "worker_failures", {}).values(), error]
    for cause in causes:
        inner = getattr(cause, "cause", None) or getattr(cause, "__cause__", None) or cause
        for candidate in (cause, inner):
            if isinstance(candidate, RaydistillError):
                return candidate
    return RaydistillError(f"the training workers failed: {causes[0]}")
