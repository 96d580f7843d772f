"""Triton kernels of :mod:`raydistill.losses.fused`. Logits are in units of ln 2, as in the CPU's version."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor
from triton.errors import TritonError
from triton.runtime.errors import OutOfResources

from raydistill.losses.fused import PROGRAMS, NoRoomError

BLOCKS = (64, 32, 16)
"""Positions, and items, in a block: the first that has room beside hidden states of the given width is taken."""

N_STATES = 6
"""Maximum, sum of exp(s), of exp(s / T); the teacher's maximum, its sum, and the sum of w * (t - s) / T."""

LN2_INVERSE = 1.0 / math.log(2)


_too_large: set[tuple] = set()
"""Blocks that a GPU had no room for, each with all that decides it."""

Sums = tuple[Tensor, Tensor, Tensor, Tensor]


def on(device: torch.device) -> AbstractContextManager:
    """Make a GPU the current one, which is where Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def sums_and_gradients(
    hidden: Float[Tensor, "targets dim"],
    weight: Float[Tensor, "items dim"],
    labels: Int64[Tensor, " targets"],
    teacher: tuple[Float[Tensor, "targets teacher_dim"], Float[Tensor, "items teacher_dim"]] | None,
    temperature: float,
    scales: tuple[Float[Tensor, " targets"], float, float] | None,
) -> tuple[Sums, tuple[Tensor, Tensor] | None]:
    """Return what :meth:`Kernels.sums` and, where ``scales`` are given, :meth:`Kernels.gradients` do.

    Raises:
        NoRoomError: The GPU has no room for the smallest block.
    """
    kinds = [(value.shape[1], value.dtype) for value in (hidden, *(teacher or ()))]
    for block in BLOCKS:
        key = (hidden.device, block, *kinds)
        if key in _too_large:
            continue
        try:
            with on(hidden.device):
                run = Kernels(hidden, weight, labels, teacher, temperature, block)
                sums = run.sums()
                return sums, None if scales is None else run.gradients(*sums[:3], *scales)
        except OutOfResources:
            _too_large.add(key)
    raise NoRoomError(f"no block of the catalogue loss fits {hidden.device}")


class Kernels:
    """Sums and gradients of one batch of positions.

    Args:
        hidden, weight: Student's hidden states and output embedding, of one type.
        labels: Negative where a position does not count.
        teacher: The teacher's, or None.
        temperature: T.
        block: Positions, and items, in a block.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "targets dim"],
        weight: Float[Tensor, "items dim"],
        labels: Int64[Tensor, " targets"],
        teacher: tuple[Float[Tensor, "targets teacher_dim"], Float[Tensor, "items teacher_dim"]] | None,
        temperature: float,
        block: int,
    ) -> None:
        self.hidden, self.weight, self.labels = hidden.contiguous(), weight.contiguous(), labels.contiguous()
        self.has_teacher = teacher is not None
        self.teacher_hidden, self.teacher_weight = (
            (value.contiguous() for value in teacher) if teacher is not None else (self.hidden, self.weight)
        )
        self.n, self.items = hidden.shape[0], weight.shape[0]
        dim, teacher_dim = hidden.shape[1], self.teacher_hidden.shape[1]
        self.rows, self.blocks = triton.cdiv(self.n, block), triton.cdiv(self.items, block)
        self.splits = max(1, min(self.blocks, PROGRAMS // self.rows)) if self.rows else 1
        self.per_split = triton.cdiv(self.blocks, self.splits) * block
        self.splits = triton.cdiv(self.items, self.per_split)
        self.inverse = 1.0 / temperature
        self.options = {
            "DIM": dim,
            "TEACHER_DIM": teacher_dim,
            "BLOCK_DIM": max(16, triton.next_power_of_2(dim)),
            "BLOCK_TEACHER": max(16, triton.next_power_of_2(teacher_dim)),
            "TEACHER": self.has_teacher,
            "POSITIONS": block,
            "ITEMS": block,
            # Products of float32 as three of tf32: float32's precision on matrix units.
            "PRECISION": "tf32x3",
            "num_warps": 4,
            "num_stages": 2,
        }

    def sums(self) -> Sums:
        """Return log2 of the sums of exp(s), exp(s / T) and exp(t / T), and the mean of (t - s) / T, per position."""
        state = torch.empty(N_STATES, self.splits, self.n, device=self.hidden.device)
        if self.n:
            sums_kernel[self.rows, self.splits](
                self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, state,
                self.n, self.items, self.per_split, self.splits * self.n, self.inverse, **self.options,
            )  # fmt: skip
        highest = state[0].amax(0)
        own = state[0] - highest
        task = (state[1] * own.exp2()).sum(0).log2() + highest
        if not self.has_teacher:
            return task, task, task, task
        soft = (state[2] * (own * self.inverse).exp2()).sum(0).log2() + highest * self.inverse
        teacher_highest = state[3].amax(0)
        factor = (state[3] - teacher_highest).exp2()
        target = (state[4] * factor).sum(0)
        return task, soft, target.log2() + teacher_highest, (state[5] * factor).sum(0) / target

    def gradients(
        self, task: Tensor, soft: Tensor, target: Tensor, share: Tensor, alpha_task: float, alpha_soft: float
    ) -> tuple[Tensor, Tensor]:
        """Return d total / d hidden and d total / d weight.

        Args:
            task, soft, target: From :meth:`sums`.
            share: Weight of each position.
            alpha_task: Factor of exp(s) / U - [y].
            alpha_soft: Factor of q - r.
        """
        if not self.n:
            return torch.zeros_like(self.hidden), torch.zeros_like(self.weight)
        given = (
            self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, self.labels, task, soft, target, share,
        )  # fmt: skip
        numbers = self.n, self.items, self.inverse, alpha_task, alpha_soft
        parts = torch.empty(self.splits, *self.hidden.shape, device=self.hidden.device)
        hidden_kernel[self.rows, self.splits](*given, parts, *numbers, self.per_split, **self.options)
        weight_gradient = torch.empty_like(self.weight)
        weight_kernel[(self.blocks,)](*given, weight_gradient, *numbers, **self.options)
        return parts.sum(0).to(self.hidden.dtype), weight_gradient


def product_of_ones(device: torch.device) -> float:
    """Return 32, the sum of two products of ones in both precisions, by the smallest of kernels.

    Raises:
        RuntimeError: Triton does not compile it.
    """
    ones, result = torch.ones(16, 16, device=device), torch.zeros(16, 16, device=device)
    try:
        with on(device):
            ones_kernel[(1,)](ones, ones.bfloat16(), result)
    except TritonError as error:
        raise RuntimeError(str(error)) from error
    return float(result[0, 0])


@triton.jit
def ones_kernel(first, second, result):
    """Write the sum of the squares of two matrices ``[16, 16]``."""
    at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    a, b = tl.load(first + at), tl.load(second + at)
    tl.store(result + at, tl.dot(a, a, input_precision="tf32x3") + tl.dot(b, b))


@triton.jit
def load_rows(table, rows, inside, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Return some rows of a table, zeros beyond its edges."""
    dims = tl.arange(0, BLOCK)
    mask = inside[:, None] & (dims < DIM)[None, :]
    return tl.load(table + rows.to(tl.int64)[:, None] * DIM + dims[None, :], mask=mask, other=0.0)


@triton.jit
def product(hidden, table, PRECISION: tl.constexpr):
    """Return ``hidden @ table.T`` in units of ln 2."""
    return tl.dot(hidden, tl.trans(table), input_precision=PRECISION) * 1.4426950408889634


@triton.jit
def sums_kernel(
    hidden, weight, teacher_hidden, teacher_weight, state, n, items, per_split, stride, inverse,
    DIM: tl.constexpr, TEACHER_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_TEACHER: tl.constexpr,
    TEACHER: tl.constexpr, POSITIONS: tl.constexpr, ITEMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write maxima and sums of some positions over the items of one split."""
    rows = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    real = rows < n
    own = load_rows(hidden, rows, real, DIM, BLOCK_DIM)
    if TEACHER:
        other = load_rows(teacher_hidden, rows, real, TEACHER_DIM, BLOCK_TEACHER)
    high = tl.full([POSITIONS], float("-inf"), tl.float32)
    task = tl.zeros([POSITIONS], tl.float32)
    soft = tl.zeros([POSITIONS], tl.float32)
    teacher_high = tl.full([POSITIONS], float("-inf"), tl.float32)
    target = tl.zeros([POSITIONS], tl.float32)
    mean = tl.zeros([POSITIONS], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, items), ITEMS):
        columns = start + tl.arange(0, ITEMS)
        inside = columns < items
        score = product(own, load_rows(weight, columns, inside, DIM, BLOCK_DIM), PRECISION)
        s = tl.where(inside[None, :], score, float("-inf"))
        new = tl.maximum(high, tl.max(s, 1))
        task = task * tl.exp2(high - new) + tl.sum(tl.exp2(s - new[:, None]), 1)
        if TEACHER:
            soft = soft * tl.exp2((high - new) * inverse) + tl.sum(tl.exp2((s - new[:, None]) * inverse), 1)
            taught = product(other, load_rows(teacher_weight, columns, inside, TEACHER_DIM, BLOCK_TEACHER), PRECISION)
            t = tl.where(inside[None, :], taught * inverse, float("-inf"))
            teacher_new = tl.maximum(teacher_high, tl.max(t, 1))
            power = tl.exp2(t - teacher_new[:, None])
            factor = tl.exp2(teacher_high - teacher_new)
            target = target * factor + tl.sum(power, 1)
            mean = mean * factor + tl.sum(power * (taught - score) * inverse, 1)
            teacher_high = teacher_new
        high = new
    at = state + tl.program_id(1) * n + rows
    tl.store(at, high, mask=real)
    tl.store(at + stride, task, mask=real)
    if TEACHER:
        tl.store(at + 2 * stride, soft, mask=real)
        tl.store(at + 3 * stride, teacher_high, mask=real)
        tl.store(at + 4 * stride, target, mask=real)
        tl.store(at + 5 * stride, mean, mask=real)


@triton.jit
def logit_gradient(
    own, table, other, teacher_table, rows, real, columns, inside,
    labels, task, soft, target, share, inverse, alpha_task, alpha_soft,
    TEACHER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return d total / d logits of a block, zeros beyond the edges."""
    s = product(own, table, PRECISION)
    label = tl.load(labels + rows, mask=real, other=-1)
    result = tl.exp2(s - tl.load(task + rows, mask=real, other=0.0)[:, None])
    result = alpha_task * (result - tl.where(columns[None, :] == label[:, None], 1.0, 0.0))
    if TEACHER:
        t = product(other, teacher_table, PRECISION)
        q = tl.exp2(s * inverse - tl.load(soft + rows, mask=real, other=0.0)[:, None])
        r = tl.exp2(t * inverse - tl.load(target + rows, mask=real, other=0.0)[:, None])
        result += alpha_soft * (q - r)
    result = result * tl.load(share + rows, mask=real, other=0.0)[:, None]
    return tl.where(real[:, None] & inside[None, :], result, 0.0)


@triton.jit
def hidden_kernel(
    hidden, weight, teacher_hidden, teacher_weight, labels, task, soft, target, share, out,
    n, items, inverse, alpha_task, alpha_soft, per_split,
    DIM: tl.constexpr, TEACHER_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_TEACHER: tl.constexpr,
    TEACHER: tl.constexpr, POSITIONS: tl.constexpr, ITEMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of some hidden states from the items of one split."""
    rows = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    real = rows < n
    own = load_rows(hidden, rows, real, DIM, BLOCK_DIM)
    other = load_rows(teacher_hidden, rows, real, TEACHER_DIM, BLOCK_TEACHER) if TEACHER else own
    total = tl.zeros([POSITIONS, BLOCK_DIM], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, items), ITEMS):
        columns = start + tl.arange(0, ITEMS)
        inside = columns < items
        table = load_rows(weight, columns, inside, DIM, BLOCK_DIM)
        taught = load_rows(teacher_weight, columns, inside, TEACHER_DIM, BLOCK_TEACHER) if TEACHER else table
        gradient = logit_gradient(
            own, table, other, taught, rows, real, columns, inside,
            labels, task, soft, target, share, inverse, alpha_task, alpha_soft, TEACHER, PRECISION,
        )  # fmt: skip
        total += tl.dot(gradient.to(table.dtype), table, input_precision=PRECISION)
    dims = tl.arange(0, BLOCK_DIM)
    at = out + tl.program_id(1).to(tl.int64) * n * DIM + rows[:, None] * DIM + dims[None, :]
    tl.store(at, total, mask=real[:, None] & (dims < DIM)[None, :])


@triton.jit
def weight_kernel(
    hidden, weight, teacher_hidden, teacher_weight, labels, task, soft, target, share, out,
    n, items, inverse, alpha_task, alpha_soft,
    DIM: tl.constexpr, TEACHER_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_TEACHER: tl.constexpr,
    TEACHER: tl.constexpr, POSITIONS: tl.constexpr, ITEMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of some rows of the item table from all positions."""
    columns = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    inside = columns < items
    table = load_rows(weight, columns, inside, DIM, BLOCK_DIM)
    taught = load_rows(teacher_weight, columns, inside, TEACHER_DIM, BLOCK_TEACHER) if TEACHER else table
    total = tl.zeros([ITEMS, BLOCK_DIM], tl.float32)
    for start in range(0, n, POSITIONS):
        rows = start + tl.arange(0, POSITIONS)
        real = rows < n
        own = load_rows(hidden, rows, real, DIM, BLOCK_DIM)
        other = load_rows(teacher_hidden, rows, real, TEACHER_DIM, BLOCK_TEACHER) if TEACHER else own
        gradient = logit_gradient(
            own, table, other, taught, rows, real, columns, inside,
            labels, task, soft, target, share, inverse, alpha_task, alpha_soft, TEACHER, PRECISION,
        )  # fmt: skip
        total += tl.dot(tl.trans(gradient).to(own.dtype), own, input_precision=PRECISION)
    dims = tl.arange(0, BLOCK_DIM)
    at = out + columns.to(tl.int64)[:, None] * DIM + dims[None, :]
    tl.store(at, total, mask=inside[:, None] & (dims < DIM)[None, :])
