"""Scores of the candidates, one row a list entry: the one thing from which every metric of ``preference`` follows.

Metrics of all labelled rows: ``accuracy``; ``log_loss``; ``auc``, the ROC curve of score against relevance; ``pr_auc``,
average precision; ``calibration_error``, the expected calibration error of the predicted class in 15 equal bins (Guo et
al. 2017). Means over users: ``user_auc``, ``user_accuracy``, ``user_log_loss`` of labelled rows, and over whole lists,
drawn items included, ``ndcg@K`` (binary relevance, Jarvelin & Kekalainen 2002), ``hr@K`` (a relevant item among the
first K) and ``mrr`` (1 / rank of the first relevant one). Of equal scores the irrelevant come first in a list, so that
ties count against the model; in a ROC curve they count half, as everywhere.

Which users a metric is defined for follows from labels and relevance alone, so it is the same for every model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydistill.records.tables import read_table, write_table

SCORES = "scores.parquet"

SCORE_COLUMNS: dict[str, pa.DataType] = {
    "user": pa.int32(),  # index of the user in the prepared data
    "item": pa.int32(),  # item id, 1-based
    "label": pa.int8(),  # class; -1: unlabelled
    "relevant": pa.bool_(),  # liked, clicked, or stars enough
    "drawn": pa.bool_(),  # not one of the user's interactions
    "score": pa.float32(),  # P(like), P(click) or expected stars
    "log_probability": pa.float32(),  # of the label; NaN where unlabelled
    "predicted": pa.int8(),  # the most probable class
    "confidence": pa.float32(),  # its probability
    "history_length": pa.int32(),  # interactions before the period
    "item_popularity": pa.int32(),  # interactions of the item in the training part
}

REPORTED_SCORES = (
    "auc",
    "user_auc",
    "pr_auc",
    "accuracy",
    "user_accuracy",
    "log_loss",
    "user_log_loss",
    "calibration_error",
    "ndcg@5",
    "ndcg@10",
    "hr@5",
    "hr@10",
    "mrr",
)
"""Metrics written into every record, where they are defined; all others follow from the stored scores."""

BINS = 15
"""Bins of the calibration error."""

_KNOWN = (
    "accuracy, log_loss, auc, pr_auc, calibration_error, user_auc, user_accuracy, user_log_loss, ndcg@K, hr@K and mrr"
)


def write_scores(path: Path, columns: dict[str, np.ndarray]) -> str:
    """Write the arrays named in :data:`SCORE_COLUMNS` as Parquet, atomically, and return the file's SHA-256."""
    arrays = {name: pa.array(np.ascontiguousarray(columns[name]), kind) for name, kind in SCORE_COLUMNS.items()}
    return write_table(path, arrays)


