"""A node leaves in the middle of a sweep, and its trials move; one joins that differs, and the sweep ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from sweep_process import OWN_ENVIRONMENT, ROOT, SweepProcess, facts, workers
from tampering import (
    OTHER_CODE,
    OTHER_CODE_IN_TRAIN_WORKERS,
    UNSHARED_CHECKPOINTS_IN_TRAIN_WORKERS,
    python_path,
)

ASK_FOR_TOO_MUCH = """
import sys
from raydistill.training.build import load_sweep
from raydistill.tuning import cluster
sweep = load_sweep(sys.argv[1], ("execution.address=local", "execution.dashboard=false"))
cluster.start(sweep)
from raydistill.tuning.refusals import NoRoomError
from raydistill.tuning.sharded import Workers, run_sharded
try:
    run_sharded(print, {}, Workers(2, 512.0, 0.0), name="teacher-a", storage=sys.argv[2])
except NoRoomError as error:
    print(error)
cluster.stop()
"""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def test_a_node_is_removed_among_trials(reference, tmp_path, cluster):
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(run, reference.storage, f"execution.address={cluster.address}", RAY_AUTH_MODE="disabled")
    sweep.wait_for(lambda: sweep.phases("search"))
    (raylet,) = node.all_processes["raylet"]
    held = sweep.hold_a_trial(raylet.process.pid)
    cluster.remove_node(node, allow_graceful=False)
    held.kill()  # by itself it would end when it looks for its node
    said = sweep.finish()
    assert re.search(r"lost: search .*(the actor's node|temporarily unavailable).*; it starts again", said), said[
        -2000:
    ]
    assert "failed:" not in said
    assert facts(run) == reference.facts


def test_a_node_that_joins_late_with_other_code_ends_the_sweep(reference, tmp_path, cluster):
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(
        run,
        reference.storage,
        f"execution.address={cluster.address}",
        "execution.concurrency=2",
        RAY_AUTH_MODE="disabled",
    )
    held = sweep.hold_a_trial()  # the search is not over before the node is there
    other = python_path(tmp_path / "tampering", OTHER_CODE)
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, env_vars={"PYTHONPATH": other})
    sweep.wait_for(lambda: workers("ResourceTrainable.__init__"))
    sweep.wait_for(lambda: not workers("ResourceTrainable.__init__"))
    time.sleep(2)  # its first step, which is over before a title could be read
    held.resume()
    said = sweep.finish(code=2)
    assert "0ther0de" in said
    assert "Traceback" not in said
    assert "failed" not in {record.status for _, record in sweep.run.records()}
    cluster.remove_node(node)
    SweepProcess(run, reference.storage, f"execution.address={cluster.address}", RAY_AUTH_MODE="disabled").finish()
    assert facts(run) == reference.facts


@pytest.mark.parametrize(
    ("tampering", "what", "mend"),
    [
        (OTHER_CODE_IN_TRAIN_WORKERS, "0ther0de", "ray up cluster.yaml"),
        (UNSHARED_CHECKPOINTS_IN_TRAIN_WORKERS, "does not see the place of the checkpoints", "execution.checkpoints"),
    ],
)
def test_a_worker_of_a_trial_on_a_machine_that_differs_ends_the_sweep(reference, tmp_path, tampering, what, mend):
    run = reference.copy(tmp_path / "run", without=("trials", "computations", "studies", "report"))
    other = python_path(tmp_path / "tampering", tampering)
    checkpoints = f"execution.checkpoints={tmp_path / 'fast'}"
    sweep = SweepProcess(run, reference.storage, "execution.workers=2", checkpoints, PYTHONPATH=other)
    said = sweep.finish(code=2)
    assert what in said
    assert mend in said
    assert "Traceback" not in said
    assert list(sweep.run.records()) == []


def test_workers_that_fit_nowhere_are_not_waited_for_for_ever(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", ASK_FOR_TOO_MUCH, ROOT / "sweeps" / "smoke.yaml", tmp_path],
        env=inherited | OWN_ENVIRONMENT | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "0.5"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "2 worker(s) of 512 CPU each are asked for, 0 fit on the nodes there are" in run.stdout
    assert "run the same command again" in run.stdout
