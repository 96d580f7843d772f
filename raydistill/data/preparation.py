"""From raw interactions to split sequences: filter, order, drop duplicates, k-core, number, split."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.interactions import RawData
from raydistill.data.splits import SequenceData, Texts, split_positions
from raydistill.data.statistics import statistics
from raydistill.data.storage import read_sealed
from raydistill.errors import CorruptArtifactError, DataError
from raydistill.records.files import content_hash

DUPLICATES = ("first", "last", "keep")

_SCHEMA = 1
"""Raise when the same raw data would be prepared differently; old folders are then not used any more."""


def prepare(
    raw: RawData,
    *,
    split: str,
    min_interactions: int,
    folder: Path,
    duplicates: str = "first",
    min_rating: float | None = None,
    time_cuts: tuple[float, float] = (0.8, 0.9),
) -> SequenceData:
    """Return split item sequences, saved in ``folder`` and memory-mapped from there.

    The rules, in this order:

    1. Rows with a rating below ``min_rating`` are dropped.
    2. A user's interactions are ordered by time; equal times keep the order of the source.
    3. Of several interactions of one user with one item ``duplicates`` says which stays. The default keeps the first:
       then what a history holds at some moment never depends on what came later, and a target is always an item
       that the user has not had before, which is what a ranking that leaves out the history's items asks for.
    4. k-core: users and items with fewer than ``min_interactions`` interactions are dropped, again and again
       until all that are left have as many. 0 or 1 turns it off.
    5. Users and items are numbered in the order of their first appearance in the source.

    If ``folder`` already holds the result of the same call, it is opened instead; if that is damaged, it is made anew.

    Args:
        raw: From a source's ``load``.
        split: ``leave_one_out``, ``global_time`` or ``user_time``, see :mod:`raydistill.data.splits`.
        min_interactions: k of the k-core.
        folder: Where the result is written.
        duplicates: ``first``, ``last`` or ``keep`` (all of them).
        min_rating: Smallest rating that counts as an interaction, or None for all.
        time_cuts: Shares at which ``global_time`` cuts all interactions and ``user_time`` each user's.

    Raises:
        DataError: Nothing is left, no user can be split, or the folder cannot be written.
        CorruptArtifactError: The raw data have to be read, and are not those that were stored.
        ValueError: A rule that does not exist.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"unknown rule for duplicates {duplicates!r}: {', '.join(DUPLICATES)} are known")
    rules = {
        "min_interactions": min_interactions,
        "duplicates": duplicates,
        "min_rating": min_rating,
        "time_cuts": list(time_cuts) if split != "leave_one_out" else None,
    }
    identity = content_hash({"schema": _SCHEMA, "raw": raw.provenance, "split": split, **rules})
    with contextlib.suppress(CorruptArtifactError):
        if read_sealed(Path(folder), verify=False).get("identity") == identity:
            return SequenceData.load(folder)
    raw.verify()
    rows, removed = _select(raw, min_interactions, duplicates, min_rating)
    offsets, items, user_ids, item_ids = _number(rows)
    rows.users = rows.items = None  # the codes are not needed any more, and take room
    timestamps = _column(raw, "timestamp", rows.index, np.int64)
    positions = split_positions(split, offsets, timestamps, time_cuts, time_unit=raw.provenance["time_unit"])
    titles, attributes = _texts(raw, item_ids)
    data = SequenceData(
        items=items,
        timestamps=timestamps,
        ratings=_column(raw, "rating", rows.index, np.float32),
        offsets=offsets,
        **positions,
        popularity=training_popularity(items, offsets, positions["train_end"], len(item_ids) - 1),
        user_ids=Texts(user_ids),
        item_ids=Texts(item_ids),
        titles=Texts(titles),
        attributes=Texts(attributes),
        split=split,
        provenance=raw.provenance,
    )
    return replace(data, statistics=statistics(data, rules, removed)).save(folder, identity=identity)


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k-core: the largest subset in which each user and each item has k interactions.

    Args:
        users, items: Non-negative integer codes ``[interactions]``.
        k: Smallest number of interactions; 0 and 1 keep everything.
    """
    index = np.arange(len(users))
    while len(index):
        kept_users, kept_items = users[index], items[index]
        enough = np.bincount(kept_users)[kept_users] >= k
        enough &= np.bincount(kept_items)[kept_items] >= k
        if enough.all():
            break
        index = index[enough]
    return index


def unrepeated(users: np.ndarray, items: np.ndarray, rule: str) -> np.ndarray:
    """Return a mask of the interactions that stay when each user keeps the ``first`` or ``last`` one with each item.

    Args:
        users, items: Codes ``[interactions]``, in the order that first and last refer to.
        rule: ``first``, ``last``, or ``keep`` for all.
    """
    stays = np.ones(len(users), dtype=bool)
    if rule == "keep" or not len(users):
        return stays
    pair = users.astype(np.int64) * (int(items.max()) + 1) + items
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    repeats = pair[1:] == pair[:-1]
    stays[order[1:][repeats] if rule == "first" else order[:-1][repeats]] = False
    return stays


def training_popularity(items: np.ndarray, offsets: np.ndarray, train_end: np.ndarray, n_items: int) -> np.ndarray:
    """Return int64 ``[n_items + 1]``: how often each item occurs in the training parts."""
    lengths = np.diff(offsets)
    in_training = np.arange(len(items)) < np.repeat(train_end, lengths)
    return np.bincount(items[in_training], minlength=n_items + 1).astype(np.int64)


@dataclass
class _Rows:
    """The rows that stay, users contiguous and in time order: codes, and ``index`` into the source's rows."""

    index: np.ndarray
    users: np.ndarray | None
    items: np.ndarray | None
    user_names: pa.Array
    item_names: pa.Array


