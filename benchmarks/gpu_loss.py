"""One step of the catalogue loss and its gradients on a GPU: all logits, chunks, fused kernels."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_measure import DEVICE, as_graph, memory, timed
from benchmarks.measure import row
from raydistill.losses import LossWeights, catalogue_loss, class_loss
from raydistill.losses.catalogue import GPU_LOGITS
from raydistill.losses.distillation import TASK_ONLY

SIZES = ((12_101, 1500), (100_000, 2048), (1_000_000, 2048))
"""Items and positions."""

PLAIN_BYTES = 30 << 30
"""All logits at once are left out where they and their gradients would need more."""


def run() -> Iterator[dict[str, Any]]:
    """Yield one step of the loss and its gradients, by catalogue, type and form."""
    for items, positions in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            for name, weights in (("cross-entropy", TASK_ONLY), ("distillation", LossWeights())):
                yield from _losses(items, positions, dtype, name, weights)
                gc.collect()
                torch.cuda.empty_cache()


def _losses(items: int, positions: int, dtype: torch.dtype, name: str, weights: LossWeights) -> Iterator[dict]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 64, generator=draw).to(DEVICE, dtype).requires_grad_()
    table = torch.randn(items, 64, generator=draw).mul_(0.1).to(DEVICE, dtype).requires_grad_()
    labels = torch.randint(0, items, (positions,), generator=draw).to(DEVICE)
    teacher = {}
    if weights.alpha_dist > 0:
        teacher["teacher_hidden"] = torch.randn(positions, 64, generator=draw).half().to(DEVICE)
        teacher["teacher_weight"] = torch.randn(items, 64, generator=draw).mul_(0.1).to(DEVICE)

    def plain(loss=class_loss) -> None:
        hidden.grad = table.grad = None
        target = teacher["teacher_hidden"].float() @ teacher["teacher_weight"].T if teacher else None
        loss((hidden @ table.T).float(), target, labels, weights).total.backward()

    def ours(**cut: int) -> None:
        hidden.grad = table.grad = None
        catalogue_loss(hidden, table, labels, weights, **teacher, **cut).total.backward()

    works = {"all logits": plain, "chunks": partial(ours, chunk_logits=GPU_LOGITS), "fused": ours}
    works["fused, as a graph"] = as_graph(ours)
    if items == SIZES[0][0]:
        works["all logits, compiled"] = partial(plain, torch.compile(class_loss))
    if 4 * items * positions * (6 if teacher else 3) > PLAIN_BYTES:
        del works["all logits"]
    seconds = timed(works, 3, repeats=3)
    against = seconds.get("all logits", seconds["chunks"])
    area = f"gpu, loss, {name}, {items:,} x {positions:,}, {str(dtype)[6:]}"
    for form, value in seconds.items():
        note = f"{1e12 * value / items / positions:.1f} ps a logit"
        yield row(area, form, value, against, memory=memory(works[form]), note=note)
