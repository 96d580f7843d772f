"""All speed and memory figures in one table, in parts that can be run one by one.

    OMP_NUM_THREADS=1 python -m benchmarks --data Beauty.txt --json figures.json
    python -m benchmarks epoch distillation          # some parts only
    python -m benchmarks --quick                     # a few minutes, synthetic data of Beauty's shape, one turn each
    python -m benchmarks peers --data Beauty.txt     # RecBole, RecTools, torchdistill, each in its own environment
    python -m benchmarks quality --data Beauty.txt   # what ten epochs teach, ours against the floor script
    python -m benchmarks search --run runs/ablation  # what a sweep cost beside training, from its records

The file may also be named by RAYDISTILL_BEAUTY. ``pip install -e ".[bench]"`` brings what the rows of transformers'
Trainer and ONNX Runtime need; without it they are skipped, aloud. The figures of an earlier part stay in the JSON file.

What needs other processes or other data than these parts has a command of its own, ``python -m benchmarks.NAME``:

    workers        two data-parallel workers against one
    launch         the start of a sharded trial
    scale          the driver's share of a sweep of thousands of trials on simulated nodes
    fisher         per-example Fisher, and all evidence of a sweep, against training epochs
    planted        how often each selector finds blocks that are known to matter
    depth          a deep teacher against shallow models from scratch
    bootstrap      the crossed bootstrap of the analysis against scipy's
    analysis_load  loading and summarizing 10,000 trials
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import distillation, gpu, inference, loss, memory, quality, search, students, text, training
from benchmarks.data import sequences
from benchmarks.peers.run import peers
from raydistill.data.splits import SequenceData

PARTS = (
    "loss", "memory", "epoch", "distillation", "students", "ranking", "inference", "text", "search", "peers", "quality",
    "gpu",
)  # fmt: skip
SLOW_PARTS = ("peers", "quality")
QUICK_USERS = 2560


def main() -> None:
    """Measure, print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", metavar="NAME", help=f"all of these where none is named: {', '.join(PARTS)}"
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("RAYDISTILL_BEAUTY"), help="Beauty.txt of S3-Rec")
    parser.add_argument("--run", type=Path, default=None, help="run directory of a sweep, for the part search")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"fewer users, smaller catalogues, one turn, no {' and no '.join(SLOW_PARTS)}",
    )
    parser.add_argument("--users", type=int, default=None, help="only so many users, over the whole catalogue")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None, help="turns that each work takes; 2, or 1 with --quick")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    parts = options.parts or [part for part in PARTS if not (options.quick and part in SLOW_PARTS)]
    if len(parts) > 1:
        ends = [_in_own_process(part, options) for part in parts]
        sys.exit(any(ends))
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as cache:
        rows = []
        for found in _measure(parts[0], options, Path(cache)):
            _print(found)
            rows.append(found)
    if options.json:
        figures = _earlier(options.json) | {parts[0]: {"machine": _machine(options), "rows": rows}}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _in_own_process(part: str, options: argparse.Namespace) -> int:
    """Measure one part where no other has left memory behind, and return the exit status."""
    given = {name: value for name, value in vars(options).items() if name not in ("parts", "quick")}
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    arguments += ["--quick"] if options.quick else []
    return subprocess.run([sys.executable, "-m", "benchmarks", part, *arguments], check=False).returncode


def _measure(name: str, options: argparse.Namespace, cache: Path) -> Iterable[dict[str, Any]]:
    """Return the rows of one part."""
    rounds = options.rounds or (1 if options.quick else 2)

    def data() -> SequenceData:
        return sequences(options.data, cache, users=options.users or (QUICK_USERS if options.quick else None))

    work = {
        "loss": lambda: loss.run(quick=options.quick),
        "memory": lambda: memory.run(cache, quick=options.quick),
        "epoch": lambda: training.epochs(data(), rounds=rounds),
        "distillation": lambda: distillation.run(data(), rounds=rounds),
        "students": lambda: students.run(rounds=rounds),
        "ranking": lambda: training.ranking(data(), rounds=rounds),
        "inference": lambda: inference.run(data(), quick=options.quick),
        "text": lambda: text.run(cache, rounds=rounds, steps=4 if options.quick else 16),
        "search": lambda: search.run(options.run),
        "peers": lambda: peers(options.data),
        "quality": lambda: quality.run(data()),
        "gpu": lambda: gpu.run(data(), rounds=rounds),
    }
    return work[name]()


def _earlier(file: Path | None) -> dict[str, Any]:
    return json.loads(file.read_text()) if file is not None and file.is_file() else {}


def _print(found: dict[str, Any]) -> None:
    note = found.get("note", "")
    if found["seconds"] is None:
        seconds = "skipped" if note.startswith("skipped") else ""
    else:
        seconds = f"{found['seconds']:.4g} s"
    ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
    memory = f"+{found['memory'] / 2**20:.0f} MB" if found.get("memory", -1) >= 0 else ""
    if found.get("peak", -1) >= 0:
        memory = f"{found['peak'] / 2**20:.0f} MB"
    print(
        f"{found['area']:46s} {found['work']:55s} {seconds:>10s} {ratio:>7s} {memory:>9s} {note}",
        flush=True,
    )


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "data": "Beauty" if options.data else "synthetic",
        "users": options.users or (QUICK_USERS if options.quick else "all"),
    }


if __name__ == "__main__":
    main()
