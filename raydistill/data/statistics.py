"""What a data set is like: counts, lengths, times, and what was left out by which rule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from raydistill.data.splits import SequenceData

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def statistics(data: SequenceData, rules: dict[str, Any], removed: dict[str, int]) -> dict[str, Any]:
    """Return counts of prepared data as plain numbers and strings.

    Keys: ``source``, ``split``, the rules; ``users``, ``items``, ``interactions``, ``density`` (interactions /
    (users x items)), ``mean_length``, ``median_length``, ``longest``, ``first_time``, ``last_time`` (in
    ``time_unit``), ``tied_times`` (interactions at the same time as the user's one before), ``rated``;
    ``removed_low_rating``, ``removed_duplicates``, ``removed_by_k_core`` (interactions); ``validation_targets``,
    ``test_targets``, ``users_without_targets``; ``cold_validation_targets``, ``cold_test_targets`` (the item never
    occurs in training: such targets are kept, and a model without item content can only rank them low).

    Args:
        data: Split sequences.
        rules: The rules that were applied.
        removed: How many interactions each rule removed.
    """
    lengths = np.diff(data.offsets)
    n_interactions = len(data.items)
    same_user = np.ones(n_interactions, dtype=bool)
    same_user[data.offsets[:-1]] = False
    tied = int(np.count_nonzero((np.diff(data.timestamps) == 0) & same_user[1:]))
    counts = {
        "source": data.provenance.get("source", "unknown"),
        "split": data.split,
        **rules,
        "users": data.n_users,
        "items": data.n_items,
        "interactions": n_interactions,
        "density": n_interactions / (data.n_users * data.n_items),
        "mean_length": float(lengths.mean()),
        "median_length": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "time_unit": data.provenance.get("time_unit", "unknown"),
        "first_time": int(data.timestamps.min()),
        "last_time": int(data.timestamps.max()),
        "tied_times": tied,
        "rated": int(np.count_nonzero(np.isfinite(data.ratings))),
        **removed,
    }
    for name in ("validation", "test"):
        position = getattr(data, f"{name}_position")
        targets = data.items[position[position >= 0]]
        counts[f"{name}_targets"] = len(targets)
        counts[f"cold_{name}_targets"] = int(np.count_nonzero(data.popularity[targets] == 0))
    without = (data.validation_position < 0) & (data.test_position < 0)
    counts["users_without_targets"] = int(np.count_nonzero(without))
    return counts


def render_statistics(data: SequenceData) -> list[str]:
    """Return the statistics of prepared data as lines of text for people."""
    counts = data.statistics
    lines = [
        f"data        {counts['source']}, split {counts['split']}, hash {data.hash[:16]}",
        f"size        {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions "
        f"(density {counts['density']:.3%})",
        f"history     {counts['mean_length']:.1f} items a user on average, median {counts['median_length']:g}, "
        f"longest {counts['longest']:,}",
    ]
    if counts["time_unit"] != "position":
        times = [_date(counts[name], counts["time_unit"]) for name in ("first_time", "last_time")]
        lines.append(f"time        {times[0]} to {times[1]}; {counts['tied_times']:,} tied with the one before")
    lines.append(
        f"targets     validation {counts['validation_targets']:,} ({counts['cold_validation_targets']:,} never seen in "
        f"training), test {counts['test_targets']:,} ({counts['cold_test_targets']:,} never seen in training)"
    )
    if counts["users_without_targets"]:
        lines.append(
            f"            {counts['users_without_targets']:,} users have no target (too short, or all on one side of "
            "a cut) and are used for training only"
        )
    lines.append(
        f"left out    {counts['removed_by_k_core']:,} by the {counts['min_interactions']}-core, "
        f"{counts['removed_duplicates']:,} as repeats (rule: {counts['duplicates']}), "
        f"{counts['removed_low_rating']:,} by rating"
    )
    return lines


def _date(time: int, unit: str) -> str:
    try:
        return datetime.fromtimestamp(time * _SECONDS[unit], tz=UTC).strftime("%Y-%m-%d")
    except (KeyError, OverflowError, ValueError, OSError):
        return str(time)
