"""Memory: what each further process adds to the data that all of them map."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import row
from raydistill.data.batches import TrainingExamples

MAX_LENGTH, BATCH = 50, 256


def run(cache: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the private memory that a process adds by an epoch of batches over memory-mapped interactions."""
    n_users = 20_000 if quick else 400_000
    items, offsets = _stored(cache, n_users)
    area = f"process, {np.load(items, mmap_mode='r').size:,} interactions"
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, target in (("nothing but imports", None), ("an epoch of batches", (items, offsets))):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_private_memory, args=(target, sender))
        child.start()
        private, mapped = receiver.recv()
        child.join()
        rows.append(row(area, name, 0.0, memory=private, note=f"private; {mapped / 2**20:.0f} MB mapped from the file"))
    return rows


def _stored(cache: Path, n_users: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(50, 150, n_users))])
    for name, array in (
        ("items", rng.integers(1, 100_000, offsets[-1], dtype=np.int32)),
        ("offsets", offsets),
    ):
        np.save(cache / f"{name}.npy", array)
    return cache / "items.npy", cache / "offsets.npy"


def _private_memory(files: tuple[Path, Path] | None, sender: Any) -> None:
    """Send this process's private bytes, and those that it shares with the page cache, after some epochs' batches."""
    if files is not None:
        items, offsets = (np.load(file, mmap_mode="r") for file in files)
        examples = TrainingExamples(_Sequences(items, offsets), max_length=MAX_LENGTH, causal=True)
        for number, _step in enumerate(examples.steps(0, batch_size=BATCH, seed=0)):
            if number == 2000:
                break
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, _unit = line.split()
        found[name.rstrip(":")] = 1024 * int(value)
    sender.send((found["Private_Dirty"], found["Rss"] - found["Private_Dirty"]))


class _Sequences:
    """As much of prepared data as training examples read."""

    def __init__(self, items: np.ndarray, offsets: np.ndarray) -> None:
        self.items, self.offsets = items, offsets
        self.train_end = offsets[1:] - 2
        self.n_items = 100_000
