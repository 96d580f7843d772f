"""What the driver spends on a sweep of many trials that cost nothing, and how busy many nodes would be.

    python -m benchmarks.scale [--trials 10000] [--nodes 64] [--per-arm 8] [--epochs 8] [--folder DIR] [--tune]

Trials are dealt as in a real sweep (eleven searched arms, TPE, early stopping, then confirm with fresh seeds) and end
with made-up numbers. Without ``--tune`` nodes are simulated: each runs one trial at a time, an epoch takes it about one
simulated minute, and everything that raydistill's driver does is really done: searcher, dealer, samplers, studies on
disk, progress, records written and read. With ``--tune`` the same goes through Ray Tune on this machine's cores.

Prints, as JSON: trials of each phase; the driver's milliseconds a trial by what they were spent on, of its own (CPU)
and by the clock, which tells more about what else runs; memory before and after; how busy the simulated nodes were; and
what continuing costs, which reads every record, checks its hash and deals what is left. A record is written by its
trial, not by the driver; the time of it is said apart.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import resource
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from ray import tune
from ray.tune.search import Searcher
from ray.tune.trainable.metadata import _TrainingRunMetadata
from rich.console import Console

from raydistill.config import Sweep, arms, dump_sweep
from raydistill.records import Record, RunDirectory, write_record
from raydistill.seeding import stream
from raydistill.selectors import LAYER_KINDS
from raydistill.training import build
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning import cluster, trials
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.directory import kept_records
from raydistill.tuning.progress import Progress
from raydistill.tuning.searcher import Bookkeeper, DealerSearcher
from raydistill.tuning.sharded import Workers
from raydistill.tuning.suggest import Studies

ROOT = Path(__file__).resolve().parent.parent
LAYERS, DATA_HASH, METRIC = 8, "0" * 16, "ndcg@10"
SEARCHED_ARMS, RUNS_A_CONFIRM_SEED = 11, 36


class _Ended(SimpleNamespace):
    """What the bookkeeper reads of a trial of Tune that has ended."""

    def __init__(self, trial_id: str) -> None:
        super().__init__(trial_id=trial_id, last_result={}, run_metadata=_TrainingRunMetadata())


def sweep_of(n_trials: int, *, epochs: int, per_arm: int) -> Sweep:
    """Return the shipped ablation with about ``n_trials`` trials, nine of ten in the search.

    Without early stopping it has that many; with it, the epochs that are saved pay for more.
    """
    search = max(2, round(0.9 * n_trials / SEARCHED_ARMS))
    seeds = max(1, round(0.1 * n_trials / RUNS_A_CONFIRM_SEED))
    return build.load_sweep(
        ROOT / "sweeps" / "ablation.yaml",
        (
            f"search.trials={search}",
            f"confirm.seeds={seeds}",
            f"training.epochs={epochs}",
            f"search.per_arm={per_arm}",
            "execution.trackers=[]",
            "execution.dashboard=false",
        ),
    )


def teacher(sweep: Sweep) -> PreparedTeacher:
    """Return a teacher with made-up evidence."""
    generator = np.random.default_rng(0)
    return PreparedTeacher(
        id="1" * 16,
        seed=0,
        n_layers=LAYERS,
        evidence_id="2" * 16,
        evidence={kind: generator.random((3, LAYERS)) for kind in LAYER_KINDS},
        evidence_cost={arm.name: 1.0 for arm in arms(sweep)},
        profile={},
        validation={METRIC: 0.05},
        popularity={METRIC: 0.02},
    )


def outcome(spec: TrialSpec, sweep: Sweep) -> Record:
    """Return the record that a trial of this spec would have written, with made-up numbers."""
    identity = spec.identity(sweep, DATA_HASH)
    curve = 0.03 + 0.02 * np.sort(stream(0, "made up", identity).random(sweep.training.epochs))
    rows, status = [], "success"
    for epoch, value in enumerate(curve.tolist(), start=1):
        losses = {"loss": 5.0 - epoch / 10, "task_loss": 4.0, "distillation_loss": 3.0}
        metrics = {METRIC: value, "hr@10": 2 * value, "mrr": value}
        rows.append({"epoch": epoch, **losses, **metrics, "seconds": 1.0, "targets_per_second": 1e4})
        if epoch in spec.stop_below and not value > spec.stop_below[epoch]:
            status = "stopped"
            break
    latency = {size: {"p50": 1.0, "p95": 2.0} for size in ("1", "32")}
    shared = set(Record.__dataclass_fields__) & set(TrialSpec.__dataclass_fields__)
    return Record(
        id=identity,
        name=spec.name,
        sweep=sweep.name,
        status=status,
        epochs=len(rows),
        validation=metrics,
        test=metrics if spec.phase == "confirm" else None,
        cost={"parameters": 10**6, "backbone_parameters": 10**5, "flops": 10**9, "latency_ms": latency},
        curves=tuple(rows),
        started=1.0,
        finished=2.0,
        **{name: getattr(spec, name) for name in shared},
    )


class Driver:
    """Everything that raydistill's own driver does for a trial, with the seconds that each part took.

    Args:
        sweep: The sweep.
        run: Its run directory.
    """

    def __init__(self, sweep: Sweep, run: RunDirectory) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.own: dict[str, float] = defaultdict(float)
        self.slowest = 0.0
        self.ended: Counter[str] = Counter()
        self.sweep, self.run = sweep, run
        self.dealer = Dealer(sweep, DATA_HASH, [teacher(sweep)])
        self.searcher = DealerSearcher(
            self.dealer, run, run.root, Workers(1, 1.0, 0.0), storage=str(run.root), probe=""
        )
        self.studies = Studies(run.studies, sweep, [ratio for _, ratio in self.dealer.strata])
        for name in self.dealer.searches:
            self.studies.start(name, [])
        self.progress = Progress({arm.name: 1 for arm in self.dealer.arms}, METRIC, Console(file=io.StringIO()))
        self.keeper = Bookkeeper(
            self.searcher,
            sweep,
            run,
            on_record=self._note,
            on_start=self.progress.started,
            on_lost=self.progress.lost,
        )

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        wall, own = time.perf_counter(), time.process_time()
        yield
        wall, own = time.perf_counter() - wall, time.process_time() - own
        self.wall[part] += wall
        self.own[part] += own
        if part != "write":
            self.slowest = max(self.slowest, own)

    def start(self, name: str) -> TrialSpec | str | None:
        """Return the next trial, or what the searcher says instead."""
        with self.timed("suggest"):
            config = self.searcher.suggest(name)
        if not isinstance(config, dict):
            return config
        with self.timed("note"):
            self.keeper.on_trial_start(0, [], SimpleNamespace(trial_id=name))
        return self.searcher.specs[name]

    def end(self, name: str) -> None:
        """Let a trial write its record, and take note of it."""
        record = outcome(self.searcher.specs[name], self.sweep)
        with self.timed("write"):
            write_record(self.run.record_file(record.id), record)
        with self.timed("note"):
            self.keeper.on_trial_complete(0, [], _Ended(name))

    def count(self, record: Record) -> None:
        """Count a trial that has ended, and show it."""
        self.ended[record.phase] += 1
        self.ended["stopped early"] += record.status == "stopped"
        self.progress.ended(record)

    def _note(self, record: Record) -> None:
        if record.phase == "search":
            self.studies.add(record)
        self.count(record)


def simulate(driver: Driver, n_nodes: int) -> dict[str, float]:
    """Run all trials on simulated nodes and return how busy those were.

    A node is as fast as it is: an epoch takes between 0.8 and 1.25 minutes on it.
    """
    speeds = stream(0, "speeds").uniform(0.8, 1.25, n_nodes)
    free, running, clock, busy, number = list(range(n_nodes)), [], 0.0, 0.0, 0
    while True:
        while free:
            spec = driver.start(str(number))
            if not isinstance(spec, TrialSpec):
                break
            minutes = outcome(spec, driver.sweep).epochs * speeds[free[-1]]
            heapq.heappush(running, (clock + minutes, number, free.pop()))
            busy += minutes
            number += 1
        if not running:
            assert spec == Searcher.FINISHED
            return {"nodes": n_nodes, "simulated_hours": round(clock / 60, 2), "busy": round(busy / clock / n_nodes, 3)}
        clock, ended, node = heapq.heappop(running)
        driver.end(str(ended))
        free.append(node)


class NoTraining(tune.Trainable):
    """A trial that ends at once, with a record."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._spec, self._run = TrialSpec(**new_config["spec"]), RunDirectory(new_config["run"])
        return True

    def step(self) -> dict[str, Any]:
        record = outcome(self._spec, build.load_sweep(self._run.sweep_file))
        write_record(self._run.record_file(record.id), record)
        return {"done": True, "record": record.id, "status": record.status}


