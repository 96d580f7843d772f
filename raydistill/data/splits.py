"""Item sequences of all users, split by time: the prepared data that everything else reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.storage import new_folder, read_sealed, seal
from raydistill.errors import DataError

ARRAYS = {
    "items": np.int32,
    "timestamps": np.int64,
    "ratings": np.float32,
    "offsets": np.int64,
    "train_end": np.int64,
    "validation_position": np.int64,
    "test_position": np.int64,
    "popularity": np.int64,
}
TEXTS = {
    "user_ids": pa.large_string(),
    "item_ids": pa.large_string(),
    "titles": pa.large_string(),
    "attributes": pa.large_list(pa.large_string()),
}


class Texts(Sequence):
    """Strings, or lists of strings, by index, over an Arrow array that may be memory-mapped."""

    def __init__(self, values: pa.Array | list) -> None:
        self.array = values if isinstance(values, pa.Array) else pa.array(values)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int | slice) -> Any:
        """Return the Python value at an index, or further :class:`Texts` for a slice."""
        return Texts(self.array[index]) if isinstance(index, slice) else self.array[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        return (value.as_py() for value in self.array)


@dataclass(frozen=True, eq=False)
class SequenceData:
    """Every user's items in time order, with what is training, validation and test.

    Pickles as the path of its folder, so that another process maps the same files instead of copying them.

    Attributes:
        items: int32 ``[interactions]``, ids 1..n_items (0 is padding); users contiguous, each in time order.
        timestamps: int64 ``[interactions]``, in the unit that ``provenance["time_unit"]`` names.
        ratings: float32 ``[interactions]``, NaN where the source has none.
        offsets: int64 ``[n_users + 1]``; user u owns ``items[offsets[u]:offsets[u + 1]]``.
        train_end: int64 ``[n_users]``; the training part of user u is ``items[offsets[u]:train_end[u]]``.
        validation_position, test_position: int64 ``[n_users]``, index into ``items`` of the target, -1 where
            the user has none. The history of a target is everything of the user before it, never empty.
        popularity: int64 ``[n_items + 1]``, interactions in the training part; 0 at the padding item.
        user_ids: Original ids by user index.
        item_ids, titles, attributes: Original id, title and list of attributes by item id; empty at 0.
        split: Name of the split.
        statistics: Counts and rules, see :func:`raydistill.data.statistics.statistics`.
        provenance: Where the data come from, see :class:`raydistill.data.interactions.RawData`.
        hash: SHA-256 (64 hex digits) of all arrays and texts and the name of the split.
        folder: Where it is saved, or None.
    """

    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    offsets: np.ndarray
    train_end: np.ndarray
    validation_position: np.ndarray
    test_position: np.ndarray
    popularity: np.ndarray
    user_ids: Texts
    item_ids: Texts
    titles: Texts
    attributes: Texts
    split: str
    statistics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    hash: str = ""
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name, kind in TEXTS.items():
            values = getattr(self, name)
            array = values.array if isinstance(values, Texts) else pa.array(list(values), kind)
            object.__setattr__(self, name, Texts(array.cast(kind)))
        if not self.hash:
            object.__setattr__(self, "hash", _digest(self))

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.popularity) - 1

    def save(self, folder: Path, *, identity: str = "") -> SequenceData:
        """Write everything to ``folder``, whole or not at all, and return it memory-mapped from there.

        Args:
            folder: Takes the place of what was there.
            identity: Kept in ``meta.json``, for whoever looks whether the folder holds what it needs.

        Raises:
            DataError: The folder cannot be written, or the disk is full.
        """
        with new_folder(Path(folder)) as partial:
            for name, kind in ARRAYS.items():
                np.save(partial / f"{name}.npy", np.ascontiguousarray(getattr(self, name), dtype=kind))
            _write_texts(partial / "users.arrow", {"user_ids": self.user_ids})
            _write_texts(partial / "items.arrow", {name: getattr(self, name) for name in TEXTS if name != "user_ids"})
            about = {name: getattr(self, name) for name in ("split", "statistics", "provenance", "hash")}
            seal(partial, {**about, "identity": identity})
        return SequenceData.load(folder, verify=False)

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> SequenceData:
        """Return the data saved in ``folder``; arrays and texts are memory-mapped, read-only.

        Args:
            folder: Written by :meth:`save`.
            verify: Compare the SHA-256 of each file (about a second a gigabyte), and not only its size.

        Raises:
            CorruptArtifactError: The folder is missing, cut off or changed.
        """
        folder = Path(folder)
        meta = read_sealed(folder, verify=verify)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        texts = {**_read_texts(folder / "users.arrow"), **_read_texts(folder / "items.arrow")}
        about = {name: meta[name] for name in ("split", "statistics", "provenance", "hash")}
        return cls(**arrays, **texts, **about, folder=folder)

    def __reduce__(self):
        if self.folder is not None:
            return (_load_unverified, (str(self.folder),))
        # Without a folder there is nothing to map: the arrays themselves travel.
        return (_from_values, ({f.name: getattr(self, f.name) for f in fields(self)},))


def leave_one_out(offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``train_end``, ``validation_position`` and ``test_position`` of the leave-one-out split by time.

    The last interaction of a user is the test target, the one before it the validation target, the rest is
    training (Kang & McAuley 2018; S3-Rec, Zhou et al. 2020). A user with fewer than three interactions goes wholly
    to training and has no targets.

    Args:
        offsets: int64 ``[n_users + 1]``.
    """
    end = offsets[1:]
    enough = np.diff(offsets) >= 3
    return {
        "train_end": np.where(enough, end - 2, end),
        "validation_position": np.where(enough, end - 2, -1),
        "test_position": np.where(enough, end - 1, -1),
    }


