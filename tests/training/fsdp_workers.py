"""One of two workers that train in shares: ``python fsdp_workers.py RANK FAMILY FOLDER``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from training_zoo import MAX_LENGTH, small_data, small_model
from transformers import T5Config, T5Model

from raydistill.losses import LossWeights
from raydistill.metrics import mean_metrics
from raydistill.models import blocks, stacks_of
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.fsdp import shard
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.teacher_cache import build_teacher_cache

WEIGHTS = LossWeights(2.0, 0.7, 0.3, 0.1)


def outcome(family: str, context: RunContext, folder: Path) -> dict:
    """Return the curve, best weights and ranks of one distillation, and how much of the model this worker held."""
    data = small_data()
    teacher = small_model(family, dropout=0.0, layers=2, seed=3).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=teacher.causal)
    cache = build_teacher_cache(teacher, plain.examples, folder / "cache", context=context)
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=teacher.causal, cache=cache)
    student = teacher.keep_layers([1])

    n = len(plain.examples)
    # A last step of five examples: three parts for the first worker, but only two for the second.
    batch_size = next(size for size in range(12, n) if n % size == 5)
    settings = TrainingSettings(epochs=3, batch_size=batch_size, lr=3e-3, gradient_accumulation=3)

    def validate(model) -> dict[str, float]:
        # Workers may call the model any number of times.
        for _ in range(2 * context.rank):
            model(torch.ones(1, 3, dtype=torch.int64, device=context.device))
        return mean_metrics(rank_users(model, data, "validation", context=context, top=False)["rank"])

    trainer = DistillationTrainer(student, dataset, WEIGHTS, settings, evaluate=validate, context=context)
    held = [value.to_local() if isinstance(value, DTensor) else value for value in trainer.trained.parameters()]
    result = trainer.fit()
    assert not any(isinstance(value, DTensor) for value in student.parameters())
    student.save_pretrained(folder / f"model-{context.rank}")
    ranks = rank_users(student, data, "test", context=context)
    return {
        "curve": [[row["loss"], row["ndcg@10"]] for row in result.curves],
        "best": result.best_epoch,
        "weights": {name: value.flatten().tolist() for name, value in student.named_parameters()},
        "ranks": ranks["rank"].tolist(),
        "held": sum(value.numel() for value in held),
    }


def main(rank: int, family: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        (folder / "alone.json").write_text(json.dumps(outcome(family, RunContext(), folder / "alone")))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    (folder / f"stacks-{rank}.json").write_text(json.dumps(sharded_stacks()))
    shares = RunContext(rank=rank, world_size=2, strategy="fsdp")
    (folder / f"{rank}.json").write_text(json.dumps(outcome(family, shares, folder / "shares")))
    # The same in two goes: the first is cut off after two of three epochs, the second takes up its checkpoint.
    checkpoint = folder / "checkpoint"
    cut = dataclasses.replace(shares, checkpoint_folder=checkpoint, report=stop_after(2))
    try:
        outcome(family, cut, folder / "cut")
    except KeyboardInterrupt:
        dist.barrier()
    again = dataclasses.replace(shares, resume_from=checkpoint)
    (folder / f"resumed-{rank}.json").write_text(json.dumps(outcome(family, again, folder / "resumed")))
    dist.destroy_process_group()


def sharded_stacks() -> list[str]:
    """Return the stacks of an encoder-decoder all of whose blocks are shared."""
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_decoder_layers=1, num_heads=2)
    objective = nn.Module()
    objective.model = nn.Module()
    objective.model.backbone = backbone = T5Model(config)
    shard(objective)
    return [
        stack.name
        for stack in stacks_of(backbone)
        if all(isinstance(block, FSDPModule) for block in blocks(backbone, stack.name))
    ]


def stop_after(epochs: int):
    """Return a report that ends the training as a kill would, after some epochs."""

    def report(row: dict, _folder: Path | None) -> None:
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return report


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
