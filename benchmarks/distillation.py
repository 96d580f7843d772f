"""A distillation epoch from the cached teacher, against the student alone and loops that run the teacher."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Work, extra_memory, in_turns, row
from benchmarks.training import BATCH, FIRST_STEPS, LR, MAX_LENGTH, SLOW_SHARE, model, ours
from raydistill.data.batches import Batch
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights, class_loss
from raydistill.models.recommender import Recommender
from raydistill.training.dataset import DistillationDataset
from raydistill.training.teacher_cache import TeacherCache, build_teacher_cache

AREA = "distillation epoch, 8 to 2 blocks"
KEPT = [0, 7]


def run(data: SequenceData, *, rounds: int) -> list[dict[str, Any]]:
    """Return the time of one distillation epoch, teacher of 8 blocks, student of 2, each against the student alone."""
    teacher = model(data, 8).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = _teacher_pass(teacher, plain, folder)
        works = _works(teacher, plain, cache, folder)
        seconds = in_turns(works, rounds)
        memory = {name: extra_memory(work) for name, work in _works(teacher, plain, cache, folder).items()}
    return [
        row(AREA, name, value, seconds["student alone"], memory=memory[name], note=works[name].note)
        for name, value in seconds.items()
    ]


def cached_epoch(data: SequenceData) -> None:
    """Train one epoch from the cached teacher, with the pass that fills the cache."""
    teacher = model(data, 8).eval()
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = _teacher_pass(teacher, plain, folder)
        ours(teacher.keep_layers(KEPT), data, weights=LossWeights(), cache=cache).call()


def _works(teacher: Recommender, plain: DistillationDataset, cache: TeacherCache, folder: str) -> dict[str, Work]:
    """Return the loops, each with a student that has learned nothing yet."""
    steps = plain.examples.steps_in_epoch(BATCH)
    part = -(-steps // SLOW_SHARE)
    split = _Live(teacher, plain, groups=5)
    padded = _Live(teacher, plain, groups=1, padded=True)
    every = _Live(teacher, plain, groups=1, padded=True, all_positions=True)
    return {
        "teacher pass, once a sweep": Work(partial(_teacher_pass, teacher, plain, folder)),
        "student alone": ours(teacher.keep_layers(KEPT), plain.data),
        "raydistill, cached teacher": ours(teacher.keep_layers(KEPT), plain.data, weights=LossWeights(), cache=cache),
        "teacher in every step, batches split by length": split.some_steps(part),
        "teacher in every step, padded": padded.some_steps(part),
        "teacher in every step, padded, loss at padding too": every.some_steps(1, first=1),
    }


def _teacher_pass(teacher: Recommender, plain: DistillationDataset, folder: str) -> TeacherCache:
    return build_teacher_cache(teacher, plain.examples, Path(tempfile.mkdtemp(dir=folder)))


class _Live:
    """A loop that runs the teacher in every step and makes all logits of some positions at once.

    Args:
        teacher: The teacher.
        dataset: Training examples.
        groups: Length groups of a step.
        padded: Whether each batch is padded to the longest length of all.
        all_positions: Whether padding gets logits and a loss too, which a mask then takes out.
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

    def some_steps(self, n: int, *, first: int = FIRST_STEPS) -> Work:
        """Return the first steps of an epoch as a work: ``n`` of them a turn, fewer to warm up."""
        n_examples = len(self.dataset.examples)
        share = min(n * BATCH, n_examples) / n_examples
        return Work(partial(self._train, n), share, first_steps=partial(self._train, first))

    def _train(self, n_steps: int) -> None:
        self.student.train()
        for step in islice(self.dataset.examples.steps(0, batch_size=BATCH, seed=0, groups=self.groups), n_steps):
            self.optimizer.zero_grad()
            for batch in step.groups:
                self.loss(batch, step.n_targets).backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()

    def loss(self, batch: Batch, n_targets: int) -> Tensor:
        """Return the loss of a group, as its share of the step's."""
        length = batch.input_ids.shape[1]
        ids = F.pad(batch.input_ids, (0, MAX_LENGTH - length)) if self.padded else batch.input_ids
        real = torch.zeros(ids.shape, dtype=torch.bool)
        real[batch.positions // length, batch.positions % length] = True
        where = torch.ones_like(real) if self.all_positions else real
        with torch.no_grad():
            target = self.teacher.logits(self.teacher.hidden(ids)[where])
        logits = self.student.logits(self.student.hidden(ids)[where])
        if not self.all_positions:
            return class_loss(logits, target, batch.labels, LossWeights(), normalizer=n_targets).total
        labels = torch.zeros_like(ids)
        labels[real] = batch.labels
        return _masked_loss(logits, target, labels[where], real[where]) / n_targets


def _masked_loss(logits: Tensor, target: Tensor, labels: Tensor, real: Tensor) -> Tensor:
    """Return the same objective as loops have it that carry padding along to the end, and multiply it by 0 there."""
    weights = LossWeights()
    task = F.cross_entropy(logits, labels, reduction="none")
    soft = F.kl_div(
        F.log_softmax(logits / weights.temperature, dim=-1),
        F.log_softmax(target / weights.temperature, dim=-1),
        reduction="none",
        log_target=True,
    )
    each = weights.alpha_task * task + weights.alpha_dist * weights.temperature**2 * soft.sum(dim=-1)
    return (each * real).sum()
