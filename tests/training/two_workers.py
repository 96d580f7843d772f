"""One of several workers that train, rank and cache: ``python two_workers.py RANK WORLD_SIZE FAMILY FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from training_zoo import MAX_LENGTH, small_data, small_model

from raydistill.errors import EvidenceError, TrialDivergedError
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.training import evaluation
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.evidence import measure_evidence
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.tasks.next_item import NextItem
from raydistill.training.teacher_cache import build_teacher_cache


def outcome(family: str, context: RunContext, folder: Path) -> dict:
    """Return the curve, ranks, cache and evidence of one distillation."""
    data = small_data()
    teacher = small_model(family, dropout=0.0, layers=2, seed=3).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=teacher.causal)
    cache = build_teacher_cache(teacher, plain.examples, folder, context=context)
    n = len(plain.examples)
    # A last step of one example, which leaves nothing for the second worker.
    batch_size = next(size for size in range(12, n) if n % size == 1)
    settings = TrainingSettings(epochs=3, batch_size=batch_size, lr=3e-3, gradient_accumulation=2)
    curve = []
    for weights in (TASK_ONLY, LossWeights(2.0, 0.7, 0.3, 0.1)):
        dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=teacher.causal, cache=cache)
        student = teacher.keep_layers([1])
        trainer = DistillationTrainer(student, dataset, weights, settings, context=context)
        curve += [row["loss"] for row in trainer.fit().curves]
    # A fixed model, so that the ranks can be equal to the last one.
    ranks = rank_users(teacher, data, "test", context=context)
    return {
        "curve": curve,
        "ranks": {name: np.asarray(values).tolist() for name, values in ranks.items()},
        "cache": cache.hidden.astype(float).sum(axis=0).tolist(),
        "evidence": evidence(context),
    }


def evidence(context: RunContext) -> dict:
    """Return evidence of every kind of pass, three samples of it, and what each pass is charged with."""
    task, teacher = NextItem(), small_model(layers=3, seed=3)
    dataset = DistillationDataset(small_data(), max_length=MAX_LENGTH, causal=True)
    parts = np.array_split(np.arange(len(dataset.examples)), 6)
    samples = [[task.calibration_batch(dataset, part, 0) for part in parts[n::3]] for n in range(3)]
    kinds = ["attention", "fisher", "greedy", "taylor"]
    found = measure_evidence(teacher, samples, task.calibration_logits, kinds, seed=0, context=context)
    return {"values": {kind: found.values[kind].tolist() for kind in kinds}, "passes": sorted(found.pass_seconds)}


def evidence_refused_elsewhere(rank: int, world_size: int) -> str:
    """Return what a worker is told where what another one has measured is not finite."""

    def logits(model, batch):
        return NextItem().calibration_logits(model, batch) * (float("nan") if rank == world_size - 1 else 1.0)

    dataset = DistillationDataset(small_data(), max_length=MAX_LENGTH, causal=True)
    sample = [NextItem().calibration_batch(dataset, np.arange(8), 0)]
    try:
        context = RunContext(rank=rank, world_size=world_size)
        measure_evidence(small_model(), [sample] * world_size, logits, ["taylor"], seed=0, context=context)
    except EvidenceError as error:
        return str(error)
    return "nothing"


def diverged_elsewhere(rank: int, world_size: int) -> str:
    """Return what a worker is told where the scores of another one's users are not finite."""
    rank_some = evaluation._rank_some

    def fail(*arguments, **wanted):
        raise TrialDivergedError("a score is not finite")

    evaluation._rank_some = fail if rank == world_size - 1 else rank_some
    try:
        rank_users(small_model().eval(), small_data(), "test", context=RunContext(rank=rank, world_size=world_size))
    except TrialDivergedError as error:
        return str(error)
    finally:
        evaluation._rank_some = rank_some
    return "nothing"


def main(rank: int, world_size: int, family: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        (folder / "alone.json").write_text(json.dumps(outcome(family, RunContext(), folder / "alone")))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world_size)
    together = outcome(family, RunContext(rank=rank, world_size=world_size), folder / "together")
    together["left"] = sorted(path.name for path in (folder / "together").iterdir())
    together["diverged"] = diverged_elsewhere(rank, world_size)
    together["refused"] = evidence_refused_elsewhere(rank, world_size)
    (folder / f"{rank}.json").write_text(json.dumps(together))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
