"""Buffers and matrix products that the catalogue loss uses block after block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Workspace:
    """Some flat buffers, allocated once: fresh pages for every block would cost as much as the arithmetic.

    Args:
        like: Decides the device and the type: float64 for float64, else float32.
        sizes: Elements of each buffer.
    """

    def __init__(self, like: Tensor, sizes: Sequence[int]) -> None:
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._buffers = [torch.empty(size, dtype=self.dtype, device=like.device) for size in sizes]

    def view(self, number: int, start: int, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Return a part of a buffer that begins at element ``start``."""
        return self._buffers[number][start : start + rows * columns].view(rows, columns)


def scaled_product(
    hidden: Float[Tensor, "positions dim"],
    table: Float[Tensor, "dim items"],
    scale: float,
    out: Float[Tensor, "positions items"],
) -> Float[Tensor, "positions items"]:
    """Return ``scale * hidden @ table``, written to ``out``."""
    if hidden.dtype == table.dtype == out.dtype:
        return torch.mm(hidden * scale, table, out=out)
    # The product in the lower precision, the factor after it: rounded hidden states would be other ones.
    return torch.mul(hidden.to(table.dtype) @ table, scale, out=out)


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
        # Every row is written where there are targets; a worker whose share of a step is empty has none.
        new = torch.empty if len(hidden) else torch.zeros
        self.weight_gradient = new(weight.shape, dtype=dtype, device=weight.device)
        self._open: dict[tuple[int, int], Tensor] = {}

    def add(
        self,
        part: slice,
        items: slice,
        gradient: Float[Tensor, "positions items"],
        scale: Float[Tensor, "positions 1"],
    ) -> None:
        """Add the products of ``scale * gradient``, which is d total / d logits of some positions and items.

        Args:
            part: The positions.
            items: The items; their gradient stays open until :meth:`close`.
            gradient: Overwritten where the products are in a lower precision.
            scale: Factor of each position: it goes over the few hidden states, not over the many logits.
        """
        weight, hidden, scale = self.weight[items], self.hidden[part], scale * self.scale
        table_gradient = self._open.get((items.start, items.stop))
        if table_gradient is None:  # laid out by dimension, like the tables
            table_gradient = torch.zeros(weight.T.shape, dtype=self.hidden_gradient.dtype, device=weight.device)
            self._open[items.start, items.stop] = table_gradient
        if weight.dtype == gradient.dtype:
            self.hidden_gradient[part].addcmul_(gradient @ weight, scale)
            table_gradient.addmm_((hidden * scale).T, gradient)
        else:  # products in the lower precision, whose range may be small; sums in float32
            gradient = gradient.mul_(scale).to(weight.dtype)
            self.hidden_gradient[part].add_(gradient @ weight)
            table_gradient.add_(hidden.T @ gradient)

    def close(self) -> None:
        """Move the gradients of the open items to their place."""
        while self._open:
            (start, stop), table_gradient = self._open.popitem()
            self.weight_gradient[start:stop] = table_gradient.T
