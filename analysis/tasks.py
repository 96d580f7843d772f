"""What the tasks store for every confirmed trial, and what follows from it: the only place that tells them apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from analysis.stats import CalibrationCurve, RocCurve, calibration_curve, roc_from_ranks, roc_from_scores
from raydistill.records import (
    LOWER_IS_BETTER,
    RANKS,
    SCORES,
    metric_per_user,
    read_ranks,
    read_scores,
    score_metric_per_user,
)
from raydistill.records.scores import is_mean_over_users

TOP = 10
"""Length of the lists that are compared with the teacher's."""

Columns = dict[str, np.ndarray]


def direction(metric: str) -> str:
    """Return ``min`` where smaller values of a metric are better, otherwise ``max``."""
    return "min" if metric in LOWER_IS_BETTER else "max"


def sign(metric: str) -> int:
    """Return -1 where smaller values of a metric are better, otherwise 1."""
    return -1 if direction(metric) == "min" else 1


def share_kept(relative: float, metric: str) -> float:
    """Return the share of the other arm's quality that an improvement of ``relative`` leaves, 1 for none.

    Mean over mean where larger is better; where smaller is better the other arm's mean over one's own, which is NaN
    where one's own is not above 0: such an end of an interval leaves the share without a bound.
    """
    if direction(metric) == "max":
        return 1 + relative
    return 1 / (1 - relative) if relative < 1 else float("nan")


