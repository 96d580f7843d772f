"""Raw interactions: what every data source gives, checked and stored as memory-mapped Arrow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.storage import locked, new_folder, read_sealed, seal
from raydistill.errors import CorruptArtifactError, DataError
from raydistill.records.files import content_hash, sha256_file

if TYPE_CHECKING:
    import datasets

INTERACTIONS = pa.schema(
    [("user", pa.string()), ("item", pa.string()), ("timestamp", pa.int64()), ("rating", pa.float32())]
)
ITEMS = pa.schema([("item", pa.string()), ("title", pa.string()), ("attributes", pa.list_(pa.string()))])

Where = Callable[[int], str]
"""Gives the place, for people, of a row of a batch: ``ratings.csv, line 17``."""


@dataclass(frozen=True)
class RawData:
    """Interactions and items as a source gives them, before filtering and splitting.

    Both tables are Hugging Face datasets over memory-mapped Arrow files; make them with :func:`store`.

    Attributes:
        interactions: ``user`` string, ``item`` string, ``timestamp`` int64, ``rating`` float32 or null.
        items: ``item`` string, ``title`` string, ``attributes`` list of strings; may lack items
            that occur in ``interactions``, and may hold items that do not.
        provenance: ``source``, ``parameters``, ``files`` (name, bytes, SHA-256) and ``time_unit``:
            ``s``, ``ms``, ``us``, ``unknown``, or ``position`` where the source has an order but no times.
        folder: Where the two lie.
    """

    interactions: datasets.Dataset
    items: datasets.Dataset
    provenance: dict[str, Any]
    folder: Path | None = None

    def verify(self) -> None:
        """Compare the files with their hashes, to be called before they are read.

        Not as they are opened: every start of a sweep opens them, and only a first one reads them.

        Raises:
            CorruptArtifactError: One was changed.
        """
        if self.folder is not None:
            read_sealed(self.folder)


def interaction_batch(
    user: pa.Array, item: pa.Array, timestamp: pa.Array, rating: pa.Array | None, where: Where
) -> pa.RecordBatch:
    """Return a checked batch with the columns of :data:`INTERACTIONS`.

    Args:
        user, item: Ids, strings or whole numbers; neither null nor empty.
        timestamp: Whole numbers (also as text or as a float without a fraction), or Arrow timestamps or dates,
            which become microseconds.
        rating: Finite numbers (also as text), or None where the source has no ratings.
        where: Place of a row, for the error.

    Raises:
        DataError: The first row with a missing id, or with a timestamp or rating that is no number.
    """
    columns = [
        _ids(user, "user id", where),
        _ids(item, "item id", where),
        _timestamps(timestamp, where),
        pa.nulls(len(user), pa.float32()) if rating is None else _ratings(rating, where),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=INTERACTIONS)


def item_batch(item: pa.Array, title: pa.Array | None, attributes: pa.Array | None, where: Where) -> pa.RecordBatch:
    """Return a batch with the columns of :data:`ITEMS`; a missing title is empty, missing attributes are left out.

    Raises:
        DataError: A row has no item id.
    """
    size = len(item)
    titles = pa.nulls(size, pa.string()) if title is None else _cast(_flat(title), pa.string(), "title", where)
    if attributes is None:
        attributes = pa.nulls(size, ITEMS.field("attributes").type)
    lists = _cast(_flat(attributes), ITEMS.field("attributes").type, "list of attributes", where)
    if lists.flatten().null_count:
        known = [row and [value for value in row if value is not None] for row in lists.to_pylist()]
        lists = pa.array(known, lists.type)
    columns = [_ids(item, "item id", where), pc.fill_null(titles, ""), lists]
    return pa.RecordBatch.from_arrays(columns, schema=ITEMS)


def store(
    cache: Path,
    provenance: dict[str, Any],
    interactions: Iterable[pa.RecordBatch],
    items: Iterable[pa.RecordBatch] = (),
) -> RawData:
    """Return raw data streamed into Arrow files under ``cache``, one batch in memory at a time.

    The folder is named by the provenance. If it is there, with files of their full size, the batches are not asked for
    at all; whether these still have the content that was written is for :meth:`RawData.verify` to see.

    Args:
        cache: Folder for prepared data.
        provenance: See :class:`RawData`; everything that decides the content must be in it.
        interactions, items: Batches from :func:`interaction_batch` and :func:`item_batch`, best as generators.

    Raises:
        DataError: The source has no interactions, or the cache cannot be written.
    """
    folder = Path(cache) / "raw" / f"{provenance['source']}-{content_hash(provenance)}"
    with locked(folder):
        with contextlib.suppress(CorruptArtifactError):
            return _open(folder, provenance)
        with new_folder(folder) as partial:
            rows = _write(partial / "interactions.arrow", INTERACTIONS, interactions)
            if rows == 0:
                raise DataError(
                    f"the source {provenance['source']!r} has no interactions",
                    where=", ".join(file["name"] for file in provenance.get("files", [])) or None,
                    mend="give a file with at least one row of data",
                )
            _write(partial / "items.arrow", ITEMS, items)
            seal(partial, {"provenance": provenance, "interactions": rows})
        return _open(folder, provenance)


def provenance_of(
    source: str, files: Iterable[Path], parameters: dict[str, Any], *, time_unit: str = "unknown"
) -> dict[str, Any]:
    """Return where data come from: no paths, so that equal data have equal provenance on every machine."""
    listed = [{"name": p.name, "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files]
    return {"source": source, "parameters": parameters, "files": listed, "time_unit": time_unit}


def _open(folder: Path, provenance: dict[str, Any]) -> RawData:
    import datasets  # costs a second, and only loading data needs it

    if read_sealed(folder, verify=False)["provenance"] != provenance:
        raise CorruptArtifactError("raw data of another source lie here", where=str(folder))
    try:
        tables = [datasets.Dataset.from_file(str(folder / f"{name}.arrow")) for name in ("interactions", "items")]
    except (OSError, pa.ArrowInvalid) as error:  # changed where the reader looks first
        raise CorruptArtifactError(f"raw data cannot be read: {error}", where=str(folder)) from error
    return RawData(*tables, provenance, folder)


def _write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _ids(values: pa.Array, what: str, where: Where) -> pa.Array:
    values = _flat(values)
    if pa.types.is_floating(values.type):
        values = _whole(values, what, where)
    text = pc.utf8_trim_whitespace(_cast(values, pa.string(), what, where))
    _refuse(pc.fill_null(pc.equal(text, ""), True), lambda row: f"a row has no {what}", where, "give every row an id")
    return text


def _timestamps(values: pa.Array, where: Where) -> pa.Array:
    values = _flat(values)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())  # nanoseconds are cut off
    elif not pa.types.is_integer(values.type):
        values = _whole(values, "timestamp", where)
    mend = "give whole numbers, such as seconds or milliseconds since 1970"
    _refuse(pc.is_null(values), lambda row: "a row has no timestamp", where, mend)
    return values.cast(pa.int64())


def _ratings(values: pa.Array, where: Where) -> pa.Array:
    numbers = _numbers(_flat(values), "rating", where)
    bad = pc.invert(pc.fill_null(pc.is_finite(numbers), False))
    mend = "drop the row, or leave the rating column out of the configuration"
    _refuse(bad, lambda row: f"the rating {numbers[row].as_py()} is not a finite number", where, mend)
    return numbers.cast(pa.float32())


def _whole(values: pa.Array, what: str, where: Where) -> pa.Array:
    """Return ``values`` as int64; text goes straight to int64, since a float would lose digits."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        with contextlib.suppress(pa.ArrowInvalid):
            return pc.utf8_trim_whitespace(values).cast(pa.int64())
    numbers = _numbers(values, what, where)
    mend = "give whole numbers" + (
        ", such as seconds or milliseconds since 1970" if what == "timestamp" else " or text"
    )
    inside = pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less(pc.abs(numbers), float(2**63)))
    bad = pc.invert(pc.fill_null(inside, False))
    _refuse(bad, lambda row: f"the {what} {numbers[row].as_py()} is no whole number of 64 bits", where, mend)
    return numbers.cast(pa.int64())


def _cast(values: pa.Array, kind: pa.DataType, what: str, where: Where) -> pa.Array:
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"a column of type {values.type} cannot be read as {what}: {error}",
            where=where(0),
            mend="name another column, or convert it",
        ) from error


def _numbers(values: pa.Array, what: str, where: Where) -> pa.Array:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    try:
        return values.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = next(row for row in range(len(values)) if not _is_number(values[row].as_py()))
        raise DataError(
            f"the {what} {values[row].as_py()!r} is not a number", where=where(row), mend="correct or drop the row"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        pa.scalar(value).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _refuse(bad: pa.Array, what: Callable[[int], str], where: Where, mend: str | None) -> None:
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if len(rows):
        row = int(rows[0])
        raise DataError(what(row), where=where(row), mend=mend)
