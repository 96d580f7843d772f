"""What a GPU makes of it: loss, epochs, students side by side, ranking and latency, each form in turns, by the clock.

python -m benchmarks gpu --data Beauty.txt --json figures.json
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import gpu_loss, sharing, students
from benchmarks.gpu_measure import DEVICE, as_graph, memory, timed
from benchmarks.measure import row
from benchmarks.training import BATCH, HIDDEN, LR, MAX_LENGTH, model
from raydistill.data.splits import SequenceData
from raydistill.losses import LossWeights, class_loss
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.recommender import Recommender, build_recommender
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.teacher_cache import build_teacher_cache

LAYERS, KEPT = 8, [0, 7]
WIDE_STEPS = 8
COMPILED = "raydistill, graphs of compiled blocks"


def run(data: SequenceData, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield all rows; one that says so where there is no accelerator."""
    if not torch.cuda.is_available():
        yield row("gpu", "all of it", None, note="skipped: no GPU")
        return
    yield from _ceilings()
    yield from gpu_loss.run()
    with tempfile.TemporaryDirectory() as folder:
        yield from epochs(data, Path(folder), rounds=rounds)
    yield from wide_epochs(data, rounds=rounds)
    yield from students.run(rounds=rounds, device=DEVICE)
    yield from sharing.run(data, device=DEVICE)
    yield from ranking(data, rounds=rounds)
    yield from latencies(data)


def _peak_flops(dtype: torch.dtype) -> float:
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / timed({"": lambda: a @ b}, 3, repeats=3)[""]


def _ceilings() -> Iterator[dict[str, Any]]:
    for dtype in (torch.bfloat16, torch.float32):
        rate = _peak_flops(dtype)
        yield row(
            "gpu, ceilings", f"product of 8192 x 8192, {dtype}", 2 * 8192**3 / rate, note=f"{rate / 1e12:.0f} TFLOP/s"
        )
    source = torch.randn(1 << 30, device=DEVICE)
    target = torch.empty_like(source)
    seconds = timed({"": lambda: target.copy_(source)}, 3)[""]
    yield row("gpu, ceilings", "copy of 4 GB", seconds, note=f"{8 * source.numel() / seconds / 1e12:.2f} TB/s")


