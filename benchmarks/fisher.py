"""Per-example Fisher against a loop over examples, on the default teacher; and all evidence against training epochs.

    python -m benchmarks.fisher [--threads 1] [--batch 64] [--repeats 5]

Prints, as JSON: CPU seconds of both ways for one batch and their ratio; the largest relative difference of the results;
seconds of all evidence of the default sweep and of one training epoch over the same examples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from raydistill.models import Recommender, blocks, build_recommender
from raydistill.training.calibration import CalibrationBatch, example_losses
from raydistill.training.evidence import measure_evidence
from raydistill.training.per_example import recorded, squared_norms

ITEMS, LAYERS, HIDDEN, HEADS, LENGTH = 200, 8, 32, 2, 28  # of sweeps/ablation.yaml
DEFAULT_KINDS = ("fisher", "attention", "gradient", "block_influence", "taylor")


def batch_of(n_rows: int, seed: int = 0) -> CalibrationBatch:
    """Return full-length rows with one target each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, ITEMS + 1, (n_rows, LENGTH), generator=generator)
    labels = torch.randint(0, ITEMS, (n_rows,), generator=generator)
    return CalibrationBatch({"input_ids": ids}, torch.arange(n_rows), labels)


def logits(model: Recommender, batch: CalibrationBatch) -> Tensor:
    """Return the scores of all items at the last position of each target's row."""
    return model.logits(model.hidden(batch.inputs["input_ids"])[batch.example, -1])


def vectorized(model: Recommender, batch: CalibrationBatch) -> Tensor:
    """Return the empirical Fisher of each block in one forward and backward."""
    with recorded(list(blocks(model)), batch.n_rows) as recording:
        losses = example_losses(logits(model, batch), batch.labels, batch)
    outputs = torch.autograd.grad(losses.sum(), [call.output for call in recording.calls], allow_unused=True)
    return squared_norms(recording, outputs, losses, LAYERS)[0].mean(dim=0)


def loop(model: Recommender, batch: CalibrationBatch) -> Tensor:
    """Return the same by one forward and one backward for each example, as it is commonly written."""
    sums = torch.zeros(LAYERS, dtype=torch.float64)
    for piece, _ in batch.chunks(1):
        model.zero_grad(set_to_none=True)
        example_losses(logits(model, piece), piece.labels, piece).sum().backward()
        for layer, block in enumerate(blocks(model)):
            sums[layer] += sum(parameter.grad.square().sum() for parameter in block.parameters())
    model.zero_grad(set_to_none=True)
    return sums / batch.n_rows


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median CPU time of ``run`` (other work on the machine counts less), after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def epoch(model: Recommender, batches: list[CalibrationBatch]) -> None:
    """Train one epoch: dropout, all gradients, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        example_losses(logits(model, batch), batch.labels, batch).mean().backward()
        optimizer.step()
    model.eval()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build_recommender(
        "gpt2", n_items=ITEMS, layers=LAYERS, hidden=HIDDEN, heads=HEADS, dropout=0.2, max_length=LENGTH, seed=0
    ).eval()
    batch = batch_of(options.batch)
    fast = seconds(lambda: vectorized(model, batch), options.repeats)
    slow = seconds(lambda: loop(model, batch), options.repeats)
    one, other = vectorized(model, batch), loop(model, batch)
    batches = [batch_of(64, seed) for seed in range(8)]
    evidence = seconds(lambda: measure_evidence(model, [batches], logits, DEFAULT_KINDS, seed=0), 1)
    passes = measure_evidence(model, [batches], logits, DEFAULT_KINDS, seed=0).pass_seconds
    training = seconds(lambda: epoch(model, batches), 2)
    print(
        json.dumps(
            {
                "threads": options.threads,
                "batch": options.batch,
                "vectorized_cpu_seconds": round(fast, 4),
                "loop_cpu_seconds": round(slow, 4),
                "ratio": round(slow / fast, 2),
                "largest_relative_difference": float(((one - other) / other).abs().max()),
                "evidence_cpu_seconds_512_examples": round(evidence, 3),
                "evidence_passes": {name: round(value, 3) for name, value in passes.items()},
                "training_epoch_cpu_seconds_512_examples": round(training, 3),
                "evidence_in_epochs": round(evidence / training, 2),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
