"""Cross-entropy and distillation over a whole catalogue, in chunks, with a hand-written backward.

Logits are ``hidden @ weight.T``, so for N positions and V items the plain computation keeps several
N x V arrays for autograd. Here the gradient of each chunk is formed while its logits are at hand and
the logits are then overwritten: memory grows with the chunk, not with N x V. The formulas are in
:mod:`raydistill.losses.blocks`.

A chunk of positions is worked on in blocks of neighbouring items that stay near the core. Where the catalogue is
too wide for the exponentials of a chunk to be kept, a first pass sums them, and a second one forms them again.

On a GPU kernels that write no logits take the place of chunks wherever they can: :mod:`raydistill.losses.fused`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.blocks import Block, BlockMaker, Slope, Tables, are_safe, losses
from raydistill.losses.distillation import LossParts, LossWeights
from raydistill.losses.fused import FusedCatalogueLoss, NoRoomError, suits
from raydistill.losses.workspace import PartProducts, Products

CHUNK_LOGITS = 1 << 23
"""Logits whose exponentials are kept at a time, where that is enough for :data:`LEAST_POSITIONS`."""

BLOCK_LOGITS = 1 << 18
"""Logits in one block, on a processor: matrix products of wider blocks wait for memory."""

GPU_LOGITS = 1 << 27
"""Logits kept at a time, and in one block, on an accelerator."""

POSITIONS = 256
"""Positions in one block, on a processor, at most, unless the catalogue is small."""

LEAST_POSITIONS = 64
"""Positions kept at a time, at least: with fewer the products wait for the tables."""


def catalogue_loss(
    student_hidden: Float[Tensor, "targets dim"],
    student_weight: Float[Tensor, "items dim"],
    labels: Int64[Tensor, " targets"],
    weights: LossWeights,
    *,
    teacher_hidden: Float[Tensor, "targets teacher_dim"] | None = None,
    teacher_weight: Float[Tensor, "items teacher_dim"] | None = None,
    normalizer: float | Tensor | None = None,
    chunk_logits: int | None = None,
    tile_items: int | None = None,
) -> LossParts:
    """Return the distillation objective over the catalogue without ever holding targets x items logits.

    Equal to :func:`raydistill.losses.class_loss` on ``student_hidden @ student_weight.T``, gradients
    included. Sums and gradients are accumulated in float32 (float64 for float64 input).

    Args:
        student_hidden: Final hidden states at the target positions.
        student_weight: Output embedding of the student.
        labels: Class of each target, the row of ``student_weight``; negative for a row that does not count.
        weights: Temperature and alphas.
        teacher_hidden: The teacher's final hidden states at the same positions; may be half precision.
        teacher_weight: Output embedding of the teacher.
        normalizer: What the sums are divided by; the number of targets that count where None.
        chunk_logits: Logits kept at a time; where None what suits the device, on a GPU the kernels that keep none.
        tile_items: Items in a block; the same.

    Raises:
        ValueError: The distillation term is asked for without the teacher.
    """
    if weights.alpha_dist > 0 and (teacher_hidden is None or teacher_weight is None):
        raise ValueError("alpha_dist is positive: the teacher's hidden states and output embedding are needed")
    if weights.alpha_dist == 0:
        teacher_hidden = teacher_weight = None
    with torch.autocast(student_hidden.device.type, enabled=False):  # the types are chosen here, not by operator
        if chunk_logits is None and tile_items is None and suits(student_hidden, student_weight, teacher_weight):
            count = (labels >= 0).sum() if normalizer is None else normalizer
            given = student_hidden, student_weight, labels, teacher_hidden, teacher_weight
            with contextlib.suppress(NoRoomError):
                return LossParts(*FusedCatalogueLoss.apply(*given, weights, count))
        real = labels >= 0
        if not real.all():
            student_hidden, labels = student_hidden[real], labels[real]
            teacher_hidden = None if teacher_hidden is None else teacher_hidden[real]
        cut = _cut(
            labels.numel(),
            student_weight.shape[0],
            on_gpu=student_hidden.is_cuda,
            chunk_logits=chunk_logits,
            tile_items=tile_items,
        )
        count = float(normalizer if normalizer is not None else max(1, labels.numel()))
        given = student_hidden, student_weight, labels, teacher_hidden, teacher_weight
        return LossParts(*_CatalogueLoss.apply(*given, weights, count, *cut))


def _cut(
    n_targets: int, n_items: int, *, on_gpu: bool, chunk_logits: int | None, tile_items: int | None
) -> tuple[int, int, bool]:
    """Return the positions and the items of a block, and whether all items' exponentials are kept meanwhile."""
    chunk = chunk_logits or (GPU_LOGITS if on_gpu else CHUNK_LOGITS)
    keeps = chunk // n_items >= (LEAST_POSITIONS if chunk_logits is None else 1)
    if not keeps:
        rows = min(POSITIONS, chunk // (tile_items or 1))
    elif on_gpu:
        rows = chunk // n_items
    else:
        rows = min(chunk // n_items, max(POSITIONS, BLOCK_LOGITS // n_items))
    rows = max(1, min(rows, n_targets))
    tile = tile_items or max(1, min(chunk, GPU_LOGITS if on_gpu else BLOCK_LOGITS) // rows)
    n_tiles = -(-n_items // min(tile, n_items))
    return rows, -(-n_items // n_tiles), keeps


class _CatalogueLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, teacher_hidden, teacher_weight, weights, count, rows, tile, keeps):
        n_items = weight.shape[0]
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        kept = rows * (n_items if keeps else tile)
        teacher = None if teacher_hidden is None else (teacher_hidden, teacher_weight)
        maker = BlockMaker((hidden, weight), teacher, weights.temperature, block_size=rows * tile, kept=kept)
        dtype = maker.work.dtype
        products = Products(hidden, weight, dtype, 1.0 / count) if needs_gradient else None
        parts = [slice(start, start + rows) for start in range(0, labels.numel(), rows)]
        add = _in_one_pass if keeps else _in_two_passes
        sums, maxima = add(maker, _Tiles(weight, teacher_weight, tile), parts, labels, weights, products)
        true_logits = (hidden.to(dtype) * weight[labels].to(dtype)).sum(dim=1)
        task, distillation = (losses(sums, maxima, true_logits, weights.temperature) / count).to(dtype)
        total = weights.alpha_task * task + weights.alpha_dist * distillation
        if needs_gradient:
            ctx.save_for_backward(products.hidden_gradient.to(hidden.dtype), products.weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(task, distillation)
        return total, task, distillation

    @staticmethod
    def backward(ctx, total_gradient, _task, _distillation):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = total_gradient
        return hidden_gradient * scale, weight_gradient * scale, None, None, None, None, None, None, None, None


class _Tiles(NamedTuple):
    """The catalogue in tiles of ``size`` items, the last of which may have fewer."""

    weight: Tensor
    teacher_weight: Tensor | None
    size: int

    def tables(self) -> Iterator[Tables]:
        """Yield the tables of each tile."""
        for start in range(0, self.weight.shape[0], self.size):
            items = slice(start, min(start + self.size, self.weight.shape[0]))
            teacher = None if self.teacher_weight is None else self.teacher_weight[items].T
            yield Tables(items, self.weight[items].T, teacher)


def _in_one_pass(
    maker: BlockMaker,
    tiles: _Tiles,
    parts: list[slice],
    labels: Tensor,
    weights: LossWeights,
    products: Products | None,
) -> tuple[Tensor, Tensor]:
    """Return the sums over all items and the maxima taken off before, ``[.., targets]``; add to ``products``.

    The exponentials of some positions are kept for all items, and are at hand when their sums are known.
    """
    tables = list(tiles.tables())
    sums, maxima = maker.nothing()
    needs_maxima = False
    for part in parts:
        if not needs_maxima:
            blocks = maker.blocks(part, tables)
            sums[:, part] = _total(blocks)
            needs_maxima = not are_safe(sums[:, part])
        if needs_maxima:
            maxima[:, part] = _highest(maker, part, tables)
            blocks = maker.blocks(part, tables, maxima[:, part])
            sums[:, part] = _total(blocks)
        if products is not None:
            slope = Slope(sums[:, part], labels[part], tiles.size, weights)
            own = PartProducts(products, part, slope.scale)
            for table, block in zip(tables, blocks, strict=True):
                own.add(table.items, slope.gradient(block, table.items))
            own.close()
    if products is not None:
        products.close()
    return sums, maxima


def _in_two_passes(
    maker: BlockMaker,
    tiles: _Tiles,
    parts: list[slice],
    labels: Tensor,
    weights: LossWeights,
    products: Products | None,
) -> tuple[Tensor, Tensor]:
    """Return and do the same where the exponentials are too many to be kept: they are formed again."""
    sums, maxima = maker.nothing()
    needs_maxima = False

    def block(part: slice, tables: Tables) -> Block:
        return maker.block(part, tables, maxima[:, part] if needs_maxima else None)

    def add_up() -> None:
        for tables in tiles.tables():
            for part in parts:
                sums[:, part] += torch.stack(block(part, tables).sums)

    add_up()
    if not are_safe(sums):
        needs_maxima = True
        maxima.fill_(-torch.inf)
        for tables in tiles.tables():
            for part in parts:
                maxima[:, part] = torch.maximum(maxima[:, part], _highest(maker, part, [tables]))
        sums.zero_()
        add_up()
    if products is not None:
        slopes = [Slope(sums[:, part], labels[part], tiles.size, weights) for part in parts]
        own = [PartProducts(products, part, slope.scale) for part, slope in zip(parts, slopes, strict=True)]
        for tables in tiles.tables():
            for part, slope, part_products in zip(parts, slopes, own, strict=True):
                part_products.add(tables.items, slope.gradient(block(part, tables), tables.items))
            products.close()
        for part_products in own:
            part_products.close()
    return sums, maxima


def _total(blocks: list[Block]) -> Tensor:
    """Return the sums of some positions over all items."""
    return torch.stack([torch.stack(block.sums) for block in blocks]).sum(dim=0)


def _highest(maker: BlockMaker, part: slice, tables: list[Tables]) -> Tensor:
    """Return the highest logits of some positions among the items of some tables."""
    return torch.stack([maker.maxima(part, table) for table in tables]).amax(dim=0)
