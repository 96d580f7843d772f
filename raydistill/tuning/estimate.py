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

TRIAL_OVERHEAD_S, TEACHER_OVERHEAD_S = 0.3, 10.0
"""Seconds of a trial, and of making a teacher, that are neither training nor evaluation."""

PROCESS_BYTES = 450 << 20
"""Memory of a process with torch and transformers imported, data and caches attached."""

RAY_BYTES = 900 << 20
"""Memory of Ray's own processes on one node, dashboard included."""


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a sweep.

    Attributes:
        n_teachers, n_search, n_confirm: Trainings of each phase.
        teacher_flop, trial_flop: Operations of one of them.
        concurrency: Trials that run at once.
        speed: Operations that a training does in a second on this machine; None where GPUs are asked for, whose speed
            is not known before they are there.
        trial_bytes: Weights of a trial's student and of its teacher, and the student's gradients and optimizer state.
        memory_bytes: Peak of all processes together, where they run on this machine.
        cache_bytes: What the outputs of all teachers take.
        disk_bytes: What the run directory grows to, the cache included.
    """

    n_teachers: int
    n_search: int
    n_confirm: int
    teacher_flop: float
    trial_flop: float
    concurrency: int
    speed: float | None
    trial_bytes: int
    memory_bytes: int
    cache_bytes: int
    disk_bytes: int

    @property
    def phase_flop(self) -> list[float]:
        """Operations of teaching, search and confirm."""
        return [self.n_teachers * self.teacher_flop, self.n_search * self.trial_flop, self.n_confirm * self.trial_flop]

    @property
    def trial_s(self) -> float:
        """Seconds of one trial; this and what follows are of a known speed only."""
        return self.trial_flop / self.speed + TRIAL_OVERHEAD_S

    @property
    def phase_s(self) -> list[float]:
        """Seconds of teaching, search and confirm."""
        trials = [count * self.trial_s / self.concurrency for count in (self.n_search, self.n_confirm)]
        return [self.n_teachers * (self.teacher_flop / self.speed + TEACHER_OVERHEAD_S), *trials]

    @property
    def minutes(self) -> float:
        """Of everything, with half a minute for starting, evidence and the report."""
        return (sum(self.phase_s) + 30) / 60


def n_confirm(sweep: Sweep, arms: list[Arm], strata: list[tuple[int, float]], n_teacher_layers: int) -> dict[str, int]:
    """Return how many confirm trials each arm has."""
    counts = {}
    for arm in arms:
        if arm.in_strata:
            counts[arm.name] = sum(n_confirm_in(sweep, arm, depth, n_teacher_layers) for depth, _ in strata)
        else:
            counts[arm.name] = sweep.confirm.teachers if arm.name == "teacher" else 1
    return counts


def n_confirm_in(sweep: Sweep, arm: Arm, depth: int, n_teacher_layers: int) -> int:
    """Return how many confirm trials an arm has in the stratum of a depth, under all teachers."""
    settings = sweep.confirm.configurations if arm.has_study else 1
    return sweep.confirm.teachers * sweep.confirm.seeds * settings * arm.n_draws(depth, n_teacher_layers)


def estimate(
    sweep: Sweep,
    arms: list[Arm],
    strata: list[tuple[int, float]],
    work: Workload,
) -> Estimate:
    """Return the expected cost of a sweep, from its operations and, where it runs on processors, this machine's speed.

    Args:
        sweep: The sweep.
        arms: Its arms.
        strata: Its strata.
        work: How much there is to compute.
    """
    training, teacher, execution = sweep.training, sweep.teacher, sweep.execution
    has_gpus = execution.gpus_per_worker > 0 or execution.gpus_per_trial > 0
    concurrency = _concurrency(sweep)
    mean_depth = sum(depth for depth, _ in strata) / len(strata)
    n_search = sum(arm.has_study for arm in arms) * sweep.search.trials
    n_confirmed = sum(n_confirm(sweep, arms, strata, work.n_layers).values())
    cache_bytes = work.cache_bytes * sweep.confirm.teachers
    teacher_bytes = 4 * (work.table + work.n_layers * work.block)
    # Controls that start from random weights are trained in full.
    adapters = None if {"scratch", "scratch_kd"} & {arm.name for arm in arms} else work.student_adapters
    trial_bytes = teacher_bytes + _training_bytes(work, max(depth for depth, _ in strata), adapters)
    teaching = execution.workers * (PROCESS_BYTES + _training_bytes(work, work.n_layers, work.teacher_adapters))
    trials = concurrency * execution.workers * (PROCESS_BYTES + trial_bytes)
    return Estimate(
        n_teachers=sweep.confirm.teachers,
        n_search=n_search,
        n_confirm=n_confirmed,
        teacher_flop=teacher.epochs * _epoch_flop(work, work.n_layers, teacher.epoch_examples, distilled=False),
        trial_flop=training.epochs * _epoch_flop(work, mean_depth, training.epoch_examples, distilled=True),
        concurrency=concurrency,
        speed=None if has_gpus else EFFICIENCY * execution.workers * _operations_per_second(),
        trial_bytes=trial_bytes,
        memory_bytes=RAY_BYTES + PROCESS_BYTES + max(teaching, trials) + cache_bytes,
        cache_bytes=cache_bytes,
        disk_bytes=cache_bytes
        + sweep.confirm.teachers * teacher_bytes
        + n_confirmed * (work.rows * 24 + 8192)
        + n_search * 8192,
    )


def _epoch_flop(work: Workload, layers: float, examples: int | None, *, distilled: bool) -> float:
    """Return the operations of an epoch of training and one evaluation."""
    share = 1.0 if examples is None else min(1.0, examples / work.examples)
    blocks = (3 * share * work.positions + work.scored) * layers * 2 * work.block
    output = (8 if distilled else 6) * share * work.targets * work.hidden * work.classes
    # Softmax and its gradient cost about as much as 60 operations a logit (120 with the teacher's).
    elementwise = (120 if distilled else 60) * share * work.targets * work.classes
    return blocks + output + elementwise


def _training_bytes(work: Workload, layers: int, adapters: int | None) -> int:
    """Return the bytes of a model's weights and, of what is trained of it, gradients and Adam's two moments."""
    parameters = work.table + layers * work.block
    return 4 * parameters + 12 * (parameters if adapters is None else layers * adapters)


def _concurrency(sweep: Sweep) -> int:
    """Return the trials that run at once on this machine's processors; a cluster is not asked."""
    execution = sweep.execution
    if execution.concurrency != "auto":
        return execution.concurrency
    return max(1, int((os.cpu_count() or 1) / (execution.workers * execution.cpus_per_trial)))


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
