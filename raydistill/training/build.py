"""From configuration to objects: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from raydistill.config import COSTS, Sweep, Tables, data_identity, quality_metric
from raydistill.config import load_sweep as load_with_tables
from raydistill.data.preparation import prepare
from raydistill.data.sources import SOURCES
from raydistill.data.splits import SequenceData
from raydistill.errors import ModelError
from raydistill.metrics import REPORTED, mean_metrics
from raydistill.models.families import FAMILIES
from raydistill.models.recommender import Recommender, build_recommender, recommender_from_pretrained
from raydistill.selectors import SELECTORS
from raydistill.training.dataset import DistillationDataset
from raydistill.training.loop import TrainingSettings
from raydistill.training.teacher_cache import TeacherCache

TASKS = ("next_item",)


def tables() -> Tables:
    """Return the names that a sweep file may use, read off the tables of the floors."""
    return Tables(
        sources={name: source.params for name, source in SOURCES.items()},
        selectors={name: selector.params_type for name, selector in SELECTORS.items()},
        families=tuple(FAMILIES),
        tasks=TASKS,
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


def prepared_data(sweep: Sweep, cache: Path) -> SequenceData:
    """Return the sweep's data, split and memory-mapped; prepared on the first call.

    Args:
        sweep: The sweep.
        cache: Folder for raw and prepared data, shared by all sweeps of one storage place.

    Raises:
        DataError: A file is missing, malformed, or has too little in it.
    """
    settings = sweep.data
    raw = SOURCES[settings.source].load(settings.params, cache / "raw")
    return prepare(
        raw,
        split=settings.split,
        min_interactions=settings.min_interactions,
        folder=cache / "prepared" / data_identity(sweep),
        duplicates=settings.duplicates,
        min_rating=settings.min_rating,
        time_cuts=settings.time_cuts,
    )


def untrained(sweep: Sweep, data: SequenceData, *, seed: int, layers: int | None = None) -> Recommender:
    """Return a model of the teacher's shape with fresh weights, or the pretrained one to be fine-tuned.

    Args:
        sweep: The sweep.
        data: Says how many items there are.
        seed: Seed of the initialization.
        layers: Depth; the teacher's own where None.

    Raises:
        ModelError: The checkpoint cannot be used.
    """
    teacher = sweep.teacher
    if teacher.pretrained is not None:
        model = recommender_from_pretrained(
            teacher.pretrained,
            n_items=data.n_items,
            max_length=sweep.data.max_length,
            seed=seed,
            dropout=teacher.dropout,
        )
        return model if layers is None else _without_weights(model, layers, seed)
    return build_recommender(
        teacher.family,
        n_items=data.n_items,
        layers=layers or teacher.layers,
        hidden=teacher.hidden,
        heads=teacher.heads,
        intermediate=teacher.intermediate,
        dropout=0.1 if teacher.dropout is None else teacher.dropout,
        max_length=sweep.data.max_length,
        seed=seed,
        **({} if teacher.initializer_range is None else {"initializer_range": teacher.initializer_range}),
    )


def _without_weights(model: Recommender, layers: int, seed: int) -> Recommender:
    """Return a model of a checkpoint's shape and some depth, as if it had never been pretrained."""
    if layers > model.n_layers:
        raise ModelError(f"a control of {layers} layers is deeper than the teacher's {model.n_layers}")
    return model.keep_layers(list(range(layers))).reinitialized(seed)


def examples_settings(sweep: Sweep, seed: int) -> dict[str, float | int]:
    """Return what decides the training examples beside the data and the model's direction."""
    return {
        "mask_probability": sweep.training.mask_probability,
        "mask_patterns": sweep.training.mask_patterns,
        "seed": seed,
    }


def dataset(
    sweep: Sweep, data: SequenceData, *, causal: bool, teacher_seed: int, cache: TeacherCache | None = None
) -> DistillationDataset:
    """Return the training examples; a teacher and its students see the same ones."""
    return DistillationDataset(
        data,
        max_length=sweep.data.max_length,
        causal=causal,
        cache=cache,
        **examples_settings(sweep, teacher_seed),
    )


def metrics(sweep: Sweep, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the means over users of what every record reports and of what the sweep asks for.

    Args:
        sweep: Names objectives and the metric of its claims.
        columns: Ranks and candidates, as :func:`raydistill.training.evaluation.rank_users` gives them.
    """
    asked = [name for name in (*sweep.search.objectives, sweep.analysis.metric) if name not in COSTS]
    return mean_metrics(columns["rank"], list(dict.fromkeys((*REPORTED, *asked))), columns["candidates"])


def student_settings(sweep: Sweep, *, seed: int, lr: float | None, weight_decay: float | None) -> TrainingSettings:
    """Return how a student is trained; ``lr`` and ``weight_decay`` may be searched."""
    training = sweep.training
    return TrainingSettings(
        epochs=training.epochs,
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
    return replace(shared, **own, epochs=teacher.epochs, patience=teacher.patience)
