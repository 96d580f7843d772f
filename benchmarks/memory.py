"""Memory: what each further process adds to the data that all of them map."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import row
from raydistill.data.batches import TrainingExamples

MAX_LENGTH, BATCH = 50, 256
AT_MOST_SECONDS = 15


def run(cache: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the private memory that a process adds by an epoch of batches over memory-mapped interactions.

    None of these rows has seconds: how long the batches take is part of every epoch that is measured elsewhere.
    """
    n_users = 20_000 if quick else 400_000
    items, offsets = _stored(cache, n_users)
    area = f"process, {np.load(items, mmap_mode='r').size:,} interactions"
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, causal in (
        ("nothing but imports", None),
        ("an epoch of batches, causal", True),
        ("an epoch of batches, bidirectional, 4 patterns of masks", False),
    ):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_private_memory, args=(items, offsets, causal, sender))
        child.start()
        private, mapped, steps = receiver.recv()
        child.join()
        note = f"private; {mapped / 2**20:.0f} MB mapped from files; {steps}"
        rows.append(row(area, name, None, memory=private, note=note))
    return rows


def _stored(cache: Path, n_users: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(50, 150, n_users))])
    for name, array in (
        ("items", rng.integers(1, 100_000, offsets[-1], dtype=np.int32)),
        ("offsets", offsets),
    ):
        with open(cache / f"{name}.npy", "wb") as file:
            np.save(file, array)
            os.fsync(file.fileno())  # a mapped page that is not on disk yet would count as the process's own
    return cache / "items.npy", cache / "offsets.npy"


def _private_memory(items: Path, offsets: Path, causal: bool | None, sender: Any) -> None:
    """Send this process's private bytes, those that it shares, and how many steps' batches it made before."""
    made = "no batches"
    if causal is not None:
        data = _Sequences(np.load(items, mmap_mode="r"), np.load(offsets, mmap_mode="r"))
        examples = TrainingExamples(data, max_length=MAX_LENGTH, causal=causal)
        made = _make_batches(examples)
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, _unit = line.split()
        found[name.rstrip(":")] = 1024 * int(value)
    sender.send((found["Private_Dirty"], found["Rss"] - found["Private_Dirty"], made))


def _make_batches(examples: TrainingExamples) -> str:
    """Make the batches of an epoch, or those for which there is time."""
    started, steps = time.process_time(), 0
    for _step in examples.steps(0, batch_size=BATCH, seed=0):
        steps += 1
        if time.process_time() - started > AT_MOST_SECONDS:
            break
    return f"{steps:,} of {examples.steps_in_epoch(BATCH):,} steps"


class _Sequences:
    """As much of prepared data as training examples read."""

    def __init__(self, items: np.ndarray, offsets: np.ndarray) -> None:
        self.items, self.offsets = items, offsets
        self.train_end = offsets[1:] - 2
        self.n_items = 100_000
