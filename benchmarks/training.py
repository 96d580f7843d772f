"""An epoch of training and a ranking of all users, against floors, plain loops and transformers' Trainer."""

from __future__ import annotations

import importlib.util
import tempfile
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import floor
from benchmarks.measure import Work, extra_memory, in_turns, row
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.recommender import Recommender, build_recommender
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings

HIDDEN, MAX_LENGTH, BATCH, LR = 64, 50, 256, 1e-3
TRAINER = "transformers Trainer, padded"

SLOW_SHARE = 4
"""Slow loops take about a fourth of the sequences, and their time is multiplied: it is the same for every batch."""

FIRST_STEPS = 2
"""Steps that warm a training loop up, whoever's it is."""


def epochs(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of one epoch of a GPT-2 of one block."""
    sequences = floor.training_sequences(data.items, data.offsets, data.train_end, MAX_LENGTH)
    works = _epochs(sequences, data)
    seconds = in_turns(works, rounds)
    # A loop that has trained keeps gradients and averages: new ones say what training needs from its beginning.
    memory = {name: extra_memory(work) for name, work in _epochs(sequences, data).items()}
    area = "epoch, 1 block"
    rows = [
        row(area, name, value, seconds["floor script"], memory=memory[name], note=works[name].note)
        for name, value in seconds.items()
    ]
    if TRAINER not in works:
        rows.append(row(area, TRAINER, None, note="skipped: accelerate is not installed"))
    return rows


def _epochs(sequences: list[torch.Tensor], data: SequenceData) -> dict[str, Work]:
    part = sequences[::SLOW_SHARE]
    share = len(part) / len(sequences)
    works = {
        "floor script": _floor(floor.train_epoch, sequences, data),
        "raydistill": ours(model(data, 1), data),
        "plain loop, padded": _floor(floor.train_epoch_padded, part, data, share),
    }
    if importlib.util.find_spec("accelerate") is not None:
        first = part[: FIRST_STEPS * BATCH]
        works[TRAINER] = Work(_trainer(part, data), share, first_steps=_trainer(first, data))
    return works


def ranking(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of ranking all users over the whole catalogue."""
    recommender = model(data, 1).eval()
    plain = recommender.backbone
    histories, targets = histories_and_targets(data)
    works = {
        "floor script, ranks and top 10": Work(
            lambda: floor.ranks(plain, histories, targets, data.n_items, longest=MAX_LENGTH)
        ),
        "raydistill, ranks and top 10": Work(lambda: rank_users(recommender, data, "test")),
        "raydistill, ranks alone": Work(lambda: rank_users(recommender, data, "test", top=False)),
    }
    seconds = in_turns(works, rounds)
    against = next(iter(seconds.values()))
    return [
        row("rank all users", name, seconds[name], against, memory=extra_memory(work)) for name, work in works.items()
    ]


def histories_and_targets(data: SequenceData) -> tuple[list[np.ndarray], np.ndarray]:
    """Return what each user had seen before the test item, and that item."""
    positions = np.asarray(data.test_position)
    histories = [np.array(data.items[b:e]) for b, e in zip(data.offsets[:-1], positions, strict=True)]
    return histories, np.asarray(data.items)[positions]


def model(data: SequenceData, layers: int, *, dropout: float = 0.2, seed: int = 0) -> Recommender:
    """Return an untrained GPT-2 recommender."""
    return build_recommender(
        "gpt2",
        n_items=data.n_items,
        layers=layers,
        hidden=HIDDEN,
        heads=2,
        dropout=dropout,
        max_length=MAX_LENGTH,
        seed=seed,
    )


def ours(recommender: Recommender, data: SequenceData, *, weights: LossWeights = TASK_ONLY, cache=None) -> Work:
    """Return an epoch by raydistill's loop; each turn trains one more."""
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True, cache=cache)

    def epochs(examples: int | None):
        settings = TrainingSettings(epochs=1000, epoch_examples=examples, batch_size=BATCH, lr=LR)
        return DistillationTrainer(recommender, dataset, weights, settings).epochs()

    return Work(partial(next, epochs(None)), first_steps=partial(next, epochs(FIRST_STEPS * BATCH)))


def _floor(train_epoch, sequences: list[torch.Tensor], data: SequenceData, share: float = 1.0) -> Work:
    plain = floor.make_model(data.n_items, 1, HIDDEN, MAX_LENGTH)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, fused=True)

    def train(some: list[torch.Tensor]) -> None:
        train_epoch(plain, optimizer, some, data.n_items, batch=BATCH)

    return Work(partial(train, sequences), share, first_steps=partial(train, sequences[: FIRST_STEPS * BATCH]))


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
    from transformers import PrinterCallback, Trainer, TrainingArguments

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
    trainer = Trainer(module, arguments, train_dataset=examples)
    trainer.remove_callback(PrinterCallback)  # it would print between the rows
    return trainer.train
