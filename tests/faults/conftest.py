"""The sweep that disturbed ones are compared with, and a cluster for those that need several nodes."""

from __future__ import annotations

import pytest
from sweep_process import STARTED, Reference, SweepProcess, facts


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    """Return a sweep that nothing has disturbed."""
    storage = tmp_path_factory.mktemp("storage")
    root = storage / "undisturbed"
    SweepProcess(root, storage).finish()
    return Reference(root, storage, facts(root))


@pytest.fixture
def cluster(monkeypatch):
    """Return a cluster of two nodes with one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(autouse=True)
def none_left_running():
    """End the sweeps that a test which failed has left."""
    yield
    while STARTED:
        STARTED.pop().end()
