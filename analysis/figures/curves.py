"""Lines over epochs, over search budget and over thresholds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.names import metric_axis
from analysis.figures.style import arm_colour, arm_name, escape, finish, keep_name, label_ends, new, styled


def _lines(panel: Axes, part: pd.DataFrame, x: str, strong: set[str]) -> None:
    """Draw one line an arm with its band, and its name at its end."""
    ends, reach, arms = [], [], []
    for arm in dict.fromkeys(part["arm"]):
        line = part[part["arm"] == arm].sort_values(x)
        bold = not strong or arm in strong
        colour = arm_colour(arm)
        panel.plot(line[x], line["mean"], color=colour, lw=1.9 if bold else 1.0, alpha=1 if bold else 0.75,
                   ls="-" if len(line) > 1 else "", marker="" if len(line) > 1 else "o")  # fmt: skip
        if bold and {"low", "high"} <= set(line.columns):
            panel.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.13, lw=0)
        ends.append(float(line["mean"].iloc[-1]))
        reach.append(float(line[x].iloc[-1]))
        arms.append(arm)
    low, high = float(part[x].min()), float(part[x].max())
    if low == high:
        low, high = low - 0.5, high + 0.5  # one epoch: points in the middle
    span = high - low
    panel.set_xlim(low - 0.04 * span, high + 0.02 * span)
    label_ends(panel, reach, ends, arms, at=high + 0.08 * span)


@styled
def training_curves(curves: pd.DataFrame, *, metric: str, note: str, strong: tuple[str, ...] = ()) -> Figure:
    """Return validation quality over epochs, one panel a keep-ratio.

    Args:
        curves: ``arm``, ``keep_ratio``, ``epoch``, ``mean``, ``low``, ``high`` (NaN ends draw no band).
        metric: The metric that ``mean`` is of.
        note: The line under the figure.
        strong: Arms drawn with their band; all when empty.
    """
    return _by_stratum(curves, "epoch", ("epoch", f"validation {metric_axis(metric)}"), strong, note)


@styled
def budget_curves(budget: pd.DataFrame, *, metric: str, note: str, strong: tuple[str, ...] = ()) -> Figure:
    """Return the expected best validation quality against the number of search trials, one panel a keep-ratio.

    Args:
        budget: ``arm``, ``keep_ratio``, ``budget`` (trials), ``mean``, ``low``, ``high``.
        metric: The metric that was searched for.
        note: The line under the figure.
        strong: Arms drawn with their band; all when empty.
    """
    words = ("search trials of the arm at this keep-ratio", f"expected best validation {metric_axis(metric)}")
    return _by_stratum(budget, "budget", words, strong, note)


def _by_stratum(lines: pd.DataFrame, x: str, words: tuple[str, str], strong: tuple[str, ...], note: str) -> Figure:
    ratios = sorted(lines["keep_ratio"].unique())
    figure, axes = new(1, len(ratios), max(5.4, 4.4 * len(ratios)), 3.6, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        _lines(panel, lines[lines["keep_ratio"] == ratio], x, set(strong))
        panel.set_title(keep_name(ratio))
        panel.set_xlabel(words[0])
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[0, 0].set_ylabel(words[1])
    return finish(figure, note)


@styled
def roc_curves(
    curves: pd.DataFrame, *, note: str, words: tuple[str, str] = ("share of other items ranked above", "share found")
) -> Figure:
    """Return ROC curves with bands over users, one panel a keep-ratio.

    Args:
        curves: ``arm``, ``keep_ratio``, ``false_positive``, ``mean``, ``low``, ``high``, ``auc``.
        note: The line under the figure.
        words: Of the two axes.
    """
    return _unit_squares(curves, ("false_positive", "auc", "area under the curve"), words, note, ascending=False)


@styled
def calibration_curves(curves: pd.DataFrame, *, note: str) -> Figure:
    """Return reliability diagrams with bands over users, one panel a keep-ratio.

    Args:
        curves: ``arm``, ``keep_ratio``, ``confidence``, ``mean`` (accuracy), ``low``, ``high``, ``error``.
        note: The line under the figure.
    """
    words = ("probability of the predicted class", "share predicted rightly")
    return _unit_squares(curves, ("confidence", "error", "calibration error"), words, note, ascending=True, marker="o")


def _unit_squares(
    curves: pd.DataFrame, columns: tuple[str, str, str], words: tuple[str, str], note: str, *, ascending: bool,
    marker: str = "",
) -> Figure:  # fmt: skip
    """Draw curves in the unit square with the diagonal, and a list of arms with one number each, best first."""
    x, number, name = columns
    ratios = sorted(curves["keep_ratio"].unique())
    figure, axes = new(1, len(ratios), 3.9 * len(ratios), 3.9, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        part = curves[curves["keep_ratio"] == ratio]
        panel.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        numbers = part.groupby("arm")[number].first().sort_values(ascending=ascending)
        for arm in numbers.index:
            line = part[part["arm"] == arm].sort_values(x)
            colour = arm_colour(arm)
            panel.plot(line[x], line["mean"], color=colour, lw=1.4, marker=marker, ms=3)
            panel.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
        # Curves bend away from the corner that the names stand in.
        at, side, top = (0.03, "left", 0.95) if ascending else (0.98, "right", 0.05 + 0.058 * len(numbers))
        panel.text(at, top, name, transform=panel.transAxes, ha=side, fontsize=7.5, color="#555555")
        for index, (arm, value) in enumerate(numbers.items()):
            panel.text(at, top - 0.058 * (index + 1), f"{escape(arm_name(arm))}  {value:.3f}", ha=side, fontsize=8,
                       transform=panel.transAxes, color=arm_colour(arm))  # fmt: skip
        panel.set_title(keep_name(ratio))
        panel.set_xlabel(words[0])
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.01)
    axes[0, 0].set_ylabel(words[1])
    return finish(figure, note)
