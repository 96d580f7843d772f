"""Per-example Fisher against a loop over examples, and all evidence of the default sweep against training epochs.

    python -m benchmarks.fisher [--threads 1] [--rounds 3] [--sweep sweeps/ablation.yaml]

Data, teacher, calibration samples, batch sizes, kinds and draws are the sweep's own; only the weights are untrained,
which changes no time. Works take turns in one process, and the least processor seconds of each are compared. Prints, as
JSON, the ratio of the loop to the vectorized Fisher and their largest relative difference; and how many training epochs
over as many examples the evidence costs, together and by pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Work, in_turns
from raydistill import DistillationTrainer, load_sweep
from raydistill.config import Sweep
from raydistill.data.splits import SequenceData
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models import Recommender, blocks
from raydistill.training import build
from raydistill.training.calibration import CalibrationBatch, example_losses
from raydistill.training.evidence import measure_evidence
from raydistill.training.gradient_pass import GRADIENT_KINDS
from raydistill.training.per_example import recorded, squared_norms
from raydistill.training.prepare import calibration_samples, evidence_kinds
from raydistill.training.tasks import NEXT_ITEM

SWEEP = Path(__file__).parent.parent / "sweeps" / "ablation.yaml"


def vectorized(model: Recommender, batches: list[CalibrationBatch]) -> Tensor:
    """Return the empirical Fisher of each block by one forward and backward for each batch."""
    rows = list(blocks(model))
    sums, n_rows = torch.zeros(len(rows), dtype=torch.float64), 0
    for batch in batches:
        with recorded(rows, batch.n_rows) as recording:
            losses = example_losses(NEXT_ITEM.calibration_logits(model, batch), batch.labels, batch)
        outputs = torch.autograd.grad(losses.sum(), [call.output for call in recording.calls], allow_unused=True)
        sums += squared_norms(recording, outputs, losses, len(rows))[0].sum(dim=0)
        n_rows += batch.n_rows
    return sums / n_rows


def loop(model: Recommender, batches: list[CalibrationBatch]) -> Tensor:
    """Return the same by one forward and one backward for each example, as it is commonly written."""
    rows = list(blocks(model))
    sums, n_rows = torch.zeros(len(rows), dtype=torch.float64), 0
    for piece in (piece for batch in batches for piece, _ in batch.chunks(1)):
        model.zero_grad(set_to_none=True)
        example_losses(NEXT_ITEM.calibration_logits(model, piece), piece.labels, piece).sum().backward()
        for layer, block in enumerate(rows):
            sums[layer] += sum(parameter.grad.square().sum() for parameter in block.parameters())
        n_rows += 1
    model.zero_grad(set_to_none=True)
    return sums / n_rows


def fisher(model: Recommender, batches: list[CalibrationBatch], rounds: int) -> dict[str, float]:
    """Return processor seconds of both ways over the same batches, their ratio, and how far the results differ."""
    works = {"loop": Work(lambda: loop(model, batches)), "vectorized": Work(lambda: vectorized(model, batches))}
    seconds = in_turns(works, rounds)
    one, other = vectorized(model, batches), loop(model, batches)
    return {
        "batch": max(batch.n_rows for batch in batches),
        "loop_cpu_seconds": round(seconds["loop"], 3),
        "vectorized_cpu_seconds": round(seconds["vectorized"], 3),
        "ratio": round(seconds["loop"] / seconds["vectorized"], 2),
        "largest_relative_difference": float(((one - other) / other).abs().max()),
    }


def evidence(sweep: Sweep, data: SequenceData, model: Recommender, samples: list, rounds: int) -> dict[str, object]:
    """Return processor seconds of the sweep's evidence and of a training epoch over as many examples."""
    dataset = NEXT_ITEM.dataset(sweep, data, causal=model.causal, teacher_seed=0)
    settings = dataclasses.replace(build.teacher_settings(sweep, 0), epochs=10**6, patience=None)
    steps = DistillationTrainer(NEXT_ITEM.untrained(sweep, data, seed=1), dataset, TASK_ONLY, settings).epochs()
    kinds = evidence_kinds(sweep)
    asked = {
        "all": kinds,
        "attention": ["attention"],
        "gradients": [kind for kind in kinds if kind in GRADIENT_KINDS],
    }
    passes: dict[str, float] = {}  # of the last time; wall seconds, so only their shares are used

    def measure(name: str) -> None:
        found = measure_evidence(
            model, samples, NEXT_ITEM.calibration_logits, asked[name], seed=0,
            draws=sweep.evidence.fisher_draws, chunk_size=sweep.evidence.batch_size,
        )  # fmt: skip
        if name == "all":
            passes.update(found.pass_seconds)

    works = {name: Work(partial(measure, name)) for name in asked}
    seconds = in_turns({"epoch": Work(partial(next, steps)), **works}, rounds)
    n_examples = sweep.evidence.samples * len(samples)
    whole = sum(passes.values())
    epoch = seconds.pop("epoch") * n_examples / len(dataset.examples)
    return {
        "kinds": kinds,
        "examples": n_examples,
        "epoch_cpu_seconds": round(epoch, 3),
        "epochs": {name: round(value / epoch, 2) for name, value in seconds.items()},
        "passes_of_all": {name: round(value / whole, 2) for name, value in passes.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns that each work takes")
    parser.add_argument("--sweep", type=Path, default=SWEEP)
    parser.add_argument("--set", dest="overrides", nargs="*", default=(), metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        sweep = load_sweep(options.sweep, tuple(options.overrides))
        data = NEXT_ITEM.prepared_data(sweep, Path(folder))
        model = NEXT_ITEM.untrained(sweep, data, seed=0).eval()
        dataset = NEXT_ITEM.dataset(sweep, data, causal=model.causal, teacher_seed=0)
        samples = calibration_samples(NEXT_ITEM, sweep, dataset)
        found = {
            "threads": options.threads,
            "fisher": fisher(model, samples[0], options.rounds),
            "evidence": evidence(sweep, data, model, samples, options.rounds),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
