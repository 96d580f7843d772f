"""Parquet files of a trial that are whole, and known to be the ones that its record names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import CorruptArtifactError
from raydistill.records.files import atomic_write, sha256_file


def write_table(path: Path, columns: dict[str, pa.Array]) -> str:
    """Write the columns as Parquet, atomically, and return the file's SHA-256."""
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    return sha256_file(path)


def read_table(path: Path, what: str, *, sha256: str | None, columns: list[str] | None) -> dict[str, pa.Array]:
    """Return the columns of a Parquet file.

    Args:
        path: The file.
        what: What it is, for the error: ``ranks file``.
        sha256: What the record says of it, or None.
        columns: Names, or None for all.

    Raises:
        CorruptArtifactError: The file is not the one that the record names, or is no Parquet file.
    """
    try:
        if sha256 is not None and sha256_file(path) != sha256:
            raise CorruptArtifactError(f"the {what} is not the one that its record names", where=str(path))
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptArtifactError(f"the {what} cannot be read: {error}", where=str(path)) from error
    return {name: table.column(name).combine_chunks() for name in table.column_names}
