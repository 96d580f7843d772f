"""What a smaller model costs and what it saves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.names import metric_axis
from analysis.figures.style import (
    MUTED,
    arm_colour,
    arm_marker,
    arm_name,
    escape,
    finish,
    label_ends,
    metric_name,
    new,
    styled,
)

AXES = {
    "backbone_parameters": "parameters without embeddings",
    "parameters": "all parameters",
    "latency_ms": "latency of one request, median (ms)",
}


BARS = {
    "evidence_seconds": ("layer evidence (s)", 1.0),
    "training_seconds": ("training one student (s)", 1.0),
    "peak_memory_bytes": ("peak memory (MiB)", 2.0**20),
    "latency_ms": ("latency of one request (ms)", 1.0),
}
"""Costs drawn as bars: heading, and what one unit of it is."""


def pareto(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return the indices of points that no other point beats in both, by ascending cost.

    Args:
        cost: ``Float64[points]``, lower is better.
        quality: ``Float64[points]``, higher is better.
    """
    front, best = [], -np.inf
    for index in np.lexsort((-np.asarray(quality), np.asarray(cost))):
        if quality[index] > best:
            front.append(index)
            best = quality[index]
    return np.array(front, dtype=int)


@styled
def compression(points: pd.DataFrame, *, metric: str, margin: float, note: str, strong: tuple[str, ...] = ()) -> Figure:
    """Return quality kept against parameters and against measured latency, with the Pareto front.

    Args:
        points: ``arm``, ``names`` (of all arms that are these students), ``keep_ratio``, ``share``, ``low``, ``high``
            (of the teacher's quality, 1 = all; NaN ends have no bound) and the columns of :data:`AXES` that were
            measured.
        metric: The metric that quality means.
        margin: Relative margin of non-inferiority, drawn as a band under 100 %.
        note: The line under the figure.
        strong: Arms that are named and have their interval drawn, beside those of the front.
    """
    measured = [c for c in ("backbone_parameters", "latency_ms") if c in points and points[c].notna().any()]
    figure, axes = new(1, len(measured), 5.0 * len(measured), 4.4, sharey=True)
    shown = points[["share", "low", "high"]]  # ends are NaN where an interval has no bound
    low, high = np.nanmin(shown), np.nanmax(shown)
    pad = 0.05 * (high - low) + 1e-3
    for panel, column in zip(axes[0], measured, strict=True):
        panel.set_ylim(100 * (low - pad), 100 * (high + pad))
        panel.axhspan(100 * (1 - margin), 100, color="#0072B2", alpha=0.07, lw=0)
        panel.axhline(100, color="#222222", lw=0.9)
        known = points[points[column].notna()]
        _points(panel, known, column, strong)
        panel.set_xlabel(AXES[column])
        panel.xaxis.set_major_formatter(_short)
    smaller = metric_axis(metric) != metric_name(metric)
    kept = f"the teacher's test {metric_name(metric)} in % of the arm's"
    axes[0, 0].set_ylabel(kept if smaller else f"test {metric_name(metric)} in % of the teacher's")
    return finish(figure, note)


def _points(panel: Axes, known: pd.DataFrame, column: str, strong: tuple[str, ...]) -> None:
    x, y = known[column].to_numpy(dtype=float), known["share"].to_numpy(dtype=float)
    span = float(np.ptp(x)) or 1.0
    panel.set_xlim(max(0.0, x.min() - 0.15 * span), x.max() + 0.34 * span)
    front = pareto(x, y)
    panel.step(x[front], 100 * y[front], where="post", color="#555555", lw=1.1, ls="--", zorder=1)
    named = known["names"].map(lambda names: not set(strong).isdisjoint(names)) | known.index.isin(known.index[front])
    for row in known.to_dict("records"):
        panel.plot(
            row[column], 100 * row["share"], arm_marker(row["arm"]), color=arm_colour(row["arm"]), ms=4, alpha=0.5
        )
    for row in known[named].to_dict("records"):
        top = 100 * row["high"] if np.isfinite(row["high"]) else panel.get_ylim()[1]
        panel.plot([row[column]] * 2, [100 * row["low"], top], color=arm_colour(row["arm"]), lw=1.1)
        panel.plot(row[column], 100 * row["share"], arm_marker(row["arm"]), color=arm_colour(row["arm"]), ms=6)
    # Each arm by name once, where there is most room to the right; its colour and marker are the same elsewhere.
    known = known.assign(label=known["names"].map(_label))
    last = known[named].sort_values(column).drop_duplicates("arm", keep="last")
    for _, part in last.groupby(last["keep_ratio"].fillna(1.0)):
        at = part[column].max() + 0.05 * span
        label_ends(
            panel, list(part[column]), list(100 * part["share"]), list(part["arm"]), at=at, labels=list(part["label"])
        )


