"""The run directory: what is written in it, by whom it is read, and how it stays whole."""

from raydistill.records.files import atomic_write, content_hash, sha256_file, write_json
from raydistill.records.metrics import LOWER_IS_BETTER, gain
from raydistill.records.ranks import RANK_COLUMNS, metric_per_user, read_ranks, write_ranks
from raydistill.records.record import SCHEMA_VERSION, Record, read_record, write_record
from raydistill.records.run import MODEL, RANKS, RECORD, RunDirectory, protocol_signature
from raydistill.records.scores import (
    REPORTED_SCORES,
    SCORE_COLUMNS,
    SCORES,
    read_scores,
    score_metric,
    score_metric_per_user,
    score_metrics,
    write_scores,
)

__all__ = [
    "LOWER_IS_BETTER",
    "MODEL",
    "RANKS",
    "RANK_COLUMNS",
    "RECORD",
    "REPORTED_SCORES",
    "SCHEMA_VERSION",
    "SCORES",
    "SCORE_COLUMNS",
    "Record",
    "RunDirectory",
    "atomic_write",
    "content_hash",
    "gain",
    "metric_per_user",
    "protocol_signature",
    "read_ranks",
    "read_record",
    "read_scores",
    "score_metric",
    "score_metric_per_user",
    "score_metrics",
    "sha256_file",
    "write_json",
    "write_ranks",
    "write_record",
    "write_scores",
]
