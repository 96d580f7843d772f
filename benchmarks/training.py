"""An epoch of training and a ranking of all users, against floors, plain loops and transformers' Trainer."""

from __future__ import annotations

import importlib.util
import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import floor
from benchmarks.measure import in_turns, row
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.recommender import Recommender, build_recommender
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings

HIDDEN, MAX_LENGTH, BATCH, LR = 64, 50, 256, 1e-3

SLOW_SHARE = 4
"""Slow loops take about a fourth of the steps, and their time is multiplied: it is the same in every step."""


def epochs(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of one epoch of a GPT-2 of one block."""
    sequences = floor.training_sequences(data.items, data.offsets, data.train_end, MAX_LENGTH)
    works = {"floor script": _floor(floor.train_epoch, sequences, data), "raydistill": ours(model(data, 1), data)}
    seconds = in_turns(works, rounds)
    slow = {"plain loop, padded": _floor(floor.train_epoch_padded, sequences[::SLOW_SHARE], data)}
    if importlib.util.find_spec("accelerate") is not None:
        slow["transformers Trainer, padded"] = _trainer(sequences[::SLOW_SHARE], data)
    found = in_turns(slow, 1)
    steps, of_all = (-(-len(some) // BATCH) for some in (sequences[::SLOW_SHARE], sequences))
    seconds |= {name: value * of_all / steps for name, value in found.items()}
    note = dict.fromkeys(found, f"from {steps} of {of_all} steps")
    area = "epoch, 1 block"
    rows = [row(area, name, v, seconds["floor script"], note=note.get(name, "")) for name, v in seconds.items()]
    if len(slow) == 1:
        rows.append(row(area, "transformers Trainer, padded", None, note="skipped: accelerate is not installed"))
    return rows


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


def ours(recommender: Recommender, data: SequenceData, *, weights: LossWeights = TASK_ONLY, cache=None):
    """Return a call that trains one epoch more by raydistill's loop."""
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True, cache=cache)
    trainer = DistillationTrainer(recommender, dataset, weights, TrainingSettings(epochs=1000, batch_size=BATCH, lr=LR))
    steps = trainer.epochs()
    return lambda: next(steps)


def _floor(train_epoch, sequences, data: SequenceData):
    plain = floor.make_model(data.n_items, 1, HIDDEN, MAX_LENGTH)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, fused=True)
    return lambda: train_epoch(plain, optimizer, sequences, data.n_items, batch=BATCH)


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
    return Trainer(module, arguments, train_dataset=examples).train
