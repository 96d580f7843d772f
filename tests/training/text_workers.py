"""One of two workers that train, judge and cache prompts: ``python text_workers.py RANK FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from text_job_zoo import text_resources

from raydistill.data.preference import PreferenceData
from raydistill.losses import LossWeights
from raydistill.models import lora
from raydistill.models.classifier import build_classifier
from raydistill.records import score_metrics
from raydistill.training.class_cache import ClassCache, build_class_cache
from raydistill.training.context import RunContext
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.scoring import score_lists
from raydistill.training.text_dataset import TextDataset

WEIGHTS = LossWeights(2.0, 0.7, 0.3, 0.1)


def outcome(data: PreferenceData, context: RunContext, folder: Path) -> dict:
    """Return curve and adapters of one distillation, and the scores and the cache of its teacher."""
    teacher = build_classifier(
        "gpt2",
        vocab_size=64,
        pad_id=data.pad_id,
        n_classes=data.n_classes,
        class_names=data.class_names,
        layers=2,
        hidden=16,
        heads=2,
        dropout=0.0,
        max_tokens=24,
        seed=3,
    )
    teacher = teacher.eval().to(context.device)
    build_class_cache(teacher, TextDataset(data).examples, folder, with_hidden=True, context=context)
    cache = ClassCache.open(folder, verify=True)
    dataset = TextDataset(data, cache)
    n = len(dataset.examples)
    # A last step of one example, which leaves nothing for the second worker.
    batch_size = next(size for size in range(12, n) if n % size == 1)
    settings = TrainingSettings(
        epochs=3, batch_size=batch_size, lr=3e-3, gradient_accumulation=2, metric="log_loss", patience=None
    )
    student = lora.with_lora(teacher.keep_layers([1]), rank=2, alpha=8.0, dropout=0.0, seed=0)

    def validate(model) -> dict[str, float]:
        return score_metrics(["log_loss"], score_lists(model, data, "validation", context=context))

    trainer = DistillationTrainer(student, dataset, WEIGHTS, settings, evaluate=validate, context=context)
    result = trainer.fit()
    trained = {name: value for name, value in student.named_parameters() if value.requires_grad}
    scores = score_lists(teacher, data, "test", context=context)
    return {
        "curve": [[row["loss"], row["log_loss"]] for row in result.curves],
        "trained": {name: value.flatten().tolist() for name, value in trained.items()},
        "scores": {name: values.tolist() for name, values in scores.items()},
        "cache": {"logits": cache.logits.tolist(), "hidden": cache.hidden.astype(float).tolist()},
        "files": sorted(path.name for path in folder.iterdir()),
    }


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    own = folder / f"data-{rank}"
    own.mkdir()
    data = text_resources(own).data
    if rank == 0:
        (folder / "alone.json").write_text(json.dumps(outcome(data, RunContext(), folder / "alone")))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for strategy in ("ddp", "fsdp"):
        context = RunContext(rank=rank, world_size=2, strategy=strategy)
        together = outcome(data, context, folder / strategy)
        (folder / f"{strategy}-{rank}.json").write_text(json.dumps(together))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
