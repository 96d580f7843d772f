"""Workers that stay from trial to trial: on the shelf alone, and as real processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupState

from raydistill.errors import RaydistillError
from raydistill.training.context import RunContext
from raydistill.tuning import kept_workers
from raydistill.tuning.capacity import Workers
from raydistill.tuning.kept_workers import Kept, LastingCleaner, LastingWorkerGroup, Shelf
from raydistill.tuning.sharded import run_sharded
from raydistill.tuning.sharded_trial import TrainerInActor

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # Ray's own files


class Standing:
    """Stands for kept workers: notes when it is ended."""

    def __init__(self, asked: tuple[Any, ...] = (2,), alive: bool = True):
        self.asked, self.alive, self.ended = asked, alive, 0

    def answer(self) -> bool:
        return self.alive

    def end(self) -> None:
        self.ended += 1


def test_workers_are_taken_once():
    shelf, kept = Shelf(), Standing()
    shelf.put(kept)
    assert shelf.take((2,)) is kept
    assert shelf.take((2,)) is None
    assert not kept.ended


@pytest.mark.parametrize("kept", [Standing(asked=(3,)), Standing(alive=False)])
def test_workers_that_are_not_what_is_asked_for_are_ended(kept):
    shelf = Shelf()
    shelf.put(kept)
    assert shelf.take((2,)) is None
    assert kept.ended == 1


def test_workers_that_no_trial_takes_give_their_room_back():
    shelf, kept = Shelf(idle=0.01), Standing()
    shelf.put(kept)
    shelf._timer.join()
    assert kept.ended == 1
    assert shelf.take((2,)) is None


def test_the_time_of_taken_workers_does_not_run():
    shelf, first, second = Shelf(idle=3600), Standing(), Standing()
    shelf.put(first)
    timer = shelf._timer
    shelf.take((2,))
    timer.join()  # at once: it was cancelled
    shelf.put(first)
    shelf.put(second)
    assert (first.ended, second.ended) == (1, 0)
    shelf.clear()
    assert second.ended == 1


@pytest.fixture
def group(monkeypatch):
    """A group whose two workers have ended their run well, and what has been ended of it."""
    ended = []
    group = object.__new__(LastingWorkerGroup)
    group._worker_group_state = WorkerGroupState(0.0, "room", ["one", "two"], "barrier")
    group._latest_poll_status = SimpleNamespace(finished=True, errors={}, get_preemption_info=lambda: None)
    group.ended = ended
    monkeypatch.setattr(group, "_asked", lambda: (2,), raising=False)
    monkeypatch.setattr(group, "_clear_state", lambda: setattr(group, "_worker_group_state", None), raising=False)
    monkeypatch.setattr(WorkerGroupState, "shutdown", lambda state: ended.append("the group"))
    monkeypatch.setattr(Kept, "end", lambda kept: ended.append(kept.workers))
    monkeypatch.setattr(LastingWorkerGroup, "shelf", Shelf(idle=3600))
    monkeypatch.setattr(kept_workers, "_is_guarded", lambda: True)
    return group


def test_workers_that_have_ended_well_are_kept_with_their_room(group, monkeypatch):
    said = []
    monkeypatch.setattr(ray, "kill", said.append)
    monkeypatch.setattr(WorkerGroup, "shutdown", lambda group: group._worker_group_state.shutdown())
    group.shutdown()
    assert (said, group.ended) == (["barrier"], [])
    assert vars(group.shelf._pop()) == {"workers": ["one", "two"], "room": "room", "asked": (2,)}


@pytest.mark.parametrize(
    "status",
    [None, {"finished": False}, {"errors": {0: "lost"}}, {"get_preemption_info": lambda: "this node is taken away"}],
)
def test_workers_that_have_not_are_ended(group, monkeypatch, status):
    monkeypatch.setattr(WorkerGroup, "shutdown", lambda group: group._worker_group_state.shutdown())
    group._latest_poll_status = SimpleNamespace(**vars(group._latest_poll_status) | status) if status else None
    group.shutdown()
    assert group.ended == ["the group"]
    assert group.shelf._pop() is None


def test_a_group_whose_end_fails_leaves_no_workers_behind(group, monkeypatch):
    def fail(group: WorkerGroup) -> None:
        raise RuntimeError("no goodbye")

    monkeypatch.setattr(WorkerGroup, "shutdown", fail)
    with pytest.raises(RuntimeError, match="no goodbye"):
        group.shutdown()
    assert group.ended == [["one", "two"]]


@pytest.mark.parametrize("known", [True, False])
def test_a_start_that_fails_late_leaves_no_workers_behind(group, monkeypatch, known):
    state, group._worker_group_state = group._worker_group_state, None

    def fail(group: WorkerGroup) -> None:
        group._worker_group_state = state if known else None
        raise RuntimeError("lost while they joined")

    monkeypatch.setattr(WorkerGroup, "_start", fail)
    with pytest.raises(RuntimeError, match="while they joined"):
        group._start()
    assert group.ended == ["the group"] * known
    assert not group.has_started()


@pytest.mark.parametrize(("nodes", "grows", "watched"), [(1, False, False), (2, False, True), (1, True, True)])
def test_machines_that_may_be_taken_away_alone_are_watched(monkeypatch, nodes, grows, watched):
    def begin(controller: TrainController) -> None:
        controller._worker_group_callbacks_to_propagate = ["another", PreemptionCallback()]

    monkeypatch.setattr(TrainController, "__init__", begin)
    monkeypatch.setattr(kept_workers, "alive_nodes", lambda: [{}] * nodes)
    monkeypatch.setattr(kept_workers, "can_grow", lambda: grows)
    first, *others = kept_workers.LastingController()._worker_group_callbacks_to_propagate
    assert first == "another"
    assert [type(each) for each in others] == [PreemptionCallback] * watched


def sum_of_ranks(arguments: dict[str, Any], context: RunContext) -> dict[str, int]:
    """Return the sum of 1 + rank over the workers, as they have added it up together, and who they are."""
    if arguments.get("fail"):
        raise RaydistillError("on purpose")
    numbers = torch.zeros(context.world_size, 2, dtype=torch.int64)
    numbers[context.rank] = torch.tensor([1 + context.rank, os.getpid()])
    torch.distributed.all_reduce(numbers)
    return {"sum": int(numbers[:, 0].sum()), "pids": sorted(numbers[:, 1].tolist())}


@ray.remote(num_cpus=0.1)
class Actor:
    """Stands for Tune's reused actor."""

    def __init__(self, folder: Path):
        self.run = partial(
            run_sharded,
            sum_of_ranks,
            workers=Workers(2, 0.5, 0.0),
            storage=str(folder / "train"),
            waits=True,
            trainer=TrainerInActor,
        )

    def trial(self, number: int, **arguments: Any) -> dict[str, Any]:
        try:
            return self.run(arguments, name=f"trial-{number}")
        except RaydistillError as error:
            return {"error": str(error)}

    def cleaner(self) -> str:
        return LastingCleaner._kept._actor_id.hex()

    def kill_cleaner(self) -> None:
        ray.kill(LastingCleaner._kept)

    def let_go(self) -> None:
        LastingWorkerGroup.shelf.clear()


