"""Two workers against one: an epoch of training, the same batches, each worker with one thread and half of each batch.

    python -m benchmarks.workers [--rounds 3] [--users 1280] [--hidden 256] [--layers 6]

One and two workers take turns in the same two processes, joined by gloo as Ray Train joins them; and two that train
each for itself on half of the users, which no joining can beat: it says what two processors give, on many rented
machines less than twice as much as one. Prints, as JSON: the least seconds of a step by the clock, and the processor
seconds of the busier worker, which hardly grow where other work shares the machine (waiting for the other worker is not
in them); and the largest relative difference of the losses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.data import first_users, synthetic
from raydistill.data.splits import SequenceData
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.recommender import build_recommender
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.loop import DistillationTrainer, TrainingSettings

MAX_LENGTH, BATCH, WORKERS = 50, 256, 2


def trainer(
    data: SequenceData, options: argparse.Namespace, context: RunContext, *, batch: int = BATCH
) -> DistillationTrainer:
    """Return the training of one model; without dropout, which each worker draws for itself."""
    model = build_recommender(
        "gpt2",
        n_items=data.n_items,
        layers=options.layers,
        hidden=options.hidden,
        heads=2,
        dropout=0.0,
        max_length=MAX_LENGTH,
        seed=0,
    )
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=True)
    settings = TrainingSettings(epochs=options.rounds + 1, batch_size=batch)
    return DistillationTrainer(model, dataset, TASK_ONLY, settings, context=context)


def work(options: argparse.Namespace, folder: Path, rank: int) -> dict[str, Any]:
    """Return the seconds of a step, alone and together, in each of some rounds; the first warms up."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORKERS)
    data = first_users(synthetic(), options.users)
    steps = {
        "together": trainer(data, options, RunContext(rank=rank, world_size=WORKERS)),
        # Each for itself, half of the users: what the processors give where nothing is waited for.
        "apart": trainer(first_users(data, options.users // WORKERS), options, RunContext(), batch=BATCH // WORKERS),
    }
    if rank == 0:
        steps["alone"] = trainer(data, options, RunContext())
    epochs = {name: one.epochs() for name, one in steps.items()}
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    for _ in range(options.rounds + 1):
        for name in ("alone", "together", "apart"):
            dist.barrier()
            if name in epochs:
                wall, own = time.perf_counter(), time.process_time()
                loss = next(epochs[name])["loss"]
                n = steps[name].steps_in_epoch
                rounds[name].append(((time.perf_counter() - wall) / n, (time.process_time() - own) / n, loss))
    dist.barrier()
    dist.destroy_process_group()
    return rounds


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what both workers have measured, as a person reads it."""
    alone, together, other = found[0]["alone"], found[0]["together"], found[1]["together"]
    least = {
        "step_seconds": [min(row[0] for row in rounds[1:]) for rounds in (alone, together)],
        "step_cpu_seconds": [
            min(row[1] for row in alone[1:]),
            min(max(first[1], second[1]) for first, second in zip(together[1:], other[1:], strict=True)),
        ],
    }
    apart = min(
        max(first[0], second[0]) for first, second in zip(found[0]["apart"][1:], found[1]["apart"][1:], strict=True)
    )
    losses = [(one[2], two[2]) for one, two in zip(alone, together, strict=True)]
    return {
        name: {"one": round(one, 4), "two": round(two, 4), "speedup": round(one / two, 2)}
        for name, (one, two) in least.items()
    } | {
        "of_two_that_share_nothing": {
            "step_seconds": round(apart, 4),
            "speedup": round(least["step_seconds"][0] / apart, 2),
            "reached": round(apart / least["step_seconds"][1], 2),
        },
        "speedup_by_round": [round(one[0] / two[0], 2) for one, two in zip(alone[1:], together[1:], strict=True)],
        "largest_relative_difference_of_the_loss": max(abs(one - two) / one for one, two in losses),
        "load_average": os.getloadavg(),
        "processors": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=1280, help="five steps an epoch")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "RANK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, rank = Path(options.worker[0]), int(options.worker[1])
        (folder / f"{rank}.json").write_text(json.dumps(work(options, folder, rank)))
        return
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.workers", *sys.argv[1:], "--worker", name]
        workers = [subprocess.Popen([*command, str(rank)]) for rank in range(WORKERS)]
        if any(worker.wait() for worker in workers):
            raise SystemExit("a worker failed")
        print(
            json.dumps(
                summary([json.loads(Path(name, f"{rank}.json").read_text()) for rank in range(WORKERS)]), indent=1
            )
        )


if __name__ == "__main__":
    main()
