"""What the start of a sharded trial takes, on this machine, as Ray Tune's reused actor starts it.

    python -m benchmarks.launch [--launches 4] [--workers 2]

One actor launches the workers of one trial after the other; each imports what training needs, notes the clock, and
returns. Prints, as JSON, of each launch: the seconds until the last worker was ready to train, and until all had ended
again. In the first the actor itself is started and imports Ray Train, and the workers are new; they stay for the later
ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from raydistill.garbage import without_collection
from raydistill.training.build import load_sweep
from raydistill.training.context import RunContext
from raydistill.tuning import cluster
from raydistill.tuning.capacity import DRIVER_CPUS, Workers
from raydistill.tuning.sharded import run_sharded
from raydistill.tuning.sharded_trial import TrainerInActor

SETTLING_S = 15.0
"""Seconds in which Ray's own processes come to rest; in a sweep they have the time of the teacher's training."""

SWEEP = Path(__file__).parents[1] / "sweeps" / "smoke.yaml"
NEEDED = ("raydistill.training.trial", "raydistill.tuning.trainable", "transformers.models.gpt2.modeling_gpt2")


def ready(arguments: Mapping[str, Any], context: RunContext) -> None:
    """Note when this worker could begin to train."""
    with without_collection():  # as the workers of a trial do
        for name in NEEDED:
            importlib.import_module(name)
    (Path(arguments["folder"]) / str(context.rank)).write_text(str(time.time()))


@ray.remote(num_cpus=DRIVER_CPUS)
class Actor:
    """Stands for the actor of Ray Tune that runs one trial after the other."""

    def launch(self, workers: Workers, folder: str, number: int, started: float) -> dict[str, float]:
        """Start the workers of one trial and wait until they have ended; return the seconds since ``started``."""
        reports = Path(folder) / f"reports-{number}"
        reports.mkdir()
        run_sharded(
            ready,
            {"folder": str(reports)},
            workers,
            name=f"launch-{number}",
            storage=folder,
            trainer=TrainerInActor,
        )
        ended = time.time()
        noted = [float(file.read_text()) for file in reports.iterdir()]
        if len(noted) != workers.number:
            raise RuntimeError(f"{len(noted)} of {workers.number} workers have noted their time")
        return {"ready_seconds": round(max(noted) - started, 2), "ended_seconds": round(ended - started, 2)}


def main() -> None:
    """Launch, and print the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sweep = load_sweep(SWEEP, (f"execution.workers={options.workers}",))
    cluster.start(sweep)
    try:
        # The teacher's training leaves the process that Ray Train asks for room.
        ray.get(get_or_create_autoscaling_coordinator().__ray_ready__.remote())
        time.sleep(SETTLING_S)
        cpus = max(0.1, int(10 * (ray.cluster_resources()["CPU"] - DRIVER_CPUS) / options.workers) / 10)
        workers = Workers(options.workers, min(1.0, cpus), 0.0)
        with tempfile.TemporaryDirectory() as folder:
            launches, actor = [], None
            for number in range(options.launches):
                started = time.time()
                actor = actor or Actor.remote()
                launches.append(ray.get(actor.launch.remote(workers, folder, number, started)))
    finally:
        cluster.stop()
    print(json.dumps({"workers": options.workers, "launches": launches}, indent=1))


if __name__ == "__main__":
    main()
