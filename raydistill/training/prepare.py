"""All that comes before the first student: teacher, evidence, cached outputs, costs of each depth."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.config import Sweep, arms, cache_identity, evidence_identity, strata
from raydistill.errors import CorruptArtifactError, EvidenceError
from raydistill.metrics import PeakMemory
from raydistill.records import write_json
from raydistill.seeding import stream
from raydistill.selectors import SELECTORS, Selector
from raydistill.training import calibration
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.context import RunContext
from raydistill.training.evidence import measure_evidence
from raydistill.training.evidence_files import read_evidence, write_evidence
from raydistill.training.loop import Dataset
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.profile import profile
from raydistill.training.resources import Resources
from raydistill.training.tasks import Task
from raydistill.training.teach import is_whole, read_history, teach

PROFILE, MEMORY = "profile.json", "memory.json"


def prepare_teacher(resources: Resources, seed: int, context: RunContext) -> str:
    """Return the identity of a teacher that has all its students need; what the run directory holds is kept.

    Args:
        resources: The sweep and its data.
        seed: The teacher's seed.
        context: Where this runs; every worker calls it. The first one notes the peak memory of its phases.
    """
    identity = teach(resources, seed, context)
    sweep, run, task = resources.sweep, resources.run, resources.task
    teacher = resources.teacher(identity).to(context.device)
    peaks: dict[str, PeakMemory] = defaultdict(PeakMemory)
    # The first worker looks, and decides for all: hashing a cache is long, and a file may be seen at different moments.
    if not context.gather(context.is_first and _has_evidence(resources, identity))[0]:
        with peaks["evidence"]:
            measure(resources, identity, seed, context)
    if not context.gather(context.is_first and _has_cache(resources, identity))[0]:
        with peaks["teacher_cache"]:
            dataset = task.dataset(sweep, resources.data, causal=teacher.causal, teacher_seed=seed)
            task.build_cache(sweep, teacher, dataset, run.cache(cache_identity(sweep, identity)), context=context)
    if context.is_first and not (run.teacher(identity) / PROFILE).is_file():
        depths = sorted({depth for depth, _ in strata(sweep, teacher.n_layers)} | {teacher.n_layers})
        with peaks["profile"]:
            found = profile(teacher, depths, task.serve, device=context.device)
        write_json(run.teacher(identity) / PROFILE, found)
    if context.is_first and peaks:
        _note_memory(run.teacher(identity) / MEMORY, peaks)
    context.barrier()
    return identity


def prepared_teacher(resources: Resources, identity: str) -> PreparedTeacher | None:
    """Return a teacher's numbers from the run directory, or None where anything of it is still to be made."""
    folder = resources.run.teacher(identity)
    if not is_whole(folder) or not _has_cache(resources, identity) or not (folder / PROFILE).is_file():
        return None
    if not _has_evidence(resources, identity):
        return None
    history = read_history(folder)
    evidence_id = evidence_identity(resources.sweep, identity)
    evidence, summary = read_evidence(resources.run.evidence(evidence_id))
    return PreparedTeacher(
        id=identity,
        seed=history["seed"],
        n_layers=history["layers"],
        evidence_id=evidence_id,
        evidence=evidence.values,
        evidence_cost={arm: cost["seconds"] for arm, cost in summary["selectors"].items()},
        profile=json.loads((folder / PROFILE).read_text()),
        validation=history["validation"],
        popularity=history["popularity"],
    )


def measure(resources: Resources, identity: str, seed: int, context: RunContext | None = None) -> None:
    """Measure every kind of evidence that the sweep's selectors need, on training data, and store it.

    Args:
        resources: The sweep and its data.
        identity: The teacher.
        seed: The teacher's seed.
        context: Where this runs; several workers share the passes, and the first one stores what all have measured.
    """
    context = context or RunContext()
    sweep, task = resources.sweep, resources.task
    teacher = resources.teacher(identity)
    dataset = task.dataset(sweep, resources.data, causal=teacher.causal, teacher_seed=seed)
    evidence = measure_evidence(
        teacher,
        calibration_samples(task, sweep, dataset),
        task.calibration_logits,
        evidence_kinds(sweep),
        seed=sweep.evidence.seed,
        samples=sweep.evidence.samples,
        draws=sweep.evidence.fisher_draws,
        chunk_size=sweep.evidence.batch_size,
        chunk_targets=max(1, calibration.SCORES // teacher.n_classes),
        stack=teacher.stack,
        context=context,
    )
    if not context.is_first:
        return
    write_evidence(
        resources.run.evidence(evidence_identity(sweep, identity)),
        evidence,
        _chosen(sweep),
        [depth for depth, _ in strata(sweep, teacher.n_layers)],
        teacher=identity,
        n_teacher=teacher.n_layers,
    )


def evidence_kinds(sweep: Sweep) -> list[str]:
    """Return the kinds of evidence that the sweep's selectors need, in alphabetical order."""
    return sorted({kind for selector, params in _chosen(sweep).values() for kind in selector.needs(params)})


def _chosen(sweep: Sweep) -> dict[str, tuple[Selector, Any]]:
    """Return the selector and the params of each arm that has one."""
    return {arm.name: (SELECTORS[arm.selector], arm.params) for arm in arms(sweep) if arm.selector is not None}


def calibration_samples(task: Task, sweep: Sweep, dataset: Dataset) -> list[list[CalibrationBatch]]:
    """Return ``evidence.replicates`` samples of training examples, each drawn without replacement on its own.

    Raises:
        EvidenceError: There are fewer examples than ``evidence.samples``.
    """
    settings, examples = sweep.evidence, dataset.examples
    check_samples(sweep, len(examples))
    samples = []
    for replicate in range(settings.replicates):
        chosen = stream(settings.seed, "calibration", replicate).choice(
            len(examples), size=settings.samples, replace=False
        )
        chosen = chosen[np.argsort(examples.lengths[chosen], kind="stable")]
        parts = np.array_split(chosen, -(-settings.samples // settings.batch_size))
        samples.append([task.calibration_batch(dataset, part, replicate) for part in parts])
    return samples


def check_samples(sweep: Sweep, n_examples: int) -> None:
    """Refuse calibration samples larger than the training data.

    Raises:
        EvidenceError: There are fewer examples than ``evidence.samples``.
    """
    if sweep.evidence.samples > n_examples:
        raise EvidenceError(
            f"{sweep.evidence.samples} calibration examples are asked for, the training data have {n_examples}",
            where="evidence.samples",
            mend=f"set evidence.samples to at most {n_examples}",
        )


def _note_memory(file: Path, peaks: dict[str, PeakMemory]) -> None:
    """Add the peak memory of phases to a file; those of phases that an earlier run went through stay."""
    earlier = json.loads(file.read_text()) if file.is_file() else {}
    write_json(file, earlier | {f"{phase}_bytes": memory.bytes for phase, memory in peaks.items()})


def _has_cache(resources: Resources, identity: str) -> bool:
    try:
        resources.task.open_cache(resources.run.cache(cache_identity(resources.sweep, identity)), verify=True)
    except CorruptArtifactError:
        return False
    return True


def _has_evidence(resources: Resources, identity: str) -> bool:
    try:
        read_evidence(resources.run.evidence(evidence_identity(resources.sweep, identity)))
    except CorruptArtifactError:
        return False
    return True
