"""Does depth pay on the synthetic data? A deep teacher against shallow models trained from scratch.

::

    python -m benchmarks.depth [--seeds 3] [--longer 2.5] [--data-seeds 0 1]

Trains the teacher of ``sweeps/ablation.yaml`` and two-layer models of the same width, by the same schedule and also for
``--longer`` times as many epochs (about the teacher's cost), each at the epoch that is best on validation data. Prints
test NDCG@10 of every run, and mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from raydistill import DistillationTrainer, load_sweep, rank_users, rank_users_by_popularity
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import mean_metrics
from raydistill.training import build
from raydistill.training.tasks import NEXT_ITEM

SWEEP = Path(__file__).parent.parent / "sweeps" / "ablation.yaml"


def main() -> None:
    """Train, and print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--longer", type=float, default=2.5)
    parser.add_argument("--data-seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for data_seed in options.data_seeds:
        with tempfile.TemporaryDirectory() as folder:
            _compare(data_seed, options.seeds, options.longer, Path(folder))


def _compare(data_seed: int, n_seeds: int, longer: float, folder: Path) -> None:
    sweep = load_sweep(SWEEP, (f"data.seed={data_seed}",))
    data = NEXT_ITEM.prepared_data(sweep, folder)
    popularity = mean_metrics(rank_users_by_popularity(data, "test")["rank"])["ndcg@10"]
    print(f"data seed {data_seed}: popularity {popularity:.4f}", flush=True)
    epochs = sweep.teacher.epochs
    for layers, n_epochs in ((sweep.teacher.layers, epochs), (2, epochs), (2, round(longer * epochs))):
        runs = [_train(sweep, data, layers, n_epochs, seed) for seed in range(n_seeds)]
        quality = np.array([test for test, _ in runs])
        deviation = quality.std(ddof=1) if n_seeds > 1 else float("nan")
        seconds = np.mean([seconds for _, seconds in runs])
        each = " ".join(f"{value:.4f}" for value in quality)
        print(
            f"  {layers} layers, {n_epochs:3d} epochs: {quality.mean():.4f} +- {deviation:.4f}  ({each}), "
            f"{seconds:.0f} s of training each",
            flush=True,
        )


def _train(sweep, data, layers: int, epochs: int, seed: int) -> tuple[float, float]:
    """Return test NDCG@10 at the best validation epoch, and seconds of training."""
    model = NEXT_ITEM.untrained(sweep, data, seed=seed, layers=layers)
    dataset = NEXT_ITEM.dataset(sweep, data, causal=model.causal, teacher_seed=seed)
    settings = dataclasses.replace(build.teacher_settings(sweep, seed), epochs=epochs, patience=None)
    trainer = DistillationTrainer(
        model,
        dataset,
        TASK_ONLY,
        settings,
        evaluate=lambda candidate: mean_metrics(rank_users(candidate, data, "validation", top=False)["rank"]),
    )
    result = trainer.fit()
    return mean_metrics(rank_users(model, data, "test")["rank"])["ndcg@10"], result.training_seconds


if __name__ == "__main__":
    main()
