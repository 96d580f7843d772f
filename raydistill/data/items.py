"""The catalogue as a Parquet file, for people and for the report."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.data.splits import SequenceData
from raydistill.records.files import atomic_write


def write_items(data: SequenceData, path: Path) -> None:
    """Write ``item`` int32, ``title``, ``attributes`` and ``popularity`` int64 (training part), one row an item from 1.

    Raises:
        RunDirectoryError: The file cannot be written.
    """
    columns = {
        "item": pa.array(range(1, data.n_items + 1), pa.int32()),
        "title": data.titles.array[1:].cast(pa.string()),
        "attributes": data.attributes.array[1:].cast(pa.list_(pa.string())),
        "popularity": pa.array(data.popularity[1:], pa.int64()),
    }
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
