"""One run directory, read: its trials as a table, and the ranks behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.tasks import Task, direction, sign, task_of
from raydistill.errors import CorruptArtifactError, RunDirectoryError
from raydistill.records import RunDirectory, content_hash, protocol_signature

DEFAULTS = {"metric": "ndcg@10", "reference": "uniform", "margin": 0.02, "level": 0.05}
"""What the analysis assumes, and says that it assumes, where plan.json is missing."""


@dataclass(frozen=True)
class PerUser:
    """One value a user and run of one arm in one stratum.

    Attributes:
        values: ``Float64[runs, users]``, users in the same order for every arm of a run directory.
        trials: One row a run, in the order of ``values``: ``id``, ``arm``, ``seed``, ``teacher_seed``, ``draw``.
    """

    values: np.ndarray
    trials: pd.DataFrame

    @property
    def teacherless(self) -> bool:
        """Whether no teacher has a part in it: popularity, which the records file under the first teacher."""
        return bool(self.trials["arm"].eq("popularity").all() or self.trials["teacher_seed"].isna().all())

    def by_seed(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Return ``Float64[seeds, users]`` and its keys ``(teacher_seed, seed)``; draws of one seed are averaged."""
        keys = list(zip(*(self.trials[c].fillna(0).astype(int) for c in ("teacher_seed", "seed")), strict=True))
        unique = sorted(set(keys))
        rows = [[i for i, key in enumerate(keys) if key == wanted] for wanted in unique]
        return np.stack([self.values[index].mean(axis=0) for index in rows]), unique

    def by_draw(self) -> np.ndarray:
        """Return ``Float64[draws, users]``, each draw of layers averaged over its runs; no rows without draws."""
        draws = self.trials["draw"].to_numpy(dtype=float)
        means = [self.values[draws == draw].mean(axis=0) for draw in np.unique(draws[~np.isnan(draws)])]
        return np.stack(means) if means else self.values[:0]

    def ids_of(self, keys: Sequence[tuple[int, int]], *, seedless: bool = False) -> list[str]:
        """Return the ids of the runs behind some keys ``(teacher_seed, seed)``.

        A seedless arm stands behind the keys of its teacher, and without a teacher (popularity) behind all.
        """
        if seedless and self.teacherless:
            return list(self.trials["id"])
        teacher, seed = (self.trials[c].fillna(0).astype(int) for c in ("teacher_seed", "seed"))
        wanted = {key[0] for key in keys} if seedless else set(keys)
        found = teacher if seedless else list(zip(teacher, seed, strict=True))
        return [identity for identity, key in zip(self.trials["id"], found, strict=True) if key in wanted]


@dataclass(frozen=True)
class Evidence:
    """What was measured on the layers of one teacher.

    Attributes:
        id: Identity of the evidence, the name of its folder.
        teacher_seed: Seed that the teacher was trained from; 0 where neither a trial nor the teacher's folder tells.
        about: ``evidence.json``.
        scores: ``scores.parquet``: ``selector``, ``replicate``, ``layer``, ``score``.
    """

    id: str
    teacher_seed: int
    about: dict[str, Any]
    scores: pd.DataFrame


