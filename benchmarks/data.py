"""Amazon Beauty where its file is given, else a synthetic set of the same shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydistill.data import prepare
from raydistill.data.sources import SOURCES
from raydistill.data.splits import SequenceData, leave_one_out

N_USERS, N_ITEMS, MEAN_LENGTH = 22_363, 12_101, 8.876


def sequences(path: Path | None, cache: Path, *, users: int | None = None) -> SequenceData:
    """Return the sequences to measure on.

    Args:
        path: The file ``Beauty.txt`` of S3-Rec, or None for the synthetic set.
        cache: Folder for prepared data.
        users: Keep so many users; all where None. The catalogue stays as large.
    """
    if path is None:
        data = synthetic()
    else:
        source = SOURCES["sequences"]
        raw = source.load(source.params(path=str(path)), cache / "raw")
        data = prepare(raw, split="leave_one_out", min_interactions=0, folder=cache / "prepared")
    return data if users is None else first_users(data, users)


def synthetic(seed: int = 0) -> SequenceData:
    """Return 22,363 users of at least 5 items, 8.9 on average, and 12,101 items of Zipf-like popularity."""
    rng = np.random.default_rng(seed)
    lengths = 5 + rng.geometric(1 / (MEAN_LENGTH - 4), N_USERS) - 1
    weights = 1 / np.arange(10, 10 + N_ITEMS) ** 0.8
    items = 1 + rng.choice(N_ITEMS, lengths.sum(), p=weights / weights.sum()).astype(np.int32)
    return _data(items, np.concatenate([[0], np.cumsum(lengths)]))


def first_users(data: SequenceData, users: int) -> SequenceData:
    """Return the first users only, over the whole catalogue."""
    offsets = np.array(data.offsets[: users + 1])
    return _data(np.array(data.items[: offsets[-1]]), offsets)


def _data(items: np.ndarray, offsets: np.ndarray) -> SequenceData:
    n_users = len(offsets) - 1
    return SequenceData(
        items=items,
        timestamps=np.arange(items.size),
        ratings=np.full(items.size, np.nan, dtype=np.float32),
        offsets=offsets.astype(np.int64),
        **leave_one_out(offsets),
        popularity=np.bincount(items, minlength=N_ITEMS + 1),
        user_ids=[str(user) for user in range(n_users)],
        item_ids=[str(item) for item in range(N_ITEMS + 1)],
        titles=[""] * (N_ITEMS + 1),
        attributes=[[]] * (N_ITEMS + 1),
        split="leave_one_out",
    )
