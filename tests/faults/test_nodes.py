"""A node leaves in the middle of a sweep, and its trials move; one joins with other code, and the sweep ends."""

from __future__ import annotations

import time

import pytest
from sweep_process import SweepProcess, facts, workers
from tampering import OTHER_CODE, OTHER_CODE_IN_TRAIN_WORKERS, python_path

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def test_a_node_is_removed_among_trials(reference, tmp_path, cluster):
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(run, reference.storage, f"execution.address={cluster.address}", RAY_AUTH_MODE="disabled")
    sweep.wait_for(lambda: sweep.phases("search"))
    cluster.remove_node(node, allow_graceful=False)
    sweep.finish()
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


def test_other_code_in_a_worker_of_a_trial_ends_the_sweep(reference, tmp_path):
    run = reference.copy(tmp_path / "run", without=("trials", "computations", "studies", "report"))
    other = python_path(tmp_path / "tampering", OTHER_CODE_IN_TRAIN_WORKERS)
    sweep = SweepProcess(run, reference.storage, "execution.workers=2", PYTHONPATH=other)
    said = sweep.finish(code=2)
    assert "0ther0de" in said
    assert "ray up cluster.yaml" in said
    assert "Traceback" not in said
    assert list(sweep.run.records()) == []
