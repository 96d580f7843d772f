"""The distillation objective over class logits.

At temperature T, for each target position::

    alpha_dist * T^2 * KL(softmax(t / T) || softmax(s / T)) + alpha_task * CE(s, y) + alpha_hidden * (1 - cos(h_s, h_t))

summed over classes, averaged over target positions. The factor T^2 keeps the size of the soft
gradient when T changes (Hinton, Vinyals & Dean 2015, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Temperature and weights of the objective.

    Attributes:
        temperature: T > 0.
        alpha_dist: Weight of the distillation term, >= 0; at 0 the teacher's logits are not needed.
        alpha_task: Weight of the cross-entropy with the true class, >= 0.
        alpha_hidden: Weight of the cosine distance of final hidden states, >= 0.
    """

    temperature: float = 4.0
    alpha_dist: float = 0.7
    alpha_task: float = 0.3
    alpha_hidden: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if min(self.alpha_dist, self.alpha_task, self.alpha_hidden) < 0:
            raise ValueError("the alpha weights must not be negative")

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return self.alpha_dist > 0 or self.alpha_hidden > 0


TASK_ONLY = LossWeights(temperature=1.0, alpha_dist=0.0, alpha_task=1.0)


class LossParts(NamedTuple):
    """The total, which has a gradient, and its unweighted parts, which have none."""

    total: Float[Tensor, ""]
    task: Float[Tensor, ""]
    distillation: Float[Tensor, ""]


def class_loss(
    student_logits: Float[Tensor, "targets classes"],
    teacher_logits: Float[Tensor, "targets classes"] | None,
    labels: Int64[Tensor, " targets"],
    weights: LossWeights,
    *,
    normalizer: float | None = None,
) -> LossParts:
    """Return the distillation objective from whole logits.

    Args:
        student_logits: Logits of the student.
        teacher_logits: Logits of the teacher; None where ``weights.alpha_dist`` is 0.
        labels: True classes.
        weights: Temperature and alphas; ``alpha_hidden`` is :func:`hidden_loss`'s.
        normalizer: What the sums are divided by; the number of targets where None.
    """
    count = normalizer if normalizer is not None else labels.numel()
    task = F.cross_entropy(student_logits, labels, reduction="sum") / count
    total = weights.alpha_task * task
    distillation = torch.zeros_like(task)
    if weights.alpha_dist > 0:
        temperature = weights.temperature
        distillation = temperature**2 * F.kl_div(
            F.log_softmax(student_logits / temperature, dim=-1),
            F.log_softmax(teacher_logits / temperature, dim=-1),
            reduction="sum",
            log_target=True,
        )
        distillation = distillation / count
        total = total + weights.alpha_dist * distillation
    return LossParts(total, task.detach(), distillation.detach())


def hidden_loss(
    student_hidden: Float[Tensor, "targets dim"],
    teacher_hidden: Float[Tensor, "targets dim"],
    labels: Int64[Tensor, " targets"] | None = None,
    *,
    normalizer: float | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of 1 - cos between the final hidden states of student and teacher.

    Rows of negative label do not count.

    Computed in float32 at least, under autocast too: near 1, numbers of bfloat16 are 0.004 apart, more than what is
    left of the distance once a student follows its teacher.
    """
    with torch.autocast(student_hidden.device.type, enabled=False):
        dtype = torch.promote_types(student_hidden.dtype, torch.float32)
        distance = 1.0 - F.cosine_similarity(student_hidden.to(dtype), teacher_hidden.to(dtype), dim=-1)
        count = distance.numel()
        if labels is not None:
            distance, count = torch.where(labels >= 0, distance, 0.0), (labels >= 0).sum()
    return distance.sum() / (count if normalizer is None else normalizer)
