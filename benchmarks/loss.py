"""One step of the catalogue loss and its gradients, against all logits at once."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measure import extra_memory, in_turns, row
from raydistill.losses import LossWeights, catalogue_loss, class_loss
from raydistill.losses.distillation import TASK_ONLY

DIM = 64
PLAIN_BYTES = 6 << 30
"""The plain way is left out where its logits and their gradients would need more."""


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Return time and extra memory by size of catalogue."""
    rows = []
    for n_items, n_positions in (
        (12_101, 2048),
        (100_000, 512 if quick else 2048),
        (1_000_000, 128 if quick else 2048),
    ):
        for name, weights in (("cross-entropy", TASK_ONLY), ("distillation", LossWeights())):
            if n_items == 1_000_000 and (quick and weights is TASK_ONLY):
                continue
            rows += _compare(n_items, n_positions, name, weights, rounds=1 if n_items > 20_000 else 5)
    return rows


def _compare(n_items: int, n_positions: int, name: str, weights: LossWeights, rounds: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_positions, DIM, generator=draw, requires_grad=True)
    table = (0.1 * torch.randn(n_items, DIM, generator=draw)).requires_grad_()
    teacher_hidden = torch.randn(n_positions, DIM, generator=draw).half()
    teacher_table = 0.1 * torch.randn(n_items, DIM, generator=draw)
    labels = torch.randint(0, n_items, (n_positions,), generator=draw)
    needs_teacher = weights.alpha_dist > 0

    def plain() -> None:
        target = teacher_hidden.float() @ teacher_table.T if needs_teacher else None
        class_loss(hidden @ table.T, target, labels, weights).total.backward()

    def chunked() -> None:
        arguments = {"teacher_hidden": teacher_hidden, "teacher_weight": teacher_table} if needs_teacher else {}
        catalogue_loss(hidden, table, labels, weights, **arguments).total.backward()

    works = {"all logits": plain, "raydistill": chunked}
    area = f"loss, {name}, {n_items:,} items x {n_positions:,}"
    rows = []
    if 4 * n_items * n_positions * (6 if needs_teacher else 3) > PLAIN_BYTES:
        del works["all logits"]
        rows.append(row(area, "all logits", None, note="skipped: too much memory"))
    for work in works.values():
        hidden.grad = table.grad = None
        work()
    seconds = in_turns(works, rounds, warm_up=False)
    hidden.grad = table.grad = None
    against = seconds.get("all logits", next(iter(seconds.values())))
    rows += [row(area, w, seconds[w], against, memory=extra_memory(works[w])) for w in works]
    return rows