def until(condition: Callable[[], bool]) -> None:
    """Wait until this is so; the test's own time is the limit."""
    while not condition():
        time.sleep(0.2)


@contextmanager
def local_ray(dashboard: bool) -> Iterator[None]:
    """Start a Ray of two CPUs whose processes find this file."""
    found = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    options = {"log_to_driver": False, "object_store_memory": 100 << 20, "runtime_env": found}
    ray.init("local", num_cpus=2, include_dashboard=dashboard, **options)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_no_room_is_kept_where_nobody_could_tell_that_the_actor_has_ended(tmp_path):
    with local_ray(dashboard=False):
        actor = Actor.remote(tmp_path)
        assert ray.get(actor.trial.remote(1))["sum"] == 3
        until(lambda: ray.available_resources()["CPU"] > 1.8)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_real_workers_stay_and_lost_ones_are_replaced(tmp_path):
    with local_ray(dashboard=True):
        actor = Actor.remote(tmp_path)

        def trial(number: int, **arguments: Any) -> dict[str, Any]:
            return ray.get(actor.trial.remote(number, **arguments))

        first, guard = trial(1), ray.get(actor.cleaner.remote())
        assert first["sum"] == 3
        assert trial(2) == first
        assert ray.get(actor.cleaner.remote()) == guard
        ray.get(actor.kill_cleaner.remote())
        assert trial(3) == first
        assert ray.get(actor.cleaner.remote()) != guard

        os.kill(first["pids"][0], 9)
        second = trial(4)
        assert second["sum"] == 3
        assert not set(second["pids"]) & set(first["pids"])

        assert "on purpose" in trial(5, fail=True)["error"]
        third = trial(6)
        assert third["sum"] == 3
        assert not set(third["pids"]) & set(second["pids"])

        ray.get(actor.let_go.remote())
        until(lambda: ray.available_resources()["CPU"] > 1.8)
        assert trial(7)["sum"] == 3
        assert ray.available_resources()["CPU"] < 1.0
        ray.kill(actor)  # with its workers on the shelf: nobody is left to give their room back but the guard
        until(lambda: ray.available_resources()["CPU"] == 2.0)
