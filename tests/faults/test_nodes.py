"""A node leaves in the middle of a sweep; its trials move to those that stay."""

from __future__ import annotations

import pytest
from sweep_process import SweepProcess, facts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster(monkeypatch):
    """Return a cluster of two nodes with one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_a_node_is_removed_among_trials(reference, tmp_path, cluster):
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(run, reference.storage, f"execution.address={cluster.address}", RAY_AUTH_MODE="disabled")
    sweep.wait_for(lambda: sweep.phases("search"))
    cluster.remove_node(node, allow_graceful=False)
    sweep.finish()
    assert facts(run) == reference.facts
