"""Ranks over the full catalogue, vectorized: no sampled metrics, no Python loop over users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raydistill.errors import TrialDivergedError
from raydistill.records import metric_per_user
from raydistill.records.ranks import TOP

REPORTED = ("ndcg@5", "ndcg@10", "hr@5", "hr@10", "mrr")
"""Metrics written into every record; all others follow from the stored ranks."""

GROUP = 64
"""Neighbouring items in one group, where the best items are looked for."""


def rank_scores(
    scores: Float[Tensor, "users items"],
    targets: np.ndarray,
    seen_rows: np.ndarray,
    seen_items: np.ndarray,
    *,
    top: bool = True,
    candidates: bool = True,
) -> dict[str, np.ndarray]:
    """Return rank and, where asked for, number of candidates and the ten best items of each user.

    Items of the history are left out of the candidates, but never the target. Ties count against the
    model: rank = number of candidates that score at least as high as the target (itself included), so a
    model that gives all items one score is ranked last, not first.

    Args:
        scores: One row a user; column c is item c + 1. Overwritten.
        targets: Item ids.
        seen_rows, seen_items: Pairs of row and item id to leave out.
        top: Whether to find the ten best (ids, best first, 0 where there are fewer candidates).
        candidates: Whether to count the candidates.

    Raises:
        TrialDivergedError: A target's score is not finite.
    """
    n_users, n_items = scores.shape
    rows = torch.arange(n_users, device=scores.device)
    target_column = torch.as_tensor(targets - 1, device=scores.device)
    target_score = scores[rows, target_column].unsqueeze(1)
    if not torch.isfinite(target_score).all():
        raise TrialDivergedError("the model gives scores that are not finite")
    scores[
        torch.as_tensor(seen_rows, device=scores.device), torch.as_tensor(seen_items - 1, device=scores.device)
    ] = -torch.inf
    scores[rows, target_column] = target_score.squeeze(1)
    result = {}
    if candidates:
        result["candidates"] = _candidates(n_users, n_items, targets, seen_rows, seen_items)
    if top:
        result["top"] = _best(scores)
    # Counted from below, so that a score that is not a number counts against the model too. The answers of the
    # comparison take the place of the scores: adding up truth values takes many times as long.
    precision = torch.float64 if n_items >= 1 << 24 or scores.dtype == torch.float64 else torch.float32
    lower = scores.lt_(target_score).sum(dim=1, dtype=precision)
    result["rank"] = (n_items - lower).to(torch.int32).cpu().numpy()
    return result


def _best(scores: Float[Tensor, "users items"]) -> np.ndarray:
    """Return the ids of the ten best items of each user, best first, 0 where there are fewer candidates.

    The ten best lie in the ten groups of neighbouring items whose maxima are the highest, so only those are sorted.
    """
    n_users, n_items = scores.shape
    result = np.zeros((n_users, TOP), dtype=np.int32)
    n_groups = n_items // GROUP
    columns = None
    if n_groups > TOP:
        grouped = n_groups * GROUP
        highest = scores[:, :grouped].unflatten(1, (n_groups, GROUP)).amax(dim=2)
        groups = highest.topk(TOP, dim=1, sorted=False).indices.unsqueeze(2)
        columns = (groups * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
        rest = torch.arange(grouped, n_items, device=scores.device).expand(n_users, -1)
        columns = torch.cat([columns, rest], dim=1)
        scores = scores.gather(1, columns)
    best, column = scores.topk(min(TOP, n_items), dim=1)
    column = column if columns is None else columns.gather(1, column)
    items = torch.where(torch.isfinite(best), column + 1, 0)
    result[:, : items.shape[1]] = items.cpu().numpy()
    return result


def _candidates(
    n_users: int, n_items: int, targets: np.ndarray, seen_rows: np.ndarray, seen_items: np.ndarray
) -> np.ndarray:
    other = seen_items != targets[seen_rows]
    pairs = np.unique(seen_rows[other].astype(np.int64) * (n_items + 1) + seen_items[other])
    return (n_items - np.bincount(pairs // (n_items + 1), minlength=n_users)).astype(np.int32)


def mean_metrics(
    rank: np.ndarray, names: Sequence[str] = REPORTED, candidates: np.ndarray | None = None
) -> dict[str, float]:
    """Return the mean over users of each named metric; ``auc`` needs the numbers of candidates."""
    return {name: float(metric_per_user(name, rank, candidates).mean()) for name in names}
