"""Time to load and summarize 10,000 trials, first from the records and then from the cached table.

    python benchmarks/analysis_load.py [--trials 10000] [--users 200]

The run directory is simulated (tests/analysis/fake_run.py) in a temporary folder; nothing in it was measured. The plain
way that it is set against is reading every record with ``json.loads`` into a data frame, without any check.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "analysis"))

from fake_run import Simulation, build

from analysis import conclude, load
from analysis.summary import summarize


def timed(name: str, function):
    """Return what the function returns, after printing the processor time that it took."""
    start = time.process_time()
    result = function()
    print(f"{name:48s} {time.process_time() - start:8.2f} s")
    return result


def main() -> None:
    """Build a run directory of the wanted size, then time each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        searched = 11  # ten selectors and scratch_kd
        plan = Simulation(trials=max(1, (options.trials - 250) // searched), users=options.users)
        root = build(Path(folder) / "run", plan)
        paths = sorted(root.glob("trials/*/record.json"))
        print(f"{len(paths):,} trials, {options.users:,} users")
        timed("plain json.loads of every record", lambda: pd.json_normalize([json.loads(p.read_text()) for p in paths]))
        timed("load from the records, every hash checked", lambda: load(root))
        run = timed("load from the cached table", lambda: load(root))
        timed("every comparison, verdict and the summary", lambda: summarize(conclude(run)))


if __name__ == "__main__":
    main()
