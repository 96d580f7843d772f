"""A distillation epoch from the cached teacher, against the student alone and loops that run the teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import extra_memory, in_turns, row
from benchmarks.training import BATCH, LR, MAX_LENGTH, SLOW_SHARE, model, ours
from raydistill.data.batches import Batch, Step
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights, class_loss
from raydistill.models.recommender import Recommender
from raydistill.training.dataset import DistillationDataset
from raydistill.training.teacher_cache import build_teacher_cache

AREA = "distillation epoch, 8 to 2 blocks"
KEPT = [0, 7]
STEPS_OF_ALL = 2
"""Steps that are run, and the epoch estimated from, where all padded positions get logits."""


def run(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of one distillation epoch, teacher of 8 blocks, student of 2, each against the student alone."""
    teacher = model(data, 8).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    with tempfile.TemporaryDirectory() as folder:
        built = []
        making = {"teacher pass": lambda: built.append(build_teacher_cache(teacher, plain.examples, Path(folder)))}
        seconds = {"teacher pass, once a sweep": in_turns(making, 1, warm_up=False)["teacher pass"]}
        seconds |= in_turns(
            {
                "student alone": ours(teacher.keep_layers(KEPT), data),
                "raydistill, cached teacher": ours(
                    teacher.keep_layers(KEPT), data, weights=LossWeights(), cache=built[0]
                ),
            },
            rounds,
        )
    live = {
        "teacher in every step, batches split by length": _Live(teacher, plain, groups=5),
        "teacher in every step, padded": _Live(teacher, plain, groups=1, padded=True),
    }
    steps = plain.examples.steps_in_epoch(BATCH)
    n_slow = -(-steps // SLOW_SHARE)
    for loop in live.values():  # a whole epoch to warm up would take too long
        loop.epoch(1)
    found = in_turns({name: partial(loop.epoch, n_slow) for name, loop in live.items()}, 2, warm_up=False)
    seconds |= {name: value * steps / n_slow for name, value in found.items()}
    every = _Live(teacher, plain, groups=1, padded=True, all_positions=True)
    every.epoch(1)
    part = in_turns({"part": lambda: every.epoch(STEPS_OF_ALL)}, 2, warm_up=False)["part"]
    seconds["teacher in every step, padded, logits of padding too"] = part * steps / min(STEPS_OF_ALL, steps)
    note = dict.fromkeys(found, f"from {n_slow} of {steps} steps")
    note |= {"teacher in every step, padded, logits of padding too": f"from {STEPS_OF_ALL} of {steps} steps"}
    memory = {"teacher in every step, padded, logits of padding too": extra_memory(lambda: every.epoch(1))}
    memory["teacher in every step, padded"] = extra_memory(lambda: live["teacher in every step, padded"].epoch(2))
    cached = ours(teacher.keep_layers(KEPT), data, weights=LossWeights(), cache=built[0])
    memory["raydistill, cached teacher"] = extra_memory(cached)
    return [
        row(AREA, name, value, seconds["student alone"], note=note.get(name, ""), memory=memory.get(name, -1))
        for name, value in seconds.items()
    ]


def cached_epoch(data: SequenceData) -> float:
    """Return the seconds of one epoch from the cached teacher, the pass that fills the cache included."""
    teacher = model(data, 8).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)

    def epoch(folder: Path) -> None:
        cache = build_teacher_cache(teacher, plain.examples, folder)
        ours(teacher.keep_layers(KEPT), data, weights=LossWeights(), cache=cache)()

    with tempfile.TemporaryDirectory() as folder:
        return in_turns({"epoch": lambda: epoch(Path(folder))}, 1, warm_up=False)["epoch"]


class _Live:
    """A loop that runs the teacher in every step and makes all logits of some positions at once.

    Args:
        teacher: The teacher.
        dataset: Training examples.
        groups: Length groups of a step.
        padded: Whether each batch is padded to the longest length of all.
        all_positions: Whether padding gets logits too, as where the loss masks it.
    """

    def __init__(
        self,
        teacher: Recommender,
        dataset: DistillationDataset,
        *,
        groups: int,
        padded: bool = False,
        all_positions: bool = False,
    ) -> None:
        self.teacher, self.dataset = teacher, dataset
        self.student = teacher.keep_layers(KEPT)
        self.groups, self.padded, self.all_positions = groups, padded, all_positions
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=LR, fused=True)

    def epoch(self, n_steps: int | None = None) -> None:
        """Train one epoch, or some steps of one."""
        self.student.train()
        for step in islice(self._steps(), n_steps):
            self.optimizer.zero_grad()
            for batch in step.groups:
                self._loss(batch, step.n_targets).backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()

    def _steps(self) -> Iterator[Step]:
        return self.dataset.examples.steps(0, batch_size=BATCH, seed=0, groups=self.groups)

    def _loss(self, batch: Batch, n_targets: int) -> Tensor:
        length = batch.input_ids.shape[1]
        ids = torch.nn.functional.pad(batch.input_ids, (0, MAX_LENGTH - length)) if self.padded else batch.input_ids
        rows, columns = batch.positions // length, batch.positions % length
        with torch.no_grad():
            target = self._logits(self.teacher, ids, rows, columns)
        logits = self._logits(self.student, ids, rows, columns)
        return class_loss(logits, target, batch.labels, LossWeights(), normalizer=n_targets).total

    def _logits(self, recommender: Recommender, ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        hidden = recommender.hidden(ids)
        return (
            recommender.logits(hidden)[rows, columns]
            if self.all_positions
            else recommender.logits(hidden[rows, columns])
        )
