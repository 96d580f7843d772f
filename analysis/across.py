"""Several run directories side by side: data sets, families, teachers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.figures.effects import critical_difference
from analysis.figures.names import arm_name, keep_name, metric_name
from analysis.gallery import Picture, picture
from analysis.results import Results
from analysis.run import Run
from analysis.stats import FriedmanResult, Ledger, friedman
from analysis.students import cheapest_first
from raydistill.errors import RunDirectoryError

FEW = 5
"""Data sets below which mean ranks are shown but called few."""


@dataclass(frozen=True)
class Across:
    """What several run directories show together.

    Attributes:
        sentences: In words.
        ranks: ``keep_ratio``, ``arm``, ``mean_rank``, ``data_sets``, ``runs``, ``p_value``, ``p_adjusted``,
            ``critical_difference``; the last three NaN with a single data set.
        scores: ``run``, ``data`` (the hash), ``keep_ratio``, ``arm``, ``mean``: what was ranked, never averaged.
        tests: Every test, with the columns of the ledger: Friedman's, and Nemenyi's of each pair of arms.
        pictures: Critical-difference diagrams.
    """

    sentences: list[str]
    ranks: pd.DataFrame
    scores: pd.DataFrame
    tests: pd.DataFrame
    pictures: list[Picture]


@dataclass(frozen=True)
class _Ranked:
    """Ranks of the arms at one keep-ratio; ``found`` is None with a single data set, which no test can use."""

    ranks: dict[str, float]
    data_sets: int
    runs: int
    found: FriedmanResult | None


def across(results: list[Results]) -> Across:
    """Return ranks of the arms over data sets, with Friedman's test, for each keep-ratio that all runs have.

    Runs on the same data say the same thing of it: their ranks are averaged, and it counts as one data set.

    Raises:
        RunDirectoryError: The run directories were planned with different metrics.
    """
    metrics = {r.run.settings["metric"] for r in results}
    if len(metrics) > 1:
        raise RunDirectoryError(
            f"these runs cannot be ranked together: they were planned with different metrics, {sorted(metrics)}",
            where=", ".join(str(r.run.root) for r in results),
        )
    names, first = _names(results), results[0].run
    scores = pd.concat(
        [
            r.main[["keep_ratio", "arm", "kind", "mean"]].assign(run=name, data=_data(r.run))
            for name, r in zip(names, results, strict=True)
        ]
    )
    students = scores[~scores["arm"].isin(["teacher", "popularity"])]
    ranked = {
        ratio: _ranked(students[students["keep_ratio"] == ratio], len(results), first)
        for ratio in sorted(students["keep_ratio"].unique())
    }
    tests, adjusted = _tests(ranked)
    sentences = [_sentence(ratio, one, adjusted.get(ratio)) for ratio, one in ranked.items()]
    rows = [row for ratio, one in ranked.items() if one for row in _rows(ratio, one, adjusted.get(ratio))]
    pictures = [_picture(ratio, ranked[ratio], p_value, names, first) for ratio, p_value in adjusted.items()]
    return Across(sentences, pd.DataFrame(rows), scores, tests, pictures)


def _data(run: Run) -> str:
    """Return what tells data sets apart; runs of unknown data count as one."""
    return run.signature.get("data", {}).get("hash") or run.data_name


def _ranked(students: pd.DataFrame, n_runs: int, run: Run) -> _Ranked | None:
    """Return the ranks of the arms that every run has; None where not every run has three in common."""
    table = students.pivot(index=["data", "run"], columns="arm", values="mean").dropna(axis=1)
    if len(table) < n_runs or table.shape[1] < 3:
        return None
    ranks = table.rank(axis=1, ascending=run.direction == "min").groupby(level="data").mean()
    if len(ranks) == 1:
        return _Ranked(dict(ranks.iloc[0]), 1, n_runs, None)
    # The ranks of a data set with one run stay as they are; mean ranks over several runs are ranked again.
    found = friedman(ranks.to_numpy(), direction="min", level=run.settings["level"])
    return _Ranked(dict(zip(ranks.columns, found.mean_ranks, strict=True)), len(ranks), n_runs, found)


def _tests(ranked: dict[float, _Ranked | None]) -> tuple[pd.DataFrame, dict[float, float]]:
    """Return every test as a table, and Friedman's p-values by keep-ratio, corrected over the keep-ratios."""
    ledger, found = Ledger(), {ratio: one.found for ratio, one in ranked.items() if one and one.found}
    names = {keep_name(ratio): float(result.p_value) for ratio, result in found.items()}
    adjusted = ledger.enter("all arms are equal over data sets (Friedman)", names, planned=False)
    rows = ledger.rows()
    for ratio, result in found.items():
        family = f"pairs of arms over data sets (Nemenyi), {keep_name(ratio)}"
        pairs = combinations(enumerate(ranked[ratio].ranks), 2)
        # Nemenyi's p-values are those of all pairs together: there is no raw one.
        rows += [
            {"family": family, "test": f"{a} against {b}", "planned": False, "p_value": np.nan,
             "adjusted": float(result.pairwise_p[i, j]), "correction": "Nemenyi"}
            for (i, a), (j, b) in pairs
        ]  # fmt: skip
    return pd.DataFrame(rows), {ratio: adjusted[keep_name(ratio)] for ratio in found}


