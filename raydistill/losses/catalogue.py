"""Cross-entropy and distillation over a whole catalogue, in chunks, with a hand-written backward.

Logits are ``hidden @ weight.T``, so for N positions and V items the plain computation keeps several
N x V arrays for autograd. Here the gradient of each chunk is formed while its logits are at hand and
the logits are then dropped: memory grows with the chunk, not with N x V. Per logit s, with the
teacher's logit t, label y, p = softmax(s), q = softmax(s / T), r = softmax(t / T)::

    d total / d s = alpha_task * (p - [y]) + alpha_dist * T * (q - r)

Catalogues too wide for a chunk of positions are also cut into tiles of items: a first pass finds the
normalizers by a running log-sum-exp (Milakov & Gimelshein 2018), a second forms the gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.distillation import LossParts, LossWeights

CHUNK_LOGITS = 1 << 20
"""Logits in one chunk: 4 MB in float32, which stays in a core's cache and still feeds the matrix product well."""

GPU_CHUNK_LOGITS = 1 << 27

TILE_FROM_ITEMS = 1 << 16
"""Catalogue size from which items are tiled too."""


def catalogue_loss(
    student_hidden: Float[Tensor, "targets dim"],
    student_weight: Float[Tensor, "items dim"],
    labels: Int64[Tensor, " targets"],
    weights: LossWeights,
    *,
    teacher_hidden: Float[Tensor, "targets teacher_dim"] | None = None,
    teacher_weight: Float[Tensor, "items teacher_dim"] | None = None,
    normalizer: float | None = None,
    chunk_logits: int | None = None,
    tile_items: int | None = None,
) -> LossParts:
    """Return the distillation objective over the catalogue without ever holding targets x items logits.

    Equal to :func:`raydistill.losses.class_loss` on ``student_hidden @ student_weight.T``, gradients
    included. Sums and gradients are accumulated in float32 (float64 for float64 input).

    Args:
        student_hidden: Final hidden states at the target positions.
        student_weight: Output embedding of the student.
        labels: Class of each target, the row of ``student_weight``.
        weights: Temperature and alphas.
        teacher_hidden: The teacher's final hidden states at the same positions; may be half precision.
        teacher_weight: Output embedding of the teacher.
        normalizer: What the sums are divided by; the number of targets where None.
        chunk_logits: Logits formed at a time; chosen by device where None.
        tile_items: Items formed at a time; the whole catalogue below :data:`TILE_FROM_ITEMS` where None.

    Raises:
        ValueError: The distillation term is asked for without the teacher.
    """
    if weights.alpha_dist > 0 and (teacher_hidden is None or teacher_weight is None):
        raise ValueError("alpha_dist is positive: the teacher's hidden states and output embedding are needed")
    if weights.alpha_dist == 0:
        teacher_hidden = teacher_weight = None
    n_items = student_weight.shape[0]
    budget = chunk_logits or (GPU_CHUNK_LOGITS if student_hidden.is_cuda else CHUNK_LOGITS)
    if tile_items is None:
        tile_items = n_items if n_items <= max(TILE_FROM_ITEMS, budget // 64) else max(4096, budget // 256)
    rows = max(1, budget // min(tile_items, n_items))
    count = float(normalizer if normalizer is not None else labels.numel())
    with torch.autocast(student_hidden.device.type, enabled=False):  # the types are chosen here, not by operator
        total, task, distillation = _CatalogueLoss.apply(
            student_hidden, student_weight, labels, teacher_hidden, teacher_weight, weights, count, rows, tile_items
        )
    return LossParts(total, task, distillation)


class _CatalogueLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, teacher_hidden, teacher_weight, weights, count, rows, tile):
        accumulate = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        hidden_gradient = torch.zeros(hidden.shape, dtype=accumulate, device=hidden.device) if needs_gradient else None
        weight_gradient = torch.zeros(weight.shape, dtype=accumulate, device=weight.device) if needs_gradient else None
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        chunk_of = _whole_catalogue_chunk if tile >= weight.shape[0] else _tiled_chunk
        for start in range(0, labels.numel(), rows):
            part = slice(start, start + rows)
            sums += chunk_of(
                _Side(hidden[part], weight, accumulate),
                None if teacher_hidden is None else _Side(teacher_hidden[part], teacher_weight, accumulate),
                labels[part],
                weights,
                None if hidden_gradient is None else hidden_gradient[part],
                weight_gradient,
                tile,
            )
        sums = (sums / count).to(accumulate)
        task, distillation = sums[0], sums[1]
        total = weights.alpha_task * task + weights.alpha_dist * distillation
        if needs_gradient:
            hidden_gradient /= count
            weight_gradient /= count
            ctx.save_for_backward(hidden_gradient.to(hidden.dtype), weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(task, distillation)
        return total, task, distillation

    @staticmethod
    def backward(ctx, total_gradient, _task, _distillation):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = total_gradient
        return hidden_gradient * scale, weight_gradient * scale, None, None, None, None, None, None, None


class _Side:
    """Hidden states of one chunk and the output embedding, of the student or of the teacher."""

    def __init__(self, hidden: Tensor, weight: Tensor, accumulate: torch.dtype) -> None:
        # A half-precision cache is widened here, a chunk at a time, to the embedding's type.
        self.hidden = hidden.to(weight.dtype)
        self.weight = weight
        self.accumulate = accumulate

    def logits(self, items: slice = slice(None)) -> Tensor:
        return (self.hidden @ self.weight[items].T).to(self.accumulate)


def _whole_catalogue_chunk(student, teacher, labels, weights, hidden_gradient, weight_gradient, _tile) -> Tensor:
    """Add the gradients of one chunk of positions over the whole catalogue; return its two sums."""
    logits = student.logits()
    index = labels.unsqueeze(1)
    true_logit = logits.gather(1, index)
    gradient, distillation = None, logits.new_zeros(())
    if teacher is not None:
        temperature = weights.temperature
        gradient, distillation = _soft_terms(logits, teacher.logits(), temperature)
        gradient *= weights.alpha_dist * temperature
        distillation = distillation * temperature**2
    maximum = logits.amax(dim=1, keepdim=True)
    probabilities = logits.sub_(maximum).exp_()
    normalizer = probabilities.sum(dim=1, keepdim=True)
    task = (normalizer.log() + maximum - true_logit).sum()
    if hidden_gradient is not None:
        probabilities *= weights.alpha_task / normalizer
        probabilities.scatter_add_(1, index, torch.full_like(true_logit, -weights.alpha_task))
        gradient = probabilities if gradient is None else gradient.add_(probabilities)
        _add_products(gradient, student, slice(None), hidden_gradient, weight_gradient)
    return torch.stack([task.double(), distillation.double()])


def _soft_terms(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return q - r for every logit, and the sum over positions of KL(r || q) at the temperature."""
    soft = student_logits / temperature
    target = teacher_logits.div_(temperature)
    soft -= soft.amax(dim=1, keepdim=True)
    target -= target.amax(dim=1, keepdim=True)
    difference = target - soft
    soft.exp_()
    target.exp_()
    soft_sum = soft.sum(dim=1, keepdim=True)
    target_sum = target.sum(dim=1, keepdim=True)
    target /= target_sum
    divergence = torch.linalg.vecdot(target, difference) + (soft_sum.log() - target_sum.log()).squeeze(1)
    soft /= soft_sum
    return soft.sub_(target), divergence.sum()


def _add_products(gradient, student, items, hidden_gradient, weight_gradient) -> None:
    """Add the two matrix products of the chain rule for a block of d total / d logits."""
    gradient = gradient.to(student.weight.dtype)
    if gradient.dtype == hidden_gradient.dtype:
        hidden_gradient.addmm_(gradient, student.weight[items])
        weight_gradient[items].addmm_(gradient.T, student.hidden)
    else:  # bfloat16 products, accumulated in float32
        hidden_gradient += gradient @ student.weight[items]
        weight_gradient[items] += gradient.T @ student.hidden


def _tiled_chunk(student, teacher, labels, weights, hidden_gradient, weight_gradient, tile) -> Tensor:
    """Add the gradients of one chunk of positions, tile by tile of items; return its two sums."""
    n_items = student.weight.shape[0]
    temperature = weights.temperature
    tiles = [slice(start, min(start + tile, n_items)) for start in range(0, n_items, tile)]
    zero = torch.zeros(labels.numel(), dtype=student.accumulate, device=labels.device)
    task_lse, soft_lse, target_lse = (torch.full_like(zero, -torch.inf) for _ in range(3))
    for items in tiles:
        logits = student.logits(items)
        task_lse = torch.logaddexp(task_lse, logits.logsumexp(dim=1))
        if teacher is not None:
            soft_lse = torch.logaddexp(soft_lse, (logits / temperature).logsumexp(dim=1))
            target_lse = torch.logaddexp(target_lse, (teacher.logits(items) / temperature).logsumexp(dim=1))
    true_logit = (student.hidden * student.weight[labels]).to(student.accumulate).sum(dim=1)
    task = (task_lse - true_logit).sum()
    divergence = zero.clone()
    for items in tiles:
        if hidden_gradient is None and teacher is None:
            break
        logits = student.logits(items)
        gradient = None
        if teacher is not None:
            log_soft = logits / temperature - soft_lse.unsqueeze(1)
            log_target = teacher.logits(items).div_(temperature).sub_(target_lse.unsqueeze(1))
            difference = log_target - log_soft
            target = log_target.exp_()
            divergence += torch.linalg.vecdot(target, difference)
            gradient = log_soft.exp_().sub_(target).mul_(weights.alpha_dist * temperature)
        if hidden_gradient is None:
            continue
        probabilities = logits.sub_(task_lse.unsqueeze(1)).exp_().mul_(weights.alpha_task)
        inside = (labels >= items.start) & (labels < items.stop)
        probabilities[inside, labels[inside] - items.start] -= weights.alpha_task
        gradient = probabilities if gradient is None else gradient.add_(probabilities)
        _add_products(gradient, student, items, hidden_gradient, weight_gradient)
    return torch.stack([task.double(), (divergence.sum() * temperature**2).double()])
