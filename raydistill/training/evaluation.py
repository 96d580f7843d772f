"""Full-catalogue ranks of every user, computed in chunks and shared between workers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raydistill.data.batches import evaluation_batches, evaluation_users, seen_items
from raydistill.data.splits import SequenceData
from raydistill.errors import TrialDivergedError
from raydistill.metrics.ranking import rank_scores
from raydistill.models.recommender import Recommender
from raydistill.training.context import RunContext

SCORES_AT_A_TIME = 1 << 20
"""Scores held at once: 4 MB in float32, near the core while they are masked, compared and counted."""

BLOCK_ITEMS = 1000
"""Items in one matrix product on a processor."""

GPU_SCORES_AT_A_TIME = 1 << 27


def rank_users(
    model: Recommender,
    data: SequenceData,
    part: str,
    *,
    context: RunContext | None = None,
    top: bool = True,
    candidates: bool = True,
    batch_tokens: int | None = None,
) -> dict[str, np.ndarray]:
    """Return the columns of ``ranks.parquet`` for every user with a target in ``part``, in order of user.

    Args:
        model: Scores all items; set to eval mode.
        data: Prepared sequences.
        part: ``validation`` or ``test``.
        context: Where this runs; each worker ranks its share and all return the whole.
        top: Whether to find the ten best items of each user.
        candidates: Whether to count what each target is ranked among; only ``auc`` needs it.
        batch_tokens: Positions that go through the model at a time, about; what suits the device where None.

    Raises:
        TrialDivergedError: The model's item table, or a target's score, is not finite.
    """
    context = context or RunContext()
    users = evaluation_users(data, part)[context.rank :: context.world_size]
    try:
        own = _rank_some(
            model,
            data,
            part,
            users,
            context.device,
            batch_tokens=batch_tokens or context.forward_tokens,
            top=top,
            candidates=candidates,
        )
    except TrialDivergedError as error:
        own = error.with_traceback(None)  # which leads to this frame, and so to the model, for as long as both live
    shares = context.gather(own)
    for share in shares:  # told to all, since the others would wait for a worker that has given up
        if isinstance(share, TrialDivergedError):
            raise type(share)(share.what, where=share.where, mend=share.mend)
    return _in_order_of_user(_join([share for share in shares if share]))


def _rank_some(
    model: Recommender,
    data: SequenceData,
    part: str,
    users: np.ndarray,
    device: torch.device,
    *,
    batch_tokens: int,
    **wanted: bool,
) -> dict[str, np.ndarray]:
    model.eval()
    parts = []
    with torch.inference_mode():
        table = model.table()
        output_weight = model.items_of(table)
        if not torch.isfinite(output_weight).all():
            raise TrialDivergedError("the model's item table is not finite")
        score = _Products(output_weight.float())
        batches = evaluation_batches(
            data, part, users, max_length=model.max_length, causal=model.causal, batch_tokens=batch_tokens
        )
        for batch in batches:
            mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
            hidden = model.hidden(batch.input_ids.to(device), mask, table).flatten(0, 1)
            hidden = hidden[batch.positions.to(device)].float()
            parts.append(_rank(score, hidden, data, part, batch.users, batch.targets, **wanted))
    return _join(parts)


def rank_users_by_popularity(data: SequenceData, part: str) -> dict[str, np.ndarray]:
    """Return the same columns where items are ranked by their count in the training part."""
    users = evaluation_users(data, part)
    position = data.validation_position if part == "validation" else data.test_position
    targets = data.items[position[users]].astype(np.int64)
    popularity = torch.from_numpy(np.asarray(data.popularity[1:], dtype=np.float32))

    def score(rows: Tensor) -> Tensor:
        return popularity.repeat(rows.shape[0], 1)

    return _rank(score, torch.empty(users.size, 0), data, part, users, targets)


class _Products:
    """Scores of all items, written over the last ones: fresh pages for each chunk would cost as much as the product.

    On a processor the product is made in blocks of items, each with its part of the table near the core: 0.6 to 0.8x
    the time of a whole one.

    Args:
        table: Output embedding ``[items, dim]``.
    """

    def __init__(self, table: Tensor) -> None:
        self.n_items = len(table)
        size = self.n_items if table.is_cuda else BLOCK_ITEMS
        self.tables = [table[start : start + size].T.contiguous() for start in range(0, self.n_items, size)]
        self._scores: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._scores is None or len(self._scores) < len(hidden):
            self._scores = hidden.new_empty(len(hidden), self.n_items)
        scores = self._scores[: len(hidden)]
        start = 0
        for table in self.tables:
            stop = start + table.shape[1]
            torch.mm(hidden, table, out=scores[:, start:stop])
            start = stop
        return scores


def _rank(
    score: Callable[[Tensor], Tensor],
    hidden: Tensor,
    data: SequenceData,
    part: str,
    users: np.ndarray,
    targets: np.ndarray,
    **wanted: bool,
) -> dict[str, np.ndarray]:
    rows = max(1, (GPU_SCORES_AT_A_TIME if hidden.is_cuda else SCORES_AT_A_TIME) // data.n_items)
    begin = np.asarray(data.offsets)[users]
    position = np.asarray(data.validation_position if part == "validation" else data.test_position)[users]
    columns = []
    for start in range(0, users.size, rows):
        chunk = slice(start, start + rows)
        seen_rows, seen = seen_items(data, part, users[chunk])
        columns.append(rank_scores(score(hidden[chunk]), targets[chunk], seen_rows, seen, **wanted))
    result = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return result | {
        "user": users.astype(np.int32),
        "target": targets.astype(np.int32),
        "history_length": (position - begin).astype(np.int32),
        "target_popularity": np.asarray(data.popularity)[targets].astype(np.int32),
    }


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _in_order_of_user(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(columns["user"], kind="stable")
    return {name: values[order] for name, values in columns.items()}
