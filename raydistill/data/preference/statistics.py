"""What the prompts are like: counts and shares of every part, tokens, and what was cut."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from raydistill.data.lengths import random_steps
from raydistill.data.preference.batches import TEXT_GROUP_OVERHEAD
from raydistill.data.preference.candidates import Candidates
from raydistill.data.preference.labels import UNLABELLED, Labels
from raydistill.data.preference.prompts import Prompt
from raydistill.data.preference.rows import PARTS
from raydistill.data.splits import SequenceData

if TYPE_CHECKING:
    from raydistill.data.preference.dataset import PreferenceData

BATCH = 32
"""Examples of the random batches that the padding is counted for."""

_STEPS = 200
"""Most such batches that are looked at."""


def preference_statistics(
    sequences: SequenceData,
    columns: dict[str, np.ndarray],
    labels: Labels,
    candidates: Candidates,
    prompt: Prompt,
    max_history: int,
    possible: dict[str, int],
) -> dict[str, Any]:
    """Return counts as plain numbers and strings.

    Keys: ``source``, ``split``, ``labels``, ``threshold`` (None with clicks), ``candidates``, ``max_history``,
    ``max_tokens``, ``users``, ``items``; for each part P ``P_rows``, ``P_users``, ``P_items``, ``P_labelled``,
    ``P_drawn``, ``P_base_rates`` (share of each class among the labelled rows), ``P_cold_items`` (items that never
    occur in the training part); ``train_interactions`` and ``train_interactions_left_out`` by ``examples.train``;
    ``validation_users_left_out`` and ``test_users_left_out``; ``users_without_training`` (all of their interactions lie
    after the training period: no training examples), ``users_without_validation_list``, ``users_without_test_list``
    (no interaction in the period, or none before it); ``untitled_items``, ``untitled_rows`` (the candidate has no
    title); ``mean_tokens``, ``longest_prompt``, ``shortened_prompts`` (history entries were left out for
    ``max_tokens``), ``prompts_without_history`` (all were); ``padding`` (shares of padding among all positions of
    training batches: ``to_longest`` prompt, ``random_batches`` of 32, those ``split_by_length``).
    """
    untitled = np.fromiter((not title.strip() for title in sequences.titles), bool, sequences.n_items + 1)
    shown, wanted = columns["history_shown"], np.minimum(columns["history_length"], max_history)
    counts: dict[str, Any] = {
        "source": sequences.provenance.get("source", "unknown"),
        "split": sequences.split,
        "labels": labels.kind,
        "threshold": None if labels.kind == "click" else labels.threshold,
        "candidates": candidates.describe(),
        "max_history": max_history,
        "max_tokens": prompt.max_tokens,
        "users": sequences.n_users,
        "items": sequences.n_items,
        "users_without_training": int(np.count_nonzero(sequences.train_end == sequences.offsets[:-1])),
        "untitled_items": int(np.count_nonzero(untitled[1:])),
        "untitled_rows": int(np.count_nonzero(untitled[columns["item"]])),
        "mean_tokens": float(columns["lengths"].mean()),
        "longest_prompt": int(columns["lengths"].max()),
        "shortened_prompts": int(np.count_nonzero(shown < wanted)),
        "prompts_without_history": int(np.count_nonzero(shown == 0)),
        "padding": padding_shares(columns["lengths"][columns["part"] == 0], batch_size=BATCH),
    }
    for number, part in enumerate(PARTS):
        of_part = columns["part"] == number
        counts |= {f"{part}_{key}": value for key, value in _of_part(sequences, columns, of_part, labels).items()}
    interactions = int(np.count_nonzero((columns["part"] == 0) & ~columns["drawn"]))
    counts["train_interactions"] = interactions
    counts["train_interactions_left_out"] = possible["train"] - interactions
    for part in PARTS[1:]:
        counts[f"{part}_users_left_out"] = possible[part] - counts[f"{part}_users"]
        counts[f"users_without_{part}_list"] = sequences.n_users - possible[part]
    return counts


def padding_shares(lengths: np.ndarray, *, batch_size: int, groups: int = 5) -> dict[str, float]:
    """Return the share of padding among all positions, for three ways to put training batches together.

    Args:
        lengths: Tokens of the examples.
        batch_size: Examples in a step.
        groups: Most length groups in a step.
    """
    lengths = lengths.astype(np.int64)
    steps = random_steps(lengths, 0, batch_size=batch_size, seed=0, groups=groups, overhead=TEXT_GROUP_OVERHEAD)
    real = together = split = 0
    for whole, shares in islice(steps, _STEPS):
        real += int(lengths[whole].sum())
        together += int(lengths[whole].max()) * whole.size
        split += sum(int(lengths[group].max()) * group.size for share in shares for group in share)
    return {
        "to_longest": 1 - float(lengths.mean()) / int(lengths.max()),
        "random_batches": 1 - real / together,
        "split_by_length": 1 - real / split,
    }


def render_preference_statistics(data: PreferenceData) -> list[str]:
    """Return the statistics of prompts as lines of text for people."""
    counts = data.statistics
    threshold = "" if counts["threshold"] is None else f" from {counts['threshold']:g}"
    lines = [
        f"prompts     labels {counts['labels']}{threshold}, split {counts['split']}, hash {data.hash[:16]}",
        f"lists       {counts['candidates']}",
    ]
    for part in PARTS:
        rates = ", ".join(
            f"{name} {rate:.1%}" for name, rate in zip(data.class_names, counts[f"{part}_base_rates"], strict=True)
        )
        lines.append(
            f"{part:<11} {counts[f'{part}_rows']:,} rows ({counts[f'{part}_drawn']:,} drawn) of "
            f"{counts[f'{part}_users']:,} users and {counts[f'{part}_items']:,} items "
            f"({counts[f'{part}_cold_items']:,} never seen in training): {rates}"
        )
    lines.append(
        f"no list     validation {counts['users_without_validation_list']:,} users, test "
        f"{counts['users_without_test_list']:,} users: nothing in the period, or no history before it"
    )
    left_out = [counts["train_interactions_left_out"], *(counts[f"{part}_users_left_out"] for part in PARTS[1:])]
    if any(left_out):
        lines.append(
            f"not drawn   {left_out[0]:,} training interactions, {left_out[1]:,} validation users, "
            f"{left_out[2]:,} test users (examples)"
        )
    lines.append(
        f"tokens      {counts['mean_tokens']:.1f} a prompt on average, longest {counts['longest_prompt']} of "
        f"{counts['max_tokens']}; {counts['shortened_prompts']:,} prompts tell less history than "
        f"{counts['max_history']} entries to fit, {counts['prompts_without_history']:,} none"
    )
    padding = counts["padding"]
    lines.append(
        f"padding     {padding['split_by_length']:.1%} of the positions in random batches of {BATCH} split by length, "
        f"{padding['random_batches']:.1%} unsplit, {padding['to_longest']:.1%} padded to the longest"
    )
    # Data that were prepared before do not have it.
    if counts.get("padding_note"):
        lines.append(f"pad token   {counts['padding_note']}")
    if counts["untitled_items"]:
        lines.append(
            f"untitled    {counts['untitled_items']:,} items have no title and are called (untitled item ID), in "
            f"{counts['untitled_rows']:,} rows as the candidate"
        )
    return lines


def _of_part(
    sequences: SequenceData, columns: dict[str, np.ndarray], of_part: np.ndarray, labels: Labels
) -> dict[str, Any]:
    label, items = columns["label"][of_part], np.unique(columns["item"][of_part])
    labelled = label[label != UNLABELLED]
    shares = np.bincount(labelled, minlength=len(labels.class_names)) / labelled.size
    return {
        "rows": int(of_part.sum()),
        "users": int(np.unique(columns["user"][of_part]).size),
        "items": int(items.size),
        "labelled": int(labelled.size),
        "drawn": int(np.count_nonzero(columns["drawn"][of_part])),
        "base_rates": [float(share) for share in shares],
        "cold_items": int(np.count_nonzero(sequences.popularity[items] == 0)),
    }
