"""The record of one trial: what was run, what came out, what it cost."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydistill.errors import CorruptArtifactError
from raydistill.records.files import content_hash, write_json

SCHEMA_VERSION = 1

PHASES = ("search", "confirm")
STATUSES = ("success", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that is known of one finished trial.

    Attributes:
        id: Identity, 16 hex digits: a hash of all that can change the result.
        name: Name for people, such as ``confirm fisher keep=0.25 seed=1``.
        phase: ``search`` (saw validation data only) or ``confirm`` (touched the test set once).
        arm: What the sweep compares: a selector or a control.
        kind: ``selector`` or ``control``.
        number: Running number inside the arm and phase.
        status: ``success``, ``stopped`` (early, by comparison) or ``failed``.
        error: Why it failed, else None.
        teacher: Identity of the teacher, and ``teacher_seed``, the seed that it was trained from.
        n_teacher_layers, n_student_layers: Depths; None for ``popularity``.
        layer_map: Teacher layers that the student was built from, ascending, 0-based; None where there are none.
        keep_ratio: As searched; None for ``teacher`` and ``popularity``.
        configuration: ``temperature``, ``alpha_dist``, ``alpha_task``, ``alpha_hidden``, ``lr``
            and whatever else was searched; a value that has no meaning for the arm is None.
        seed: Seed of data order, initialization and dropout.
        draw: Which draw of layers, for ``random``; else None.
        evidence: Identity of the evidence that the layers were chosen on, or None.
        epochs: Epochs that were really trained.
        validation: Metrics on the validation targets, at the best epoch.
        test: The same on the test targets; None in search.
        cost: ``parameters``, ``backbone_parameters`` (without the embedding tables), ``flops`` (one user or prompt,
            full length, forward), ``training_seconds``, ``evaluation_seconds``, ``overhead_seconds``,
            ``evidence_seconds``, ``peak_memory_bytes`` and, in confirm, ``latency_ms`` as
            ``{"1": {"p50": .., "p95": ..}, "32": {..}}``; a value that was not measured is absent.
        curves: One entry an epoch: ``epoch`` (1-based), ``loss``, its parts, ``ndcg@10``, ``seconds``.
        ranks_sha256: SHA-256 of ``ranks.parquet`` beside the record, where there is one.
        same_as: Identity of the trial that did this very computation under another arm's name; its results and
            costs stand here. None where the trial did it itself.
        started, finished: Seconds since the Unix epoch.
    """

    id: str
    name: str
    sweep: str
    phase: str
    arm: str
    kind: str
    number: int
    status: str
    seed: int
    error: str | None = None
    teacher: str | None = None
    teacher_seed: int | None = None
    n_teacher_layers: int | None = None
    n_student_layers: int | None = None
    layer_map: tuple[int, ...] | None = None
    keep_ratio: float | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    draw: int | None = None
    evidence: str | None = None
    epochs: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    curves: tuple[dict[str, Any], ...] = ()
    ranks_sha256: str | None = None
    same_as: str | None = None
    started: float = 0.0
    finished: float = 0.0
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.phase not in PHASES or self.status not in STATUSES:
            raise ValueError(f"record {self.id}: phase {self.phase!r} or status {self.status!r} is unknown")


def write_record(path: Path, record: Record) -> None:
    """Write a record with a hash of its own content; the last file that a trial writes."""
    content = json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))
    write_json(path, {**content, "sha256": content_hash(content, digits=64)})


def read_record(path: Path) -> Record:
    """Return the record stored at ``path``.

    Raises:
        CorruptArtifactError: It is not whole, was edited by hand, or is of another schema version.
    """
    try:
        content = json.loads(Path(path).read_text())
        stored = content.pop("sha256")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise CorruptArtifactError(f"the record cannot be read: {error!r}", where=str(path)) from error
    if content.get("schema") != SCHEMA_VERSION:
        raise CorruptArtifactError(
            f"the record has schema version {content.get('schema')!r}, this raydistill reads {SCHEMA_VERSION}",
            where=str(path),
            mend="read it with the raydistill that wrote it (signature.json names the version)",
        )
    if content_hash(content, digits=64) != stored:
        raise CorruptArtifactError(
            "the record does not match its own hash: it was changed after it was written",
            where=str(path),
            mend="delete the folder of this trial; running the sweep again makes the record anew",
        )
    content["curves"] = tuple(content["curves"])
    content["layer_map"] = None if content["layer_map"] is None else tuple(content["layer_map"])
    return Record(**content)
