"""Differences between arms, and how sure they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.names import parameter_name, the
from analysis.figures.style import ACCENT, arm_colour, arm_marker, arm_name, escape, finish, keep_name, new, styled


@styled
def forest(rows: pd.DataFrame, *, against: str, metric: str, margin: float | None, note: str) -> Figure:
    """Return differences to one arm with their intervals and verdicts, one panel a keep-ratio.

    Args:
        rows: ``arm``, ``keep_ratio``, ``difference``, ``low``, ``high``, ``verdict``; improvements in % of the
            other arm's metric, positive where the arm is better.
        against: The arm that all are compared with.
        metric: Name of the metric, for people.
        margin: Margin in %, drawn as a band around no difference; None draws none.
        note: The line under the figure.
    """
    ratios = sorted(rows["keep_ratio"].unique())
    arms = list(dict.fromkeys(rows["arm"]))
    figure, axes = new(1, len(ratios), 4.7 * len(ratios), 0.3 * len(arms) + 1.35, sharex=True, sharey=True)
    ends = [0.0, *rows["low"], *rows["high"], margin or 0.0, -(margin or 0.0)]
    left, right = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = 0.04 * (right - left) or 1.0
    for panel, ratio in zip(axes[0], ratios, strict=True):
        part = rows[rows["keep_ratio"] == ratio].set_index("arm")
        if margin:
            panel.axvspan(-margin, margin, color="#999999", alpha=0.16, lw=0)
        panel.axvline(0, color="#222222", lw=0.9)
        for index, arm in enumerate(arms):
            if arm not in part.index:
                continue
            row = part.loc[arm]
            panel.plot([row["low"], row["high"]], [index, index], color=arm_colour(arm), lw=2)
            panel.plot(row["difference"], index, arm_marker(arm), color=arm_colour(arm), ms=6)
            panel.text(1.02, index, escape(str(row["verdict"])), transform=panel.get_yaxis_transform(), fontsize=7.5,
                       va="center", color="#333333")  # fmt: skip
        panel.set_xlim(left - pad, right + pad)
        panel.set_title(keep_name(ratio))
        panel.set_xlabel(f"improvement on {escape(the(against))} in % of its {metric}")
        panel.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(arms)), [escape(arm_name(arm)) for arm in arms])
    axes[0, 0].set_ylim(len(arms) - 0.4, -0.6)
    return finish(figure, note)


@styled
def random_place(draws: pd.DataFrame, arms: pd.DataFrame, *, metric: str, note: str) -> Figure:
    """Return where each selector stands among students of randomly drawn layers.

    Args:
        draws: ``keep_ratio``, ``value``: one row a random draw (mean over its seeds).
        arms: ``arm``, ``keep_ratio``, ``value``, ``place`` (share of draws that it beats).
        metric: Name of the metric, for people.
        note: The line under the figure.
    """
    ratios = sorted(draws["keep_ratio"].unique())
    names = list(dict.fromkeys(arms["arm"]))
    figure, axes = new(1, len(ratios), 4.6 * len(ratios), 0.27 * len(names) + 1.5, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        values = draws.loc[draws["keep_ratio"] == ratio, "value"].to_numpy()
        panel.axvspan(values.min(), values.max(), color="#999999", alpha=0.16, lw=0)
        panel.plot(values, np.full(len(values), -1.0), "|", color="#555555", ms=11, mew=1.4)
        for index, arm in enumerate(names):
            row = arms[(arms["arm"] == arm) & (arms["keep_ratio"] == ratio)]
            if row.empty:
                continue
            panel.plot(row["value"], [index], arm_marker(arm), color=arm_colour(arm), ms=6)
            panel.text(
                1.02, index, row["place"].iloc[0], transform=panel.get_yaxis_transform(), fontsize=7.5, va="center"
            )
        panel.set_title(keep_name(ratio))
        panel.set_xlabel(f"test {metric}")
        panel.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(-1, len(names)), ["random draws", *[escape(arm_name(a)) for a in names]])
    axes[0, 0].set_ylim(len(names) - 0.4, -1.7)
    return finish(figure, note)


SOURCES = {"arm": "selector", "residual": "unexplained", "shared": "several of these together", "user": "user",
           "sample": "calibration sample", "draw": "draw of random layers"}  # fmt: skip


SHADES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#bbbbbb")
DARK = (0, 2, 5)
"""Colours of parts of a bar, and which of them need white numbers."""


def source_name(name: str) -> str:
    """Return a source of variance for people: ``arm x seed`` is ``selector × seed``."""
    return " × ".join(SOURCES.get(part, parameter_name(part)) for part in name.split(" x "))


@styled
def variance_split(parts: pd.DataFrame, *, note: str) -> Figure:
    """Return the share of the variance that each source explains, as bars with numbers.

    Args:
        parts: ``source``, ``share`` (0 to 1) and, where known, ``low`` and ``high``.
        note: The line under the figure.
    """
    parts = parts.sort_values("share")
    figure, axes = new(1, 1, 6.0, 0.34 * len(parts) + 1.1)
    panel = axes[0, 0]
    panel.barh(
        parts["source"].map(lambda name: escape(source_name(name))), 100 * parts["share"], color=ACCENT, alpha=0.85
    )
    if {"low", "high"} <= set(parts.columns):
        error = np.clip([parts["share"] - parts["low"], parts["high"] - parts["share"]], 0, None) * 100
        panel.errorbar(100 * parts["share"], range(len(parts)), xerr=np.nan_to_num(error), fmt="none", ecolor="#222222",
                       elinewidth=1, capsize=2)  # fmt: skip
    for index, share in enumerate(parts["share"]):
        panel.text(102, index, f"{100 * share:.1f} %", va="center", fontsize=8)
    panel.set_xlim(0, 100)
    panel.set_xlabel("share of the variance of the metric (%)")
    panel.grid(axis="y", visible=False)
    return finish(figure, note)


@styled
def variance_bars(parts: pd.DataFrame, *, note: str) -> Figure:
    """Return one bar a selector, cut into the shares of the variance of its scores.

    Args:
        parts: ``selector``, ``source``, ``share`` (0 to 1).
        note: The line under the figure.
    """
    table = parts.pivot(index="selector", columns="source", values="share")
    table = table.loc[list(dict.fromkeys(parts["selector"])), list(dict.fromkeys(parts["source"]))]
    figure, axes = new(1, 1, 7.4, 0.34 * len(table) + 1.7)
    panel, left = axes[0, 0], np.zeros(len(table))
    for index, source in enumerate(table.columns):
        shares = 100 * table[source].to_numpy()
        panel.barh(range(len(table)), shares, left=left, color=SHADES[index % len(SHADES)], height=0.7,
                   label=escape(source_name(source)), edgecolor="white", lw=0.6)  # fmt: skip
        for row, share in enumerate(shares):
            if share >= 6:
                panel.text(left[row] + share / 2, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5,
                           color="white" if index in DARK else "#222222")  # fmt: skip
        left += shares
    panel.set_yticks(range(len(table)), [escape(arm_name(name)) for name in table.index])
    panel.set_xlim(0, 100)
    panel.set_xlabel("share of the variance of the scores (%)")
    panel.grid(visible=False)
    panel.invert_yaxis()
    figure.legend(loc="outside upper left", ncols=min(4, len(table.columns)), fontsize=8)
    return finish(figure, note)


@styled
def critical_difference(
    ranks: dict[str, float], difference: float, *, blocks: int, p_value: float, note: str
) -> Figure:
    """Return a critical-difference diagram (Demsar 2006): mean ranks, bars join arms that are not told apart.

    Args:
        ranks: Mean rank an arm, 1 is best.
        difference: Mean ranks closer than this are not told apart.
        blocks: Data sets ranked over.
        p_value: Of Friedman's test that all arms are equal.
        note: The line under the figure.
    """
    order = sorted(ranks, key=lambda arm: (ranks[arm], arm))
    values = [ranks[arm] for arm in order]
    figure, axes = new(1, 1, 7.2, 0.26 * len(order) + 1.9)
    panel = axes[0, 0]
    panel.set_xlim(0.6, len(order) + 0.4)
    groups = _groups(values, difference)
    panel.set_ylim(len(order) + len(groups) * 0.6 + 1.2, -1.4)
    panel.plot([1, 1 + difference], [-0.9, -0.9], color="#222222", lw=2)
    panel.text(1, -1.05, f"critical difference {difference:.2f}", fontsize=8, va="bottom")
    for index, (arm, value) in enumerate(zip(order, values, strict=True)):
        y = index + 0.6
        panel.plot(value, y, arm_marker(arm), color=arm_colour(arm), ms=7)
        right = value < 0.75 * len(order)
        label = f"{escape(arm_name(arm))}  {value:.2f}"
        side = "left" if right else "right"
        panel.text(value + (0.15 if right else -0.15), y, label, va="center", fontsize=8.5, ha=side)
    for index, (first, last) in enumerate(groups):
        y = len(order) + 0.6 + 0.6 * index
        panel.plot([values[first] - 0.06, values[last] + 0.06], [y, y], color="#555555", lw=3.5, solid_capstyle="round")
    panel.set_xlabel(f"mean rank over {blocks} data sets (1 is best); bars join arms that the test cannot tell apart")
    panel.set_title(f"Friedman: p = {p_value:.3g}")
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.grid(axis="y", visible=False)
    return finish(figure, note)


def _groups(values: list[float], difference: float) -> list[tuple[int, int]]:
    groups: list[tuple[int, int]] = []
    for first, value in enumerate(values):
        last = max(i for i, other in enumerate(values) if other - value <= difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups
