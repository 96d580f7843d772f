"""What each selector measured on the teachers' layers, and how far samples and teachers agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.run import Run
from analysis.stats import variance_components

COLUMNS = ["selector", "teacher_seed", "layer", "mean", "low", "high", "evidence"]


def layer_scores(run: Run, level: float) -> pd.DataFrame:
    """Return the scores that each selector ranks by, of every teacher, with t intervals over calibration samples.

    Columns :data:`COLUMNS`; scaled so that the largest mean of a selector and teacher is 1, the ends NaN for a single
    sample. ``evidence`` is the identity of the folder that the scores come from.
    """
    frames = []
    for found in run.evidence():
        scores = found.scores[found.scores["selector"].isin(found.about.get("selectors", {}))]
        if scores.empty:
            continue
        table = scores.groupby(["selector", "layer"])["score"].agg(["mean", "sem", "count"]).reset_index()
        half = stats.t.isf(level / 2, (table["count"] - 1).clip(lower=1)) * table["sem"]
        scale = table.groupby("selector")["mean"].transform(lambda m: m.abs().max() or 1.0)
        table["low"], table["high"] = (table["mean"] - half) / scale, (table["mean"] + half) / scale
        table["mean"] = table["mean"] / scale
        frames.append(table.assign(teacher_seed=found.teacher_seed, evidence=found.id)[COLUMNS])
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(frames, ignore_index=True)
    order = {arm: index for index, arm in enumerate(run.arms())}
    place = table["selector"].map(lambda name: (order.get(name, len(order)), name))
    return table.assign(place=place).sort_values(["place", "teacher_seed", "layer"])[COLUMNS].reset_index(drop=True)


def comments(run: Run, scores: pd.DataFrame) -> dict[str, str]:
    """Return a few words a selector: depth concentration, stability over samples, agreement between teachers."""
    words: dict[str, list[str]] = {}
    found = run.evidence()
    for name in dict.fromkeys(scores["selector"]):
        known = [one.about["selectors"][name] for one in found if name in one.about.get("selectors", {})]
        deep = [(k.get("depth_concentration") or {}).get("mean") for k in known]
        stable = [k.get("stability") for k in known]
        words[name] = [*_span("deep/shallow", deep), *_span("stability", stable)]
        agreement = teacher_agreement(scores[scores["selector"] == name])
        words[name] += [f"teachers agree {agreement:.2f}"] if agreement is not None else []
    return {name: ", ".join(parts) for name, parts in words.items()}


def _span(name: str, values: list[float | None]) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return []
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return [f"{name} {low}" if low == high else f"{name} {low} to {high}"]


def teacher_agreement(scores: pd.DataFrame) -> float | None:
    """Return the mean Kendall tau of one selector's scores between teachers; None with one teacher or one layer."""
    table = scores.pivot(index="layer", columns="teacher_seed", values="mean").dropna()
    if table.shape[1] < 2 or len(table) < 2:
        return None
    taus = [stats.kendalltau(table[a], table[b]).statistic for a, b in combinations(table.columns, 2)]
    return float(np.mean(taus)) if np.isfinite(taus).all() else None


def score_variance(run: Run) -> pd.DataFrame:
    """Return how the variance of each selector's scores splits over layer, calibration sample and teacher.

    The samples are the same for every teacher, so all three are crossed. What a sample or a teacher explains alone is
    an offset and does no harm; what it explains together with the layer can change which layers are chosen. Columns
    ``selector``, ``source``, ``share``, ``estimator``, ``evidence`` (the ids).
    """
    found = run.evidence()
    ids = [one.id for one in found]
    rows = []
    for name in dict.fromkeys(n for one in found for n in one.about.get("selectors", {})):
        wide = [
            one.scores[one.scores["selector"] == name].pivot(index="replicate", columns="layer", values="score")
            for one in found
        ]
        grids = [grid.to_numpy() for grid in wide if min(grid.shape) > 1 and np.isfinite(grid.to_numpy()).all()]
        if len(grids) < len(found) or len({grid.shape for grid in grids}) > 1:
            continue
        if len(grids) > 1:
            split = variance_components(np.stack(grids), names=("teacher", "sample", "layer"))
        else:
            split = variance_components(grids[0][:, None, :], names=("sample", "", "layer"))
        # With one teacher nothing else is left in the residual.
        words = {} if len(grids) > 1 else {"residual": "sample x layer"}
        rows += [
            {"selector": name, "source": words.get(source, source), "share": share, "estimator": split.estimator,
             "evidence": ids}
            for source, share in split.shares.items()
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["selector", "source", "share", "estimator", "evidence"])