@dataclass(frozen=True)
class Run:
    """One run directory, read.

    Attributes:
        root: Where it lies.
        signature, plan: As in ``signature.json`` and ``plan.json``; empty where missing.
        trials: One row a record: the fields of ``Record``, with ``configuration.*``, ``validation.*``,
            ``test.*`` and ``cost.*`` as columns, and ``run`` and ``root``, where it was read.
        curves: One row a trial and epoch, with the trial's ``id``.
        refused: Records that were not used: ``path`` and ``reason``.
        notes: What is missing, in words.
    """

    root: Path
    signature: dict[str, Any]
    plan: dict[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    refused: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    _values: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    _users: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _chosen: dict[tuple[str, float | None], pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.plan.get("sweep") or self.signature.get("sweep") or self.root.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        """``metric``, ``reference``, ``margin`` and ``level``, as planned."""
        return {**DEFAULTS, **self.plan.get("analysis", {})}

    @property
    def task(self) -> Task:
        """What was trained: decides what is stored for a trial."""
        return task_of(self.signature, self.plan)

    @property
    def listed(self) -> str:
        """What ranked items were chosen from, in words: ``the full catalogue``, or the candidate lists by protocol."""
        drawn = self.signature.get("protocol", {}).get("candidates", "unknown candidates")
        return self.task.listed.format(candidates=drawn)

    @property
    def direction(self) -> str:
        """``max`` where larger values of the metric are better, otherwise ``min``."""
        return direction(self.settings["metric"])

    @property
    def protocol_signature(self) -> str:
        """One line that goes with every number."""
        return protocol_signature(self.signature) if self.signature else "signature.json is missing"

    @property
    def data_name(self) -> str:
        """Name of the data source."""
        return self.signature.get("data", {}).get("source", "unknown data")

    def confirmed(self) -> pd.DataFrame:
        """Return the successful confirm trials."""
        return self.trials[(self.trials["phase"] == "confirm") & (self.trials["status"] == "success")]

    def strata(self) -> list[float]:
        """Return the keep-ratios, ascending: those planned and those found in confirm trials."""
        planned = [s["keep_ratio"] for s in self.plan.get("strata", [])]
        found = self.confirmed()["keep_ratio"].dropna().tolist()
        return sorted({round(float(k), 6) for k in [*planned, *found]})

    def arms(self) -> list[str]:
        """Return the arms in the order of the plan; arms that only records know come last."""
        planned = [arm["name"] for arm in self.plan.get("arms", [])]
        return [*planned, *sorted(set(self.trials["arm"]) - set(planned))]

    def chosen(self, arm: str, keep_ratio: float | None) -> pd.DataFrame:
        """Return the confirm trials that stand for an arm in a stratum.

        Where several configurations were confirmed, the one with the best mean validation quality
        stands for the arm; the test set has no say.
        """
        if (arm, keep_ratio) not in self._chosen:
            self._chosen[arm, keep_ratio] = self._standing_for(arm, keep_ratio)
        return self._chosen[arm, keep_ratio]

    def _standing_for(self, arm: str, keep_ratio: float | None) -> pd.DataFrame:
        frame = self.confirmed()
        frame = frame[frame["arm"] == arm]
        if keep_ratio is not None and frame["keep_ratio"].notna().any():
            frame = frame[np.isclose(frame["keep_ratio"].astype(float), keep_ratio)]
        metric = f"validation.{self.settings['metric']}"
        if frame["configuration"].nunique() > 1 and metric in frame:
            means = sign(self.settings["metric"]) * frame.groupby("configuration")[metric].mean()
            frame = frame[frame["configuration"] == means.idxmax()]
        return frame.sort_values(["teacher_seed", "seed", "draw", "id"])

    def standing(self) -> pd.DataFrame:
        """Return the confirm trials that stand for their arms, all arms and strata: those behind the main table."""
        found = self.confirmed()
        pairs = found[["arm", "keep_ratio"]].drop_duplicates()
        order = {arm: index for index, arm in enumerate(self.arms())}
        wanted = sorted(
            ((arm, None if np.isnan(ratio) else float(ratio)) for arm, ratio in pairs.itertuples(index=False)),
            key=lambda pair: (order[pair[0]], pair[1] or 0.0),
        )
        return pd.concat([self.chosen(*pair) for pair in wanted]) if wanted else found

    def file(self, identity: str) -> tuple[Path, str]:
        """Return the file of ranks or scores of a confirmed trial, and the SHA-256 that its record names."""
        row = self.trials[self.trials["id"] == identity].iloc[0]
        return RunDirectory(row["root"]).trial(identity) / self.task.file, row["ranks_sha256"]

    def files(self, trials: pd.DataFrame) -> list[tuple[Path, str]]:
        """Return :meth:`file` of those trials that have one."""
        return [self.file(identity) for identity in trials.loc[trials["ranks_sha256"].notna(), "id"]]

    def values(self, identity: str, metric: str) -> np.ndarray:
        """Return a mean-over-users metric of every user that it is defined for, in a confirmed trial.

        Raises:
            CorruptArtifactError: The file is not the one that the record names, or has other users than the rest.
        """
        if (identity, metric) not in self._values:
            path, digest = self.file(identity)
            columns = self.task.read(path, digest, self.task.needed(metric))
            users, values = self.task.per_user(metric, columns)
            if not np.array_equal(self._users.setdefault(metric, users), users):
                raise CorruptArtifactError(f"{path.name} is of other users than those of other trials", where=str(path))
            self._values[identity, metric] = values
        return self._values[identity, metric]

    def values_of(self, identity: str, metric: str, items: np.ndarray) -> np.ndarray:
        """Return :meth:`values` over the candidates that are among ``items`` only; users without any are left out."""
        key = f"{metric} of {content_hash(sorted(int(item) for item in items))}"
        if (identity, key) not in self._values:
            path, digest = self.file(identity)
            found = self.task.read(path, digest, ["item", *self.task.needed(metric)])
            rows = np.isin(found["item"], items)
            users, values = self.task.per_user(metric, {name: column[rows] for name, column in found.items()})
            if not np.array_equal(self._users.setdefault(key, users), users):
                raise CorruptArtifactError(f"{path.name} has other candidates than other trials", where=str(path))
            self._values[identity, key] = values
        return self._values[identity, key]

    def about_users(self) -> dict[str, np.ndarray] | None:
        """Return what is known of the users of the metric, in the order of :meth:`values`; None where nothing is."""
        metric = self.settings["metric"]
        files = self.files(self.confirmed())
        if not files or not self.task.is_mean_over_users(metric):
            return None
        self.users()
        found = self.task.about(*files[0])
        order = np.argsort(found["user"], kind="stable")
        rows = order[np.searchsorted(found["user"], self._users[metric], sorter=order)]
        return {name: column[rows] for name, column in found.items()}

    def top(self, identity: str) -> np.ndarray:
        """Return the ten best items of every user with more than ten candidates, ``Int32[users, 10]``."""
        users, items = self.task.top(*self.file(identity))
        if not np.array_equal(self._users.setdefault("lists of ten", users), users):
            raise CorruptArtifactError("the lists are of other users than those of other trials", where=identity)
        return items

    def per_user(self, arm: str, keep_ratio: float | None, metric: str | None = None) -> PerUser | None:
        """Return the metric of every user in every confirm run of an arm, or None where it has no run.

        A metric that is no mean over users (accuracy of all candidates, for one) is known only as one number a trial:
        it is given as two equal users, so that nothing varies over users and every interval comes from the seeds alone.
        """
        metric = metric or self.settings["metric"]
        trials = self.chosen(arm, keep_ratio)
        if trials.empty:
            return None
        if self.task.is_mean_over_users(metric):
            rows = [self.values(identity, metric) for identity in trials["id"]]
        else:
            column = f"test.{metric}"
            if column not in trials:
                raise RunDirectoryError(f"no trial has the metric {metric!r}", where=str(self.root))
            rows = [np.array([value, value]) for value in trials[column]]
        return PerUser(np.stack(rows), trials.reset_index(drop=True))

    def users(self) -> int:
        """Return how many users the test metric is a mean over; 0 before the first confirm trial.

        For a metric that is no mean over users, how many users have candidates.
        """
        frame = self.confirmed()
        frame = frame[frame["ranks_sha256"].notna()]
        if frame.empty:
            return 0
        metric, first = self.settings["metric"], frame["id"].iloc[0]
        if self.task.is_mean_over_users(metric):
            return len(self.values(first, metric))
        return len(np.unique(self.task.read(*self.file(first), ["user"])["user"]))

    def evidence(self) -> list[Evidence]:
        """Return what was measured on each teacher's layers, by the seed that the teacher was trained from."""
        known = self.trials[["teacher", "teacher_seed"]].dropna().drop_duplicates("teacher")
        seeds = dict(zip(known["teacher"], known["teacher_seed"].astype(int), strict=True))
        for history in (self.root / "teacher").glob("*/history.json"):  # of teachers that have no trial yet
            seeds.setdefault(history.parent.name, int(json.loads(history.read_text())["seed"]))
        found = []
        for folder in sorted((self.root / "evidence").glob("*")):
            if (folder / "evidence.json").is_file() and (folder / "scores.parquet").is_file():
                about = json.loads((folder / "evidence.json").read_text())
                scores = pd.read_parquet(folder / "scores.parquet")
                found.append(Evidence(folder.name, seeds.get(about.get("teacher"), 0), about, scores))
        return sorted(found, key=lambda one: (one.teacher_seed, one.id))

    def items(self) -> pd.DataFrame | None:
        """Return ``data/items.parquet``, or None where it is missing."""
        path = self.root / "data" / "items.parquet"
        return pd.read_parquet(path) if path.is_file() else None
