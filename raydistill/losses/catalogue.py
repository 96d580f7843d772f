"""Cross-entropy and distillation over a whole catalogue, in chunks, with a hand-written backward.

Logits are ``hidden @ weight.T``, so for N positions and V items the plain computation keeps several
N x V arrays for autograd. Here the gradient of each chunk is formed while its logits are at hand and
the logits are then overwritten: memory grows with the chunk, not with N x V. Per logit s, with the
teacher's logit t, label y, p = softmax(s), q = softmax(s / T), r = softmax(t / T)::

    d total / d s = alpha_task * (p - [y]) + alpha_dist * T * (q - r)

Catalogues too wide for a chunk of positions are cut into tiles of items, see
:mod:`raydistill.losses.tiles`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.distillation import LossParts, LossWeights
from raydistill.losses.tiles import add_tiled
from raydistill.losses.workspace import Products, Workspace, add_soft, logits_into

CHUNK_LOGITS = 1 << 18
"""Logits in one chunk: its buffers stay in the cache of a core."""

GPU_CHUNK_LOGITS = 1 << 27

LEAST_POSITIONS = 80
"""Positions in one chunk, at least: with fewer the matrix products wait for the table."""

TILE_FROM_ITEMS = 1 << 16
"""Catalogue size from which items are tiled too."""

TILE_ITEMS = 1 << 13

SMALLEST = 1e-30
"""A probability below this has lost digits, or all of itself, to the range of float32."""


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
        chunk_logits: Logits formed at a time; chosen by device and catalogue where None.
        tile_items: Items formed at a time; where None, all of them below :data:`TILE_FROM_ITEMS`.

    Raises:
        ValueError: The distillation term is asked for without the teacher.
    """
    if weights.alpha_dist > 0 and (teacher_hidden is None or teacher_weight is None):
        raise ValueError("alpha_dist is positive: the teacher's hidden states and output embedding are needed")
    if weights.alpha_dist == 0:
        teacher_hidden = teacher_weight = None
    n_items = student_weight.shape[0]
    if tile_items is None:
        tile_items = n_items if n_items < TILE_FROM_ITEMS else TILE_ITEMS
    tile_items = min(tile_items, n_items)
    if chunk_logits is None:
        chunk_logits = GPU_CHUNK_LOGITS if student_hidden.is_cuda else max(CHUNK_LOGITS, LEAST_POSITIONS * tile_items)
    rows = max(1, min(chunk_logits // tile_items, labels.numel()))
    count = float(normalizer if normalizer is not None else labels.numel())
    with torch.autocast(student_hidden.device.type, enabled=False):  # the types are chosen here, not by operator
        total, task, distillation = _CatalogueLoss.apply(
            student_hidden, student_weight, labels, teacher_hidden, teacher_weight, weights, count, rows, tile_items
        )
    return LossParts(total, task, distillation)


class _CatalogueLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, teacher_hidden, teacher_weight, weights, count, rows, tile):
        work = Workspace(hidden, rows * tile, n_buffers=1 if teacher_hidden is None else 4)
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        products = Products(hidden, weight, work.dtype, 1.0 / count) if needs_gradient else None
        teacher = None if teacher_hidden is None else (teacher_hidden, teacher_weight)
        add = _add_whole if tile == weight.shape[0] else add_tiled
        sums = add(hidden, weight, labels, teacher, weights, rows, tile, work, products)
        sums = (sums / count).to(work.dtype)
        task, distillation = sums[0], sums[1]
        total = weights.alpha_task * task + weights.alpha_dist * distillation
        if needs_gradient:
            ctx.save_for_backward(products.hidden_gradient.to(hidden.dtype), products.weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(task, distillation)
        return total, task, distillation

    @staticmethod
    def backward(ctx, total_gradient, _task, _distillation):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = total_gradient
        return hidden_gradient * scale, weight_gradient * scale, None, None, None, None, None, None, None


def _add_whole(hidden, weight, labels, teacher, weights, rows, _tile, work, products) -> Tensor:
    """Return the sums of task and distillation loss; all items at once, positions in chunks."""
    sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
    # Products with the table laid out by dimension take about 0.8x the time.
    table = weight.T.contiguous()
    teacher_table = None if teacher is None else teacher[1].T.contiguous()
    if products is not None:
        products.open(slice(None), table)
    for start in range(0, labels.numel(), rows):
        part = slice(start, start + rows)
        index = labels[part].unsqueeze(1)
        logits = logits_into(hidden[part], table, work, 0)
        soft = None
        if teacher is not None:
            teacher_part = teacher[0][part].to(teacher_table.dtype) / weights.temperature
            soft, divergence = _soft_terms(
                hidden[part], table, logits, teacher_part, teacher_table, index, weights, work
            )
            sums[1] += divergence
        probabilities = torch.softmax(logits, 1, out=logits)
        own = _log_probability(probabilities, index, lambda few, part=part: hidden[part][few] @ table)
        sums[0] -= own.sum(dtype=torch.float64)
        if products is not None:
            minus_one = torch.full(index.shape, -1.0, dtype=work.dtype, device=index.device)
            probabilities.scatter_add_(1, index, minus_one)
            gradient, scale = add_soft(probabilities, soft, weights)
            products.add(part, gradient, scale)
    if products is not None:
        products.close()
    return sums


def _soft_terms(hidden, table, logits, teacher_hidden, teacher_table, index, weights, work) -> tuple[Tensor, Tensor]:
    """Return q - r for every logit, and T^2 times the sum over positions of KL(r || q).

    With s' = s / T and t' = t / T: KL = sum of r * (t' - s') + lse(s') - lse(t'), and a log-sum-exp is a
    logit less the log of its probability.
    """
    temperature = weights.temperature
    soft = torch.mul(logits, 1.0 / temperature, out=work.view(1, *logits.shape))
    target = logits_into(teacher_hidden, teacher_table, work, 2)
    difference = torch.sub(target, soft, out=work.view(3, *logits.shape))
    at_label = difference.gather(1, index).squeeze(1)
    torch.softmax(soft, 1, out=soft)
    torch.softmax(target, 1, out=target)
    divergence = difference.mul_(target).sum(dim=1) - at_label
    divergence -= _log_probability(soft, index, lambda few: hidden[few] @ table / temperature)
    divergence += _log_probability(target, index, lambda few: teacher_hidden[few] @ teacher_table)
    return soft.sub_(target), temperature**2 * divergence.sum(dtype=torch.float64)


def _log_probability(probabilities: Tensor, index: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the log of the label's probability; where that has run out of range, from the logits again."""
    own = probabilities.gather(1, index).squeeze(1)
    result = own.log()
    few = (own < SMALLEST).nonzero().squeeze(1)
    if few.numel():
        logits = logits_of(few).to(probabilities.dtype)
        result[few] = torch.log_softmax(logits, 1).gather(1, index[few]).squeeze(1)
    return result
