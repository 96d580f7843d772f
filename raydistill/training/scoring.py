"""Scores of every candidate of every user's list, computed in batches of one length and shared between workers."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raydistill.data.preference import PreferenceData, text_batches
from raydistill.metrics.classification import classify
from raydistill.models.classifier import TextClassifier
from raydistill.training.context import RunContext

BATCH_TOKENS = 4096
"""Tokens of one batch: enough for full products, and activations of some megabytes only."""


def score_lists(
    model: TextClassifier, data: PreferenceData, part: str, *, context: RunContext | None = None
) -> dict[str, np.ndarray]:
    """Return the columns of ``scores.parquet``, one row a candidate, in the order of the prepared data.

    Args:
        model: Gives the class logits of each prompt; set to eval mode.
        data: Prepared prompts.
        part: ``validation`` or ``test``.
        context: Where this runs; each worker scores its share and all return the whole.

    Raises:
        TrialDivergedError: A logit is not finite.
    """
    context = context or RunContext()
    model.eval()
    places, found = [np.empty(0, dtype=np.int64)], [torch.empty(0, data.n_classes)]
    batches = text_batches(data, part, batch_tokens=BATCH_TOKENS, rank=context.rank, world_size=context.world_size)
    with torch.inference_mode():
        for rows, batch in batches:
            batch = batch.to(context.device)
            logits = model.logits(model.hidden(batch.input_ids, batch.attention_mask))
            places.append(rows)
            found.append(logits.float().cpu())
    shares = context.gather((np.concatenate(places), torch.cat(found)))
    rows = np.concatenate([share[0] for share in shares])
    order = np.argsort(rows, kind="stable")
    return columns_of(data, rows[order], torch.cat([share[1] for share in shares])[torch.from_numpy(order)])


def score_lists_by_popularity(data: PreferenceData, part: str) -> dict[str, np.ndarray]:
    """Return the same columns where the score is an item's count in the training part.

    As probabilities of the classes it gives their shares among the training labels, to every candidate alike.
    """
    rows = data.rows(part)
    counts = torch.from_numpy(np.bincount(data.label[data.rows("train")], minlength=data.n_classes)).float()
    # A class that never occurs in training counts half, or its probability would have no logarithm.
    columns = columns_of(data, rows, counts.clamp(min=0.5).log().expand(len(rows), -1))
    return columns | {"score": columns["item_popularity"].astype(np.float32)}


def columns_of(data: PreferenceData, rows: np.ndarray, logits: Float[Tensor, "rows classes"]) -> dict[str, np.ndarray]:
    """Return the columns of ``scores.parquet`` for some rows.

    Args:
        data: Prepared prompts.
        rows: Rows of the data.
        logits: Of each row.

    Raises:
        TrialDivergedError: One is not finite.
    """
    names = ("user", "item", "label", "relevant", "drawn", "history_length")
    about = {name: getattr(data, name)[rows] for name in names}
    popularity = np.asarray(data.popularity)[about["item"]].astype(np.int32)
    return about | {"item_popularity": popularity} | classify(logits, about["label"], data.class_values)
