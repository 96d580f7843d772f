"""What the Ray cluster holds now, what fits on its nodes, and what its autoscaler can bring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import ray
from ray._private.state import state

DRIVER_CPUS = 0.1
"""CPUs reserved by the process that waits for a trial's workers."""

UNLIMITED = 1e6
"""Stands for as many as wanted: Ray's own value for a node type without a limit does not fit a count."""


@dataclass(frozen=True)
class Workers:
    """The processes of one training run.

    Attributes:
        number: How many.
        cpus: CPUs that each reserves.
        gpus: GPUs that each reserves.
    """

    number: int
    cpus: float
    gpus: float


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


def alive_nodes() -> list[dict]:
    """Return the nodes of the cluster that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def node_resources() -> list[dict[str, float]]:
    """Return what each node that is alive has in all, in use or not."""
    return [node["Resources"] for node in alive_nodes()]


def room_for(workers: Workers, nodes: Sequence[Mapping[str, float]], waiting: int = 0) -> int:
    """Return how many such workers surely fit on nodes with these resources, none of them split over two nodes.

    Args:
        workers: What each reserves.
        nodes: Resources of each node.
        waiting: Processes of :data:`DRIVER_CPUS` beside them. Ray puts those on any node, so each counts where it
            does most harm.
    """
    taken, room = 0.0, 0
    costs: list[float] = []
    for node in nodes:
        count = _fitting(workers, node)
        room += count
        spare = node.get("CPU", 0.0) - count * workers.cpus
        # So many waiting processes leave one worker less, two less, ... on this node.
        spoilers = [int((spare + k * workers.cpus) / DRIVER_CPUS + 1e-6) + 1 for k in range(count)]
        steps = [after - before for before, after in zip([0, *spoilers], spoilers, strict=False)]
        # Where GPUs are the limit, the first is the dearest: then each counts as the mean, which is never too much.
        costs += [sum(steps) / count] * count if count and steps[0] > min(steps) else steps
    for cost in sorted(costs):
        taken += cost
        room -= taken <= waiting
    return room


def _fitting(workers: Workers, node: Mapping[str, float]) -> int:
    limits = [node.get("CPU", 0.0) / workers.cpus]
    if workers.gpus:
        limits.append(node.get("GPU", 0.0) / workers.gpus)
    return int(min(limits) + 1e-9)


def fits(workers: Workers, nodes: Sequence[Mapping[str, float]], waiting: int = 0) -> bool:
    """Return whether all workers surely fit at once, with so many processes of :data:`DRIVER_CPUS` beside them."""
    return room_for(workers, nodes, waiting) >= workers.number


def groups_that_fit(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many such trainings surely fit at once, each with a process beside it that waits for its workers."""
    groups = room_for(workers, nodes) // workers.number
    while groups and room_for(workers, nodes, waiting=groups) < groups * workers.number:
        groups -= 1
    return groups


def with_cpus_that_fit(
    asked: Workers, choices: Iterable[float], nodes: Sequence[Mapping[str, float]], waiting: int = 0
) -> Workers:
    """Return the workers with the first number of CPUs with which all fit, or as they were asked for where none does.

    Nodes may be unequal, and the largest may lack a GPU: only a look at all of them says what fits.
    """
    tried = (replace(asked, cpus=float(cpus)) for cpus in choices)
    return next((workers for workers in tried if fits(workers, nodes, waiting)), asked)


def shortage(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> str:
    """Return what was asked for, how much of it fits, and what there is, as text."""
    each = f"{workers.cpus:g} CPU" + (f" and {workers.gpus:g} GPU" if workers.gpus else "")
    there = ", ".join(f"{node.get('CPU', 0):g} CPU {node.get('GPU', 0):g} GPU" for node in nodes)
    count = room_for(workers, nodes)
    return f"{workers.number} worker(s) of {each} each are asked for, {count} fit on the nodes there are ({there})"
