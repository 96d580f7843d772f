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
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.distillation import LossWeights
from raydistill.losses.workspace import ScaledHidden, Workspace

SAFE = (1e-18, 1e18)
"""Sums of exponentials between these have lost nothing to the range of float32, nor will their quotients."""


class Tables(NamedTuple):
    """Output embeddings of some items, transposed."""

    items: slice
    student: Float[Tensor, "dim items"]
    teacher: Float[Tensor, "teacher_dim items"] | None


class Block(NamedTuple):
    """Exponentials in the workspace, and their sums over the block's items.

    Attributes:
        task, soft, target: u, v and w; the latter two None without a teacher.
        sums: U, V, W and the sum of w * (t - s) / T, each ``[positions]``; U alone without a teacher.
    """

    task: Float[Tensor, "positions items"]
    soft: Float[Tensor, "positions items"] | None
    target: Float[Tensor, "positions items"] | None
    sums: tuple[Float[Tensor, " positions"], ...]


class BlockMaker:
    """Forms blocks in one workspace.

    Args:
        student: Final hidden states and output embedding of the student.
        teacher: Those of the teacher, at the same positions, or None.
        temperature: T.
        block_size: Most logits of a block.
        kept: Logits of all blocks that are to be kept at a time.
    """

    def __init__(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor] | None,
        temperature: float,
        *,
        block_size: int,
        kept: int,
    ) -> None:
        self.temperature = temperature
        self.work = Workspace(student[0], [kept] if teacher is None else [kept, kept, kept, block_size])
        unit = 1.0 / math.log(2)
        self._student = ScaledHidden(*student, unit, self.work.dtype)
        self._teacher = None if teacher is None else ScaledHidden(*teacher, unit / temperature, self.work.dtype)

    def nothing(self) -> tuple[Float[Tensor, "sums targets"], Float[Tensor, "2 targets"]]:
        """Return room for the sums and maxima of all positions: zeros."""
        n, dtype, device = len(self._student.hidden), self.work.dtype, self._student.hidden.device
        n_sums = 1 if self._teacher is None else 4
        return torch.zeros(n_sums, n, dtype=dtype, device=device), torch.zeros(2, n, dtype=dtype, device=device)

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
        if maxima is not None:
            logits.sub_(maxima[0, :, None])
        if target is None:
            return Block(logits.exp2_(), None, None, (logits.sum(1),))
        if maxima is not None:
            target.sub_(maxima[1, :, None])
        soft = torch.mul(logits, 1.0 / self.temperature, out=self.work.view(1, start, *logits.shape))
        powers = torch.exp2(target, out=self.work.view(2, start, *logits.shape))
        difference = target.sub_(soft).mul_(powers).sum(1).mul_(math.log(2))
        sums = (logits.exp2_().sum(1), soft.exp2_().sum(1), powers.sum(1), difference)
        return Block(logits, soft, powers, sums)

    def blocks(
        self, part: slice, tables: Sequence[Tables], maxima: Float[Tensor, "2 positions"] | None = None
    ) -> list[Block]:
        """Return the blocks of some positions and all the tables, one behind the other in the workspace."""
        rows = self._student.hidden[part].shape[0]
        return [self.block(part, table, maxima, start=rows * table.items.start) for table in tables]

    def maxima(self, part: slice, tables: Tables) -> Float[Tensor, "2 positions"]:
        """Return the highest logit of the student and of the teacher / T, in units of ln 2."""
        logits, target = self._logits(part, tables, 0)
        highest = logits.amax(1)
        return torch.stack([highest, highest if target is None else target.amax(1)])

    def _logits(self, part: slice, tables: Tables, start: int) -> tuple[Tensor, Tensor | None]:
        """Return s and t / T in units of ln 2."""
        shape = (self._student.hidden[part].shape[0], tables.student.shape[1])
        logits = self._student.product(part, tables.student, self.work.view(0, start, *shape))
        if tables.teacher is None:
            return logits, None
        return logits, self._teacher.product(part, tables.teacher, self.work.view(3, 0, *shape))


class Slope:
    """d total / d logits of some positions, up to a factor of each, made of their blocks once their sums are known.

    Args:
        sums: Of the positions, over all items.
        labels: Of the positions.
        tile: Items of a block; the last may have fewer.
        weights: Temperature and alphas.

    Attributes:
        scale: The factor of each position. The largest term of the gradient stays as it is, its factor being left to
            the products, so that the others' factors are small.
    """

    def __init__(
        self,
        sums: Float[Tensor, "sums positions"],
        labels: Int64[Tensor, " positions"],
        tile: int,
        weights: LossWeights,
    ) -> None:
        own_sum, largest, task_share, self._soft_leads = sums[0], weights.alpha_task, 1.0, False
        if len(sums) > 1:
            soft_scale = weights.alpha_dist * weights.temperature
            self._soft_leads = soft_scale >= weights.alpha_task
            largest, own_sum = (soft_scale, sums[1]) if self._soft_leads else (weights.alpha_task, sums[0])
            task_share, soft_share = weights.alpha_task / largest, soft_scale / largest
            other = task_share / sums[0] if self._soft_leads else soft_share / sums[1]
            self._other = (other * own_sum).unsqueeze(1)
            self._target = (own_sum / sums[2]).mul_(-soft_share).unsqueeze(1)
        self.scale: Float[Tensor, "positions 1"] = (largest / own_sum).unsqueeze(1)
        columns, self._rows = labels.sort()
        self._tile, self._columns = tile, columns % tile
        self._true = own_sum[self._rows].mul_(-task_share)
        self._numbers = (columns // tile).tolist()

    def gradient(self, block: Block, items: slice) -> Float[Tensor, "positions items"]:
        """Return the gradient at some items, written over their block."""
        result = block.task
        if block.soft is not None:
            first, second = (block.soft, block.task) if self._soft_leads else (block.task, block.soft)
            result = first.addcmul_(second, self._other).addcmul_(block.target, self._target)
        number = items.start // self._tile
        inside = slice(bisect_left(self._numbers, number), bisect_right(self._numbers, number))
        if inside.start < inside.stop:
            here = self._rows[inside], self._columns[inside]
            result.index_put_(here, self._true[inside], accumulate=True)
        return result


def are_safe(sums: Float[Tensor, "sums positions"]) -> bool:
    """Return whether the sums of exponentials are within :data:`SAFE`."""
    return bool(((sums[:3] > SAFE[0]) & (sums[:3] < SAFE[1])).all())


def losses(
    sums: Float[Tensor, "sums positions"],
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
    task = sums[0].log() + math.log(2) * maxima[0].double() - true_logit.double()
    if len(sums) == 1:
        return torch.stack([task.sum(), torch.zeros_like(task).sum()])
    # What came off the difference t / T - s / T came off the two logarithms too, and cancels.
    distillation = temperature**2 * (sums[3] / sums[2] + sums[1].log() - sums[2].log())
    return torch.stack([task.sum(), distillation.sum()])