class Task(ABC):
    """How one task stores the test results of a trial.

    Attributes:
        name: As in the sweep file.
        file: Name of the file beside the record that holds one row a user or candidate.
        listed: What ranked items are chosen from, for captions; ``{candidates}`` is what the protocol says.
        has_target: Whether a user has one target item, so that users can be grouped by it.
        wanted: What a user looks for in a list, for captions.
        roc_axes: Words of the two axes of a ROC curve.
    """

    name: str
    file: str
    listed: str
    has_target: bool
    wanted: str
    roc_axes: tuple[str, str]

    @abstractmethod
    def read(self, path: Path, sha256: str, columns: list[str]) -> Columns:
        """Return columns of a stored file; raises CorruptArtifactError where it is not the one of the hash."""

    @abstractmethod
    def needed(self, metric: str) -> list[str]:
        """Return the columns that a mean over users needs."""

    @abstractmethod
    def is_mean_over_users(self, metric: str) -> bool:
        """Return whether a metric is a mean over users, so that users can be resampled."""

    @abstractmethod
    def per_user(self, metric: str, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Return the users that a metric is defined for, and its values."""

    @abstractmethod
    def top(self, path: Path, sha256: str) -> tuple[np.ndarray, np.ndarray]:
        """Return users and their ten best items ``[users, 10]``, without users who have no more than ten candidates."""

    @abstractmethod
    def about(self, path: Path, sha256: str) -> Columns:
        """Return ``user`` and what is known of each, the same for every model: ``history_length`` and more."""

    @abstractmethod
    def roc(self, files: list[tuple[Path, str]], level: float) -> RocCurve | None:
        """Return the ROC curve of several runs of one arm, None where no user has both classes."""

    def calibration(self, files: list[tuple[Path, str]], level: float) -> CalibrationCurve | None:
        """Return the reliability diagram of several runs of one arm, None where the task predicts no class."""
        return None


class NextItem(Task):
    """One target a user, ranked among the full catalogue."""

    name, file, listed = "next_item", RANKS, "the full catalogue"
    has_target, wanted = True, "their target"
    roc_axes = ("share of other items ranked above", "share of targets found")

    def read(self, path: Path, sha256: str, columns: list[str]) -> Columns:
        return read_ranks(path, sha256=sha256, columns=columns)

    def needed(self, metric: str) -> list[str]:
        return ["user", "rank", "candidates"]

    def is_mean_over_users(self, metric: str) -> bool:
        try:
            metric_per_user(metric, np.ones(1), np.ones(1))
        except ValueError:
            return False
        return True

    def per_user(self, metric: str, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        return columns["user"], metric_per_user(metric, columns["rank"], columns["candidates"])

    def top(self, path: Path, sha256: str) -> tuple[np.ndarray, np.ndarray]:
        found = self.read(path, sha256, ["user", "top"])
        return found["user"], found["top"]

    def about(self, path: Path, sha256: str) -> Columns:
        return self.read(path, sha256, ["user", "target", "history_length", "target_popularity"])

    def roc(self, files: list[tuple[Path, str]], level: float) -> RocCurve | None:
        found = [self.read(*file, ["rank", "candidates"]) for file in files]
        rank, candidates = (np.stack([one[name] for one in found]) for name in ("rank", "candidates"))
        ranked = (candidates > 1).all(axis=0)  # a user who has seen all other items has no negative
        if not ranked.any():
            return None
        return roc_from_ranks(rank[:, ranked], candidates[:, ranked], points=101, level=level, n_resamples=300)


class Preference(Task):
    """A candidate list a user, each candidate scored and most of them labelled."""

    has_target, wanted = False, "a relevant item"
    roc_axes = ("share of irrelevant candidates taken", "share of relevant candidates taken")
    name, file, listed = "preference", SCORES, "each user's candidate list ({candidates}), not the full catalogue"

    def read(self, path: Path, sha256: str, columns: list[str]) -> Columns:
        return read_scores(path, sha256=sha256, columns=columns)

    def needed(self, metric: str) -> list[str]:
        of_rows = {"user_accuracy": ["label", "predicted"], "user_log_loss": ["label", "log_probability"],
                   "user_auc": ["label", "relevant", "score"]}  # fmt: skip
        return ["user", *of_rows.get(metric, ["relevant", "score"])]

    def is_mean_over_users(self, metric: str) -> bool:
        return is_mean_over_users(metric)

    def per_user(self, metric: str, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        return score_metric_per_user(metric, columns)

    def top(self, path: Path, sha256: str) -> tuple[np.ndarray, np.ndarray]:
        found = self.read(path, sha256, ["user", "item", "score"])
        order = np.lexsort((found["item"], -found["score"], found["user"]))
        users, begins, counts = np.unique(found["user"][order], return_index=True, return_counts=True)
        long = counts > TOP
        places = begins[long, None] + np.arange(TOP)
        return users[long], found["item"][order][places]

    def about(self, path: Path, sha256: str) -> Columns:
        found = self.read(path, sha256, ["user", "history_length"])
        users, first = np.unique(found["user"], return_index=True)
        return {"user": users, "history_length": found["history_length"][first]}

    def roc(self, files: list[tuple[Path, str]], level: float) -> RocCurve | None:
        found = [self._labelled(file, ["user", "relevant", "score"]) for file in files]
        relevant = found[0]["relevant"]
        if relevant.all() or not relevant.any():
            return None
        scores = np.stack([one["score"] for one in found])
        return roc_from_scores(relevant, scores, found[0]["user"], points=101, level=level, n_resamples=300)

    def calibration(self, files: list[tuple[Path, str]], level: float) -> CalibrationCurve | None:
        found = [self._labelled(file, ["user", "predicted", "confidence"]) for file in files]
        if not found[0]["user"].size:
            return None
        sure, right = (np.stack(rows) for rows in zip(*((f["confidence"], f["predicted"] == f["label"]) for f in found),
                                                      strict=True))  # fmt: skip
        return calibration_curve(sure, right, found[0]["user"], level=level)

    def _labelled(self, file: tuple[Path, str], columns: list[str]) -> Columns:
        """Return labelled rows, by user and item, so that rows of several models lie side by side."""
        found = self.read(*file, list(dict.fromkeys(["user", "item", "label", *columns])))
        rows = np.flatnonzero(found["label"] >= 0)
        rows = rows[np.lexsort((found["item"][rows], found["user"][rows]))]
        return {name: column[rows] for name, column in found.items()}


TASKS: dict[str, Task] = {task.name: task for task in (NextItem(), Preference())}


def task_of(signature: dict[str, Any], plan: dict[str, Any]) -> Task:
    """Return the task of a run directory; next item where neither file names a known one."""
    return TASKS.get(signature.get("task") or plan.get("task") or "", TASKS["next_item"])
