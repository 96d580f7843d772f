"""Processes are killed; the same command continues, to the same records, none lost and none repeated."""

from __future__ import annotations

import pytest
from sweep_process import SweepProcess, facts, workers

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def test_the_undisturbed_sweep_is_whole(reference):
    assert {content["status"] for content in reference.facts.values()} == {"success"}
    phases = [content["phase"] for content in reference.facts.values()]
    assert (phases.count("search"), phases.count("confirm")) == (4, 6)


def stamps(sweep: SweepProcess) -> dict[str, tuple[bytes, int]]:
    return {path.parent.name: (path.read_bytes(), path.stat().st_mtime_ns) for path, _ in sweep.run.records()}


def assert_continues(reference, sweep: SweepProcess) -> None:
    """Run the same command again: what was finished is untouched, and the end is that of an undisturbed sweep."""
    before = stamps(sweep)
    again = SweepProcess(sweep.run.root, reference.storage)
    again.finish()
    after = stamps(again)
    assert {name: after[name] for name in before} == before
    assert facts(sweep.run.root) == reference.facts


def test_the_driver_is_killed_while_the_teacher_is_trained(reference, tmp_path):
    sweep = SweepProcess(tmp_path / "run", reference.storage)
    sweep.kill_when(lambda: sweep.files("ray/train/teacher-*/checkpoint_*/state.json"))
    assert not sweep.files("teacher/*/history.json")
    assert_continues(reference, sweep)
    assert not sweep.files("ray/train/*")


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_the_driver_is_killed_among_trials(reference, tmp_path, phase):
    without = ("trials", "studies", "report")
    sweep = SweepProcess(reference.copy(tmp_path / "run", without=without), reference.storage)
    sweep.kill_when(lambda: sweep.phases(phase))
    finished = len(list(sweep.run.records()))
    assert 0 < finished < len(reference.facts)
    assert_continues(reference, sweep)


def test_a_trials_process_is_killed_in_mid_training(reference, tmp_path):
    without = ("trials", "studies", "report")
    sweep = SweepProcess(reference.copy(tmp_path / "run", without=without), reference.storage)
    sweep.wait_for(lambda: sweep.phases("search"))
    victims = sweep.wait_for(lambda: workers("ResourceTrainable"))
    victims[0].kill()
    said = sweep.finish()
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
    sweep.wait_for(lambda: sweep.files("ray/train/teacher-*/checkpoint_*/state.json"))
    victims = sweep.wait_for(lambda: workers("RayTrainWorker"))
    victims[0].kill()
    sweep.finish()
    assert facts(sweep.run.root) == reference.facts
