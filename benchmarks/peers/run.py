"""Peers, each in an environment of its own that a script here makes; one that cannot be installed is skipped aloud."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import distillation
from benchmarks.data import sequences
from benchmarks.measure import Once, once, row
from benchmarks.training import model, ours
from raydistill.training.evaluation import rank_users

HERE = Path(__file__).parent
PEERS = {
    "RecBole 1.2.1 SASRec, 1 block": "recbole",
    "RecTools 0.19 SASRec, 1 block": "rectools",
    "torchdistill 1.1.5, GPT-2 8 to 2 blocks": "torchdistill",
}
NOTES = {
    ("recbole", "epoch"): "batches of 2,048 targets, each with its history; ours of 256 users with all of theirs",
    ("recbole", "ranking"): "seen items stay candidates: its full sort masks none for sequential data",
    ("rectools", "epoch"): "preparing the data is in its epoch",
}
INSTALL_SECONDS, RUN_SECONDS = 900, 5400


def cache_folder() -> Path:
    """Return the folder of the peers' environments."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raydistill-benchmarks"


def peers(data: Path | None, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the time of one epoch of each peer, 64 dimensions, over the file of sequences, as ratios to raydistill.

    A row comes as soon as it is known. A peer's script prints ``epoch SECONDS``, ``ranking SECONDS`` or
    ``distillation SECONDS`` and ``memory BYTES`` as its last lines. Memory is the peak of a whole process: the peer's
    over all that it did, ours by work.

    Args:
        data: The file; None skips all.
        names: Scripts of the peers to run; all where None.
    """
    if data is None:
        yield from (row("peers", name, None, note="skipped: needs --data Beauty.txt") for name in PEERS)
        return
    against = _own(data)
    for work, own in against.items():
        yield row("peers", f"raydistill, {work}", own.seconds, own.seconds, peak=own.peak)
    for name, script in PEERS.items():
        if names is not None and script not in names:
            continue
        environment = cache_folder() / script
        install = ["bash", str(HERE / "install.sh"), script, str(environment), torch.__version__]
        failed = _call(install, INSTALL_SECONDS)[1]
        if failed:
            yield row("peers", name, None, note=f"skipped: not installed ({failed})")
            continue
        command = [str(environment / "bin" / "python"), str(HERE / f"{script}_epoch.py"), str(data.resolve())]
        output, failed = _call(command, RUN_SECONDS, folder=environment)  # RecBole leaves logs where it runs
        found = [line.split() for line in output.splitlines()]
        found = {line[0]: float(line[1]) for line in found if len(line) == 2 and line[0] in {*against, "memory"}}
        if failed or "memory" not in found:  # Lightning, told to end, ends as if all were well
            reason = failed or "it ended without its figures"
            yield row("peers", name, None, note=f"skipped: it does not run here ({reason})")
            continue
        peak = int(found.pop("memory"))
        for work, seconds in found.items():
            note = NOTES.get((script, work), "")
            yield row("peers", f"{name}, {work}", seconds, against[work].seconds, peak=peak, note=note)


def _own(data: Path) -> dict[str, Once]:
    """Return what raydistill takes for the same work, each once and without warm-up like the peers'."""
    with tempfile.TemporaryDirectory() as cache:
        found = sequences(data, Path(cache))
        recommender = model(found, 1).eval()
        works = {
            "epoch": ours(model(found, 1), found).call,
            "ranking": lambda: rank_users(recommender, found, "test"),
            "distillation": lambda: distillation.cached_epoch(found),
        }
        return {name: once(work) for name, work in works.items()}


def _call(command: list[str], limit: int, folder: Path | None = None) -> tuple[str, str]:
    """Return what a command printed, and why it failed, if it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        return "", f"more than {limit} s"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return done.stdout, "" if done.returncode == 0 else last[:160]
