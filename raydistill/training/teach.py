"""A teacher, trained and stored whole, with its history and the baseline that it must beat."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from raydistill.config import teacher_identity
from raydistill.errors import CorruptArtifactError
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import PeakMemory
from raydistill.records import gain, sha256_file, write_json
from raydistill.seeding import stream_seed
from raydistill.training import build
from raydistill.training.context import RunContext
from raydistill.training.loop import DistillationTrainer
from raydistill.training.resources import Resources

HISTORY = "history.json"

log = logging.getLogger(__name__)


def teach(resources: Resources, seed: int, context: RunContext) -> str:
    """Return the identity of the teacher of a seed, trained unless the run directory holds it already.

    Args:
        resources: The sweep and its data.
        seed: Of initialization, data order and dropout.
        context: Where this runs.

    Raises:
        TrialDivergedError: The loss is no longer finite.
        ModelError: The checkpoint to start from cannot be used.
    """
    sweep, data, task = resources.sweep, resources.data, resources.task
    identity = teacher_identity(sweep, data.hash, seed)
    folder = resources.run.teacher(identity)
    if is_whole(folder):
        return identity
    model = task.untrained(sweep, data, seed=stream_seed(seed, "initialization") % 2**31)
    model = task.adapted(sweep, model, is_teacher=True, seed=stream_seed(seed, "adapters") % 2**31)
    dataset = task.dataset(sweep, data, causal=model.causal, teacher_seed=seed)

    def validate(candidate: nn.Module) -> dict[str, float]:
        wanted = task.metrics_wanted(sweep)
        return task.metrics_of(sweep, task.evaluate(candidate, data, "validation", context=context, only=wanted))

    with PeakMemory() as memory:
        trainer = DistillationTrainer(
            model, dataset, TASK_ONLY, build.teacher_settings(sweep, seed), evaluate=validate, context=context
        )
        result = trainer.fit()
    model = task.merged(model)
    popularity = task.metrics_of(sweep, task.evaluate_popularity(data, "validation"))
    # A checkpoint that is taken as it is has no epoch of its own to be judged by.
    validation = result.validation or validate(model)
    history = {
        "seed": seed,
        "layers": model.n_layers,
        "curves": result.curves,
        "best_epoch": result.best_epoch,
        "validation": validation,
        "popularity": popularity,
        "training_seconds": result.training_seconds,
        "evaluation_seconds": result.evaluation_seconds,
        "peak_memory_bytes": memory.bytes,
    }
    if context.is_first:
        _store(lambda place: task.store_teacher(sweep, model, place), folder, history)
    context.barrier()
    return identity


def read_history(folder: Path) -> dict[str, Any]:
    """Return what is known of a stored teacher's training."""
    return json.loads((folder / HISTORY).read_text())


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds a teacher whose weights are those that its history names."""
    try:
        files = read_history(folder)["files"]
        return all(sha256_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def describe_teacher(identity: str, history: dict[str, Any], metric: str) -> str:
    """Return one line on how good a teacher is."""
    return (
        f"teacher {identity}: validation {metric} {history['validation'][metric]:.4f} after epoch "
        f"{history['best_epoch']}, popularity {history['popularity'][metric]:.4f}"
    )


def warn_if_weak(history: dict[str, Any], metric: str) -> str | None:
    """Return a warning where the teacher does not beat popularity, else None."""
    teacher, popularity = history["validation"][metric], history["popularity"][metric]
    if gain(metric, teacher) > gain(metric, popularity):
        return None
    return (
        f"THE TEACHER DOES NOT BEAT POPULARITY: validation {metric} {teacher:.4f} against {popularity:.4f}. "
        "Whatever its students keep of it is worth little; train it longer, or look at the data."
    )


def _store(save: Callable[[Path], None], folder: Path, history: dict[str, Any]) -> None:
    """Write the teacher beside its place, then move it there: the folder is whole or absent."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    save(partial)
    files = {path.name: sha256_file(path) for path in sorted(partial.iterdir())}
    write_json(partial / HISTORY, history | {"files": files})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if not is_whole(folder):
        raise CorruptArtifactError("the stored teacher does not match what was written", where=str(folder))
