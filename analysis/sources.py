"""Which records the numbers of every table come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from analysis.response import ALL, once, searched
from analysis.run import Run

IDS = ("id", "trials", "evidence")
"""Columns of ids: a table that has one of them says itself where each row comes from."""

FITTED = ("sensitivity_curves", "sensitivity_surface", "interactions", "hyper_parameter_importance")
"""Tables made of the finished search trials that have every varied parameter; all arms together, of each computation
once."""

SEARCHED = (*FITTED, "variance_search")
"""Tables made of the finished search trials that have every varied parameter."""


def sources(run: Run, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the records behind the tables whose rows do not name them themselves.

    Columns ``table``, ``arm``, ``keep_ratio`` (empty where a table is not by arm or stratum), ``trials`` (the ids).
    """
    rows = []
    finished = searched(run)[0]
    tried = run.trials[(run.trials["phase"] == "search") & (run.trials["status"] != "failed")]
    behind = dict.fromkeys(SEARCHED, finished) | {"search_budget": tried, "trial_counts": run.trials}
    standing = run.standing()
    teacher = list(run.chosen("teacher", None)["id"])
    for name, table in tables.items():
        if any(column in table for column in IDS) or name in ("tests", "refused_records"):
            continue
        for arm, ratio in _groups(table):
            ids = _ids(behind.get(name, standing), arm, ratio, pooled=name in FITTED)
            ids += teacher if name == "groups_of_users" else []
            rows.append({"table": name, "arm": arm, "keep_ratio": ratio, "trials": ids})
    return pd.DataFrame(rows, columns=["table", "arm", "keep_ratio", "trials"])


def _groups(table: pd.DataFrame) -> Iterator[tuple[str | None, float | None]]:
    columns = [column for column in ("arm", "keep_ratio") if column in table]
    for row in table[columns].drop_duplicates().to_dict("records") if columns else [{}]:
        ratio = row.get("keep_ratio")
        yield row.get("arm"), None if ratio is None or np.isnan(ratio) else float(ratio)


def _ids(trials: pd.DataFrame, arm: str | None, ratio: float | None, *, pooled: bool) -> list[str]:
    if arm not in (None, ALL):
        trials = trials[trials["arm"] == arm]
    elif pooled:
        trials = once(trials)
    if ratio is not None and "keep_ratio" in trials:
        keep = trials["keep_ratio"].astype(float)
        trials = trials[keep.isna() | np.isclose(keep, ratio)]
    return list(trials["id"])