def _rows(ratio: float, one: _Ranked, p_adjusted: float | None) -> list[dict]:
    known = {"p_value": np.nan, "p_adjusted": np.nan, "critical_difference": np.nan}
    if one.found:
        known = {"p_value": one.found.p_value, "p_adjusted": p_adjusted,
                 "critical_difference": one.found.critical_difference}  # fmt: skip
    return [
        {"keep_ratio": ratio, "arm": arm, "mean_rank": rank, "data_sets": one.data_sets, "runs": one.runs, **known}
        for arm, rank in sorted(one.ranks.items(), key=lambda pair: pair[1])
    ]


def _picture(ratio: float, one: _Ranked, p_adjusted: float, names: list[str], run: Run) -> Picture:
    runs = f" · {one.runs} runs of {one.data_sets} data sets" if one.runs > one.data_sets else ""
    metric = metric_name(run.settings["metric"])
    figure = critical_difference(
        one.ranks,
        one.found.critical_difference,
        blocks=one.data_sets,
        p_value=p_adjusted,
        note=f"data: {', '.join(names)}{runs} · test {metric} · Friedman and Nemenyi, no interval",
    )
    file_name = f"critical_difference_{100 * ratio:g}".replace(".", "_")
    return picture("critical_difference", figure, "ranks", file_name=file_name, kept=keep_name(ratio))


def _names(results: list[Results]) -> list[str]:
    """Return a name for each run: its data, with family or sweep where that is not enough to tell them apart."""
    for name in (
        lambda run: run.data_name,
        lambda run: f"{run.data_name}, {run.signature.get('teacher', {}).get('family', run.name)}",
        lambda run: f"{run.name}, {run.data_name}",
    ):
        names = [name(r.run) for r in results]
        if len(set(names)) == len(names):
            return names
    return [str(r.run.root) for r in results]


def _sentence(ratio: float, one: _Ranked | None, p_adjusted: float | None) -> str:
    if one is None:
        return f"{keep_name(ratio)}: not every run has three common arms there, so nothing is ranked."
    ranks, n = one.ranks, one.data_sets
    first = min(ranks.values())
    best = cheapest_first(arm for arm, rank in ranks.items() if rank == first)
    runs = f" ({one.runs} runs)" if one.runs > n else ""
    start = f"{keep_name(ratio)}, {n} data set{'' if n == 1 else 's'}{runs}: "
    names = ", ".join(arm_name(arm) for arm in best)
    have = "share" if len(best) > 1 else "has"
    start += f"{names} {have} the best mean rank ({first:.2f} of {len(ranks)})"
    if one.found is None:
        return f"{start}. All runs are of the same data, so nothing is claimed over data sets."
    p_value = f"p = {p_adjusted:.2g}"
    close = sum(rank - first < one.found.critical_difference for rank in ranks.values()) - len(best)
    if p_adjusted > one.found.level:
        end = f", but the ranks do not differ more than chance would make them (Friedman, {p_value})"
    else:
        others = f"{close} of the other {len(ranks) - len(best)} arms cannot be told apart from"
        end = f"; {others} {'them' if len(best) > 1 else 'it'} ({p_value})"
    few = f". {n} data sets are few for a claim over data sets" if n < FEW else ""
    return f"{start}{end}{few}."
