"""The catalogue loss on a GPU: three Triton kernels that never write a logit to memory.

One kernel goes over the items once and keeps, for each position, maximum and sums of the exponentials (Milakov &
Gimelshein 2018, online softmax). The two others form the logits again and multiply their gradient at once with the
item table and with the hidden states. So a logit costs four more products than in
:mod:`raydistill.losses.blocks`, and no memory traffic: at the widths of recommenders that is far less than reading
and writing it ten times. The sums are those of that module, the maxima always taken off, so that nothing waits for the
device; a whole training step can be captured as a CUDA graph.

Triton comes with torch on GPUs only, and needs a C compiler there. The kernels also run on a CPU under
``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import subprocess

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.losses.distillation import LossWeights

log = logging.getLogger(__name__)

WIDEST = 256
"""Hidden states wider than this do not fit the registers beside their logits."""

PROGRAMS = 512
"""Programs that keep an accelerator busy: positions are few, so items are split until there are as many."""


def is_interpreted() -> bool:
    """Return whether Triton's kernels run on the CPU, as in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class NoRoomError(RuntimeError):
    """A GPU has too little memory on the chip for the kernels."""


def suits(hidden: Tensor, weight: Tensor, teacher_weight: Tensor | None) -> bool:
    """Return whether the kernels can take these hidden states ``[targets, dim]`` and tables ``[items, dim]``.

    Student and table are of one type, float32 or bfloat16, and nobody is wider than :data:`WIDEST`.
    """
    widths = [weight.shape[1]] + ([] if teacher_weight is None else [teacher_weight.shape[1]])
    is_known = hidden.dtype == weight.dtype and weight.dtype in (torch.float32, torch.bfloat16)
    return max(widths) <= WIDEST and is_known and works(weight.device)


@functools.cache
def works(device: torch.device) -> bool:
    """Return whether Triton is there and compiles for a device; it is said once where it does not for a GPU.

    It needs a C compiler, and a GPU that it knows.
    """
    if device.type != "cuda":
        return is_interpreted()
    try:
        from raydistill.losses.kernels import product_of_ones

        if product_of_ones(device) == 32.0:
            return True
        problem: object = "its products are wrong"
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        problem = error
    log.warning("the catalogue loss takes chunks in place of fused kernels, which are faster: %s", problem)
    return False


class FusedCatalogueLoss(torch.autograd.Function):
    """Total, task and distillation loss; rows of negative label do not count."""

    @staticmethod
    def forward(
        ctx,
        hidden: Float[Tensor, "targets dim"],
        weight: Float[Tensor, "items dim"],
        labels: Int64[Tensor, " targets"],
        teacher_hidden: Float[Tensor, "targets teacher_dim"] | None,
        teacher_weight: Float[Tensor, "items teacher_dim"] | None,
        weights: LossWeights,
        count: Float[Tensor, ""] | float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of the losses over ``count``, and keep the gradients for the backward pass.

        Raises:
            NoRoomError: The kernels do not fit this GPU.
        """
        from raydistill.losses.kernels import sums_and_gradients

        teacher = None if teacher_hidden is None else (teacher_hidden.to(teacher_weight.dtype), teacher_weight)
        share = (labels >= 0).float() / count
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        scales = (share, weights.alpha_task, weights.alpha_dist * weights.temperature) if needs_gradient else None
        sums, gradients = sums_and_gradients(hidden, weight, labels, teacher, weights.temperature, scales)
        task_log, soft_log, target_log, mean = sums
        true_logits = (hidden.float() * weight[labels.clamp(min=0)].float()).sum(dim=1)
        ln2 = math.log(2)
        task = ((ln2 * task_log - true_logits) * share).sum()
        distillation = torch.zeros_like(task)
        if teacher is not None:
            kl = ln2 * (mean + soft_log - target_log)
            distillation = weights.temperature**2 * (kl * share).sum()
        if needs_gradient:
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(task, distillation)
        return weights.alpha_task * task + weights.alpha_dist * distillation, task, distillation

    @staticmethod
    def backward(ctx, total_gradient, _task, _distillation):
        """Return the kept gradients, scaled."""
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * total_gradient, weight_gradient * total_gradient, None, None, None, None, None
