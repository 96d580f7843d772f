"""Processes are killed; the same command continues, to the same records, none lost and none repeated."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from sweep_process import SweepProcess, facts, workers

from raydistill.records import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

LISTENING = ("env", "--default-signal=INT")
"""Whoever starts the tests in the background of a shell has Ctrl+C ignored."""


def test_the_undisturbed_sweep_is_whole(reference):
    assert {content["status"] for content in reference.facts.values()} == {"success"}
    phases = [content["phase"] for content in reference.facts.values()]
    assert (phases.count("search"), phases.count("confirm")) == (4, 6)


def stamps(sweep: SweepProcess) -> dict[str, tuple[bytes, int]]:
    return {path.parent.name: (path.read_bytes(), path.stat().st_mtime_ns) for path, _ in sweep.run.records()}


def test_the_driver_is_killed_in_each_phase(reference, tmp_path):
    """Killed while the teacher is trained, then among the trials of either phase: what was finished is untouched."""
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    rows = sweep.kill_when(sweep.rows_to_continue_from)
    assert not sweep.files("teacher/*/history.json")
    before = {}
    for phase in ("search", "confirm"):
        again = SweepProcess(sweep.run.root, reference.storage)
        again.kill_when(lambda again=again, phase=phase: again.phases(phase))
        assert again.teachers_rows()[: len(rows)] == rows
        found = stamps(again)
        assert {name: found[name] for name in before} == before
        assert len(before) < len(found) < len(reference.facts)
        before = found
    last = SweepProcess(sweep.run.root, reference.storage)
    last.finish()
    after = stamps(last)
    assert {name: after[name] for name in before} == before
    assert facts(sweep.run.root) == reference.facts
    assert not sweep.files("ray/train/*")


def test_ctrl_c_while_the_teacher_is_trained(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage, prefix=LISTENING)
    sweep.wait_for(lambda: sweep.files("ray/train/teacher-*/checkpoint_*/state.json"))
    interrupt(sweep)
    SweepProcess(sweep.run.root, reference.storage).finish()
    assert facts(sweep.run.root) == reference.facts


def test_ctrl_c_among_trials_drops_none_that_are_finished(reference, tmp_path):
    run = reference.copy(tmp_path / "run", without=("studies", "report"))
    for path, record in RunDirectory(run).records():
        if (record.phase, record.arm) == ("search", "random"):
            shutil.rmtree(path.parent)
    sweep = SweepProcess(run, reference.storage, prefix=LISTENING)
    before = stamps(sweep)
    sweep.wait_for(lambda: workers("DistillTrainable search"))
    interrupt(sweep)
    assert {name: stamps(sweep).get(name) for name in before} == before
    assert not sweep.files("superseded/*")
    SweepProcess(run, reference.storage).finish()
    assert facts(run) == reference.facts


def interrupt(sweep: SweepProcess) -> None:
    """Press Ctrl+C, and expect the sweep to say so and to write no report."""
    sweep.process.send_signal(signal.SIGINT)
    said = sweep.finish(code=130)
    assert "the same command continues from here" in said
    assert "writing the report" not in said
    assert "Traceback" not in said


def test_a_trials_process_is_killed_in_mid_training(reference, tmp_path):
    without = ("trials", "studies", "report")
    sweep = SweepProcess(reference.copy(tmp_path / "run", without=without), reference.storage)
    sweep.wait_for(lambda: sweep.phases("search"))
    sweep.hold_a_trial().kill()
    said = sweep.finish()
    assert re.search(r"lost: search .*; it starts again", said)
    assert "failed:" not in said
    assert facts(sweep.run.root) == reference.facts


def test_a_trials_process_is_killed_while_it_starts(reference, tmp_path):
    without = ("trials", "studies", "report")
    sweep = SweepProcess(reference.copy(tmp_path / "run", without=without), reference.storage)
    victims = sweep.wait_for(lambda: workers("ResourceTrainable.__init__"))
    victims[0].kill()
    said = sweep.finish()
    assert "it starts again" in said
    assert "failed:" not in said
    assert facts(sweep.run.root) == reference.facts


def test_the_teachers_worker_is_killed_in_mid_training(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    rows = sweep.wait_for(sweep.rows_to_continue_from)
    victims = sweep.wait_for(lambda: workers("RayTrainWorker"))
    victims[0].kill()
    sweep.finish()
    assert sweep.teachers_rows()[: len(rows)] == rows
    assert facts(sweep.run.root) == reference.facts


def test_a_worker_of_a_trial_of_several_is_killed_in_mid_training(reference, tmp_path):
    """All trials but the first run in the workers of the one before; one of those is killed."""
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(run, reference.storage, "execution.workers=2")
    (done,) = sweep.wait_for(lambda: sweep.phases("search"))
    first = set(workers("RayTrainWorker"))

    def second() -> list[Path]:
        files = sweep.files("ray/train/trial-*/checkpoint_*/state.json")
        return [file for file in files if done.id not in str(file)]

    sweep.wait_for(second)
    victim = workers("RayTrainWorker search")[0]
    assert victim in first
    name = victim.cmdline()[0].removeprefix("ray::RayTrainWorker ").strip()
    assert name != done.name
    victim.kill()
    assert "failed:" not in sweep.finish()
    found = facts(run)
    assert found.keys() == reference.facts.keys()
    # In new workers, and with nothing killed, both the same trial and one of a kept group come out bit for bit.
    last = max(name for name in found if name.startswith("confirm uniform"))
    for path, record in RunDirectory(run).records():
        if record.name in (name, last):
            shutil.rmtree(path.parent)
    SweepProcess(run, reference.storage, "execution.workers=2").finish()
    assert facts(run) == found