def _select(
    raw: RawData, min_interactions: int, duplicates: str, min_rating: float | None
) -> tuple[_Rows, dict[str, int]]:
    users, user_names = _codes(raw, "user")
    items, item_names = _codes(raw, "item")
    index = _liked(raw, min_rating)
    removed = {"removed_low_rating": len(users) - len(index)}
    timestamps = _column(raw, "timestamp", index, np.int64)
    kept_users = users[index]
    same_user = kept_users[1:] == kept_users[:-1]
    ordered = np.where(same_user, timestamps[1:] >= timestamps[:-1], kept_users[1:] > kept_users[:-1]).all()
    if not ordered:  # most published files are in order already, and the sort is the most expensive step
        index = index[np.lexsort((timestamps, kept_users))]
    del timestamps, kept_users, same_user
    users, items = users[index], items[index]
    stays = np.flatnonzero(unrepeated(users, items, duplicates))
    removed["removed_duplicates"] = len(index) - len(stays)
    index, users, items = index[stays], users[stays], items[stays]
    if len(index) == 0:
        raise DataError(f"no interaction has a rating of at least {min_rating}", mend="lower data.min_rating")
    core = k_core(users, items, min_interactions)
    removed["removed_by_k_core"] = len(index) - len(core)
    if len(core) == 0:
        often = [int(np.bincount(codes).max()) for codes in (users, items)]
        raise DataError(
            f"no interaction is left when every user and every item must have {min_interactions}: "
            f"the most active user has {often[0]} and the most popular item {often[1]}",
            where="data.min_interactions",
            mend="lower data.min_interactions (1 turns the filter off), or give more data",
        )
    return _Rows(index[core], users[core], items[core], user_names, item_names), removed


def _number(rows: _Rows) -> tuple[np.ndarray, np.ndarray, pa.Array, pa.Array]:
    """Return ``offsets``, ``items`` from 1, and the original ids, padding first, of what is left."""
    lengths = np.bincount(rows.users, minlength=len(rows.user_names))
    kept_users = np.flatnonzero(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[kept_users])]).astype(np.int64)
    kept_items = np.flatnonzero(np.bincount(rows.items, minlength=len(rows.item_names)))
    numbers = np.zeros(len(rows.item_names), dtype=np.int32)
    numbers[kept_items] = np.arange(1, len(kept_items) + 1)
    item_ids = pa.concat_arrays([pa.array([""]), rows.item_names.take(pa.array(kept_items))])
    return offsets, numbers[rows.items], rows.user_names.take(pa.array(kept_users)), item_ids


def _codes(raw: RawData, name: str) -> tuple[np.ndarray, pa.Array]:
    """Return int32 codes of a column of ids, and the ids by code, in order of first appearance."""
    encoded = raw.interactions.data.column(name).dictionary_encode()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return codes, encoded.chunk(encoded.num_chunks - 1).dictionary


def _liked(raw: RawData, min_rating: float | None) -> np.ndarray:
    if min_rating is None:
        return np.arange(len(raw.interactions))
    ratings = raw.interactions.data.column("rating")
    if ratings.null_count:
        raise DataError(
            "min_rating is set, and the source has rows without a rating",
            where="data.min_rating",
            mend="name the rating column, or leave min_rating out",
        )
    return np.flatnonzero(ratings.to_numpy() >= np.float32(min_rating))


def _column(raw: RawData, name: str, index: np.ndarray, kind: type) -> np.ndarray:
    values = raw.interactions.data.column(name).to_numpy()
    return values[index].astype(kind, copy=False)


def _texts(raw: RawData, item_ids: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return title and attributes of each item id; an item that the source does not describe has none."""
    table = raw.items.data
    if table.num_rows == 0:
        return pa.array([""] * len(item_ids)), pa.array([[]] * len(item_ids), pa.list_(pa.string()))
    # Chunks are joined after the choice: a large catalogue's titles may not fit into one Arrow string array.
    known = pc.index_in(item_ids, value_set=table.column("item"))
    titles = table.column("title").take(known).combine_chunks()
    attributes = table.column("attributes").take(known).combine_chunks()
    empty = pa.scalar([], attributes.type)
    return pc.fill_null(titles, ""), pc.if_else(pc.is_null(attributes), empty, attributes)
