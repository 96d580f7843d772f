"""Files are damaged: it is noticed, said, and mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sweep_process import SweepProcess, facts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Leave half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def test_damaged_records_and_ranks_are_named_and_their_trials_run_again(reference, tmp_path):
    run = reference.copy(tmp_path / "run")
    records, ranks = sorted(run.glob("trials/*/record.json")), sorted(run.glob("trials/*/ranks.parquet"))
    confirmed = {path.parent for path in ranks}
    searched = [path for path in records if path.parent not in confirmed]
    cut(searched[0])
    flip(searched[1])
    flip(ranks[0])
    ranks[1].unlink()
    said = SweepProcess(run, reference.storage).finish()
    assert said.count("the trial runs again") == 4
    assert facts(run) == reference.facts


def test_a_damaged_teacher_cache_or_evidence_is_made_again(reference, tmp_path):
    run = reference.copy(tmp_path / "run")
    flip(next(run.glob("teacher/*/*.safetensors")))
    cut(next(run.glob("cache/*/hidden.npy")))
    cut(next(run.glob("evidence/*/evidence.json")))
    before = {path.name: path.stat().st_mtime_ns for path in run.glob("trials/*")}
    SweepProcess(run, reference.storage).finish()
    assert facts(run) == reference.facts
    # The same bits came out again, so the trials that stand on them still stand.
    assert {path.name: path.stat().st_mtime_ns for path in run.glob("trials/*")} == before


def test_damaged_checkpoints_are_passed_over(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    sweep.kill_when(lambda: len(sweep.files("ray/train/teacher-*/checkpoint_*/state.json")) >= 2)
    *older, newest = sweep.files("ray/train/teacher-*/checkpoint_*/state.safetensors")
    flip(newest)
    for checkpoint in older:
        cut(checkpoint)
    SweepProcess(sweep.run.root, reference.storage).finish()
    assert facts(sweep.run.root) == reference.facts


def test_a_damaged_checkpoint_gives_way_to_the_one_before(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    rows = sweep.kill_when(lambda: rows if len(rows := sweep.rows_to_continue_from()) >= 3 else None)
    newest = sweep.files("ray/train/teacher-*/checkpoint_*/state.safetensors")[-1]
    flip(newest)
    again = SweepProcess(sweep.run.root, reference.storage)
    again.finish()
    assert again.teachers_rows()[: len(rows) - 1] == rows[:-1]
    assert facts(sweep.run.root) == reference.facts


def test_a_damaged_list_of_checkpoints_is_said_and_the_training_begins_anew(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    sweep.kill_when(lambda: len(sweep.files("ray/train/teacher-*/checkpoint_*/state.json")) >= 2)
    (snapshot,) = sweep.files("ray/train/teacher-*/checkpoint_manager_snapshot.json")
    cut(snapshot)
    said = SweepProcess(sweep.run.root, reference.storage).finish()
    assert "the training begins anew" in said
    assert "Traceback" not in said
    assert facts(sweep.run.root) == reference.facts
