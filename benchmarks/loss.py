"""One step of the catalogue loss and its gradients, against all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Once, Work, in_turns, once, row
from raydistill.losses import LossWeights, catalogue_loss, class_loss
from raydistill.losses.distillation import TASK_ONLY, LossParts

DIM = 64
STEP_OF_BEAUTY = 1500
"""Targets of one step of 256 users, rounded."""

PLAIN_BYTES = 6 << 30
"""The plain way is left out where its logits and their gradients would need more."""

ROUNDS, ONCE_FROM = 5, 100_000
"""From so many items on each work takes seconds, and is run once, in a process of its own that is also watched."""

LIMIT_FROM, LIMIT = 1_000_000, 2e9
"""Catalogues whose rows say whether the whole process stayed under so many bytes."""


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Return time and extra memory by size of catalogue."""
    rows = []
    for n_items, n_positions in (
        (12_101, STEP_OF_BEAUTY),
        (12_101, 2048),
        (100_000, 512 if quick else 2048),
        (1_000_000, 128 if quick else 2048),
    ):
        for name, weights in (("cross-entropy", TASK_ONLY), ("distillation", LossWeights())):
            rows += _compare(n_items, n_positions, name, weights)
    return rows


def _compare(n_items: int, n_positions: int, name: str, weights: LossWeights) -> list[dict[str, Any]]:
    works = _works(n_items, n_positions, weights)
    area = f"loss, {name}, {n_items:,} items x {n_positions:,}"
    rows = []
    if 4 * n_items * n_positions * (6 if weights.alpha_dist > 0 else 3) > PLAIN_BYTES:
        del works["all logits"]
        rows.append(row(area, "all logits", None, note="skipped: too much memory"))
    seconds = {} if n_items >= ONCE_FROM else in_turns(works, ROUNDS)
    found = {name: once(work.call) for name, work in works.items()}
    seconds = {name: seconds.get(name, found[name].seconds) for name in works}
    against = next(iter(seconds.values()))
    for name, value in seconds.items():
        note = _note(value, n_items, n_positions, found[name])
        rows.append(row(area, name, value, against, memory=found[name].extra, note=note))
    return rows


def _note(seconds: float | None, n_items: int, n_positions: int, found: Once) -> str:
    if seconds is None:
        return "skipped: killed, for want of memory most likely"
    note = f"{1e9 * seconds / (n_items * n_positions):.1f} ns a logit; peak of the process {found.peak / 1e9:.2f} GB"
    if n_items >= LIMIT_FROM:
        note += f", {'under' if found.peak < LIMIT else 'not under'} {LIMIT / 1e9:.0f} GB"
    return note


def _works(n_items: int, n_positions: int, weights: LossWeights) -> dict[str, Work]:
    """Return both ways to a loss and its gradients, over the same random hidden states and tables."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_positions, DIM, generator=draw, requires_grad=True)
    table = torch.randn(n_items, DIM, generator=draw).mul_(0.1).requires_grad_()
    labels = torch.randint(0, n_items, (n_positions,), generator=draw)
    teacher = {}
    if weights.alpha_dist > 0:
        teacher["teacher_hidden"] = torch.randn(n_positions, DIM, generator=draw).half()
        teacher["teacher_weight"] = torch.randn(n_items, DIM, generator=draw).mul_(0.1)

    def plain() -> None:
        target = teacher["teacher_hidden"].float() @ teacher["teacher_weight"].T if teacher else None
        step(lambda: class_loss(hidden @ table.T, target, labels, weights))

    def chunked() -> None:
        step(lambda: catalogue_loss(hidden, table, labels, weights, **teacher))

    def step(loss: Callable[[], LossParts]) -> None:
        hidden.grad = table.grad = None
        loss().total.backward()

    return {"all logits": Work(plain), "raydistill": Work(chunked)}
