"""Ranks of the targets, one row a user: the one thing from which every ranking metric follows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydistill.records.tables import read_table, write_table

TOP = 10
"""Length of the stored list of best items."""

RANK_COLUMNS: dict[str, pa.DataType] = {
    "user": pa.int32(),  # index of the user in the prepared data
    "target": pa.int32(),  # item id, 1-based
    "rank": pa.int32(),  # 1 is best
    "candidates": pa.int32(),  # items ranked, the target among them
    "history_length": pa.int32(),  # interactions the model could see
    "target_popularity": pa.int32(),  # interactions of the target in the training part
    "top": pa.list_(pa.int32(), TOP),  # ids of the ten best candidates, best first
}


def write_ranks(path: Path, columns: dict[str, np.ndarray]) -> str:
    """Write one row a user as Parquet, atomically, and return the file's SHA-256.

    Args:
        path: Where to write, ``trials/<id>/ranks.parquet``.
        columns: The arrays named in :data:`RANK_COLUMNS`; ``top`` has shape ``[users, 10]``.
    """
    arrays = []
    for name, kind in RANK_COLUMNS.items():
        values = np.ascontiguousarray(columns[name])
        if pa.types.is_fixed_size_list(kind):
            flat = pa.array(values.reshape(-1).astype(np.int32), pa.int32())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, TOP))
        else:
            arrays.append(pa.array(values, kind))
    return write_table(path, dict(zip(RANK_COLUMNS, arrays, strict=True)))


def read_ranks(path: Path, *, sha256: str | None = None, columns: list[str] | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a ranks file as arrays; ``top`` as ``[users, 10]``.

    Raises:
        CorruptArtifactError: The file is not the one that the record names, or is no Parquet file.
    """
    result = {}
    for name, column in read_table(path, "ranks file", sha256=sha256, columns=columns).items():
        if pa.types.is_fixed_size_list(column.type):
            result[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, TOP)
        else:
            result[name] = column.to_numpy(zero_copy_only=False)
    return result


def metric_per_user(name: str, rank: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    """Return one value a user of the named metric, from ranks alone.

    With one target a user the metrics reduce to:
    ``ndcg@k`` = 1 / log2(1 + rank) if rank <= k else 0 (Jarvelin & Kekalainen 2002);
    ``hr@k`` = 1 if rank <= k else 0; ``mrr`` = 1 / rank;
    ``auc`` = 1 - (rank - 1) / (candidates - 1), the share of other candidates ranked below.

    Args:
        name: ``ndcg@K``, ``hr@K``, ``mrr`` or ``auc``.
        rank: 1-based ranks, any shape.
        candidates: Candidates ranked, same shape; needed by ``auc`` only.

    Raises:
        ValueError: The name is none of these.
    """
    rank = np.asarray(rank, dtype=np.float64)
    match = re.fullmatch(r"(ndcg|hr)@([1-9][0-9]*)", name)
    if match:
        inside = rank <= int(match.group(2))
        return np.where(inside, 1.0 / np.log2(1.0 + rank), 0.0) if match.group(1) == "ndcg" else inside.astype(float)
    if name == "mrr":
        return 1.0 / rank
    if name == "auc" and candidates is not None:
        return 1.0 - (rank - 1.0) / np.maximum(np.asarray(candidates, dtype=np.float64) - 1.0, 1.0)
    raise ValueError(f"unknown ranking metric {name!r}: ndcg@K, hr@K, mrr and auc are known")
