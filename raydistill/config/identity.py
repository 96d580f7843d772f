"""Names of artifacts: hashes of everything that can change their content, and of nothing else.

``execution`` is in none of them. The content of the data enters through the hash of the prepared data,
a teacher through its own identity, so a change upstream moves everything below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydistill.config.expand import quality_metric, wants_hidden
from raydistill.config.load import plain_sweep
from raydistill.config.schema import Sweep
from raydistill.records import content_hash

ARTIFACT_VERSION = 1
"""Raised whenever the same sweep would give other artifacts; old ones are then not used any more."""

_NOT_DATA = ("max_length",)
_SCHEDULE = ("epochs", "epoch_examples", "patience", "batch_size", "lr", "weight_decay", "warmup", "schedule")


def artifact_identity(kind: str, content: Mapping[str, Any]) -> str:
    """Return the name of an artifact, 16 hex digits.

    Args:
        kind: What it is, such as ``teacher``: two kinds never share a name.
        content: Everything that can change it, as JSON holds it.
    """
    return content_hash({"kind": kind, "version": ARTIFACT_VERSION, "content": dict(content)})


def sweep_identity(sweep: Sweep) -> str:
    """Return the name of a sweep: everything but ``execution``, and which of the objectives is the first."""
    content = {key: value for key, value in plain_sweep(sweep).items() if key != "execution"}
    return artifact_identity("sweep", content | {"metric": quality_metric(sweep)})


def data_identity(sweep: Sweep) -> str:
    """Return the name of the prepared data: source, its parameters, split and rules."""
    data = plain_sweep(sweep)["data"]
    return artifact_identity("data", {key: value for key, value in data.items() if key not in _NOT_DATA})


def teacher_identity(sweep: Sweep, data_hash: str, seed: int) -> str:
    """Return the name of one teacher.

    Args:
        sweep: The sweep.
        data_hash: Hash of the prepared data's content.
        seed: Seed that this teacher is trained from; ``teacher.seed`` is that of the first one only.
    """
    plain = plain_sweep(sweep)
    content = _shared(sweep, plain) | {
        "data_hash": data_hash,
        "seed": seed,
        "teacher": {key: value for key, value in plain["teacher"].items() if key != "seed"},
        # The teacher has epochs, learning rate and the like of its own.
        "training": {key: value for key, value in plain["training"].items() if key not in _SCHEDULE},
    }
    return artifact_identity("teacher", content)


def evidence_identity(sweep: Sweep, teacher: str) -> str:
    """Return the name of the evidence on one teacher: how it is measured, for which selectors and depths.

    Args:
        sweep: The sweep.
        teacher: Identity of the teacher.
    """
    plain = plain_sweep(sweep)
    content = {
        "teacher": teacher,
        "evidence": plain["evidence"],
        "selectors": plain["selectors"],
        "keep_ratio": plain["search"]["space"]["keep_ratio"],
    }
    return artifact_identity("evidence", content)


def cache_identity(sweep: Sweep, teacher: str) -> str:
    """Return the name of the cached outputs of one teacher.

    Args:
        sweep: The sweep; beside what is in the teacher's identity already, whether hidden states are distilled matters.
        teacher: Identity of the teacher.
    """
    return artifact_identity("cache", {"teacher": teacher, "task": sweep.task, "hidden": wants_hidden(sweep)})


def trial_identity(sweep: Sweep, content: Mapping[str, Any]) -> str:
    """Return the name of one trial.

    Args:
        sweep: Gives how students are trained, and the fixed values of the loss. Budgets are left out, so a
            longer search keeps the trials that it has.
        content: What this trial is: phase, data hash, teacher, arm with its parameters, configuration,
            layer map, seed, draw, and whatever else is its own, as JSON holds it.
    """
    plain = plain_sweep(sweep)
    shared = _shared(sweep, plain) | {"training": plain["training"], "distillation": plain["distillation"]}
    return artifact_identity("trial", shared | {"trial": dict(content)})


def _shared(sweep: Sweep, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the examples that a model sees, beside the data, and which of its epochs is kept."""
    own = {key: value for key, value in plain.items() if key not in type(sweep).model_fields}
    return {
        "task": sweep.task,
        "sections": own,
        "max_length": sweep.data.max_length,
        "metric": quality_metric(sweep),
    }
