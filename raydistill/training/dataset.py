"""Training examples with the teacher's cached outputs beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raydistill.data.batches import Batch, TrainingExamples
from raydistill.data.splits import SequenceData
from raydistill.errors import CorruptArtifactError, DataError
from raydistill.losses import LossWeights
from raydistill.models.recommender import Recommender
from raydistill.training.objective import CatalogueObjective
from raydistill.training.teacher_cache import TeacherCache

LENGTHS, TARGETS = 8, 64
"""Padded lengths, and padded numbers of targets, are multiples of these at least, so that there are few."""


@dataclass(frozen=True)
class DistillationBatch:
    """One length group of a step, with the teacher's hidden states at its targets where there is a cache."""

    batch: Batch
    teacher_hidden: Float[Tensor, "targets dim"] | None

    def tensors(self) -> list[Tensor]:
        """Return all that it holds."""
        return [value for value in (*vars(self.batch).values(), self.teacher_hidden) if value is not None]


class DistillationDataset:
    """Batches of training sequences, each target with the teacher's output for it.

    Example::

        dataset = DistillationDataset(data, max_length=50, causal=True, cache=TeacherCache.open(folder))
        DistillationTrainer(student, dataset, LossWeights(temperature=4.0)).fit()

    Args:
        data: Prepared sequences; only their training part is used.
        max_length: Longest input, in items.
        causal: Whether the models only look back.
        cache: The teacher's outputs; None to train without a teacher.
        examples: Further arguments of :class:`raydistill.data.batches.TrainingExamples`.

    Raises:
        DataError: There is nothing to learn from: no user has two interactions in the training part, or, for a model
            that looks both ways, one.
        CorruptArtifactError: The cache was made of other examples.
    """

    def __init__(
        self,
        data: SequenceData,
        *,
        max_length: int,
        causal: bool,
        cache: TeacherCache | None = None,
        **examples: float | int,
    ) -> None:
        self.data = data
        self.max_length = max_length
        self.examples = TrainingExamples(data, max_length=max_length, causal=causal, **examples)
        if not len(self.examples):
            least = "two interactions" if causal else "an interaction"
            raise DataError(
                f"no user has {least} in the training part, so there is nothing to learn from",
                where="data.split",
                mend="raise data.min_interactions, give longer histories, or take a split that leaves more to training",
            )
        self.cache = cache
        if cache is not None and len(cache) != self.examples.n_slots:
            raise CorruptArtifactError(
                f"the teacher cache holds {len(cache)} targets, the examples have {self.examples.n_slots}",
                mend="build the cache with the same data, max_length, mask patterns and seed",
            )

    @property
    def teacher_weight(self) -> Float[Tensor, "items dim"] | None:
        """The teacher's output embedding, or None without a cache."""
        return None if self.cache is None else self.cache.output_weight

    def steps(self, epoch: int, **arguments: int) -> Iterator[tuple[list[list[DistillationBatch]], int]]:
        """Yield the length groups of each part, and the number of targets, of every step of an epoch.

        Args:
            epoch: 0-based.
            arguments: As in :meth:`raydistill.data.batches.TrainingExamples.steps`.
        """
        for step in self.examples.steps(epoch, **arguments):
            yield [[self._with_teacher(batch) for batch in part] for part in step.parts], step.n_targets

    def _with_teacher(self, batch: Batch) -> DistillationBatch:
        return DistillationBatch(batch, None if self.cache is None else self.cache.rows(batch.slots))

    def objective(self, model: Recommender, weights: LossWeights, device: torch.device) -> CatalogueObjective:
        """Return the loss of a model on these examples."""
        weight = None if self.teacher_weight is None else self.teacher_weight.to(device)
        return CatalogueObjective(model, weights, weight)

    def to(self, batch: DistillationBatch, device: torch.device) -> DistillationBatch:
        """Return a batch on a device."""
        hidden = None if batch.teacher_hidden is None else batch.teacher_hidden.to(device, non_blocking=True)
        return DistillationBatch(batch.batch.to(device), hidden)

    def padded(self, batch: DistillationBatch, rows: int) -> DistillationBatch:
        """Return a batch in one of few shapes: rows of padding, and targets that do not count (label -1).

        Args:
            batch: On the host.
            rows: Sequences to pad to.
        """
        own = batch.batch
        old_rows, old_length = own.input_ids.shape
        length = min(self.max_length, -(-old_length // LENGTHS) * LENGTHS)
        more = (0, length - old_length, 0, rows - old_rows)
        n = own.labels.numel()
        step = max(TARGETS, 1 << max(0, n.bit_length() - 3))
        extra = (0, -(-n // step) * step - n)
        mask = None
        if own.attention_mask is not None:
            mask = F.pad(own.attention_mask, more)
            mask[old_rows:, 0] = 1  # attention over nothing is not a number
        padded = Batch(
            input_ids=F.pad(own.input_ids, more),
            attention_mask=mask,
            positions=F.pad(own.positions // old_length * length + own.positions % old_length, extra),
            labels=F.pad(own.labels, extra, value=-1),
            slots=F.pad(own.slots, extra),
            example=F.pad(own.example, extra),
        )
        hidden = batch.teacher_hidden
        return DistillationBatch(padded, None if hidden is None else F.pad(hidden, (0, 0, *extra)))
