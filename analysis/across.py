"""Several run directories side by side: data sets, families, teachers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.figures.effects import critical_difference
from analysis.figures.names import arm_name, keep_name, metric_name
from analysis.gallery import Picture, picture
from analysis.results import Results
from analysis.stats import friedman
from raydistill.errors import RunDirectoryError

FEW = 5
"""Data sets below which mean ranks are shown but called few."""


@dataclass(frozen=True)
class Across:
    """What several run directories show together.

    Attributes:
        sentences: In words.
        ranks: ``keep_ratio``, ``arm``, ``mean_rank``, ``data_sets``, ``p_value``, ``critical_difference``.
        scores: ``run``, ``keep_ratio``, ``arm``, ``mean``: what was ranked, never averaged over data sets.
        pictures: Critical-difference diagrams.
    """

    sentences: list[str]
    ranks: pd.DataFrame
    scores: pd.DataFrame
    pictures: list[Picture]


def across(results: list[Results]) -> Across:
    """Return ranks of the arms over run directories, with Friedman's test, for each keep-ratio that all have.

    Raises:
        RunDirectoryError: The run directories were planned with different metrics.
    """
    metrics = {r.run.settings["metric"] for r in results}
    if len(metrics) > 1:
        raise RunDirectoryError(
            f"these runs cannot be ranked together: they were planned with different metrics, {sorted(metrics)}",
            where=", ".join(str(r.run.root) for r in results),
        )
    names = _names(results)
    scores = pd.concat(
        [r.main[["keep_ratio", "arm", "kind", "mean"]].assign(run=n) for n, r in zip(names, results, strict=True)]
    )
    students = scores[~scores["arm"].isin(["teacher", "popularity"])]
    sentences, rows, pictures = [], [], []
    for ratio in sorted(students["keep_ratio"].unique()):
        table = (
            students[students["keep_ratio"] == ratio].pivot(index="run", columns="arm", values="mean").dropna(axis=1)
        )
        if len(table) < len(results) or table.shape[1] < 3:
            sentences.append(f"{keep_name(ratio)}: not every run has three common arms there, so nothing is ranked.")
            continue
        found = friedman(table.to_numpy(), direction=results[0].run.direction, level=results[0].run.settings["level"])
        ranks = dict(zip(table.columns, found.mean_ranks, strict=True))
        rows += [
            {"keep_ratio": ratio, "arm": arm, "mean_rank": rank, "data_sets": len(table), "p_value": found.p_value,
             "critical_difference": found.critical_difference}
            for arm, rank in sorted(ranks.items(), key=lambda pair: pair[1])
        ]  # fmt: skip
        sentences.append(_sentence(ratio, ranks, found, len(table)))
        metric = metric_name(results[0].run.settings["metric"])
        under = f"data: {', '.join(names)} · test {metric} · Friedman and Nemenyi, no interval"
        figure = critical_difference(
            ranks, found.critical_difference, blocks=len(table), p_value=found.p_value, note=under
        )
        file_name = f"critical_difference_{100 * ratio:g}".replace(".", "_")
        pictures.append(picture("critical_difference", figure, "ranks", file_name=file_name, kept=keep_name(ratio)))
    return Across(sentences, pd.DataFrame(rows), scores, pictures)


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


def _sentence(ratio: float, ranks: dict[str, float], found, blocks: int) -> str:
    best = min(ranks, key=ranks.get)
    level = found.level
    start = f"{keep_name(ratio)}, {blocks} data sets: {arm_name(best)} has the best mean rank ({ranks[best]:.2f}"
    start += f" of {len(ranks)})"
    close = sum(rank - ranks[best] < found.critical_difference for rank in ranks.values()) - 1
    if found.p_value > level:
        end = f", but the ranks do not differ more than chance would make them (Friedman, p = {found.p_value:.2g})"
    else:
        end = f"; {close} of the other {len(ranks) - 1} arms cannot be told apart from it (p = {found.p_value:.2g})"
    few = f". {blocks} data sets are few for a claim over data sets" if blocks < FEW else ""
    return f"{start}{end}{few}."
