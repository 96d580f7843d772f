"""Buffers and matrix products that the catalogue loss uses chunk after chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.losses.distillation import LossWeights


class Workspace:
    """Some flat buffers, allocated once: fresh pages for every chunk would cost as much as the arithmetic.

    Args:
        like: Decides the device and the type: float64 for float64, else float32.
        size: Elements of each buffer.
        n_buffers: Number of buffers.
    """

    def __init__(self, like: Tensor, size: int, *, n_buffers: int) -> None:
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._buffers = [torch.empty(size, dtype=self.dtype, device=like.device) for _ in range(n_buffers)]

    def view(self, number: int, rows: int, columns: int) -> Tensor:
        """Return the beginning of a buffer as ``[rows, columns]``."""
        return self._buffers[number][: rows * columns].view(rows, columns)


def logits_into(hidden: Tensor, table: Tensor, work: Workspace, number: int) -> Tensor:
    """Return ``hidden @ table`` in a buffer, for a table ``[dim, items]``."""
    out = work.view(number, hidden.shape[0], table.shape[1])
    if hidden.dtype == table.dtype == out.dtype:
        return torch.mm(hidden, table, out=out)
    return out.copy_(hidden.to(table.dtype) @ table)


def add_soft(task: Tensor, soft: Tensor | None, weights: LossWeights) -> tuple[Tensor, float]:
    """Return a block of d total / d logits up to a factor, and that factor.

    Args:
        task: p - [y]; overwritten.
        soft: q - r; overwritten. None without distillation.
        weights: Temperature and alphas.
    """
    if soft is None:
        return task, weights.alpha_task
    soft_scale = weights.alpha_dist * weights.temperature
    # The larger factor is left to the products, so that the smaller one is at most 1 here.
    if weights.alpha_task > soft_scale:
        return task.add_(soft, alpha=soft_scale / weights.alpha_task), weights.alpha_task
    return soft.add_(task, alpha=weights.alpha_task / soft_scale), soft_scale


class Products:
    """The two matrix products of the chain rule, accumulated in the workspace's type.

    Args:
        hidden: Final hidden states ``[targets, dim]``.
        weight: Output embedding ``[items, dim]``.
        dtype: Of the sums.
        scale: Factor of all gradients.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype, scale: float) -> None:
        self.hidden = hidden
        self.weight = weight
        self.scale = scale
        self.hidden_gradient = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        self.weight_gradient = torch.empty(weight.shape, dtype=dtype, device=weight.device)

    def open(self, items: slice, table: Tensor) -> None:
        """Begin the gradient of some items; ``table`` is their part of the embedding, ``[dim, items]``."""
        self._items = items
        self._tile = torch.zeros(table.shape, dtype=self.hidden_gradient.dtype, device=table.device)

    def add(self, part: slice, gradient: Tensor, scale: float) -> None:
        """Add the products of ``scale * gradient``, d total / d logits of a chunk of positions and the open items."""
        scale *= self.scale
        weight, hidden = self.weight[self._items], self.hidden[part]
        if weight.dtype == gradient.dtype:
            self.hidden_gradient[part].addmm_(gradient, weight, alpha=scale)
            self._tile.addmm_(hidden.T, gradient, alpha=scale)
        else:  # products in the lower precision, sums in float32
            gradient = gradient.to(weight.dtype)
            self.hidden_gradient[part].add_(gradient @ weight, alpha=scale)
            self._tile.add_(hidden.T @ gradient, alpha=scale)

    def close(self) -> None:
        """End the gradient of the open items."""
        self.weight_gradient[self._items] = self._tile.T
        del self._tile
