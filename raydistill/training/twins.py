"""Trials that are the same computation: what one has found is what the other would.

Selectors often choose the same layers. With the same seed and configuration two arms then ask for the same bits, and
the second takes the first one's record under its own name; ``same_as`` in the record says so.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from raydistill.errors import CorruptArtifactError
from raydistill.records import MODEL, Record, RunDirectory, atomic_write, read_record

FINISHED = ("success", "stopped")


def find_twin(run: RunDirectory, computation: str) -> Record | None:
    """Return the record of a finished trial that did the same computation, or None where there is none.

    Args:
        run: The run directory.
        computation: Name of the computation.
    """
    try:
        record = read_record(run.record_file(_place(run, computation).read_text().strip()))
    except (OSError, UnicodeDecodeError, CorruptArtifactError):
        return None
    return record if record.status in FINISHED else None


def note_computation(run: RunDirectory, computation: str, record: Record) -> None:
    """Write down which trial did a computation; one that failed is not noted."""
    if record.status in FINISHED:
        with atomic_write(_place(run, computation)) as temporary:
            temporary.write_text(record.id + "\n")


def copy_files(run: RunDirectory, twin: Record, folder: Path) -> None:
    """Copy what a twin has beside its record: ranks or scores, and the model where it was kept."""
    scores = run.scores_file(twin)
    if scores is not None:
        with atomic_write(folder / scores.name) as temporary:
            shutil.copyfile(scores, temporary)
    model = run.trial(twin.id) / MODEL
    if model.is_dir():
        shutil.copytree(model, folder / MODEL, dirs_exist_ok=True)


def as_own(twin: Record, **labels: object) -> Record:
    """Return a twin's record under another trial's labels: its results and what they cost are the same."""
    return dataclasses.replace(twin, same_as=twin.same_as or twin.id, **labels)


def _place(run: RunDirectory, computation: str) -> Path:
    return run.root / "computations" / computation
