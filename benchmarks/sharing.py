"""Several trials on one GPU: processes that train students of their own at the same time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.measure import row
from benchmarks.training import BATCH, LR, MAX_LENGTH, model
from raydistill.data.splits import SequenceData
from raydistill.losses.distillation import TASK_ONLY
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.loop import DistillationTrainer, TrainingSettings

AT_ONCE = (1, 2, 4, 8)
EPOCHS = 3
PATIENCE_S = 300.0
"""After so many seconds a process that others wait for is given up."""

LAYERS = 2


def run(data: SequenceData, *, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the seconds of an epoch, over all students, by the number of students trained at once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(max(AT_ONCE) + 1, timeout=PATIENCE_S)
    workers = [
        context.Process(target=_train, args=(number, data, device, barrier), daemon=True)
        for number in range(max(AT_ONCE))
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    alone = None
    for number in AT_ONCE:
        barrier.wait()
        started = time.perf_counter()
        barrier.wait()
        seconds = (time.perf_counter() - started) / (number * EPOCHS)
        alone = alone or seconds
        note = f"{3600 / seconds:,.0f} epochs an hour"
        yield row(f"gpu, epochs of {LAYERS} blocks", f"{number} at once", seconds, alone, note=note)
    for worker in workers:
        worker.join()


def _train(number: int, data: SequenceData, device: torch.device, barrier: Any) -> None:
    torch.set_num_threads(1)
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    settings = TrainingSettings(epochs=1000, batch_size=BATCH, lr=LR, seed=number)
    context = RunContext(device=device)
    epochs = DistillationTrainer(model(data, LAYERS), dataset, TASK_ONLY, settings, context=context).epochs()
    next(epochs)  # shapes are captured
    barrier.wait()
    for at_once in AT_ONCE:
        barrier.wait()
        if number < at_once:
            for _ in range(EPOCHS):
                next(epochs)
        barrier.wait()