def through_tune(driver: Driver) -> dict[str, float]:
    """Run all trials through Ray Tune on this machine, and return what this process spent on one."""
    driver.run.sweep_file.write_text(dump_sweep(driver.sweep))
    cluster.start(driver.sweep)
    original, trials.DistillTrainable = trials.DistillTrainable, NoTraining
    wall, own = time.perf_counter(), time.process_time()
    try:
        trials.run_trials(
            driver.sweep,
            driver.run,
            driver.run.root,
            driver.dealer,
            probe="",
            on_record=driver.count,
            on_start=driver.progress.started,
            on_lost=driver.progress.lost,
        )
    finally:
        wall, own = time.perf_counter() - wall, time.process_time() - own
        trials.DistillTrainable = original
        cluster.stop()
    n = driver.ended["search"] + driver.ended["confirm"]
    return {"whole_wall_ms_a_trial": round(1000 * wall / n, 2), "driver_cpu_ms_a_trial": round(1000 * own / n, 2)}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what a sweep costs the driver."""
    sweep = sweep_of(options.trials, epochs=options.epochs, per_arm=options.per_arm)
    before = memory()
    driver = Driver(sweep, RunDirectory(folder))
    ran = through_tune(driver) if options.tune else simulate(driver, options.nodes)
    n = driver.ended["search"] + driver.ended["confirm"]
    return {
        "trials": n,
        **driver.ended,
        **ran,
        "cpu_ms_a_trial": {part: round(1000 * seconds / n, 2) for part, seconds in driver.own.items()},
        "wall_ms_a_trial": {part: round(1000 * seconds / n, 2) for part, seconds in driver.wall.items()},
        "slowest_call_cpu_ms": round(1000 * driver.slowest, 1),
        "memory_mb": {"before": before, "after": memory()},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "store": reread(driver, n),
    }


def reread(driver: Driver, n: int) -> dict[str, Any]:
    """Return what it costs to continue a finished sweep of ``n`` trials."""
    size = sum(path.stat().st_size for path in driver.run.root.glob("trials/*/record.json"))
    started = time.perf_counter()
    records = kept_records(driver.run)
    read = time.perf_counter() - started
    started = time.perf_counter()
    left = Dealer(driver.sweep, DATA_HASH, driver.dealer.teachers, records).next()
    assert len(records) == n, "a trial was lost or repeated"
    assert left is None, "a finished sweep has trials left"
    return {
        "bytes_a_record": round(size / n),
        "read_ms_a_record": round(1000 * read / n, 3),
        "continue_seconds": round(time.perf_counter() - started, 2),
    }


def memory() -> int:
    """Return this process's resident memory in MB."""
    return round(psutil.Process().memory_info().rss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--per-arm", type=int, default=8, help="search.per_arm of the sweep")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="where the record store goes; a temporary folder")
    parser.add_argument("--tune", action="store_true", help="through Ray Tune, on this machine's cores")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        print(json.dumps(measure(options, folder), indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
