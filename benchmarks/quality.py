"""Whether a faster epoch teaches as much: the floor script's model and raydistill's, trained alike and ranked by each.

Both are a GPT-2 of one block with the same initialization, windows, batch size, dropout, clipping, AdamW and constant
learning rate; order and dropout are drawn by each in its own way, so that single seeds differ by chance. The last
epoch is ranked, the test users over the whole catalogue, seen items masked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import floor
from benchmarks.measure import row
from benchmarks.training import BATCH, HIDDEN, MAX_LENGTH, histories_and_targets, model
from raydistill.data.splits import SequenceData
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import mean_metrics
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings

SEEDS = (0, 1)
EPOCHS, LR, DROPOUT, WEIGHT_DECAY = 10, 1e-3, 0.2, 0.01


def run(data: SequenceData) -> list[dict[str, Any]]:
    """Return seconds of training and test NDCG@10 by seed, raydistill against the floor script."""
    rows = []
    for seed in SEEDS:
        against = None
        for name, train in (("floor script", _floor), ("raydistill", _ours)):
            started = time.process_time()
            rank = train(data, seed)
            seconds = time.process_time() - started
            against = against or seconds
            ndcg = mean_metrics(rank())["ndcg@10"]
            area = f"quality, {EPOCHS} epochs, 1 block, seed {seed}"
            rows.append(row(area, name, seconds, against, note=f"test NDCG@10 {ndcg:.4f}", ndcg=ndcg))
    return rows


def _floor(data: SequenceData, seed: int) -> Callable[[], np.ndarray]:
    """Train the floor script's model; return the call that ranks its test users."""
    plain = floor.make_model(data.n_items, 1, HIDDEN, MAX_LENGTH, dropout=DROPOUT, seed=seed)
    # As raydistill has it: biases and norms do not decay.
    matrices = [parameter for parameter in plain.parameters() if parameter.ndim >= 2]
    rest = [parameter for parameter in plain.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    sequences = floor.training_sequences(data.items, data.offsets, data.train_end, MAX_LENGTH)
    for epoch in range(EPOCHS):
        floor.train_epoch(plain, optimizer, sequences, data.n_items, batch=BATCH, order_seed=(seed, epoch))
    histories, targets = histories_and_targets(data)
    return lambda: floor.ranks(plain, histories, targets, data.n_items, longest=MAX_LENGTH)[0]


def _ours(data: SequenceData, seed: int) -> Callable[[], np.ndarray]:
    """Train raydistill's model; return the call that ranks its test users."""
    settings = TrainingSettings(
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        warmup=0.0,
        schedule="constant",
        seed=seed,
    )
    recommender = model(data, 1, dropout=DROPOUT, seed=seed)
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    DistillationTrainer(recommender, dataset, TASK_ONLY, settings).fit()
    return lambda: rank_users(recommender, data, "test")["rank"]
