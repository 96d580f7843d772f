"""What a sweep will cost, before it starts: minutes, memory and disk, from counted operations."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from raydistill.config import Arm, Sweep
from raydistill.training.tasks import Workload

EFFICIENCY = 0.35
"""Share of the speed of large matrix products that training small models reaches, on the default sweep."""

OVERHEAD_S = 0.3
"""Seconds of a trial that are neither training nor evaluation."""

PROCESS_BYTES = 450 << 20
"""Memory of a process with torch and transformers imported, data and caches attached."""

RAY_BYTES = 900 << 20
"""Memory of Ray's own processes on one node, dashboard included."""


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a sweep on this machine.

    Attributes:
        teacher_s, search_s, confirm_s: Seconds of the phases.
        trial_s: Seconds of one trial.
        memory_bytes: Peak of all processes together.
        disk_bytes: What the run directory grows to.
    """

    teacher_s: float
    search_s: float
    confirm_s: float
    trial_s: float
    memory_bytes: int
    disk_bytes: int

    @property
    def minutes(self) -> float:
        """Of everything, with half a minute for starting, evidence and the report."""
        return (self.teacher_s + self.search_s + self.confirm_s + 30) / 60


def n_confirm(sweep: Sweep, arms: list[Arm], n_strata: int) -> dict[str, int]:
    """Return how many confirm trials each arm has."""
    runs = sweep.confirm.teachers * sweep.confirm.seeds * n_strata
    counts = {}
    for arm in arms:
        if arm.in_strata:
            counts[arm.name] = runs * arm.draws * (sweep.confirm.configurations if arm.has_study else 1)
        else:
            counts[arm.name] = sweep.confirm.teachers if arm.name == "teacher" else 1
    return counts


def estimate(
    sweep: Sweep,
    arms: list[Arm],
    strata: list[tuple[int, float]],
    work: Workload,
) -> Estimate:
    """Return the expected cost of a sweep, from its operations and this machine's speed.

    Args:
        sweep: The sweep.
        arms: Its arms.
        strata: Its strata.
        work: How much there is to compute.
    """
    concurrency = _concurrency(sweep)
    speed = EFFICIENCY * _operations_per_second()

    def epoch_s(layers: float, examples: int | None, *, distilled: bool) -> float:
        share = 1.0 if examples is None else min(1.0, examples / work.examples)
        blocks = (3 * share * work.positions + work.scored) * layers * 24 * work.hidden**2
        output = (8 if distilled else 6) * share * work.targets * work.hidden * work.classes
        # Softmax and its gradient cost about as much as 60 operations a logit (120 with the teacher's).
        elementwise = (120 if distilled else 60) * share * work.targets * work.classes
        return (blocks + output + elementwise) / speed

    teacher_epoch_s = epoch_s(work.n_layers, sweep.teacher.epoch_examples, distilled=False)
    mean_depth = sum(depth for depth, _ in strata) / len(strata)
    trial_s = sweep.training.epochs * epoch_s(mean_depth, sweep.training.epoch_examples, distilled=True) + OVERHEAD_S
    n_search = sum(arm.has_study for arm in arms) * sweep.search.trials
    n_confirmed = sum(n_confirm(sweep, arms, len(strata)).values())
    cache_bytes = work.cache_bytes * sweep.confirm.teachers
    return Estimate(
        teacher_s=sweep.confirm.teachers * (sweep.teacher.epochs * teacher_epoch_s + 10),
        search_s=n_search * trial_s / concurrency,
        confirm_s=n_confirmed * trial_s / concurrency,
        trial_s=trial_s,
        memory_bytes=RAY_BYTES + (concurrency + 1) * (PROCESS_BYTES + 20 * work.parameters) + cache_bytes,
        disk_bytes=cache_bytes + 4 * work.parameters + n_confirmed * (work.rows * 24 + 8192) + n_search * 8192,
    )


def _concurrency(sweep: Sweep) -> int:
    """Return the trials that run at once, as far as this machine can tell without asking a cluster."""
    execution = sweep.execution
    if execution.concurrency != "auto":
        return execution.concurrency
    if execution.gpus_per_trial:
        return max(1, int(torch.cuda.device_count() / execution.gpus_per_trial))
    return max(1, int((os.cpu_count() or 1) / execution.cpus_per_trial))


def _operations_per_second() -> float:
    """Return the speed of one thread on a matrix product, measured for a tenth of a second of its own time.

    Not of the clock's: what else runs at this moment is not what the sweep will have to share the machine with.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    torch.mm(left, right)
    started, count = time.thread_time(), 0
    while time.thread_time() - started < 0.1:
        torch.mm(left, right)
        count += 1
    elapsed = time.thread_time() - started
    torch.set_num_threads(threads)
    return 2 * 512**3 * count / elapsed
