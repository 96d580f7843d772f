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


class ScaledHidden:
    """``scale * hidden``, to be multiplied with parts of a table.

    Args:
        hidden: Hidden states ``[positions, dim]``.
        table: Output embedding ``[items, dim]``, which decides the type of the products' inputs.
        scale: Factor.
        dtype: Of the products.
    """

    def __init__(self, hidden: Tensor, table: Tensor, scale: float, dtype: torch.dtype) -> None:
        self._scale = scale
        self._is_exact = table.dtype == dtype
        self.hidden = hidden.to(table.dtype)
        if self._is_exact:
            is_own = hidden.dtype != table.dtype
            self.hidden = self.hidden.mul_(scale) if is_own else self.hidden * scale

    def product(
        self, part: slice, table: Float[Tensor, "dim items"], out: Float[Tensor, "rows items"]
    ) -> Float[Tensor, "rows items"]:
        """Return ``scale * hidden[part] @ table``, written to ``out``."""
        if self._is_exact:
            return torch.mm(self.hidden[part], table, out=out)
        # The product in the lower precision, the factor after it: rounded hidden states would be other ones.
        return torch.mul(self.hidden[part] @ table, self._scale, out=out)


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
        self.is_exact = weight.dtype == dtype
        self.hidden_gradient = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        # Every row is written where there are targets; a worker whose share of a step is empty has none.
        new = torch.empty if len(hidden) else torch.zeros
        self.weight_gradient = new(weight.shape, dtype=dtype, device=weight.device)
        self._open: dict[tuple[int, int], Tensor] = {}

    def table_gradient(self, items: slice) -> Float[Tensor, "dim items"]:
        """Return the gradient of some items as it grows until :meth:`close`, transposed: products take less time."""
        found = self._open.get((items.start, items.stop))
        if found is None:
            shape, like = self.weight[items].T.shape, self.weight_gradient
            found = self._open[items.start, items.stop] = like.new_zeros(shape)
        return found

    def close(self) -> None:
        """Move the gradients of the open items to their place."""
        while self._open:
            (start, stop), table_gradient = self._open.popitem()
            self.weight_gradient[start:stop] = table_gradient.T


class PartProducts:
    """The products of some positions, of whose gradients each has a factor.

    Args:
        products: What they are added to.
        part: The positions.
        scale: Factor of each: where types allow it goes over the few hidden states, not over the many logits.
    """

    def __init__(self, products: Products, part: slice, scale: Float[Tensor, "positions 1"]) -> None:
        self._products = products
        self._scale = scale * products.scale
        self._gradient = products.hidden_gradient[part]
        hidden = products.hidden[part]
        self._hidden = (hidden * self._scale if products.is_exact else hidden.to(products.weight.dtype)).T

    def add(self, items: slice, gradient: Float[Tensor, "positions items"]) -> None:
        """Add the products of the positions' gradients at some items, which are overwritten in a lower precision."""
        weight, table_gradient = self._products.weight[items], self._products.table_gradient(items)
        if self._products.is_exact:
            self._gradient.addmm_(gradient, weight)
            table_gradient.addmm_(self._hidden, gradient)
        else:  # products in the lower precision, whose range may be small; sums in float32
            gradient = gradient.mul_(self._scale).to(weight.dtype)
            self._gradient.add_(gradient @ weight)
            table_gradient.add_(self._hidden @ gradient)

    def close(self) -> None:
        """Finish the gradient of the positions, when those at all items have been added."""
        if self._products.is_exact:
            self._gradient.mul_(self._scale)