def _label(names: tuple[str, ...]) -> str:
    """Return the first name of one set of students, and how many it has beside; the caption has them all."""
    return f"{arm_name(names[0])} (+{len(names) - 1})" if len(names) > 1 else arm_name(names[0])


def _short(value: float, _position: int | None = None) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


@styled
def costs(frame: pd.DataFrame, *, note: str) -> Figure:
    """Return bars of what each arm cost: evidence, training, memory, and latency of the student.

    Args:
        frame: ``arm``, ``keep_ratio`` and any of ``evidence_seconds``, ``training_seconds``,
            ``peak_memory_bytes``, ``latency_ms``: means of confirm trials.
        note: The line under the figure.
    """
    measured = [c for c in BARS if c in frame and frame[c].notna().any()]
    frame = frame[frame[measured].notna().any(axis=1)]
    arms = list(dict.fromkeys(frame["arm"]))
    ratios = sorted(frame["keep_ratio"].dropna().unique())
    figure, axes = new(1, len(measured), 2.35 * len(measured) + 1.3, 0.3 * len(arms) + 1.5, sharey=True)
    height = 0.8 / max(len(ratios), 1)
    for panel, column in zip(axes[0], measured, strict=True):
        for index, arm in enumerate(arms):
            part = frame[frame["arm"] == arm]
            for offset, ratio in enumerate(ratios):
                value = part.loc[part["keep_ratio"] == ratio, column] / BARS[column][1]
                if len(value) and np.isfinite(value.iloc[0]):
                    panel.barh(index + (offset - (len(ratios) - 1) / 2) * height, value.iloc[0], height=0.9 * height,
                               color=arm_colour(arm), alpha=0.45 + 0.5 * (offset + 1) / len(ratios))  # fmt: skip
            whole = part.loc[part["keep_ratio"].isna(), column] / BARS[column][1]
            if len(whole) and np.isfinite(whole.iloc[0]):
                panel.barh(index, whole.iloc[0], height=0.8, color=arm_colour(arm))
        panel.set_xlabel(BARS[column][0])
        panel.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(arms)), [escape(arm_name(arm)) for arm in arms])
    axes[0, 0].invert_yaxis()
    if len(ratios) > 1:
        kept = ", ".join(f"{100 * r:g} %" for r in ratios)
        figure.suptitle(f"bars of one arm, from the top and lighter to darker: {kept} of layers kept", fontsize=7.5,
                        color="#444444", x=0.01, ha="left")  # fmt: skip
    return finish(figure, note)


@styled
def scaling(points: pd.DataFrame, fits: pd.DataFrame, *, note: str) -> Figure:
    """Return measured cost against depth with the fitted line, one panel a kind of cost.

    Args:
        points: ``cost``, ``depth`` (layers), ``value``.
        fits: ``cost``, ``label``, and the line's ``depth`` and ``value``.
        note: The line under the figure.
    """
    kinds = list(dict.fromkeys(points["cost"]))
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure, axes = new(rows, columns, 3.1 * columns, 2.4 * rows + 0.4)
    for index, panel in enumerate(axes.flat):
        if index >= len(kinds):
            panel.set_visible(False)
            continue
        part, fit = (frame[frame["cost"] == kinds[index]] for frame in (points, fits))
        panel.plot(part["depth"], part["value"], "o", color=MUTED, ms=3, alpha=0.6)
        panel.plot(fit["depth"], fit["value"], color="#0072B2")
        panel.set_title(kinds[index])
        if len(fit):
            panel.text(0.03, 0.97, escape(fit["label"].iloc[0]), transform=panel.transAxes, va="top", fontsize=7.5)
        panel.set_xlabel("layers")
        panel.set_xlim(left=0)
        panel.set_ylim(0, 1.25 * part["value"].max() or 1)
        panel.yaxis.set_major_formatter(_short)
    return finish(figure, note)
