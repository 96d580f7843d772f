"""What a sweep cost beside the training of its students, from the records of a run directory."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import row
from raydistill.errors import CorruptArtifactError
from raydistill.records import Record, RunDirectory


def run(folder: Path | None) -> list[dict[str, Any]]:
    """Return the overhead of the trials of one run, in wall seconds as the records have them.

    A process runs its trials one behind the other, so the trials of a run that was never interrupted are put back onto
    their processes by time: how many were at work is the most that overlapped. Search and confirm are taken together,
    since the first arms are confirmed while the last ones are searched. A trial that took over the results of the same
    computation under another name trained nothing: its record repeats costs that are counted once.
    """
    area = "search"
    if folder is None:
        return [row(area, "overhead", None, note="skipped: needs --run RUN_DIRECTORY")]
    found = [record for _, record in RunDirectory(folder).records() if not isinstance(record, CorruptArtifactError)]
    trials = [record for record in found if record.status != "failed"]
    if not trials:
        return [row(area, "overhead", None, note=f"skipped: no trial in {folder}")]
    span = max(trial.finished for trial in trials) - min(trial.started for trial in trials)
    at_once = _most_at_once(trials)
    own = [trial.cost for trial in trials if trial.same_as is None]
    training = sum(cost["training_seconds"] for cost in own) / at_once
    evaluation = sum(cost["evaluation_seconds"] for cost in own) / at_once
    overhead = [cost["overhead_seconds"] for cost in own]
    idle = (span - training - evaluation) * at_once / len(own)
    note = f"{len(trials)} trials, {len(trials) - len(own)} of them taken over, {at_once} at once"
    return [
        row(area, "bare training / processes", training, training, note=note),
        row(area, "and evaluation", training + evaluation, training, note=note),
        row(area, "all trials, first start to last end", span, training, note=note),
        row(area, "the same against training and evaluation", span, training + evaluation, note=note),
        row(area, "overhead inside a trial, median", statistics.median(overhead), note=note),
        row(area, "all that is not training or evaluation, a trial that trained", idle, note=note),
    ]


def _most_at_once(trials: list[Record]) -> int:
    """Return the most trials that ran at one moment."""
    moments = sorted([(trial.started, 1) for trial in trials] + [(trial.finished, -1) for trial in trials])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most
