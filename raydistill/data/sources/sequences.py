"""Sequences: one user a line, ``user item item ...`` in time order.

The format in which S3-Rec (Zhou et al., CIKM 2020) and its followers publish the Amazon and LastFM data, with item ids
from 1, and optional attributes as JSON, ``{"item": [attribute, ...]}``. The position in the line is the timestamp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.interactions import RawData, Where, interaction_batch, item_batch, provenance_of, store
from raydistill.data.sources.text import Block, TextFile, blocks, unreadable
from raydistill.errors import DataError

MAX_ID = 2**31 - 2
"""Largest item id: prepared ids are 32-bit, and one more is needed for the mask item."""


@dataclass(frozen=True)
class Params:
    """Keys of the source ``sequences``.

    Attributes:
        path: The file with one user a line, plain or gzipped.
        attributes: JSON file, item id to list of attributes; null where there is none.
    """

    path: str
    attributes: str | None = None


def load(params: Params, cache: Path) -> RawData:
    """Return the sequences as raw data; positions in the line are the timestamps.

    Args:
        params: See :class:`Params`.
        cache: Folder for the Arrow files.

    Raises:
        DataError: A file is missing or cut off, a line has no item, an id is out of range, a user has two lines.
    """
    files = [Path(params.path)] + ([Path(params.attributes)] if params.attributes else [])
    try:
        provenance = provenance_of("sequences", files, {}, time_unit="position")
    except OSError as error:
        raise unreadable(Path(error.filename or params.path), error) from error
    items = _attributes(Path(params.attributes)) if params.attributes else ()
    return store(cache, provenance, _interactions(TextFile(Path(params.path))), items)


def _interactions(file: TextFile) -> Iterator[pa.RecordBatch]:
    users_so_far: list[np.ndarray] = []
    for block in blocks(file):
        lines = pa.array([line for line in block.data.decode().split("\n") if line.strip()], pa.string())
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(lines))
        lengths = pc.list_value_length(words).to_numpy()
        if not len(lengths):
            continue
        short = np.flatnonzero(lengths < 2)
        if len(short):
            raise DataError("a user has no item", where=block.where(int(short[0])), mend="write: user item item ...")
        row = np.repeat(np.arange(len(lengths)), lengths)
        ids = _ids(words.flatten(), row, block)
        position = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        users = ids[position == 0]
        users_so_far.append(users)
        item = position > 0
        yield interaction_batch(
            pa.array(np.repeat(users, lengths - 1)),
            pa.array(ids[item]),
            pa.array(position[item] - 1),
            None,
            _row_of(block, row[item]),
        )
    users, counts = np.unique(np.concatenate(users_so_far or [np.zeros(0, np.int64)]), return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"user {users[counts > 1][0]} has more than one line", where=file.name, mend="join the lines of each user"
        )


def _row_of(block: Block, row: np.ndarray) -> Where:
    return lambda index: block.where(int(row[index]))


def _ids(words: pa.Array, row: np.ndarray, block: Block) -> np.ndarray:
    digits = pc.match_substring_regex(words, "^[0-9]{1,10}$").to_numpy(zero_copy_only=False)
    ids = pc.if_else(pa.array(digits), words, "0").cast(pa.int64()).to_numpy()
    bad = np.flatnonzero((ids < 1) | (ids > MAX_ID))
    if len(bad):
        raise DataError(
            f"the id {words[int(bad[0])].as_py()!r} is out of range",
            where=block.where(int(row[bad[0]])),
            mend=f"ids are whole numbers from 1 to {MAX_ID}; for others use source: interactions",
        )
    return ids


def _attributes(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"the attributes are no JSON: {error}", where=str(path), mend="the file may be cut off"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, list) for value in content.values()):
        raise DataError(
            "the attributes are not a list an item", where=str(path), mend='expected: {"item": [attribute, ...], ...}'
        )
    lists = [[str(value) for value in values] for values in content.values()]
    yield item_batch(pa.array(list(content)), None, pa.array(lists, pa.list_(pa.string())), lambda row: str(path))
