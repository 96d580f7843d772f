"""What a trial is to do, and what it is called: plain values, which need no torch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from raydistill.config import Sweep, trial_identity
from raydistill.records import Record

FROM_TEACHER, RANDOM, TEACHER, POPULARITY = "teacher_layers", "random", "teacher", "popularity"

LABELS = ("arm", "kind", "number", "draw", "evidence", "keep_ratio")
"""Fields of a spec that say whose a trial is, and change nothing of what it computes."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that decides what a trial does; plain values, so that it travels between processes.

    Attributes:
        start: What the model starts from: ``teacher_layers``, ``random`` weights, or, in controls that train
            nothing, the ``teacher`` itself or ``popularity``.
        stop_below: Validation metric that the trial must exceed after an epoch, or it is stopped early (its negative
            where less is better).
        Others as in :class:`raydistill.records.Record`.
    """

    phase: str
    arm: str
    kind: str
    number: int
    seed: int
    start: str
    teacher: str | None = None
    teacher_seed: int | None = None
    n_teacher_layers: int | None = None
    n_student_layers: int | None = None
    layer_map: tuple[int, ...] | None = None
    keep_ratio: float | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    draw: int | None = None
    evidence: str | None = None
    evidence_seconds: float = 0.0
    stop_below: dict[int, float] = field(default_factory=dict)

    def identity(self, sweep: Sweep, data_hash: str) -> str:
        """Return the name of the trial: a hash of everything that can change its result, and of whose it is."""
        return self._named(sweep, data_hash, leave_out=("evidence_seconds",))

    def computation(self, sweep: Sweep, data_hash: str) -> str:
        """Return the name of what the trial computes: equal for trials that differ in whose they are alone."""
        return self._named(sweep, data_hash, leave_out=("evidence_seconds", *LABELS))

    def _named(self, sweep: Sweep, data_hash: str, leave_out: tuple[str, ...]) -> str:
        own = {name: value for name, value in asdict(self).items() if name not in leave_out}
        own["stop_below"] = {str(epoch): value for epoch, value in self.stop_below.items()}
        own["layer_map"] = None if self.layer_map is None else list(self.layer_map)
        return trial_identity(sweep, own | {"data": data_hash})

    @property
    def name(self) -> str:
        """Name for people and for the dashboard."""
        parts = [self.phase, self.arm]
        if self.keep_ratio is not None:
            parts.append(f"keep={self.keep_ratio:g}")
        if self.phase == "search":
            parts.append(f"#{self.number}")
        else:
            parts += [f"seed={self.seed}"] if self.start not in (TEACHER, POPULARITY) else []
            parts += [f"draw={self.draw}"] if self.draw is not None else []
        return " ".join(parts)

    def record_fields(self) -> dict[str, Any]:
        """Return the fields that the trial's record has in common with it."""
        names = set(Record.__dataclass_fields__) & set(self.__dataclass_fields__)
        return {name: getattr(self, name) for name in names}


def failed_record(spec: TrialSpec, sweep: Sweep, data_hash: str, error: str, curves: tuple = ()) -> Record:
    """Return the record of a trial whose process could not write one itself."""
    now = time.time()
    return Record(
        id=spec.identity(sweep, data_hash),
        name=spec.name,
        sweep=sweep.name,
        status="failed",
        error=error,
        curves=curves,
        epochs=len(curves),
        started=now,
        finished=now,
        **spec.record_fields(),
    )