def global_time(offsets: np.ndarray, timestamps: np.ndarray, cuts: tuple[float, float]) -> dict[str, np.ndarray]:
    """Return the same arrays as :func:`leave_one_out` for a split at two moments that hold for all users.

    The moments are the times of the interactions at the quantiles ``cuts`` of all interactions; what happened
    at a moment itself belongs to the later period. A user's target is their first interaction in the period, and
    needs at least one interaction before it, or there is no history to predict from. The history of a test
    target includes the validation period. Nothing of the later periods is seen in training (Meng et al. 2020).

    Args:
        offsets: int64 ``[n_users + 1]``.
        timestamps: int64 ``[interactions]``, ascending inside a user.
        cuts: Shares of the interactions before the validation and before the test period.
    """
    low, high = (min(int(cut * len(timestamps)), len(timestamps) - 1) for cut in cuts)
    ordered = np.partition(timestamps, (low, high))
    start, end = offsets[:-1], offsets[1:]
    validation_start = start + _count(timestamps < ordered[low], offsets)
    test_start = start + _count(timestamps < ordered[high], offsets)
    return _periods(start, validation_start, test_start, end)


def user_time(offsets: np.ndarray, cuts: tuple[float, float]) -> dict[str, np.ndarray]:
    """Return the same arrays as :func:`leave_one_out` for a split of each user's own interactions at the same shares.

    Of a user's n interactions the first ``floor(cuts[0] * n)`` are training, those up to ``floor(cuts[1] * n)``
    validation, the rest test (the temporal user split of Meng et al. 2020). Every user can then be in every part, but
    one user's training may lie after another's test, and tell what was popular by then; nothing of the kind with
    :func:`global_time`. A user's target is the first interaction in the period, which needs one before it.

    Args:
        offsets: int64 ``[n_users + 1]``.
        cuts: Shares of a user's interactions before the validation and before the test period.
    """
    start, end = offsets[:-1], offsets[1:]
    # A share such as 0.29 of 100 comes out a hair below the whole number that is meant.
    validation_start, test_start = (start + np.floor(cut * (end - start) + 1e-9).astype(np.int64) for cut in cuts)
    return _periods(start, validation_start, test_start, end)


