"""The one style of all figures: names, colours, labels that do not overlap, and the line under each figure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.names import arm_name, keep_name, metric_name

__all__ = [
    "ACCENT",
    "BAD",
    "MUTED",
    "arm_colour",
    "arm_marker",
    "arm_name",
    "escape",
    "finish",
    "keep_name",
    "label_ends",
    "metric_name",
    "new",
    "spread",
    "styled",
]

RC = matplotlib.rc_params_from_file(str(Path(__file__).with_name("raydistill.mplstyle")), use_default_template=False)

# Selectors with evidence have Okabe and Ito's colours, told apart by readers with any common colour blindness;
# those without are black and grey, and controls have Tol's muted colours.
COLOURS = {
    "fisher": "#0072B2",
    "attention": "#E69F00",
    "gradient": "#009E73",
    "hybrid": "#D55E00",
    "block_influence": "#CC79A7",
    "taylor": "#56B4E9",
    "dynamic": "#B8860B",
    "uniform": "#000000",
    "head_tail": "#6b6b6b",
    "tail": "#8f8f8f",
    "random": "#a9a9a9",
    "teacher": "#882255",
    "popularity": "#8c6d46",
    "scratch": "#999933",
    "scratch_kd": "#332288",
    "no_kd": "#44AA99",
}
MARKERS = {
    "fisher": "o",
    "attention": "s",
    "gradient": "^",
    "hybrid": "D",
    "block_influence": "v",
    "taylor": "P",
    "uniform": "X",
    "teacher": "*",
    "random": "o",
}
ACCENT, MUTED, BAD = "#0072B2", "#8f8f8f", "#D55E00"

TEXT_GAP = 9.5
"""Points between the baselines of two labels of 8 point type."""


def arm_colour(arm: str) -> str:
    """Return the one colour that an arm has in every figure."""
    return COLOURS.get(arm, MUTED)


def arm_marker(arm: str) -> str:
    """Return the one marker that an arm has in every figure."""
    return MARKERS.get(arm, "d")


def escape(text: str) -> str:
    """Return text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Return the figure function, run under the one style."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(RC):
            return function(*args, **kwargs)

    return wrapped


def new(rows: int, columns: int, width: float, height: float, **kwargs) -> tuple[Figure, np.ndarray]:
    """Return a figure (inches) and its axes as a 2-d array."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, axes


def finish(figure: Figure, note: str) -> Figure:
    """Return the figure with the line under it that says data, seeds and interval."""
    words, lines = escape(note).split(" "), [""]
    limit = int(figure.get_figwidth() * 17.5)
    for word in words:
        if len(lines[-1]) + len(word) + 1 > limit:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    figure.supxlabel("\n".join(lines), fontsize=7, color="#555555", x=0.01, ha="left")
    return figure


def spread(values: Sequence[float], gap: float) -> np.ndarray:
    """Return positions at least ``gap`` apart, in the same order, nearest to ``values`` in least squares.

    With the i-th gap taken off, the problem is isotonic regression, which pooling neighbours solves.
    """
    order = np.argsort(values, kind="stable")
    wanted = np.asarray(values, dtype=float)[order] - gap * np.arange(len(order))
    pools: list[list[float]] = []
    for value in wanted:
        pools.append([value, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            other, n = pools.pop()
            pools.append([(mean * count + other * n) / (count + n), count + n])
    flat = np.repeat([p[0] for p in pools], [int(p[1]) for p in pools]) + gap * np.arange(len(order))
    result = np.empty(len(order))
    result[order] = flat
    return result


def label_ends(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    arms: Sequence[str],
    *,
    at: float | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Write the names of arms right of their points, moved apart where they would overlap.

    Args:
        axes: Where; its limits must be final.
        xs, ys: The points that the names belong to.
        arms: The arms, for name and colour.
        at: Where the names begin, in data units; by default right of the largest ``xs``.
        labels: What is written; by default the names of the arms.
    """
    if not len(ys):
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    rows = axes.get_gridspec().nrows
    height = 0.74 * axes.figure.get_figheight() / rows * 72
    placed = spread(ys, TEXT_GAP / height * (high - low))
    placed -= max(placed.max() - high, 0.0)
    at = max(xs) + 0.04 * (right - left) if at is None else at
    labels = [arm_name(arm) for arm in arms] if labels is None else labels
    for x, y, place, arm, label in zip(xs, ys, placed, arms, labels, strict=True):
        axes.annotate(
            escape(label),
            xy=(x, y),
            xytext=(at, place),
            va="center",
            fontsize=8,
            color=arm_colour(arm),
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            arrowprops={
                "arrowstyle": "-",
                "color": arm_colour(arm),
                "lw": 0.6,
                "shrinkA": 0,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )
