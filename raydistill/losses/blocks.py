"""Exponentials of the logits of some positions and some items, and what the catalogue loss makes of them.

Per logit s, with the teacher's logit t, label y and temperature T::

    u = exp(s)    v = exp(s / T)    w = exp(t / T)    U, V, W: their sums over the items
    cross-entropy     = ln U - s_y
    KL(r || q)        = sum of w * (t - s) / T, over W, + ln V - ln W             q = v / V, r = w / W
    d total / d s     = alpha_task * (u / U - [y]) + alpha_dist * T * (v / V - w / W)

Powers of two take half the time of exponentials on a processor, so logits are formed in units of ln 2: the factor goes
over the hidden states. Nothing is subtracted before, since logits of trained models are small; sums that leave
:data:`SAFE` say when they are not, and then each position's maximum comes off first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.distillation import LossWeights
from raydistill.losses.workspace import Workspace, scaled_product

SAFE = (1e-18, 1e18)
"""Sums of exponentials between these have lost nothing to the range of float32, nor will their quotients."""

N_SUMS = 4


class Tables(NamedTuple):
    """Output embeddings of some items, laid out by dimension: products then take about 0.8x the time."""

    items: slice
    student: Float[Tensor, "dim items"]
    teacher: Float[Tensor, "teacher_dim items"] | None


class Block(NamedTuple):
    """Exponentials in the workspace, and their sums over the block's items.

    Attributes:
        task, soft, target: u, v and w; the latter two None without a teacher.
        sums: U, V, W and the sum of w * (t - s) / T, each ``[positions]``.
    """

    task: Float[Tensor, "positions items"]
    soft: Float[Tensor, "positions items"] | None
    target: Float[Tensor, "positions items"] | None
    sums: Float[Tensor, "4 positions"]


class BlockMaker:
    """Forms blocks in one workspace.

    Args:
        hidden: Final hidden states of the student.
        teacher_hidden: Those of the teacher at the same positions, or None.
        temperature: T.
        block_size: Most logits of a block.
        kept: Logits of all blocks that are to be kept at a time.
    """

    def __init__(
        self, hidden: Tensor, teacher_hidden: Tensor | None, temperature: float, *, block_size: int, kept: int
    ) -> None:
        self.hidden = hidden
        self.teacher_hidden = teacher_hidden
        self.temperature = temperature
        self.work = Workspace(hidden, [kept] if teacher_hidden is None else [kept, kept, kept, block_size])

    def nothing(self) -> tuple[Float[Tensor, "4 targets"], Float[Tensor, "2 targets"]]:
        """Return room for the sums and maxima of all positions: zeros."""
        n, dtype, device = self.hidden.shape[0], self.work.dtype, self.hidden.device
        return torch.zeros(N_SUMS, n, dtype=dtype, device=device), torch.zeros(2, n, dtype=dtype, device=device)

    def block(
        self, part: slice, tables: Tables, maxima: Float[Tensor, "2 positions"] | None = None, *, start: int = 0
    ) -> Block:
        """Return the block of some positions and items.

        Args:
            part: Positions.
            tables: Items.
            maxima: What to take off the logits before, from :meth:`maxima`.
            start: Where in the workspace the block is put; it lives until that place is used again.
        """
        logits, target = self._logits(part, tables, start)
        sums = logits.new_ones(N_SUMS, logits.shape[0])
        sums[3] = 0.0
        if maxima is not None:
            logits.sub_(maxima[0, :, None])
        if target is None:
            torch.sum(logits.exp2_(), 1, out=sums[0])
            return Block(logits, None, None, sums)
        if maxima is not None:
            target.sub_(maxima[1, :, None])
        soft = torch.mul(logits, 1.0 / self.temperature, out=self.work.view(1, start, *logits.shape))
        powers = torch.exp2(target, out=self.work.view(2, start, *logits.shape))
        torch.sum(target.sub_(soft).mul_(powers), 1, out=sums[3]).mul_(math.log(2))
        for number, value in enumerate((logits.exp2_(), soft.exp2_(), powers)):
            torch.sum(value, 1, out=sums[number])
        return Block(logits, soft, powers, sums)

    def blocks(
        self, part: slice, tables: Sequence[Tables], maxima: Float[Tensor, "2 positions"] | None = None
    ) -> list[Block]:
        """Return the blocks of some positions and all the tables, one behind the other in the workspace."""
        rows = self.hidden[part].shape[0]
        return [self.block(part, table, maxima, start=rows * table.items.start) for table in tables]

    def maxima(self, part: slice, tables: Tables) -> Float[Tensor, "2 positions"]:
        """Return the highest logit of the student and of the teacher / T, in units of ln 2."""
        logits, target = self._logits(part, tables, 0)
        highest = logits.amax(1)
        return torch.stack([highest, highest if target is None else target.amax(1)])

    def _logits(self, part: slice, tables: Tables, start: int) -> tuple[Tensor, Tensor | None]:
        """Return s and t / T in units of ln 2."""
        unit = 1.0 / math.log(2)
        hidden, shape = self.hidden[part], (self.hidden[part].shape[0], tables.student.shape[1])
        logits = scaled_product(hidden, tables.student, unit, self.work.view(0, start, *shape))
        if tables.teacher is None:
            return logits, None
        teacher_hidden = self.teacher_hidden[part].to(tables.teacher.dtype)
        out = self.work.view(3, 0, *shape)
        return logits, scaled_product(teacher_hidden, tables.teacher, unit / self.temperature, out)


def are_safe(sums: Float[Tensor, "4 positions"]) -> bool:
    """Return whether the sums of exponentials are within :data:`SAFE`."""
    return bool(((sums[:3] > SAFE[0]) & (sums[:3] < SAFE[1])).all())


def losses(
    sums: Float[Tensor, "4 positions"],
    maxima: Float[Tensor, "2 positions"],
    true_logit: Float[Tensor, " positions"],
    temperature: float,
) -> Float[Tensor, 2]:
    """Return the sums over positions of the cross-entropy and of T^2 * KL(r || q), in float64.

    Args:
        sums: Over all items.
        maxima: What was taken off the logits, 0 for nothing.
        true_logit: The student's logit of each label.
        temperature: T.
    """
    sums = sums.double()
    log_task, log_soft, log_target = sums[:3].log()
    task = log_task + math.log(2) * maxima[0].double() - true_logit.double()
    # What came off the difference t / T - s / T came off the two logarithms too, and cancels.
    distillation = temperature**2 * (sums[3] / sums[2] + log_soft - log_target)
    return torch.stack([task.sum(), distillation.sum()])


def gradient(
    block: Block,
    sums: Float[Tensor, "4 positions"],
    labels: tuple[Int64[Tensor, " labels"], Int64[Tensor, " labels"]],
    weights: LossWeights,
) -> tuple[Float[Tensor, "positions items"], Float[Tensor, "positions 1"]]:
    """Return d total / d logits of a block up to a factor of each position, and that factor.

    Args:
        block: Overwritten.
        sums: Over all items.
        labels: Rows and columns of the labels that are in the block.
        weights: Temperature and alphas.
    """
    rows, columns = labels
    task_sum, soft_sum, target_sum = sums[:3].unsqueeze(2)
    if block.soft is None:
        block.task[rows, columns] -= task_sum[rows, 0]
        return block.task, weights.alpha_task / task_sum
    soft_scale = weights.alpha_dist * weights.temperature
    # The larger term stays as it is, its factor being left to the products, so that the others' factors are small.
    largest = max(weights.alpha_task, soft_scale)
    task_share, soft_share = weights.alpha_task / largest, soft_scale / largest
    if soft_share == 1.0:
        result, own_sum = block.soft.addcmul_(block.task, task_share * soft_sum / task_sum), soft_sum
    else:
        result, own_sum = block.task.addcmul_(block.soft, soft_share * task_sum / soft_sum), task_sum
    result.addcmul_(block.target, -soft_share * own_sum / target_sum)
    result[rows, columns] -= task_share * own_sum[rows, 0]
    return result, largest / own_sum