SPLITS = ("leave_one_out", "global_time", "user_time")


def split_positions(
    split: str, offsets: np.ndarray, timestamps: np.ndarray, cuts: tuple[float, float], *, time_unit: str
) -> dict[str, np.ndarray]:
    """Return ``train_end``, ``validation_position`` and ``test_position`` of the named split.

    Raises:
        DataError: The data have no times to split at, or no user has a validation or a test target.
        ValueError: The name or the cuts are none that exist.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: {', '.join(SPLITS)} are known")
    if split == "leave_one_out":
        result = leave_one_out(offsets)
        mend = "a user needs at least 3 interactions: give longer histories, or lower data.min_interactions"
    else:
        if not 0 < cuts[0] < cuts[1] < 1:
            raise ValueError(f"time cuts must be two ascending shares between 0 and 1, not {cuts}")
        if split == "global_time" and time_unit == "position":
            raise DataError(
                "split global_time needs times, and this source has only an order inside each user",
                where="data.split",
                mend="use split: leave_one_out or user_time, or a source with timestamps",
            )
        result = global_time(offsets, timestamps, cuts) if split == "global_time" else user_time(offsets, cuts)
        mend = "users need interactions on both sides of the cuts; use split: leave_one_out, or more data"
    for name in ("validation", "test"):
        if not (result[f"{name}_position"] >= 0).any():
            raise DataError(f"no user has a {name} target under split {split}", where="data.split", mend=mend)
    return result


def _periods(
    start: np.ndarray, validation_start: np.ndarray, test_start: np.ndarray, end: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays of a split from where each user's periods begin; a target needs something before it."""
    has_validation = (validation_start < test_start) & (validation_start > start)
    has_test = (test_start < end) & (test_start > start)
    return {
        "train_end": validation_start,
        "validation_position": np.where(has_validation, validation_start, -1),
        "test_position": np.where(has_test, test_start, -1),
    }


def _count(mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return how many entries of ``mask`` are true in each user's part."""
    running = np.concatenate([[0], np.cumsum(mask)])
    return running[offsets[1:]] - running[offsets[:-1]]


def _digest(data: SequenceData) -> str:
    digest = hashlib.sha256(data.split.encode())
    for name, kind in ARRAYS.items():
        array = np.ascontiguousarray(getattr(data, name), dtype=kind)
        digest.update(f"|{name}{array.shape}".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    for name in TEXTS:
        digest.update(f"|{name}".encode())
        _digest_texts(digest, getattr(data, name).array)
    return digest.hexdigest()


def _digest_texts(digest: Any, values: pa.Array) -> None:
    """Feed lengths and content, not Arrow's own buffers, whose layout may differ between versions."""
    if pa.types.is_large_list(values.type):
        lengths, inner = pc.fill_null(pc.list_value_length(values), 0), values.flatten()
        digest.update(np.ascontiguousarray(lengths.to_numpy(zero_copy_only=False).astype(np.int64)).data)
        return _digest_texts(digest, inner)
    digest.update(np.ascontiguousarray(pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)).data)
    for start in range(0, len(values), 1 << 16):
        digest.update("".join(values[start : start + (1 << 16)].to_pylist()).encode())
    return None


def _write_texts(path: Path, columns: dict[str, Texts]) -> None:
    batch = pa.RecordBatch.from_arrays([texts.array for texts in columns.values()], names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _read_texts(path: Path) -> dict[str, Texts]:
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        batch = reader.get_batch(0)
    return {name: Texts(batch.column(name)) for name in batch.schema.names}


def _load_unverified(folder: str) -> SequenceData:
    return SequenceData.load(Path(folder), verify=False)


def _from_values(values: dict[str, Any]) -> SequenceData:
    return SequenceData(**values)
