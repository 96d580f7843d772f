"""Ray Train: run a training function on one worker or many, with checkpoints and recovery."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from raydistill.config import Sweep
from raydistill.errors import RaydistillError
from raydistill.training.context import RunContext

MAX_FAILURES = 2
"""Times that lost workers are replaced before a run is given up."""


def run_sharded(
    function: Callable[[Mapping[str, Any], RunContext], Any],
    arguments: Mapping[str, Any],
    sweep: Sweep,
    *,
    name: str,
    storage: Path,
) -> Any:
    """Return what ``function(arguments, context)`` returns on the first of the sweep's workers.

    A worker that is lost is replaced, and the function is called again with the last checkpoint as
    ``context.resume_from``.

    Args:
        function: Called once in every worker; importable, and free of Ray.
        arguments: Plain values.
        sweep: Says how many workers, and with how many GPUs each.
        name: Of the run; the same name and storage continue an interrupted run.
        storage: Where checkpoints go; shared by all nodes.

    Raises:
        RaydistillError: The function raised one, or the workers were lost too often.
    """
    execution = sweep.execution
    use_gpu = execution.gpus_per_worker > 0
    cpus = cpus_per_worker(execution.workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"function": function, "arguments": dict(arguments), "cpus": cpus},
        scaling_config=ScalingConfig(
            num_workers=execution.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": execution.gpus_per_worker} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    return result.return_value


def cpus_per_worker(workers: int) -> int:
    """Return how many CPUs each worker may take so that all fit on the nodes that there are."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    largest = int(max(nodes, default=1))
    workers_on_a_node = -(-workers // max(1, len(nodes)))
    return max(1, largest // workers_on_a_node)


def _worker(config: dict[str, Any]) -> Any:
    torch.set_num_threads(config["cpus"])
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
        resume_from = None
        if checkpoint is not None:
            resume_from = Path(checkpoint.to_directory(str(Path(scratch) / "resume")))
        context = RunContext(
            rank=train_context.get_world_rank(),
            world_size=train_context.get_world_size(),
            device=get_device(),
            report=report,
            resume_from=resume_from,
            checkpoint_folder=Path(scratch) / "checkpoint",
        )
        return config["function"](config["arguments"], context)


def _cause(error: ray.train.TrainingFailedError) -> RaydistillError:
    """Return the error that a worker raised on purpose, or one that says why the workers were lost."""
    causes: list[BaseException] = [*getattr(error, "worker_failures", {}).values(), error]
    for cause in causes:
        inner = getattr(cause, "cause", None) or getattr(cause, "__cause__", None) or cause
        for candidate in (cause, inner):
            if isinstance(candidate, RaydistillError):
                return candidate
    return RaydistillError(f"the training workers failed: {causes[0]}")
