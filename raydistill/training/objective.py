"""The model and its loss as one module, so that data-parallel wrappers see all of the forward pass."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydistill.losses import LossParts, LossWeights, catalogue_loss, class_loss, hidden_loss
from raydistill.losses.fused import suits
from raydistill.models.classifier import TextClassifier
from raydistill.models.recommender import Recommender


class Group(Protocol):
    """One length group of a step: a batch, and the teacher's outputs at its targets where there is a cache."""

    batch: object
    teacher_hidden: Float[Tensor, "targets dim"] | None


class CatalogueObjective(nn.Module):
    """The next item among all: the loss of the whole catalogue, in chunks.

    Args:
        model: What is trained.
        weights: Temperature and alphas.
        teacher_weight: The teacher's output embedding; None without a teacher.
    """

    def __init__(
        self, model: Recommender, weights: LossWeights, teacher_weight: Float[Tensor, "items dim"] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.teacher_weight = teacher_weight

    def can_be_captured(self) -> bool:
        """Return whether the loss waits for nothing that a GPU computes, so that a step can become a CUDA graph."""
        table = self.model.items_of(self.model.table()).detach()
        return suits(table, table, self.teacher_weight)

    def forward(self, groups: list[Group], normalizer: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the total loss of some length groups and its task and distillation parts, sums over ``normalizer``.

        The groups go through the model one by one, since each has its own length, and through the output layer
        together: its cost is in the catalogue, and the table's gradient is then made once. A table out of texts is
        formed once for all of them.
        """
        table = self.model.table()
        states = [self.model(g.batch.input_ids, g.batch.attention_mask, table).flatten(0, 1) for g in groups]
        hidden = torch.cat([s.index_select(0, g.batch.positions) for s, g in zip(states, groups, strict=True)])
        factor = hidden
        if torch.is_autocast_enabled(hidden.device.type):
            # Final norms give float32; the products with the whole catalogue are what lower precision is for.
            factor = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        labels = torch.cat([group.batch.labels for group in groups])
        teacher_hidden = None if self.teacher_weight is None else _joined([g.teacher_hidden for g in groups])
        parts = catalogue_loss(
            factor,
            self.model.items_of(table).to(factor.dtype),
            labels,
            self.weights,
            teacher_hidden=teacher_hidden,
            teacher_weight=self.teacher_weight,
            normalizer=normalizer,
        )
        return _with_hidden(parts, self.weights, hidden, teacher_hidden, labels, normalizer)


class ClassObjective(nn.Module):
    """One class of a few for each text: the loss of whole logits, in float32.

    Args:
        model: What is trained.
        weights: Temperature and alphas.
    """

    def __init__(self, model: TextClassifier, weights: LossWeights) -> None:
        super().__init__()
        self.model = model
        self.weights = weights

    def can_be_captured(self) -> bool:
        """Return False: prompts have lengths of their own, and their models are wide."""
        return False

    def forward(self, groups: list[Group], normalizer: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the total loss of some length groups and its task and distillation parts, sums over ``normalizer``."""
        # Rows without a label are those of a worker whose share of a small last step is empty.
        hidden = torch.cat([self.model(g.batch.input_ids, g.batch.attention_mask)[g.batch.example] for g in groups])
        logits = self.model.logits(hidden).float()
        teacher_logits = teacher_hidden = None
        if self.weights.needs_teacher:
            teacher_logits = _joined([group.teacher_logits for group in groups])
        if self.weights.alpha_hidden > 0:
            teacher_hidden = _joined([group.teacher_hidden for group in groups])
        labels = torch.cat([group.batch.labels for group in groups])
        parts = class_loss(logits, teacher_logits, labels, self.weights, normalizer=normalizer)
        return _with_hidden(parts, self.weights, hidden, teacher_hidden, labels, normalizer)


def _joined(outputs: list[Tensor]) -> Tensor:
    """Return the teacher's outputs at all targets; under autocast to bfloat16, half precision cannot be joined."""
    with torch.autocast(outputs[0].device.type, enabled=False):
        return torch.cat(outputs)


def _with_hidden(
    parts: LossParts,
    weights: LossWeights,
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    normalizer: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parts of a loss with the distance of hidden states added to the total."""
    total = parts.total
    if weights.alpha_hidden > 0:
        distance = hidden_loss(hidden, teacher_hidden, labels, normalizer=normalizer)
        total = total + weights.alpha_hidden * distance
    return total, parts.task, parts.distillation
