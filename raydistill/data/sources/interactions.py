"""Interactions: any CSV, Parquet or JSON Lines file with one interaction a row and named columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.data.interactions import RawData, Where, interaction_batch, item_batch, provenance_of, store
from raydistill.data.sources.text import TextFile, csv_tables, json_fields, json_tables, require_columns, unreadable
from raydistill.errors import DataError

FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "json", ".json": "json", ".ndjson": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Params:
    """Keys of the source ``interactions``.

    The format follows the name of the file: ``.csv``, ``.tsv``, ``.txt`` (separated), ``.jsonl``, ``.ndjson``,
    ``.json`` (one object a line), ``.parquet``, ``.pq``; the text formats also with ``.gz``.

    Attributes:
        path: File with one interaction a row.
        user, item, timestamp: Names of the columns.
        rating: Name of the column, or null where there is none.
        delimiter: Separator of a separated file; null means a tab for ``.tsv``, else a comma.
        items: File with one item a row, or null.
        items_item: Column of the item id in that file; null means the same name as ``item``.
        title: Column of the title in that file, or null.
        attributes: Column of the attributes in that file, or null.
        attribute_separator: What separates attributes that are one text, such as ``Comedy|Drama``.
        time_unit: Unit of the timestamps, ``s``, ``ms``, ``us`` or ``unknown``; only for display. Dates and times of a
            Parquet file are ``us``.
    """

    path: str
    user: str = "user"
    item: str = "item"
    timestamp: str = "timestamp"
    rating: str | None = None
    delimiter: str | None = None
    items: str | None = None
    items_item: str | None = None
    title: str | None = None
    attributes: str | None = None
    attribute_separator: str = "|"
    time_unit: Literal["s", "ms", "us", "unknown"] = "unknown"

    def __post_init__(self) -> None:
        for key in ("items_item", "title", "attributes"):
            if getattr(self, key) is not None and self.items is None:
                raise DataError(
                    f"{key} names a column of the file of items, and there is none",
                    where=f"data.{key}",
                    mend="name the file in data.items, or leave the key out",
                )
        if not self.attribute_separator:
            raise DataError(
                "the separator of attributes is empty", where="data.attribute_separator", mend="give a text such as ','"
            )


def load(params: Params, cache: Path) -> RawData:
    """Return the rows of the files as raw data.

    Args:
        params: See :class:`Params`.
        cache: Folder for the Arrow files.

    Raises:
        DataError: A file is missing, cut off or of an unknown format, a column is missing, a row is malformed.
    """
    path = Path(params.path)
    files = [path] + ([Path(params.items)] if params.items else [])
    parameters = {key: value for key, value in asdict(params).items() if key not in ("path", "items")}
    try:
        provenance = provenance_of("interactions", files, parameters, time_unit=params.time_unit)
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from error
    items = _items(Path(params.items), params) if params.items else ()
    return store(cache, provenance, _interactions(path, params), items)


def _interactions(path: Path, params: Params) -> Iterator[pa.RecordBatch]:
    needed = {"user": params.user, "item": params.item, "timestamp": params.timestamp}
    if params.rating:
        needed["rating"] = params.rating
    for table, where in _tables(path, needed, params.delimiter):
        rating = table.column(params.rating) if params.rating else None
        columns = [table.column(needed[key]).combine_chunks() for key in ("user", "item", "timestamp")]
        yield interaction_batch(*columns, rating, where)


def _items(path: Path, params: Params) -> Iterator[pa.RecordBatch]:
    needed = {"items_item": params.items_item or params.item}
    needed |= {key: getattr(params, key) for key in ("title", "attributes") if getattr(params, key)}
    for table, where in _tables(path, needed, params.delimiter):
        title = table.column(needed["title"]) if "title" in needed else None
        attributes = table.column(needed["attributes"]).combine_chunks() if "attributes" in needed else None
        if attributes is not None and not pa.types.is_nested(attributes.type):
            attributes = split_attributes(attributes, params.attribute_separator)
        yield item_batch(table.column(needed["items_item"]), title, attributes, where)


def split_attributes(text: pa.Array, separator: str) -> pa.Array:
    """Return the parts of each text as a list; an empty text has none."""
    text = pc.fill_null(text.cast(pa.string()), "")
    lists = pc.split_pattern(text, separator)
    return pc.if_else(pc.equal(text, ""), pa.scalar([], lists.type), lists)


def _tables(path: Path, needed: dict[str, str], delimiter: str | None) -> Iterator[tuple[pa.Table, Where]]:
    kind = FORMATS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    file = TextFile(path)
    if kind == "csv":
        separator = delimiter or ("\t" if ".tsv" in path.suffixes else ",")
        for table, block in csv_tables(file, delimiter=separator):
            require_columns(needed, table.column_names, f"{path}, line 1")
            yield table, block.where
    elif kind == "json":
        first = json_fields(file, needed.values())
        require_columns(needed, list(first), str(path))
        # A rating may be a whole number first and a fraction later.
        schema = pa.schema(
            [(column, pa.float64() if key == "rating" else _json_type(first[column])) for key, column in needed.items()]
        )
        for table, block in json_tables(file, schema):
            yield table, block.where
    elif kind == "parquet":
        yield from _parquet(path, needed)
    else:
        raise DataError(
            f"the format of {path.name} is unknown",
            where=str(path),
            mend=f"name the file with one of {', '.join(FORMATS)} (text formats also with .gz)",
        )


def _json_type(value: object) -> pa.DataType:
    """Return the Arrow type of a column from its first value."""
    if isinstance(value, list):
        return pa.list_(pa.string())
    if isinstance(value, int) and not isinstance(value, bool):
        return pa.int64()
    return pa.float64() if isinstance(value, float) else pa.string()


def _parquet(path: Path, needed: dict[str, str]) -> Iterator[tuple[pa.Table, Where]]:
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            require_columns(needed, file.schema_arrow.names, str(path))
            for batch in file.iter_batches(columns=list(needed.values())):
                yield pa.Table.from_batches([batch]), lambda row, start=rows: f"{path}, row {start + row + 1}"
                rows += batch.num_rows
    except OSError as error:
        raise unreadable(path, error) from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"the Parquet file is damaged or cut off: {error}", where=str(path), mend="copy it again"
        ) from error
