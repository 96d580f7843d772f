"""The catalogue loss where even one chunk of positions over all items is too wide.

Items are cut into tiles. A first pass over all tiles finds the log-sum-exps that normalize the
softmaxes, by a running maximum and sum (Milakov & Gimelshein 2018); a second pass forms each tile's
logits again, and its gradients. Each tile of the table meets all positions while it is near the core.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from raydistill.losses.workspace import Workspace, add_soft, logits_into


def add_tiled(hidden, weight, labels, teacher, weights, rows, tile, work, products) -> Tensor:
    """Return the sums of task and distillation loss, and add the gradients to ``products`` where it is not None.

    Args:
        hidden, weight, labels, weights: As in :func:`raydistill.losses.catalogue_loss`.
        teacher: The teacher's hidden states and output embedding, or None.
        rows: Positions at a time.
        tile: Items at a time.
        work: Buffers of ``rows * tile`` elements, four with a teacher, one without.
        products: Takes the gradients.
    """
    if teacher is not None:
        teacher = (teacher[0].to(teacher[1].dtype) / weights.temperature, teacher[1])
    normalizers = _normalizers(hidden, weight, teacher, weights.temperature, rows, tile, work)
    true_logit = (hidden.to(work.dtype) * weight[labels].to(work.dtype)).sum(dim=1)
    sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
    sums[0] = (normalizers.sum(dim=0)[0] - true_logit).sum(dtype=torch.float64)
    if products is None and teacher is None:
        return sums
    for items, table, teacher_table in _tiles(weight, teacher, tile):
        if products is not None:
            products.open(items, table)
        for start in range(0, labels.numel(), rows):
            part = slice(start, start + rows)
            (task_maximum, _, target_maximum), (task_log, soft_log, target_log) = normalizers[:, :, part, None]
            # Maxima come off first: a log-sum-exp in one number has lost the digits that count where logits are large.
            logits = logits_into(hidden[part], table, work, 0).sub_(task_maximum)
            soft = None
            if teacher is not None:
                soft = torch.mul(logits, 1.0 / weights.temperature, out=work.view(1, *logits.shape)).sub_(soft_log)
                target = logits_into(teacher[0][part], teacher_table, work, 2).sub_(target_maximum).sub_(target_log)
                difference = torch.sub(target, soft, out=work.view(3, *logits.shape))
                target.exp_()
                divergence = difference.mul_(target).sum(dim=1).sum(dtype=torch.float64)
                sums[1] += weights.temperature**2 * divergence
                soft.exp_().sub_(target)
            if products is not None:
                probabilities = logits.sub_(task_log).exp_()
                inside = ((labels[part] >= items.start) & (labels[part] < items.stop)).nonzero().squeeze(1)
                probabilities[inside, labels[part][inside] - items.start] -= 1.0
                products.add(part, *add_soft(probabilities, soft, weights))
        if products is not None:
            products.close()
    return sums


def _tiles(weight: Tensor, teacher, tile: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield each tile of items with the student's and the teacher's table of it, ``[dim, items]``."""
    for start in range(0, weight.shape[0], tile):
        items = slice(start, min(start + tile, weight.shape[0]))
        yield items, weight[items].T.contiguous(), None if teacher is None else teacher[1][items].T.contiguous()


def _normalizers(hidden, weight, teacher, temperature, rows, tile, work: Workspace) -> Tensor:
    """Return ``[2, 3, targets]``: maximum, and log-sum-exp less maximum, of s, s / T and t / T.

    The latter two mean something with a teacher only.
    """
    shape = (3, hidden.shape[0])
    maximum = torch.full(shape, -torch.inf, dtype=work.dtype, device=hidden.device)
    total = torch.zeros(shape, dtype=work.dtype, device=hidden.device)
    for _, table, teacher_table in _tiles(weight, teacher, tile):
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = logits_into(hidden[part], table, work, 0)
            highest = logits.amax(dim=1)
            logits.sub_(highest.unsqueeze(1))
            if teacher is not None:
                soft = torch.mul(logits, 1.0 / temperature, out=work.view(1, *logits.shape)).exp_()
                _join(maximum[1, part], total[1, part], highest * (1.0 / temperature), soft.sum(dim=1))
                target = logits_into(teacher[0][part], teacher_table, work, 2)
                target_highest = target.amax(dim=1)
                target.sub_(target_highest.unsqueeze(1)).exp_()
                _join(maximum[2, part], total[2, part], target_highest, target.sum(dim=1))
            _join(maximum[0, part], total[0, part], highest, logits.exp_().sum(dim=1))
    return torch.stack([maximum, total.log_()])


def _join(maximum: Tensor, total: Tensor, tile_maximum: Tensor, tile_total: Tensor) -> None:
    """Take a tile's maximum and sum of exponentials into the running ones, in place."""
    higher = torch.maximum(maximum, tile_maximum)
    total.mul_((maximum - higher).exp_()).add_(tile_total.mul_((tile_maximum - higher).exp_()))
    maximum.copy_(higher)
