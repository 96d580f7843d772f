"""All speed and memory figures in one table.

    OMP_NUM_THREADS=1 python -m benchmarks --data Beauty.txt --json figures.json
    python -m benchmarks --quick                     # under two minutes, synthetic data of Beauty's shape
    python -m benchmarks --only loss epoch --peers   # with RecBole and RecTools, each in an environment of its own

The file may also be named by RAYDISTILL_BEAUTY.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import inference, loss, training
from benchmarks.data import sequences
from benchmarks.peers.run import peers

PARTS = ("loss", "epoch", "distillation", "ranking", "inference")


def main() -> None:
    """Measure, print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("RAYDISTILL_BEAUTY"), help="Beauty.txt of S3-Rec")
    parser.add_argument("--quick", action="store_true", help="fewer users, smaller catalogues, no slow peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peers", action="store_true", help="also install and measure RecBole and RecTools")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None, help="turns that each work takes")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for name in options.only:
            for found in _measure(name, options, Path(cache)):
                _print(found)
                rows.append(found)
    if options.peers:
        for found in peers(options.data):
            _print(found)
            rows.append(found)
    if options.json:
        options.json.write_text(json.dumps({"machine": _machine(options), "rows": rows}, indent=1) + "\n")


def _measure(name: str, options: argparse.Namespace, cache: Path) -> list[dict[str, Any]]:
    """Return the rows of one part."""
    if name == "loss":
        return loss.run(quick=options.quick)
    rounds = options.rounds or (1 if options.quick else 3)
    data = sequences(options.data, cache, users=2560 if options.quick else None)
    if name == "epoch":
        return training.epochs(data, rounds=rounds, with_peers=True)
    if name == "distillation":
        return training.distillation(data, rounds=rounds, with_peers=True)
    if name == "ranking":
        return training.ranking(data, rounds=rounds)
    return inference.run(data, quick=options.quick)


def _print(found: dict[str, Any]) -> None:
    seconds = "skipped" if found["seconds"] is None else f"{found['seconds']:.4g} s"
    ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
    memory = f"+{found['memory'] / 2**20:.0f} MB" if found.get("memory", -1) >= 0 else ""
    print(
        f"{found['area']:48s} {found['work']:32s} {seconds:>10s} {ratio:>7s} {memory:>9s} {found.get('note', '')}",
        flush=True,
    )


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "data": "Beauty" if options.data else "synthetic",
    }


if __name__ == "__main__":
    main()
