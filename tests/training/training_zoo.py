"""Small data and models for the tests of training."""

from __future__ import annotations

import numpy as np

from raydistill.data.splits import SequenceData, leave_one_out
from raydistill.models.recommender import Recommender, build_recommender

N_ITEMS, MAX_LENGTH = 40, 8


def small_data(n_users: int = 41, seed: int = 0) -> SequenceData:
    """Return users who mostly step from item i to item i + 1, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 14, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = [
        (start + np.arange(n) + (rng.random(n) < 0.1)) % N_ITEMS + 1
        for n, start in zip(lengths, rng.integers(0, N_ITEMS, n_users), strict=True)
    ]
    items = np.concatenate(items).astype(np.int32)
    return SequenceData(
        items=items,
        timestamps=np.arange(items.size),
        ratings=np.full(items.size, np.nan, dtype=np.float32),
        offsets=offsets,
        **leave_one_out(offsets),
        popularity=np.bincount(items, minlength=N_ITEMS + 1),
        user_ids=[str(u) for u in range(n_users)],
        item_ids=[str(i) for i in range(N_ITEMS + 1)],
        titles=[""] * (N_ITEMS + 1),
        attributes=[[]] * (N_ITEMS + 1),
        split="leave_one_out",
    )


def small_model(family: str = "gpt2", *, layers: int = 2, dropout: float = 0.1, seed: int = 0) -> Recommender:
    """Return a recommender of 16 dimensions."""
    return build_recommender(
        family,
        n_items=N_ITEMS,
        layers=layers,
        hidden=16,
        heads=2,
        dropout=dropout,
        max_length=MAX_LENGTH,
        seed=seed,
    )