def epochs(data: SequenceData, folder: Path, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield an epoch of training and of distillation, step by step and as graphs."""
    teacher = model(data, LAYERS).eval().to(DEVICE)
    plain = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    context = RunContext(device=DEVICE)
    started = time.perf_counter()
    cache = build_teacher_cache(teacher, plain.examples, folder / "cache", context=context)
    yield row("gpu, distillation, 8 to 2 blocks", "teacher pass, once a sweep", time.perf_counter() - started)
    taught = DistillationDataset(data, max_length=MAX_LENGTH, causal=True, cache=cache)
    eager = RunContext(device=DEVICE, graphs=False)
    for area, make, dataset, weights in (
        ("gpu, epoch, 1 block", lambda: model(data, 1), plain, TASK_ONLY),
        ("gpu, epoch, 8 blocks", lambda: model(data, 8), plain, TASK_ONLY),
        ("gpu, distillation, 8 to 2 blocks", lambda: teacher.keep_layers(KEPT), taught, LossWeights()),
    ):
        works = {
            "plain loop, padded, all logits at once": _plain(make(), dataset, weights, teacher),
            "raydistill, kernel by kernel, 5 groups": _ours(make(), dataset, weights, eager, overhead=0),
            "raydistill, kernel by kernel, 1 group": _ours(make(), dataset, weights, eager, groups=1),
            "raydistill, graphs": _ours(make(), dataset, weights, context),
            "raydistill, graphs, bfloat16": _ours(make(), dataset, weights, context, precision="bfloat16"),
        }
        if weights.needs_teacher:
            works[COMPILED], first_epoch = _compiled(make(), dataset, weights, context)
        seconds = timed(works, rounds)
        flops = _step_flops(dataset, HIDDEN, make().n_layers, weights) * plain.examples.steps_in_epoch(BATCH)
        for name, value in seconds.items():
            steps = plain.examples.steps_in_epoch(BATCH)
            note = f"{1e3 * value / steps:.2f} ms a step; {flops / value / 1e12:.1f} TFLOP/s"
            if name == COMPILED:
                note += f"; first epoch {first_epoch:.1f} s"
            against = seconds["plain loop, padded, all logits at once"]
            yield row(area, name, value, against, note=note, memory=memory(works[name]))


def _step_flops(dataset: DistillationDataset, width: int, layers: int, weights: LossWeights) -> float:
    """Return the model's own operations in a step, its teacher's output layer included, padding left out."""
    targets = dataset.examples.n_slots / dataset.examples.steps_in_epoch(BATCH)
    output = dataset.data.n_items * width * (6 + (2 if weights.needs_teacher else 0))
    return targets * (72 * width**2 * layers + output)


def wide_epochs(data: SequenceData, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield some steps of a GPT-2 of 12 blocks of 768 dimensions, by type and number of groups."""
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    wide = build_recommender(
        "gpt2", n_items=data.n_items, layers=12, hidden=768, heads=12, dropout=0.1, max_length=MAX_LENGTH, seed=0
    )
    works = {}
    for precision in ("float32", "bfloat16"):
        for name, groups, chosen in (("5 groups", 5, False), ("1 group", 1, False), ("groups as chosen", 5, True)):
            works[f"{precision}, {name}"] = _ours(
                wide, dataset, TASK_ONLY, RunContext(device=DEVICE), overhead=None if chosen else 0,
                precision=precision, groups=groups, epoch_examples=WIDE_STEPS * BATCH,
            )  # fmt: skip
    flops = _step_flops(dataset, 768, 12, TASK_ONLY)
    for name, value in timed(works, rounds).items():
        note = f"{1e3 * value / WIDE_STEPS:.1f} ms a step; {WIDE_STEPS * flops / value / 1e12:.1f} TFLOP/s"
        yield row("gpu, 12 blocks of 768", name, value / WIDE_STEPS, note=note, memory=memory(works[name]))


def _compiled(student: Recommender, *given) -> tuple[Callable[[], Any], float]:
    """Return an epoch of a student whose blocks are compiled, and the seconds of the first one."""
    student.backbone.forward = torch.compile(student.backbone.forward, dynamic=False)
    epoch = _ours(student, *given)
    started = time.perf_counter()
    epoch()
    return epoch, time.perf_counter() - started


def _ours(
    student: Recommender,
    dataset: DistillationDataset,
    weights: LossWeights,
    context: RunContext,
    *,
    overhead: int | None = None,
    **settings: Any,
) -> Callable[[], Any]:
    settings = TrainingSettings(epochs=1000, batch_size=BATCH, lr=LR, **settings)
    trainer = DistillationTrainer(student, dataset, weights, settings, context=context)
    if overhead is not None:
        trainer.update.group_overhead = overhead
    return partial(next, trainer.epochs())


def _plain(student: Recommender, dataset, weights: LossWeights, teacher: Recommender) -> Callable[[], None]:
    student = student.to(DEVICE).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)

    def epoch() -> None:
        for step in dataset.examples.steps(0, batch_size=BATCH, seed=0, groups=1):
            batch = step.groups[0].to(DEVICE)
            length = batch.input_ids.shape[1]
            ids = F.pad(batch.input_ids, (0, MAX_LENGTH - length))
            where = batch.positions // length * MAX_LENGTH + batch.positions % length
            target = None
            if weights.needs_teacher:
                with torch.no_grad():
                    target = teacher.logits(teacher.hidden(ids).flatten(0, 1)[where])
            logits = student.logits(student.hidden(ids).flatten(0, 1)[where])
            optimizer.zero_grad()
            class_loss(logits, target, batch.labels, weights).total.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

    return epoch


def ranking(data: SequenceData, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the ranking of all users, by the model of one block."""
    recommender, context = model(data, 1).eval().to(DEVICE), RunContext(device=DEVICE)
    works = {
        "ranks and top 10": lambda: rank_users(recommender, data, "test", context=context),
        "ranks alone": lambda: rank_users(recommender, data, "test", context=context, top=False, candidates=False),
    }
    for name, value in timed(works, rounds).items():
        yield row("gpu, rank all users", name, value)


@torch.inference_mode()
def latencies(data: SequenceData) -> Iterator[dict[str, Any]]:
    """Yield the latency of full histories by depth: eager and as a graph."""
    teacher = model(data, LAYERS).eval().to(DEVICE)
    for batch in (1, 256):
        ids = torch.randint(1, data.n_items + 1, (batch, MAX_LENGTH), device=DEVICE)
        works = {}
        for depth in (8, 4, 2, 1):
            student = copy.deepcopy(teacher.keep_layers(list(range(depth)))).eval()
            call = partial(lambda student, ids: student.logits(student.hidden(ids)[:, -1]), student, ids)
            works[f"{depth} blocks, eager"] = call
            works[f"{depth} blocks, graph"] = as_graph(call)
        seconds = timed(works, 3, repeats=20)
        for name, value in seconds.items():
            yield row(
                f"gpu, latency, batch {batch}", name, value, seconds["8 blocks, eager"], note=f"{1e3 * value:.3f} ms"
            )
