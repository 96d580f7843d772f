"""Training texts with the teacher's cached outputs beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raydistill.data.preference import PreferenceData, TextBatch, TextExamples
from raydistill.errors import CorruptArtifactError
from raydistill.losses import LossWeights
from raydistill.models.classifier import TextClassifier
from raydistill.training.class_cache import ClassCache
from raydistill.training.objective import ClassObjective


@dataclass(frozen=True)
class TextGroup:
    """One length group of a step, with the teacher's outputs where there is a cache."""

    batch: TextBatch
    teacher_logits: Float[Tensor, "targets classes"] | None = None
    teacher_hidden: Float[Tensor, "targets dim"] | None = None


class TextDataset:
    """Batches of prompts, each with the teacher's logits for it.

    Args:
        data: Prepared prompts; only their training part is used.
        cache: The teacher's outputs; None to train without a teacher.

    Raises:
        CorruptArtifactError: The cache was made of other examples.
    """

    def __init__(self, data: PreferenceData, cache: ClassCache | None = None) -> None:
        self.data = data
        self.examples = TextExamples(data)
        self.cache = cache
        if cache is not None and len(cache) != self.examples.n_slots:
            raise CorruptArtifactError(
                f"the teacher cache holds {len(cache)} texts, the examples are {self.examples.n_slots}",
                mend="build the cache with the same data",
            )

    def steps(self, epoch: int, **arguments: int) -> Iterator[tuple[list[list[TextGroup]], int]]:
        """Yield the length groups of each part, and the number of texts, of every step of an epoch.

        Args:
            epoch: 0-based.
            arguments: As in :meth:`raydistill.data.preference.TextExamples.steps`.
        """
        for step in self.examples.steps(epoch, **arguments):
            yield [[self._with_teacher(batch) for batch in part] for part in step.parts], step.n_targets

    def _with_teacher(self, batch: TextBatch) -> TextGroup:
        if self.cache is None:
            return TextGroup(batch)
        return TextGroup(batch, self.cache.logits_of(batch.slots), self.cache.hidden_of(batch.slots))

    def objective(self, model: TextClassifier, weights: LossWeights, device: torch.device) -> ClassObjective:
        """Return the loss of a model on these examples."""
        return ClassObjective(model, weights)

    def to(self, group: TextGroup, device: torch.device) -> TextGroup:
        """Return a group on a device."""
        logits, hidden = (
            None if rows is None else rows.to(device, non_blocking=True)
            for rows in (group.teacher_logits, group.teacher_hidden)
        )
        return TextGroup(group.batch.to(device), logits, hidden)
