"""How quality answers to temperature, alpha and keep-ratio."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.names import metric_axis, parameter_name, the
from analysis.figures.style import ACCENT, arm_colour, arm_name, escape, finish, new, styled


@styled
def sensitivity_curves(
    curves: pd.DataFrame, trials: pd.DataFrame, *, metric: str, note: str, log: tuple[str, ...] = ()
) -> Figure:
    """Return quality over each searched hyper-parameter: trials as points, means as lines.

    Args:
        curves: ``arm``, ``parameter``, ``x``, ``mean``, ``low``, ``high``; the first arm is all of them together and
            has a band, single arms are thin lines.
        trials: ``arm``, ``value`` (the metric) and one column a parameter.
        metric: The metric that was searched for.
        note: The line under the figure.
        log: Parameters drawn on a log scale.
    """
    parameters = list(dict.fromkeys(curves["parameter"]))
    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    figure, axes = new(rows, columns, 3.4 * columns, 2.9 * rows + 0.3, sharey=True)
    generator = np.random.default_rng(0)
    for index, panel in enumerate(axes.flat):
        if index >= len(parameters):
            panel.set_visible(False)
            continue
        name = parameters[index]
        known = trials[trials[name].notna()]
        levels = known[name].nunique()
        jitter = 0.0 if levels > 6 else 0.02 * (known[name].max() - known[name].min() or 1.0)
        for arm in dict.fromkeys(known["arm"]):
            part = known[known["arm"] == arm]
            x = part[name] + jitter * generator.uniform(-1, 1, len(part))
            panel.plot(x, part["value"], "o", ms=3, color=arm_colour(arm), alpha=0.45, mew=0)
        own = curves[curves["parameter"] == name]
        whole = own["arm"].iloc[0]
        for arm, thin in own[own["arm"] != whole].groupby("arm", sort=False):
            thin = thin.sort_values("x")
            panel.plot(thin["x"], thin["mean"], color=arm_colour(arm), lw=1.0, alpha=0.8)
        line = own[own["arm"] == whole].sort_values("x")
        style = {"marker": "o"} if levels <= 6 else {}
        panel.plot(line["x"], line["mean"], color="#111111", lw=2, **style)
        panel.fill_between(line["x"], line["low"], line["high"], color="#111111", alpha=0.15, lw=0)
        if levels > 6 and name in log:
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter("{x:g}" if known[name].max() / known[name].min() < 20 else "")
            panel.tick_params(axis="x", which="minor", labelsize=6.5)
        if name == "keep_ratio":
            panel.set_xticks(sorted(known[name].unique()))
        panel.set_xlabel(parameter_name(name))
    for row in range(rows):
        axes[row, 0].set_ylabel(f"validation {metric_axis(metric)}")
    return finish(figure, note)


@styled
def surface(
    grid: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    x: str,
    y: str,
    metric: str,
    note: str,
    log: tuple[str, ...] = (),
    direction: str = "max",
) -> Figure:
    """Return the response surface of two hyper-parameters, with the trials that it was fitted to.

    Args:
        grid: ``x``, ``y``, ``mean`` on a rectangular grid.
        trials: Columns named by ``x`` and ``y``.
        x, y: Names of the hyper-parameters.
        metric: The metric that was searched for.
        note: The line under the figure.
        log: Parameters drawn on a log scale.
        direction: ``min`` where the smallest value is the best point.
    """
    figure, axes = new(1, 1, 5.4, 4.2)
    panel = axes[0, 0]
    table = grid.pivot(index="y", columns="x", values="mean")
    values = table.to_numpy(dtype=float)
    mesh = panel.contourf(table.columns, table.index, values, levels=10, cmap="cividis")
    panel.plot(trials[x], trials[y], "o", ms=3.2, mfc="none", mec="white", mew=0.8)
    best = np.nanargmin(values) if direction == "min" else np.nanargmax(values)
    row, column = np.unravel_index(best, values.shape)
    panel.plot(table.columns[column], table.index[row], "*", ms=13, color="#D55E00", mec="white", clip_on=False)
    bar = figure.colorbar(mesh, ax=panel)
    bar.set_label(f"fitted validation {metric_axis(metric)}", fontsize=8)
    _name_axes(panel, x, y, log)
    return finish(figure, note)


def _name_axes(panel: Axes, x: str, y: str, log: tuple[str, ...]) -> None:
    if x in log:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.tick_params(axis="x", which="minor", labelsize=6.5)
    panel.set_xlabel(parameter_name(x))
    panel.set_ylabel(parameter_name(y))
    panel.grid(visible=False)


@styled
def searched_points(
    trials: pd.DataFrame, *, x: str, y: str, metric: str, note: str, log: tuple[str, ...] = ()
) -> Figure:
    """Return the distinct points of two hyper-parameters that were searched, coloured by the mean of their trials.

    For trials that no surface can be drawn through.

    Args:
        trials: ``value`` and columns named by ``x`` and ``y``.
        x, y: Names of the hyper-parameters.
        metric: The metric that was searched for.
        note: The line under the figure.
        log: Parameters drawn on a log scale.
    """
    figure, axes = new(1, 1, 5.4, 3.6)
    panel = axes[0, 0]
    points = trials.groupby([x, y])["value"].mean().reset_index()
    marks = panel.scatter(points[x], points[y], c=points["value"], cmap="cividis", s=42, edgecolors="#222222", lw=0.6)
    bar = figure.colorbar(marks, ax=panel)
    bar.set_label(f"mean validation {metric_axis(metric)}", fontsize=8)
    _name_axes(panel, x, y, log)
    return finish(figure, note)


@styled
def parameter_importance(frame: pd.DataFrame, *, note: str) -> Figure:
    """Return the importance of every hyper-parameter by each named method: bars of all arms together, dots of each.

    Args:
        frame: ``parameter``, ``method``, ``value`` (share, sums to 1 a method and arm), ``arm``; the first arm is all
            of them together.
        note: The line under the figure.
    """
    methods = list(dict.fromkeys(frame["method"]))
    together = frame[frame["arm"] == frame["arm"].iloc[0]]
    order = list(together.groupby("parameter")["value"].mean().sort_values(ascending=False).index)
    figure, axes = new(1, len(methods), 3.7 * len(methods) + 0.8, 0.5 * len(order) + 1.4, sharey=True, sharex=True)
    for panel, method in zip(axes[0], methods, strict=True):
        part = frame[frame["method"] == method]
        shares = together[together["method"] == method].set_index("parameter")["value"].reindex(order).fillna(0.0)
        panel.barh(range(len(order)), 100 * shares, color=ACCENT, alpha=0.35, height=0.66)
        for arm in list(dict.fromkeys(part["arm"]))[1:]:
            own = part[part["arm"] == arm].set_index("parameter")["value"].reindex(order)
            panel.plot(100 * own, range(len(order)), "o", ms=3.5, color=arm_colour(arm), alpha=0.85)
        for index, value in enumerate(shares):
            panel.text(105, index, f"{100 * value:.0f} %", fontsize=8, va="center")
        panel.set_xlim(0, 100)
        panel.set_title(escape(method), pad=8)
        panel.set_xlabel("share of explained variation (%)")
        panel.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(order)), [parameter_name(p) for p in order])
    axes[0, 0].invert_yaxis()
    return finish(figure, note)


@styled
def error_groups(groups: pd.DataFrame, *, against: str, note: str) -> Figure:
    """Return where each student loses: difference to one arm by group of users or items.

    Args:
        groups: ``family`` (what was grouped by), ``group``, ``metric``, ``arm``, ``difference``, ``low``, ``high``,
            ``users``.
        against: The arm that all are compared with.
        note: The line under the figure.
    """
    families = list(dict.fromkeys(groups["family"]))
    arms = list(dict.fromkeys(groups["arm"]))
    sizes = [groups.loc[groups["family"] == f, "group"].nunique() for f in families]
    heights = [size * (0.11 * len(arms) + 0.16) for size in sizes]
    columns = min(2, len(families))
    rows = -(-len(families) // columns)
    figure, axes = new(rows, columns, 5.0 * columns, max(heights) * rows + 0.75 * rows + 0.8)
    for index, panel in enumerate(axes.flat):
        if index >= len(families):
            panel.set_visible(False)
            continue
        part = groups[groups["family"] == families[index]]
        names = list(dict.fromkeys(part["group"]))
        for row, name in enumerate(names):
            for offset, arm in enumerate(arms):
                own = part[(part["group"] == name) & (part["arm"] == arm)]
                if own.empty:
                    continue
                y = row + 0.7 * ((offset + 0.5) / len(arms) - 0.5)
                panel.plot([own["low"].iloc[0], own["high"].iloc[0]], [y, y], color=arm_colour(arm), lw=1.3)
                panel.plot(own["difference"], [y], "o", ms=3.5, color=arm_colour(arm))
        counts = part.groupby("group")["users"].first()
        panel.axvline(0, color="#222222", lw=0.9)
        panel.set_yticks(range(len(names)), [f"{escape(str(n))}\n{int(counts[n]):,} users" for n in names])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(families[index])
        name = metric_axis(part["metric"].iloc[0])
        panel.set_xlabel(f"test {name}: difference to {escape(the(against))}")
        panel.grid(axis="y", visible=False)
        for edge in range(1, len(names)):
            panel.axhline(edge - 0.5, color="#dddddd", lw=0.7)
    handles = [
        axes[0, 0].plot([], [], "o-", ms=4, color=arm_colour(arm), label=escape(arm_name(arm)))[0] for arm in arms
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(arms), 6), fontsize=8)
    return finish(figure, note)
