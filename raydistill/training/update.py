"""One optimizer step: forward and backward pass of its parts, clipping, AdamW, and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.training import parallel
from raydistill.training.context import RunContext
from raydistill.training.graphs import StepGraphs

LAUNCH_SECONDS = 1.2e-3
"""What launching the forward and backward pass of one block takes, about (docs/performance.md)."""

RATES = {"float32": 5e13, "bfloat16": 4e14}
"""Floating-point operations a second of a GPU's large products, about."""


class Update:
    """Takes optimizer steps.

    Args:
        objective: Gives total, task and distillation loss of some length groups.
        dataset: Brings length groups to the device.
        settings: How to train; see :class:`raydistill.training.loop.TrainingSettings`.
        context: Where this runs.
        n_steps: Steps of the whole training, for the schedule.

    Attributes:
        optimizer: AdamW over all that is trained.
        graphs: Captured steps, where they can be captured.
        most_groups: Most length groups of a step.
        group_overhead: Padded positions that a further group must save; None for what a processor needs.
    """

    def __init__(self, objective: nn.Module, dataset: Any, settings: Any, context: RunContext, *, n_steps: int) -> None:
        self.objective, self.dataset, self.settings, self.context = objective, dataset, settings, context
        self.wrapped = parallel.wrap(objective, context)
        self.n_steps = n_steps
        on_gpu = context.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(objective, settings.weight_decay),
            # On the device, so that a captured step reads the rate of the step that is replayed.
            lr=torch.tensor(settings.lr, device=context.device) if on_gpu else settings.lr,
            fused=True,
            capturable=on_gpu,
        )
        rows = min(settings.batch_size, len(dataset.examples))
        self.graphs = StepGraphs(dataset, rows, context.device) if self._can_be_captured() else None
        is_whole = self.graphs is not None or parallel.is_sharded(context)
        self.most_groups = 1 if is_whole else settings.groups
        self.group_overhead = positions_of_a_launch(objective.model, settings.precision) if on_gpu else None

    def __call__(self, parts: list[list[Any]], n_targets: int, step: int) -> Tensor:
        """Take a step and return total, task and distillation loss of this worker's share of it, ``Float64[3]``.

        Args:
            parts: Length groups of each part, on the host.
            n_targets: Targets of the step over all workers.
            step: Number of the step in the whole training, from 0.
        """
        self.set_lr(step)
        if self.graphs is not None:
            return self.graphs.step(self._take, parts[0][0], n_targets)
        return self._take(parts, n_targets)

    def _take(self, parts: list[list[Any]], n_targets: int | Tensor) -> Tensor:
        context, settings = self.context, self.settings
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64, device=context.device)
        weighted = parallel.in_step(parts, settings.gradient_accumulation, context)
        for number, (groups, weight) in enumerate(weighted):
            here = [self.dataset.to(group, context.device) for group in groups]
            is_last = number == len(weighted) - 1
            with parallel.synchronized(self.wrapped, is_last), self._autocast():
                losses = self.wrapped(here, n_targets)
                # Data-parallel wrappers average gradients over workers; the loss is already a share of the whole.
                (losses[0] * (weight * context.world_size)).backward()
            sums += weight * torch.stack([loss.detach().double() for loss in losses])
        if settings.clip > 0:
            nn.utils.clip_grad_norm_(self.objective.parameters(), settings.clip)
        self.optimizer.step()
        return sums

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        if self.settings.precision != "bfloat16":
            yield
            return
        # torch asks for no cache of casts where steps are captured; each weight is used once anyway.
        cast = torch.autocast(self.context.device.type, torch.bfloat16, cache_enabled=self.graphs is None)
        with cast, without_cudnn_attention():
            yield

    def _can_be_captured(self) -> bool:
        settings, context = self.settings, self.context
        if context.world_size > 1 or context.device.type != "cuda" or not context.graphs:
            return False
        # Recomputed activations put the dropout's state back, which a capture forbids.
        is_plain = settings.gradient_accumulation == 1 and not settings.gradient_checkpointing
        return is_plain and self.objective.can_be_captured()

    def set_lr(self, step: int) -> None:
        """Set the learning rate of a step: linear warm-up, then the schedule."""
        settings, total = self.settings, self.n_steps
        warmup = max(1, round(settings.warmup * total))
        factor = min(1.0, (step + 1) / warmup)
        if settings.schedule == "cosine" and step >= warmup:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(settings.lr * factor)
            else:
                group["lr"] = settings.lr * factor


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Leave attention in half precision to other kernels than cuDNN's, which torch would choose first on new GPUs.

    cuDNN builds a plan for every shape that it has not seen, for some tenths of a second, and length groups and prompts
    bring new shapes in most steps.
    """
    was_on = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_on)


def positions_of_a_launch(model: nn.Module, precision: str) -> int:
    """Return the padded positions that go through a GPU while one block is launched, about.

    A block of width w takes 72 w^2 floating-point operations a position, forward and backward.

    Args:
        model: With a ``backbone`` of transformers.
        precision: ``float32`` or ``bfloat16``.
    """
    width = model.backbone.config.hidden_size
    return round(LAUNCH_SECONDS * RATES[precision] / (72 * width**2))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