def read_scores(path: Path, *, sha256: str | None = None, columns: list[str] | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a scores file as arrays.

    Raises:
        CorruptArtifactError: The file is not the one that the record names, or is no Parquet file.
    """
    found = read_table(path, "scores file", sha256=sha256, columns=columns)
    return {name: column.to_numpy(zero_copy_only=False) for name, column in found.items()}


def is_mean_over_users(name: str) -> bool:
    """Return whether a metric is a mean over users, so that claims about it can be tested on users."""
    return name in Scores.PER_USER or re.fullmatch(r"(ndcg|hr)@[1-9][0-9]*|mrr", name) is not None


def score_metric(name: str, columns: dict[str, np.ndarray]) -> float:
    """Return the named metric, NaN where it is undefined (no labelled row, one class only, or no such user).

    Args:
        name: See the top of :mod:`raydistill.records.scores`.
        columns: Those of :data:`SCORE_COLUMNS` that the metric needs.

    Raises:
        ValueError: The name is none of these.
    """
    return score_metrics([name], columns)[name]


def score_metrics(names: Iterable[str], columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Return several metrics as :func:`score_metric` does, sorting only once."""
    scores = Scores(columns)
    return {name: scores.value(name) for name in names}


def score_metric_per_user(name: str, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the users that a mean over users is defined for, ascending, and their values.

    Args:
        name: ``user_auc`` (users with relevant and irrelevant labelled rows), ``user_accuracy``, ``user_log_loss``
            (users with labelled rows), ``ndcg@K``, ``hr@K`` or ``mrr`` (users with a relevant row).
        columns: As for :func:`score_metric`.

    Raises:
        ValueError: The name is none of these.
    """
    return Scores(columns).per_user(name)


class Scores:
    """The rows of a scores file, sorted at most once for each kind of metric.

    Args:
        columns: Those of :data:`SCORE_COLUMNS` that the metrics need.
    """

    PER_USER = ("user_auc", "user_accuracy", "user_log_loss")

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self._columns = columns

    def value(self, name: str) -> float:
        """Return the named metric, NaN where it is undefined."""
        pooled: dict[str, Callable[[], np.ndarray]] = {
            "accuracy": lambda: self._hits,
            "log_loss": lambda: self._losses,
            "auc": lambda: _roc_auc(np.zeros(self._relevant.size, np.int64), self._score, self._relevant, 1),
            "pr_auc": lambda: _average_precision(self._score, self._relevant),
            "calibration_error": self._calibration_errors,
        }
        values = pooled[name]() if name in pooled else self.per_user(name)[1]
        return float(values.mean()) if values.size else float("nan")

    def per_user(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the users that a metric is defined for, ascending, and their values."""
        if name in self.PER_USER:
            users, group = np.unique(self._labelled("user"), return_inverse=True)
            if name == "user_auc":
                values = _roc_auc(group, self._score, self._relevant, users.size, keep=True)
                return users[np.isfinite(values)], values[np.isfinite(values)]
            rows = self._hits if name == "user_accuracy" else self._losses
            return users, np.bincount(group, rows, users.size) / np.bincount(group, minlength=users.size)
        match = re.fullmatch(r"(ndcg|hr)@([1-9][0-9]*)|mrr", name)
        if match is None:
            raise ValueError(f"unknown metric {name!r}: {_KNOWN} are known")
        users, group, rank, n_relevant = self._relevant_ranks
        if match.group(1) == "ndcg":
            cut = int(match.group(2))
            gains = np.where(rank <= cut, 1 / np.log2(1.0 + rank), 0)
            ideal = np.cumsum(1 / np.log2(1.0 + np.arange(1, cut + 1)))
            return users, np.bincount(group, gains, users.size) / ideal[np.minimum(n_relevant, cut) - 1]
        first = rank[np.searchsorted(group, np.arange(users.size))]
        return users, 1 / first if match.group(1) is None else (first <= int(match.group(2))).astype(np.float64)

    @cached_property
    def _labelled_rows(self) -> np.ndarray:
        return np.flatnonzero(np.asarray(self._columns["label"]) >= 0)

    def _labelled(self, name: str) -> np.ndarray:
        return np.asarray(self._columns[name])[self._labelled_rows]

    @cached_property
    def _score(self) -> np.ndarray:
        return self._labelled("score")

    @cached_property
    def _relevant(self) -> np.ndarray:
        return self._labelled("relevant").astype(bool)

    @cached_property
    def _hits(self) -> np.ndarray:
        return (self._labelled("predicted") == self._labelled("label")).astype(np.float64)

    @cached_property
    def _losses(self) -> np.ndarray:
        return -self._labelled("log_probability").astype(np.float64)

    def _calibration_errors(self) -> np.ndarray:
        """Return one value, the mean over rows of their bin's gap between confidence and accuracy."""
        confidence = self._labelled("confidence").astype(np.float64)
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        gaps = np.abs(np.bincount(bins, self._hits - confidence, BINS))
        return gaps.sum(keepdims=True) / confidence.size if confidence.size else gaps[:0]

    @cached_property
    def _relevant_ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return users with a relevant row; user (as an index) and rank of each relevant row; relevant rows a user."""
        user, score = np.asarray(self._columns["user"]), np.asarray(self._columns["score"])
        relevant = np.asarray(self._columns["relevant"]).astype(bool)
        order = np.lexsort((relevant, -score, user))
        ordered = user[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: ordered.size])
        rank = np.arange(1, ordered.size + 1) - np.repeat(begins, np.diff([*begins, ordered.size]))
        chosen = relevant[order]
        users, group, counts = np.unique(ordered[chosen], return_inverse=True, return_counts=True)
        return users, group, rank[chosen], counts


def _roc_auc(
    group: np.ndarray, score: np.ndarray, positive: np.ndarray, n_groups: int, *, keep: bool = False
) -> np.ndarray:
    """Return the area under the ROC curve of each group: the share of pairs in the right order, ties counting half.

    By mean ranks (Mann & Whitney 1947). Groups with one class only are left out, or NaN if they are to be kept.
    """
    order = np.lexsort((score, group))
    group, score, positive = group[order], score[order], positive[order]
    new = np.ones(group.size, dtype=bool)
    new[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    begins = np.flatnonzero(new)
    counts = np.diff(begins, append=group.size)
    in_group = np.arange(group.size) - np.searchsorted(group, np.arange(n_groups))[group]
    mean_rank = np.repeat(in_group[begins] + (counts + 1) / 2, counts)
    n_positive = np.bincount(group[positive], minlength=n_groups).astype(np.float64)
    n_negative = np.bincount(group[~positive], minlength=n_groups).astype(np.float64)
    above = np.bincount(group[positive], mean_rank[positive], n_groups) - n_positive * (n_positive + 1) / 2
    pairs = n_positive * n_negative
    area = np.divide(above, pairs, out=np.full(n_groups, np.nan), where=pairs > 0)
    return area if keep else area[np.isfinite(area)]


def _average_precision(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return one value: the mean over the positive rows of the precision at their score; none without positive rows."""
    order = np.argsort(-score, kind="stable")
    score, found = score[order], np.cumsum(positive[order])
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: score.size])  # equal scores are one threshold
    precision, gained = found[last] / (last + 1), np.diff(found[last], prepend=0)
    total = gained.sum(keepdims=True)
    return (precision * gained).sum(keepdims=True) / total if total.all() else np.empty(0)
