"""The tables that a sweep file may name, and the settings of training that follow from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raydistill.config import Sweep, Tables, quality_metric
from raydistill.config import load_sweep as load_with_tables
from raydistill.data.sources import SOURCES
from raydistill.models.families import FAMILIES
from raydistill.selectors import SELECTORS
from raydistill.training.loop import TrainingSettings
from raydistill.training.tasks import TASKS


def tables() -> Tables:
    """Return the names that a sweep file may use, read off the tables of the floors."""
    return Tables(
        sources={name: source.params for name, source in SOURCES.items()},
        selectors={name: selector.params_type for name, selector in SELECTORS.items()},
        families=tuple(FAMILIES),
        tasks=tuple(TASKS),
        sections={name: task.sections for name, task in TASKS.items() if task.sections is not None},
        metrics={name: task.metrics for name, task in TASKS.items()},
        claims={name: task.claims for name, task in TASKS.items()},
    )


def load_sweep(path: Path | str, overrides: tuple[str, ...] = ()) -> Sweep:
    """Return the sweep of a YAML file, every default filled in.

    Args:
        path: The file.
        overrides: ``KEY=VALUE`` with a dotted key, as after ``--set``.

    Raises:
        ConfigError: With every mistake in the file at once.
    """
    return load_with_tables(path, overrides, tables=tables())


def student_settings(sweep: Sweep, *, seed: int, lr: float | None, weight_decay: float | None) -> TrainingSettings:
    """Return how a student is trained; ``lr`` and ``weight_decay`` may be searched."""
    training = sweep.training
    return TrainingSettings(
        epochs=training.epochs,
        epoch_examples=training.epoch_examples,
        batch_size=training.batch_size,
        lr=training.lr if lr is None else lr,
        weight_decay=training.weight_decay if weight_decay is None else weight_decay,
        warmup=training.warmup,
        schedule=training.schedule,
        clip=training.clip or 0.0,
        groups=training.groups,
        gradient_accumulation=training.gradient_accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        precision=training.precision,
        patience=training.patience,
        metric=quality_metric(sweep),
        seed=seed,
    )


def teacher_settings(sweep: Sweep, seed: int) -> TrainingSettings:
    """Return how a teacher is trained: ``teacher``'s own values, else those of ``training``."""
    teacher, training = sweep.teacher, sweep.training
    own = {
        name: getattr(teacher, name) if getattr(teacher, name) is not None else getattr(training, name)
        for name in ("lr", "batch_size", "weight_decay", "warmup", "schedule")
    }
    shared = student_settings(sweep, seed=seed, lr=None, weight_decay=None)
    return replace(
        shared, **own, epochs=teacher.epochs, epoch_examples=teacher.epoch_examples, patience=teacher.patience
    )
