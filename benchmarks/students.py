"""Several students of one depth in one batched step, over stacked parameters, against one after the other.

An experiment. Stacked students share their batches, so they need one seed; loss and optimizer are the same both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.measure import Work, device_seconds, in_turns, process_seconds, row
from raydistill.losses import LossWeights, class_loss
from raydistill.models.recommender import build_recommender

CPU = torch.device("cpu")
STUDENTS = (2, 4, 8)
STEPS = 3
"""Steps of a turn: one alone is too short to be measured."""

WEIGHTS = LossWeights()
SHAPES = {
    "240 items, 32 dimensions": {"n_items": 240, "hidden": 32, "batch": 64, "length": 32},
    "12,101 items, 64 dimensions": {"n_items": 12_101, "hidden": 64, "batch": 64, "length": 8},
}
NOTES = {"one after the other": "fused attention", "stacked": "attention of plain products, which vmap batches"}


def run(*, rounds: int, device: torch.device = CPU) -> list[dict[str, Any]]:
    """Return the time of a distillation step of 2-block students, stacked against one after the other."""
    rows = []
    for shape, sizes in SHAPES.items():
        ids, labels, target = (value.to(device) for value in _batch(**sizes))
        for n in STUDENTS:
            students = [_student(seed, **sizes).to(device) for seed in range(n)]
            works = {
                "one after the other": _in_turn(students, ids, labels, target),
                "stacked": _stacked(students, ids, labels, target),
            }
            clock = process_seconds if device == CPU else device_seconds
            seconds = in_turns(works, rounds, clock=clock)
            area = f"{'' if device == CPU else 'gpu, '}step of {n} students, {shape}"
            against = seconds["one after the other"]
            rows += [row(area, name, value, against, note=NOTES[name]) for name, value in seconds.items()]
    return rows


class _Logits(nn.Module):
    """Logits of all items at every position."""

    def __init__(self, recommender: nn.Module) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, ids: Tensor) -> Tensor:
        return self.recommender.logits(self.recommender.hidden(ids).flatten(0, 1))


def _student(seed: int, *, n_items: int, hidden: int, batch: int, length: int) -> nn.Module:
    return _Logits(
        build_recommender(
            "gpt2", n_items=n_items, layers=2, hidden=hidden, heads=2, dropout=0.0, max_length=length, seed=seed
        )
    ).train()


def _batch(*, n_items: int, hidden: int, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, n_items + 1, (batch, length), generator=draw)
    labels = torch.randint(0, n_items, (batch * length,), generator=draw)
    return ids, labels, torch.randn(batch * length, n_items, generator=draw)


def _turn(step: Callable[[], None]) -> Work:
    def steps() -> None:
        for _ in range(STEPS):
            step()

    return Work(steps, share=STEPS, first_steps=step)


def _in_turn(students: list[nn.Module], ids: Tensor, labels: Tensor, target: Tensor) -> Work:
    optimizers = [torch.optim.AdamW(student.parameters(), fused=True) for student in students]

    def step() -> None:
        for student, optimizer in zip(students, optimizers, strict=True):
            optimizer.zero_grad()
            class_loss(student(ids), target, labels, WEIGHTS).total.backward()
            optimizer.step()

    return _turn(step)


def _stacked(students: list[nn.Module], ids: Tensor, labels: Tensor, target: Tensor) -> Work:
    students = copy.deepcopy(students)  # the others keep their attention
    for student in students:  # fused attention knows no stacked models, and would be called one by one
        student.recommender.backbone.config._attn_implementation = "eager"
    parameters, buffers = stack_module_state(students)
    skeleton = copy.deepcopy(students[0]).to("meta")
    optimizer = torch.optim.AdamW(list(parameters.values()), fused=True)

    def loss(own: dict[str, Tensor], own_buffers: dict[str, Tensor]) -> Tensor:
        logits = functional_call(skeleton, (own, own_buffers), (ids,), tie_weights=True)
        return class_loss(logits, target, labels, WEIGHTS).total

    gradients = vmap(grad(loss), randomness="different")

    def step() -> None:
        found = gradients(parameters, buffers)
        for name, parameter in parameters.items():
            parameter.grad = found[name].contiguous()  # as the fused optimizer of a GPU wants it
        optimizer.step()

    return _turn(step)
