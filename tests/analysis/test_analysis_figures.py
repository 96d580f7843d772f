"""Figures are functions of frames; their helpers against brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy import optimize

from analysis.figures import compression, curves, effects, layers, sensitivity
from analysis.figures.style import arm_colour, spread

NOTE = "data: simulated · 5 seeds · 95 % intervals"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.01, 2))
def test_labels_are_moved_apart_as_little_as_possible(values, gap):
    placed = spread(values, gap)
    order = np.argsort(values, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()
    wanted = np.asarray(values)[order]
    if len(values) > 1:
        best = optimize.minimize(
            lambda x: ((x - wanted) ** 2).sum(),
            wanted[0] + gap * np.arange(len(values)) * 1.0,
            jac=lambda x: 2 * (x - wanted),
            constraints={
                "type": "ineq",
                "fun": lambda x: np.diff(x) - gap,
                "jac": lambda x: np.diff(np.eye(len(x)), axis=0),
            },
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-12},
        )
        assert ((placed[order] - wanted) ** 2).sum() <= best.fun + 1e-5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    cost, quality = (np.array(axis, dtype=float) for axis in zip(*points, strict=True))
    front = {(cost[i], quality[i]) for i in compression.pareto(cost, quality)}
    beaten = {
        (c, q)
        for c, q in zip(cost, quality, strict=True)
        if any((d <= c and r >= q) and (d < c or r > q) for d, r in zip(cost, quality, strict=True))
    }
    assert front == set(zip(cost, quality, strict=True)) - beaten


def rows(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


EFFECTS = rows(
    arm=["fisher", "a_$x$"], keep_ratio=[0.5, 0.5], difference=[3.0, -1.0], low=[1.0, -4.0], high=[5.0, 2.0],
    verdict=["better", "undecided"],
)  # fmt: skip
LINES = rows(arm=["fisher"] * 2 + ["tail"], keep_ratio=0.5, epoch=[1, 2, 1], mean=[0.1, 0.2, 0.1], low=0.05, high=0.3)
CASES = {
    "forest": lambda: effects.forest(EFFECTS, against="uniform", metric="NDCG@10", margin=2.0, note=NOTE),
    "forest of one arm without a difference": lambda: effects.forest(
        EFFECTS.head(1).assign(difference=0.0, low=0.0, high=0.0),
        against="teacher",
        metric="MRR",
        margin=None,
        note=NOTE,
    ),
    "random_place": lambda: effects.random_place(
        rows(keep_ratio=[0.5] * 2, value=[0.1, 0.2]),
        rows(arm=["fisher"], keep_ratio=[0.5], value=[0.3], place=["beats 2 of 2"]),
        metric="NDCG@10",
        note=NOTE,
    ),
    "variance": lambda: effects.variance_split(rows(source=["user", "arm x seed"], share=[0.9, 0.1]), note=NOTE),
    "variance of scores": lambda: effects.variance_bars(
        rows(selector=["fisher"] * 2 + ["taylor"], source=["layer", "sample x layer", "layer"], share=[0.9, 0.1, 1.0]),
        note=NOTE,
    ),
    "critical": lambda: effects.critical_difference(
        {"a": 1.2, "b": 1.8, "c": 3.0}, 0.7, blocks=6, p_value=0.01, note=NOTE
    ),
    "importance": lambda: layers.layer_importance(
        rows(selector=["fisher"] * 2, layer=[0, 1], mean=[0.5, 1.0], low=[0.4, np.nan], high=[0.6, np.nan]), note=NOTE
    ),
    "importance of two teachers": lambda: layers.layer_importance(
        rows(
            selector=["fisher"] * 4, teacher_seed=[0, 0, 1, 1], layer=[0, 1] * 2, mean=[0.5, 1.0] * 2, low=0.4, high=1.1
        ),
        comments={"fisher": "stability 0.80, teachers agree 0.90"},
        note=NOTE,
    ),
    "importance of one sample": lambda: layers.layer_importance(
        rows(selector=["fisher"] * 2, layer=[0, 1], mean=[0.5, 1.0], low=np.nan, high=np.nan), note=NOTE
    ),
    "selection": lambda: layers.layer_selection(
        rows(arm=["tail"] * 2, keep_ratio=[0.5] * 2, layer=[0, 1], share=[1.0, 0.0]), note=NOTE
    ),
    "training": lambda: curves.training_curves(LINES, metric="ndcg@10", note=NOTE),
    "training of single runs": lambda: curves.training_curves(
        LINES.assign(low=np.nan, high=np.nan), metric="ndcg@10", note=NOTE
    ),
    "one epoch": lambda: curves.training_curves(LINES.query("epoch == epoch.min()"), metric="ndcg@10", note=NOTE),
    "budget": lambda: curves.budget_curves(LINES.rename(columns={"epoch": "budget"}), metric="ndcg@10", note=NOTE),
    "roc": lambda: curves.roc_curves(
        rows(arm=["tail"] * 2, keep_ratio=0.5, false_positive=[0.0, 1.0], mean=[0.0, 1.0], low=0.0, high=1.0, auc=0.5),
        note=NOTE,
    ),
    "compression of one point": lambda: compression.compression(
        rows(
            arm=["teacher"],
            names=[("teacher",)],
            keep_ratio=[1.0],
            share=[1.0],
            low=[1.0],
            high=[1.0],
            latency_ms=[2.0],
        ),
        metric="ndcg@10",
        margin=0.02,
        note=NOTE,
    ),
    "compression without bounds": lambda: compression.compression(
        rows(
            arm=["teacher", "fisher"],
            names=[("teacher",), ("fisher",)],
            keep_ratio=[1.0, 0.5],
            share=[1.0, 1.2],
            low=[np.nan, 0.9],
            high=np.nan,
            latency_ms=[2.0, 1.0],
        ),
        metric="log_loss",
        margin=0.02,
        note=NOTE,
    ),
    "costs": lambda: compression.costs(rows(arm=["tail"], keep_ratio=[0.5], training_seconds=[2.0]), note=NOTE),
    "scaling": lambda: compression.scaling(
        rows(cost=["time"] * 2, depth=[1, 2], value=[1.0, 2.0]),
        rows(cost=["time"] * 2, label=["R²"] * 2, depth=[0, 2], value=[0.0, 2.0]),
        note=NOTE,
    ),
    "sensitivity": lambda: sensitivity.sensitivity_curves(
        rows(
            arm=["all arms"] * 2 + ["tail"],
            parameter=["temperature"] * 3,
            x=[1.0, 2.0, 1.5],
            mean=[0.1, 0.2, 0.1],
            low=[0.0, 0.1, np.nan],
            high=[0.2, 0.3, np.nan],
        ),
        rows(arm=["tail"] * 2, value=[0.1, 0.2], temperature=[1.0, 2.0]),
        metric="ndcg@10",
        note=NOTE,
    ),
    "surface": lambda: sensitivity.surface(
        rows(x=[1, 2, 1, 2], y=[0, 0, 1, 1], mean=[0.1, 0.2, 0.3, 0.4]),
        rows(temperature=[1.0, 2.0], alpha_dist=[0.0, 1.0]),
        x="temperature",
        y="alpha_dist",
        metric="ndcg@10",
        note=NOTE,
    ),
    "points without a surface": lambda: sensitivity.searched_points(
        rows(temperature=[1.0, 2.0, 2.0], alpha_dist=[0.0, 1.0, 1.0], value=[0.1, 0.2, 0.4]),
        x="temperature",
        y="alpha_dist",
        metric="ndcg@10",
        note=NOTE,
    ),
    "hyper-parameters": lambda: sensitivity.parameter_importance(
        rows(parameter=["temperature", "lr"], method=["fANOVA"] * 2, value=[0.7, 0.3], arm=["all arms"] * 2), note=NOTE
    ),
    "groups": lambda: sensitivity.error_groups(
        rows(
            family=["history length"],
            group=["1-5"],
            metric=["user_log_loss"],
            arm=["tail"],
            difference=[0.1],
            low=[0.0],
            high=[0.2],
            users=[9],
        ),
        against="teacher",
        note=NOTE,
    ),
    "calibration": lambda: curves.calibration_curves(
        rows(arm=["tail"] * 2, keep_ratio=0.5, confidence=[0.6, 0.9], mean=[0.5, 0.9], low=0.4, high=1.0, error=0.05),
        note=NOTE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_figure_draws_and_says_data_seeds_and_interval(name):
    figure = CASES[name]()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    said = figure._supxlabel.get_text().replace("\n", " ")
    assert said == NOTE
    assert all(
        panel.get_xlabel() or panel.get_title() for panel in figure.axes if panel.get_visible() and panel.get_lines()
    )


def test_arms_keep_their_colour_and_differ_from_each_other():
    names = (
        "fisher",
        "attention",
        "gradient",
        "hybrid",
        "block_influence",
        "taylor",
        "uniform",
        "teacher",
        "scratch_kd",
    )
    assert len({arm_colour(name) for name in names}) == len(names)


def test_several_teachers_stand_side_by_side_from_light_to_dark():
    figure = CASES["importance of two teachers"]()
    bars = figure.axes[0].patches
    assert len(bars) == 4
    assert bars[0].get_x() + bars[0].get_width() < bars[2].get_x() + 1e-9  # layer 0: teacher 0 left of teacher 1
    assert bars[0].get_alpha() < bars[2].get_alpha()
    assert "teachers of seed 0, 1" in figure._suptitle.get_text()


def test_bars_of_importance_are_of_all_arms_together_and_not_a_mean_of_means():
    frame = rows(parameter=["temperature", "lr"] * 2, method=["fANOVA"] * 4, value=[0.7, 0.3, 0.1, 0.9],
                 arm=["all arms"] * 2 + ["tail"] * 2)  # fmt: skip
    panel = sensitivity.parameter_importance(frame, note=NOTE).axes[0]
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([70, 30])
    assert [float(line.get_xdata()[0]) for line in panel.lines] == pytest.approx([10])


def test_no_empty_panel_is_left_visible():
    frame = rows(selector=[s for s in "abcde" for _ in range(2)], layer=[0, 1] * 5, mean=1.0, low=0.9, high=1.1)
    figure = layers.layer_importance(frame, note=NOTE)
    assert sum(panel.get_visible() for panel in figure.axes) == 5


def test_points_without_a_surface_are_the_means_of_their_trials_and_have_no_star():
    panel = CASES["points without a surface"]().axes[0]
    marks = panel.collections[0]
    assert marks.get_offsets().tolist() == [[1.0, 0.0], [2.0, 1.0]]
    assert marks.get_array().tolist() == pytest.approx([0.1, 0.3])
    assert not panel.lines


def test_bars_without_an_interval_are_seen_whole():
    assert CASES["importance of one sample"]().axes[0].get_ylim()[1] > 1


def test_a_single_run_has_a_line_and_no_band():
    panel = CASES["training of single runs"]().axes[0]
    assert len(panel.lines) == 2
    assert all(not band.get_paths() for band in panel.collections)


def test_an_interval_without_a_bound_goes_to_the_edge():
    panel = CASES["compression without bounds"]().axes[0]
    top = panel.get_ylim()[1]
    assert top > 120
    assert any(list(line.get_ydata()) == [90, top] for line in panel.lines)
