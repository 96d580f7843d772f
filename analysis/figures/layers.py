"""Which layers matter, and which were kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import arm_colour, arm_name, escape, finish, keep_name, new, styled


@styled
def layer_importance(scores: pd.DataFrame, *, note: str, comments: dict[str, str] | None = None) -> Figure:
    """Return one panel a selector: its score of every layer, with an interval over calibration samples.

    Args:
        scores: ``selector``, ``layer``, ``mean``, ``low``, ``high`` (NaN ends draw no error bar); scaled so that panels
            compare. Several teachers (``teacher_seed``) stand side by side, from light to dark.
        note: The line under the figure.
        comments: A few words a selector, written in its panel.
    """
    selectors = list(dict.fromkeys(scores["selector"]))
    teachers = sorted(scores["teacher_seed"].unique()) if "teacher_seed" in scores else [None]
    columns = min(4 if len(teachers) == 1 else 3, len(selectors))
    rows = -(-len(selectors) // columns)
    width = 2.25 if len(teachers) == 1 else 3.0
    figure, axes = new(rows, columns, width * columns + 0.6, 2.0 * rows + 0.7, sharex=True, sharey=True)
    headroom = 0.0
    for index, panel in enumerate(axes.flat):
        if index >= len(selectors):
            panel.set_visible(False)
            continue
        name = selectors[index]
        part = scores[scores["selector"] == name]
        for place, teacher in enumerate(teachers):
            own = part if teacher is None else part[part["teacher_seed"] == teacher]
            _bars(panel, own.sort_values("layer"), arm_colour(name), place, len(teachers))
        panel.set_title(escape(arm_name(name)))
        panel.grid(axis="x", visible=False)
        if part["layer"].nunique() <= 16:
            panel.set_xticks(sorted(part["layer"].unique()))
        panel.axhline(0, color="#555555", lw=0.8)
        shown = part[["low", "mean", "high"]]  # ends are NaN where there is no interval
        low, high = min(0.0, np.nanmin(shown)), np.nanmax(shown)
        headroom = max(headroom, high + 0.16 * (high - low))
        if comments and comments.get(name):
            words = escape(comments[name]).replace(", teachers", "\nteachers")
            panel.text(0.02, 0.98, words, transform=panel.transAxes, fontsize=7, va="top", color="#333333")
    axes[0, 0].set_ylim(top=headroom if len(teachers) == 1 else 1.1 * headroom)
    for panel in axes[:, 0]:
        panel.set_ylabel("score (largest = 1)")
    for column in range(columns):
        lowest = [axes[row, column] for row in range(rows) if axes[row, column].get_visible()][-1]
        lowest.set_xlabel("teacher layer (0 is first)")
        lowest.tick_params(labelbottom=True)
    if len(teachers) > 1:
        order = ", ".join(str(int(teacher)) for teacher in teachers)
        figure.suptitle(f"bars of one layer, lighter to darker: teachers of seed {order}", fontsize=7.5,
                        color="#444444", x=0.01, ha="left")  # fmt: skip
    return finish(figure, note)


def _bars(panel: Axes, part: pd.DataFrame, colour: str, place: int, places: int) -> None:
    width = 0.76 / places
    x = part["layer"] + (place - (places - 1) / 2) * width
    error = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
    panel.bar(x, part["mean"], width=0.94 * width, color=colour, alpha=0.85 if places == 1 else (place + 1) / places)
    panel.errorbar(x, part["mean"], yerr=error, fmt="none", ecolor="#222222", elinewidth=1, capsize=2 if places == 1
                   else 0)  # fmt: skip


@styled
def layer_selection(kept: pd.DataFrame, *, note: str) -> Figure:
    """Return a heat map of arms by teacher layers, one panel a keep-ratio.

    Args:
        kept: ``arm``, ``keep_ratio``, ``layer``, ``share``: the share of confirmed students that keep the layer.
        note: The line under the figure.
    """
    arms = list(dict.fromkeys(kept["arm"]))
    ratios = sorted(kept["keep_ratio"].unique())
    n_layers = int(kept["layer"].max()) + 1
    width = min(3.4, 0.9 + 0.28 * n_layers)
    figure, axes = new(1, len(ratios), 1.6 + width * len(ratios), 0.27 * len(arms) + 1.4, sharey=True)
    for panel, ratio in zip(axes[0], ratios, strict=True):
        part = kept[kept["keep_ratio"] == ratio]
        grid = part.pivot(index="arm", columns="layer", values="share").reindex(arms).reindex(columns=range(n_layers))
        values = grid.to_numpy(dtype=float)
        panel.imshow(values, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
        for row, column in zip(*np.nonzero(values > 0), strict=True):
            value = values[row, column]
            text = "●" if value > 0.995 else f"{100 * value:.0f}"
            panel.text(
                column, row, text, ha="center", va="center", fontsize=6, color="white" if value > 0.7 else "#222222"
            )
        panel.set_title(keep_name(ratio))
        panel.set_xlabel("teacher layer (0 is first)")
        panel.set_xticks(range(0, n_layers, 1 if n_layers <= 12 else 4))
        panel.set_yticks(range(len(arms)), [escape(arm_name(arm)) for arm in arms])
        panel.grid(visible=False)
        panel.set_xticks(np.arange(-0.5, n_layers), minor=True)
        panel.set_yticks(np.arange(-0.5, len(arms)), minor=True)
        panel.grid(which="minor", color="white", lw=1.2)
        panel.tick_params(which="both", length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    return finish(figure, note)
