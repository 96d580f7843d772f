"""What the Ray cluster holds now, and what its autoscaler can bring."""

from __future__ import annotations

import ray
from ray._private.state import state

UNLIMITED = 1e6
"""Stands for as many as wanted: Ray's own value for a node type without a limit does not fit a count."""


def capacity() -> dict[str, float]:
    """Return CPUs and GPUs that the cluster holds or can grow to.

    A cluster whose head does no work and whose workers come on demand holds nothing at first: what counts is
    what its cluster file allows.
    """
    now, most = ray.cluster_resources(), state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0.0), min(float(most.get(name, 0.0)), UNLIMITED)) for name in ("CPU", "GPU")}


def can_grow() -> bool:
    """Return whether an autoscaler may bring more than there is now."""
    now, most = ray.cluster_resources(), capacity()
    return any(most[name] > now.get(name, 0.0) for name in most)
