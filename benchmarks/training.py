"""An epoch of training, an epoch of distillation and a ranking of all users, against floors and plain loops."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import floor
from benchmarks.measure import in_turns, row
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights, class_loss
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.recommender import Recommender, build_recommender
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.teacher_cache import build_teacher_cache

HIDDEN, MAX_LENGTH, BATCH, LR = 64, 50, 256, 1e-3


def epochs(data: SequenceData, *, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    """Return the time of one epoch of a GPT-2 of one block."""
    sequences = floor.training_sequences(data.items, data.offsets, data.train_end, MAX_LENGTH)
    works = {"floor script": _floor(floor.train_epoch, sequences, data), "raydistill": _ours(model(data, 1), data)}
    seconds = in_turns(works, rounds)
    if with_peers:
        slow = {"plain padded loop": _floor(floor.train_epoch_padded, sequences, data)}
        if importlib.util.find_spec("accelerate") is not None:
            slow["transformers Trainer"] = _trainer(sequences, data)
        seconds |= in_turns(slow, 1, warm_up=False)
    rows = [row("epoch, 1 block", name, value, seconds["floor script"]) for name, value in seconds.items()]
    if with_peers and "transformers Trainer" not in seconds:
        rows.append(row("epoch, 1 block", "transformers Trainer", None, note="skipped: accelerate is not installed"))
    return rows


def distillation(data: SequenceData, *, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    """Return the time of one distillation epoch, teacher of 8 blocks, student of 2."""
    teacher = model(data, 8).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    with tempfile.TemporaryDirectory() as folder:
        built = []
        making = in_turns(
            {"teacher pass": lambda: built.append(_cache(teacher, plain, Path(folder)))}, 1, warm_up=False
        )
        student = teacher.keep_layers([0, 7])
        works = {
            "student alone": _ours(teacher.keep_layers([0, 7]), data),
            "raydistill, cached teacher": _ours(student, data, weights=LossWeights(), cache=built[0]),
        }
        seconds = in_turns(works, rounds)
        if with_peers:
            live = {"teacher in every step": _live(teacher, teacher.keep_layers([0, 7]), plain)}
            seconds |= in_turns(live, 1, warm_up=False)
    area = "distillation epoch, 8 to 2 blocks"
    rows = [row(area, name, value, seconds["student alone"]) for name, value in seconds.items()]
    return [*rows, row(area, "teacher pass, once a sweep", making["teacher pass"], seconds["student alone"])]


def ranking(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of ranking all users over the whole catalogue."""
    recommender = model(data, 1).eval()
    plain = recommender.backbone
    positions = np.asarray(data.test_position)
    histories = [np.array(data.items[b:e]) for b, e in zip(data.offsets[:-1], positions, strict=True)]
    targets = np.asarray(data.items)[positions]
    works = {
        "floor script, ranks and top 10": lambda: floor.ranks(
            plain, histories, targets, data.n_items, longest=MAX_LENGTH
        ),
        "raydistill, ranks and top 10": lambda: rank_users(recommender, data, "test"),
        "raydistill, ranks alone": lambda: rank_users(recommender, data, "test", top=False),
    }
    seconds = in_turns(works, rounds)
    return [row("rank all users", name, value, next(iter(seconds.values()))) for name, value in seconds.items()]


def model(data: SequenceData, layers: int) -> Recommender:
    """Return an untrained GPT-2 recommender."""
    return build_recommender(
        "gpt2",
        n_items=data.n_items,
        layers=layers,
        hidden=HIDDEN,
        heads=2,
        dropout=0.2,
        max_length=MAX_LENGTH,
        seed=0,
    )


def _cache(teacher: Recommender, dataset: DistillationDataset, folder: Path):
    return build_teacher_cache(teacher, dataset.examples, folder)


def _ours(recommender: Recommender, data: SequenceData, *, weights: LossWeights = TASK_ONLY, cache=None):
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True, cache=cache)
    trainer = DistillationTrainer(recommender, dataset, weights, TrainingSettings(epochs=1000, batch_size=BATCH, lr=LR))
    steps = trainer.epochs()
    return lambda: next(steps)


def _floor(train_epoch, sequences, data: SequenceData):
    plain = floor.make_model(data.n_items, 1, HIDDEN, MAX_LENGTH)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, fused=True)
    return lambda: train_epoch(plain, optimizer, sequences, data.n_items, batch=BATCH)


def _live(teacher: Recommender, student: Recommender, dataset: DistillationDataset):
    """Return an epoch as plain loops distil: the teacher runs in every step, all logits of real positions at once."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)

    def epoch() -> None:
        student.train()
        for step in dataset.examples.steps(0, batch_size=BATCH, seed=0, groups=1):
            (batch,) = step.groups
            ids = torch.nn.functional.pad(batch.input_ids, (0, MAX_LENGTH - batch.input_ids.shape[1]))
            rows, columns = batch.positions // batch.input_ids.shape[1], batch.positions % batch.input_ids.shape[1]
            with torch.no_grad():
                target = teacher.logits(teacher.hidden(ids)[rows, columns])
            logits = student.logits(student.hidden(ids)[rows, columns])
            optimizer.zero_grad()
            class_loss(logits, target, batch.labels, LossWeights()).total.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

    return epoch


class _ForTrainer(nn.Module):
    """What transformers' Trainer wants: a module whose forward gives the loss."""

    def __init__(self, backbone: nn.Module, n_items: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_items = n_items

    def forward(self, input_ids, labels):
        real = labels >= 0
        hidden = self.backbone(input_ids=input_ids).last_hidden_state[real]
        logits = hidden @ self.backbone.wte.weight[1 : self.n_items + 1].T
        return {"loss": nn.functional.cross_entropy(logits, labels[real])}


def _trainer(sequences, data: SequenceData):
    from transformers import Trainer, TrainingArguments

    examples = []
    for sequence in sequences:
        ids, labels = torch.zeros(MAX_LENGTH, dtype=torch.int64), torch.full((MAX_LENGTH,), -1)
        ids[: len(sequence) - 1], labels[: len(sequence) - 1] = sequence[:-1], sequence[1:] - 1
        examples.append({"input_ids": ids, "labels": labels})
    module = _ForTrainer(floor.make_model(data.n_items, 1, HIDDEN, MAX_LENGTH), data.n_items)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    return lambda: Trainer(module, arguments, train_dataset=examples).train()
