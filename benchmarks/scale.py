"""What the driver spends on a sweep of many trials that cost nothing: dealing, suggesting, recording, reading back.

    python -m benchmarks.scale [--trials 10000] [--at-once 64] [--epochs 8] [--folder DIR] [--no-files]

Trials are dealt as in a real sweep (eleven searched arms, TPE, early stopping, then confirm with fresh seeds) and end
at once with made-up numbers; no Ray, no model. Prints, as JSON: trials of each phase; the driver's seconds, and its
milliseconds a trial by what they were spent on; the slowest call of the dealer; memory before and after; time and bytes
of the record store, and of continuing, which reads every record, checks its hash and deals what is left.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from raydistill.config import Sweep, arms
from raydistill.records import Record, RunDirectory, read_record, write_record
from raydistill.selectors import LAYER_KINDS
from raydistill.training import build
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.trial import TrialSpec
from raydistill.tuning.dealer import Dealer

ROOT = Path(__file__).resolve().parent.parent
LAYERS, DATA_HASH, METRIC = 8, "0" * 16, "ndcg@10"
SEARCHED_ARMS, RUNS_A_CONFIRM_SEED = 11, 36


def sweep_of(trials: int, epochs: int) -> Sweep:
    """Return the shipped ablation with about ``trials`` trials, nine of ten in the search."""
    search = max(2, round(0.9 * trials / SEARCHED_ARMS))
    seeds = max(1, round(0.1 * trials / RUNS_A_CONFIRM_SEED))
    overrides = (f"search.trials={search}", f"confirm.seeds={seeds}", f"training.epochs={epochs}", "search.per_arm=8")
    return build.load_sweep(ROOT / "sweeps" / "ablation.yaml", overrides)


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


def outcome(spec: TrialSpec, sweep: Sweep, generator: np.random.Generator) -> Record:
    """Return the record that a trial of this spec would have written, with made-up numbers."""
    curve = 0.03 + 0.02 * np.sort(generator.random(sweep.training.epochs))
    rows, status = [], "success"
    for epoch, value in enumerate(curve, start=1):
        rows.append(
            {
                "epoch": epoch,
                "loss": 5.0 - epoch / 10,
                "task_loss": 4.0,
                "distillation_loss": 3.0,
                METRIC: float(value),
                "hr@10": float(2 * value),
                "mrr": float(value),
                "seconds": 1.0,
                "targets_per_second": 1e4,
            }
        )
        if epoch in spec.stop_below and not value > spec.stop_below[epoch]:
            status = "stopped"
            break
    metrics = {name: rows[-1][name] for name in (METRIC, "hr@10", "mrr")}
    latency = {size: {"p50": 1.0, "p95": 2.0} for size in ("1", "32")}
    return Record(
        id=spec.identity(sweep, DATA_HASH),
        name=spec.name,
        sweep=sweep.name,
        phase=spec.phase,
        arm=spec.arm,
        kind=spec.kind,
        number=spec.number,
        status=status,
        seed=spec.seed,
        teacher=spec.teacher,
        teacher_seed=spec.teacher_seed,
        n_teacher_layers=spec.n_teacher_layers,
        n_student_layers=spec.n_student_layers,
        layer_map=spec.layer_map,
        keep_ratio=spec.keep_ratio,
        configuration=spec.configuration,
        draw=spec.draw,
        evidence=spec.evidence,
        epochs=len(rows),
        validation=metrics,
        test=metrics if spec.phase == "confirm" else None,
        cost={"parameters": 10**6, "backbone_parameters": 10**5, "flops": 10**9, "latency_ms": latency},
        curves=tuple(rows),
        started=1.0,
        finished=2.0,
    )


def deal(dealer: Dealer, sweep: Sweep, at_once: int, spent: dict[str, list[float]]) -> Iterator[Record]:
    """Yield the records of all trials, ``at_once`` running at a time and ending in another order than they began."""
    generator = np.random.default_rng(1)
    running: deque[Record] = deque()
    while True:
        while len(running) < at_once:
            started = time.perf_counter()
            spec = dealer.next()
            spent["next"].append(time.perf_counter() - started)
            if spec is None:
                break
            running.append(outcome(spec, sweep, generator))
        if not running:
            return
        running.rotate(int(generator.integers(len(running))))
        record = running.popleft()
        started = time.perf_counter()
        dealer.finished(record)
        spent["finished"].append(time.perf_counter() - started)
        yield record


def measure(trials: int, *, at_once: int, epochs: int, folder: Path | None) -> dict[str, object]:
    """Return what a sweep of about ``trials`` trials costs the driver."""
    sweep = sweep_of(trials, epochs)
    spent: dict[str, list[float]] = {"next": [], "finished": [], "write": []}
    before = memory()
    records = []
    for record in deal(Dealer(sweep, DATA_HASH, [teacher(sweep)]), sweep, at_once, spent):
        records.append(record)
        if folder is not None:
            started = time.perf_counter()
            write_record(RunDirectory(folder).record_file(record.id), record)
            spent["write"].append(time.perf_counter() - started)
    n = len(records)
    seconds = {name: sum(values) for name, values in spent.items()}
    phases = [record.phase for record in records]
    result: dict[str, object] = {
        "trials": n,
        "distinct": len({record.id for record in records}),
        "search": phases.count("search"),
        "confirm": phases.count("confirm"),
        "stopped_early": sum(record.status == "stopped" for record in records),
        "driver_seconds": round(sum(seconds.values()), 2),
        "driver_ms_a_trial": {name: round(1000 * value / n, 3) for name, value in seconds.items()},
        "slowest_call_of_the_dealer_ms": round(1000 * max(spent["next"]), 1),
        "last_tenth_ms_a_trial": round(1000 * sum(spent["next"][-n // 10 :]) / (n // 10), 3),
        "memory_before_mb": before,
        "memory_after_mb": memory(),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if folder is not None:
        result["store"] = reread(RunDirectory(folder), sweep, n)
    return result


def reread(run: RunDirectory, sweep: Sweep, n: int) -> dict[str, object]:
    """Return what it costs to continue a finished sweep of ``n`` trials."""
    paths = sorted(run.root.glob("trials/*/record.json"))
    started = time.perf_counter()
    records = [read_record(path) for path in paths]
    read = time.perf_counter() - started
    started = time.perf_counter()
    dealer = Dealer(sweep, DATA_HASH, [teacher(sweep)], records)
    left = dealer.next()
    return {
        "records": len(paths),
        "bytes_a_record": round(sum(path.stat().st_size for path in paths) / n),
        "read_ms_a_record": round(1000 * read / n, 3),
        "continue_seconds": round(time.perf_counter() - started, 2),
        "left_to_run": 0 if left is None else 1,
    }


def memory() -> int:
    """Return this process's resident memory in MB."""
    return round(psutil.Process().memory_info().rss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="where the record store goes; a temporary folder")
    parser.add_argument("--no-files", action="store_true", help="leave the record store out")
    options = parser.parse_args()
    folder = None if options.no_files else Path(tempfile.mkdtemp(dir=options.folder))
    try:
        result = measure(options.trials, at_once=options.at_once, epochs=options.epochs, folder=folder)
    finally:
        if folder is not None:
            shutil.rmtree(folder)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
