"""How many workers, with how many CPUs, fit on made-up nodes, and how many trials run at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ray._private.state import state
from tuning_zoo import small_sweep

from raydistill.tuning.capacity import (
    DRIVER_CPUS,
    UNLIMITED,
    Workers,
    can_grow,
    capacity,
    fits,
    groups_that_fit,
    room_for,
)
from raydistill.tuning.sharded import teacher_workers
from raydistill.tuning.sharded_trial import trial_workers
from raydistill.tuning.trials import concurrency


def node(cpus: float, gpus: float = 0.0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.fixture
def cluster(monkeypatch):
    """Make up a cluster: its nodes, and what its cluster file allows in all."""

    def make_up(*nodes: dict[str, float], most: dict[str, float] | None = None) -> None:
        alive = [{"Alive": True, "Resources": resources} for resources in nodes]
        lost = {"Alive": False, "Resources": node(1000, 1000)}
        total = {name: sum(own.get(name, 0.0) for own in nodes) for name in ("CPU", "GPU")}
        monkeypatch.setattr("ray.nodes", lambda: [*alive, lost])
        monkeypatch.setattr("ray.cluster_resources", lambda: {name: value for name, value in total.items() if value})
        monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: most)

    return make_up


@pytest.mark.parametrize(
    ("nodes", "settings", "cpus"),
    [
        ([node(8)], [], 8),
        ([node(8)], ["workers=3"], 2),
        ([node(32), node(16, 1)], ["gpus_per_worker=1"], 16),  # the largest has no GPU
        ([node(16), node(4)], ["workers=2"], 8),  # both on the larger
        ([node(4), node(4), node(1)], ["workers=3"], 2),
        ([node(0), node(4, 1), node(4, 1)], ["workers=2", "gpus_per_worker=1"], 4),
        ([node(3.5)], [], 3),
        ([node(4)], [], 4),  # after one of 8 was lost
        ([], [], 1),
        ([node(0)], ["workers=2"], 1),  # machines are still to come
        ([node(1)], ["workers=2"], 1),  # too little: preflight says so
    ],
)
def test_a_teachers_workers_have_as_many_cpus_as_fit_on_every_node_they_need(tmp_path, cluster, nodes, settings, cpus):
    cluster(*nodes)
    workers = teacher_workers(small_sweep(tmp_path, *(f"execution.{setting}" for setting in settings)))
    assert workers.cpus == cpus
    enough = room_for(workers, nodes) >= workers.number
    assert enough == (sum(own["CPU"] for own in nodes) >= workers.number)


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([node(8)], ["cpus_per_trial=2", "gpus_per_trial=0.25"], Workers(1, 2.0, 0.25)),
        ([node(8, 4)], ["gpus_per_trial=4"], Workers(4, 1.0, 1.0)),
        ([node(4, 4)], ["gpus_per_trial=4"], Workers(4, 0.9, 1.0)),  # one process waits beside them
        ([node(8)], ["workers=2"], Workers(2, 1.0, 0.0)),
        ([node(2)], ["workers=2"], Workers(2, 0.9, 0.0)),
        ([node(1)], ["workers=2"], Workers(2, 0.4, 0.0)),
        ([node(2), node(2)], ["workers=2", "cpus_per_trial=2"], Workers(2, 1.9, 0.0)),
        ([node(16), node(4)], ["workers=2", "cpus_per_trial=8"], Workers(2, 7.9, 0.0)),  # may wait on the larger
        ([node(4), node(4), node(1)], ["workers=3", "cpus_per_trial=3"], Workers(3, 2.0, 0.0)),
        ([node(32), node(4, 2)], ["workers=2", "gpus_per_worker=1", "cpus_per_trial=2"], Workers(2, 1.9, 1.0)),
        ([node(8, 1)], ["workers=2", "gpus_per_worker=1"], Workers(2, 1.0, 1.0)),  # too little: preflight says so
        ([], ["workers=2"], Workers(2, 1.0, 0.0)),
    ],
)
def test_a_trials_workers_leave_room_for_the_process_that_waits(tmp_path, cluster, nodes, settings, expected):
    cluster(*nodes)
    assert trial_workers(small_sweep(tmp_path, *(f"execution.{setting}" for setting in settings))) == expected


def test_what_waits_beside_the_workers_is_where_it_does_most_harm():
    workers = Workers(2, 1.0, 0.0)
    assert fits(workers, [node(2.1)], waiting=1)
    assert not fits(workers, [node(2)], waiting=1)
    assert not fits(workers, [node(2), node(0.1)], waiting=1)  # it may be on the first
    assert fits(workers, [node(1.1), node(1.1)], waiting=1)
    assert fits(workers, [node(1.1), node(1.1)], waiting=1)
    assert not fits(workers, [node(1.1), node(1.1)], waiting=2)  # both may be on one node


@pytest.mark.parametrize("waiting", range(6))
def test_the_room_beside_those_that_wait_is_that_of_the_worst_placement(waiting):
    rng = np.random.default_rng(waiting)
    for _ in range(40):
        nodes = [node(rng.integers(0, 25) / 10) for _ in range(3)]
        workers = Workers(2, rng.integers(3, 15) / 10, 0.0)
        room = []
        for places in itertools.product(range(3), repeat=waiting):
            left = [own["CPU"] - DRIVER_CPUS * places.count(index) for index, own in enumerate(nodes)]
            if min(left) > -1e-9:  # Ray puts none where there is no room for it
                room.append(room_for(workers, [node(max(cpus, 0.0)) for cpus in left]))
        if room:
            assert room_for(workers, nodes, waiting) == min(room)


@pytest.mark.parametrize(
    ("nodes", "workers", "groups"),
    [
        ([node(64, 8)] * 4, Workers(2, 1.0, 1.0), 16),
        ([node(64, 8)] * 10, Workers(4, 1.0, 1.0), 20),
        ([node(96, 8)] * 2, Workers(2, 0.5, 1.0), 8),
        ([node(64, 8)], Workers(2, 0.2, 1.0), 4),
        ([node(8, 8)], Workers(2, 1.0, 1.0), 3),
    ],
)
def test_spare_cpus_of_gpu_nodes_take_those_that_wait(nodes, workers, groups):
    assert groups_that_fit(workers, nodes) == groups


def test_capacity_is_what_there_is_or_what_the_cluster_file_allows(cluster):
    cluster(node(4), node(2))
    assert capacity() == {"CPU": 6.0, "GPU": 0.0}
    assert not can_grow()
    cluster(node(0), most={"CPU": 32.0, "GPU": 8.0})
    assert capacity() == {"CPU": 32.0, "GPU": 8.0}
    assert can_grow()
    cluster(node(4, 1), most={"CPU": 4.0, "GPU": 1.0})
    assert not can_grow()
    cluster(node(4), most={"CPU": 2.0**63})  # a node type without a limit
    assert capacity() == {"CPU": UNLIMITED, "GPU": 0.0}


@pytest.mark.parametrize(
    ("nodes", "most", "workers", "expected"),
    [
        ([node(4)], None, Workers(1, 1.0, 0.0), 4),
        ([node(4, 1)], None, Workers(1, 1.0, 0.25), 4),
        ([node(16, 1)], None, Workers(1, 1.0, 0.5), 2),
        ([node(3), node(3)], None, Workers(1, 2.0, 0.0), 2),  # not 3: none is on two nodes
        ([node(4)], None, Workers(2, 1.0, 0.0), 1),  # 2 would fill it, and leave none for those that wait
        ([node(8)], None, Workers(2, 1.0, 0.0), 3),
        ([node(2)] * 4, None, Workers(2, 1.0, 0.0), 2),  # each of two that wait may spoil a place on another node
        ([node(4)] * 8, None, Workers(2, 1.0, 0.0), 12),
        ([node(2)], None, Workers(2, 0.9, 0.0), 1),
        ([node(3)] * 6, None, Workers(2, 2.0, 0.0), 3),  # not 4: each node has room for one worker
        ([node(0)], {"CPU": 32.0, "GPU": 8.0}, Workers(1, 1.0, 0.25), 32),  # none yet, and as many as may come
        ([node(0)], {"CPU": 32.0, "GPU": 8.0}, Workers(2, 1.0, 1.0), 4),
        ([node(1)], None, Workers(2, 1.0, 0.0), 1),
    ],
)
def test_as_many_trials_run_at_once_as_there_is_room_for(tmp_path, cluster, nodes, most, workers, expected):
    cluster(*nodes, most=most)
    assert concurrency(small_sweep(tmp_path), workers) == expected
    asked = concurrency(small_sweep(tmp_path, "execution.concurrency=7"), workers)
    assert asked == (7 if workers.number == 1 or most else min(7, expected))
