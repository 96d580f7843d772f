"""Lines over epochs, over search budget and over thresholds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import arm_colour, arm_name, escape, finish, keep_name, label_ends, metric_name, new, styled


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
    span = float(part[x].max() - part[x].min()) or 1.0
    panel.set_xlim(part[x].min() - 0.04 * span, part[x].max() + 0.02 * span)
    label_ends(panel, reach, ends, arms, at=part[x].max() + 0.08 * span)


@styled
def training_curves(curves: pd.DataFrame, *, metric: str, note: str, strong: tuple[str, ...] = ()) -> Figure:
    """Return validation quality over epochs, one panel a keep-ratio.

    Args:
        curves: ``arm``, ``keep_ratio``, ``epoch``, ``mean``, ``low``, ``high``.
        metric: The metric that ``mean`` is of.
        note: The line under the figure.
        strong: Arms drawn with their band; all when empty.
    """
    return _by_stratum(curves, "epoch", ("epoch", f"validation {metric_name(metric)}"), strong, note)


@styled
def budget_curves(budget: pd.DataFrame, *, metric: str, note: str, strong: tuple[str, ...] = ()) -> Figure:
    """Return the expected best validation quality against the number of search trials, one panel a keep-ratio.

    Args:
        budget: ``arm``, ``keep_ratio``, ``budget`` (trials), ``mean``, ``low``, ``high``.
        metric: The metric that was searched for.
        note: The line under the figure.
        strong: Arms drawn with their band; all when empty.
    """
    words = ("search trials of the arm at this keep-ratio", f"expected best validation {metric_name(metric)}")
    return _by_stratum(budget, "budget", words, strong, note)


def _by_stratum(lines: pd.DataFrame, x: str, words: tuple[str, str], strong: tuple[str, ...], note: str) -> Figure:
    ratios = sorted(lines["keep_ratio"].unique())
    figure, axes = new(1, len(ratios), max(5.4, 4.4 * len(ratios)), 3.6, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        _lines(panel, lines[lines["keep_ratio"] == ratio], x, set(strong))
        panel.set_title(keep_name(ratio))
        panel.set_xlabel(words[0])
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel(words[1])
    return finish(figure, note)


@styled
def roc_curves(curves: pd.DataFrame, *, note: str) -> Figure:
    """Return ROC curves with bands, one panel a keep-ratio; the band is over seeds.

    Args:
        curves: ``arm``, ``keep_ratio``, ``false_positive``, ``mean``, ``low``, ``high``, ``auc``.
        note: The line under the figure.
    """
    ratios = sorted(curves["keep_ratio"].unique())
    figure, axes = new(1, len(ratios), 3.9 * len(ratios), 3.9, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        part = curves[curves["keep_ratio"] == ratio]
        panel.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        order = part.groupby("arm")["auc"].first().sort_values(ascending=False).index
        for arm in order:
            line = part[part["arm"] == arm].sort_values("false_positive")
            panel.plot(line["false_positive"], line["mean"], color=arm_colour(arm), lw=1.4)
            panel.fill_between(
                line["false_positive"], line["low"], line["high"], color=arm_colour(arm), alpha=0.15, lw=0
            )
        for index, arm in enumerate(order):
            auc = part.loc[part["arm"] == arm, "auc"].iloc[0]
            from_top = 0.05 + 0.058 * (len(order) - 1 - index)
            panel.text(0.98, from_top, f"{escape(arm_name(arm))}  {auc:.3f}", transform=panel.transAxes, ha="right",
                       fontsize=8, color=arm_colour(arm))  # fmt: skip
        panel.text(0.98, 0.05 + 0.058 * len(order), "area under the curve", transform=panel.transAxes, ha="right",
                   fontsize=7.5, color="#555555")  # fmt: skip
        panel.set_title(keep_name(ratio))
        panel.set_xlabel("share of other items ranked above")
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.01)
    axes[0, 0].set_ylabel("share of targets found")
    return finish(figure, note)
