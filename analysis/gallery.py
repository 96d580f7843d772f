"""The figures of a report: which, in which order, with which words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis import breakdown, describe, errors, importance, response
from analysis.captions import CAPTIONS
from analysis.figures import compression, curves, effects, layers, sensitivity
from analysis.figures.names import arm_name, keep_name, metric_axis, metric_name, same_name
from analysis.results import Results
from analysis.sources import sources


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: File name without ending.
        section: Heading that it stands under.
        title: What it shows, in words.
        text: How to read it, one or two sentences.
        figure: The figure.
        table: Name of the table with its numbers, or None.
    """

    name: str
    section: str
    title: str
    text: str
    figure: Figure
    table: str | None = None


def frames(results: Results) -> dict[str, pd.DataFrame]:
    """Return every table behind the report by its file name, empty ones left out."""
    run, level = results.run, results.run.settings["level"]
    answer = response.sensitivity(run)
    scaling_points, scaling_lines = breakdown.scaling(run)
    found = {
        "main": results.main,
        "against_reference": results.reference,
        "against_teacher": results.teacher,
        "against_uniform": results.uniform,
        "against_best_simple": results.simple,
        "distillation": results.distillation,
        "random_draws": results.random,
        "trial_counts": describe.counts(run),
        "failed_trials": describe.failures(run),
        "refused_records": run.refused,
        "layer_scores": importance.layer_scores(run, level),
        "kept_layers": describe.kept_layers(run),
        "training_curves": describe.learning(run, level),
        "costs": describe.cost_table(run),
        "cost_points": scaling_points,
        "cost_fits": scaling_lines,
        "search_trials": answer.trials,
        "sensitivity_curves": answer.curves,
        "sensitivity_surface": answer.surface,
        "interactions": answer.pairs,
        "hyper_parameter_importance": answer.importance,
        "search_budget": response.budget(run),
        "variance_search": response.search_variance(run),
        "variance_test": breakdown.variance(run),
        "variance_students": breakdown.student_variance(run),
        "variance_scores": importance.score_variance(run),
        "roc": breakdown.roc(run, results.shown()),
        "calibration": breakdown.calibration(run, results.shown()),
        "metrics": describe.metric_table(run),
        "groups_of_users": results.groups,
        "lists_against_teacher": errors.lists(run, run.arms()),
    }
    found["tests"] = pd.DataFrame(results.ledger.rows())
    found = {name: frame for name, frame in found.items() if len(frame)}
    found["sources"] = sources(run, found)
    return {name: frame for name, frame in found.items() if len(frame)}


def pictures(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    """Yield the figures that the tables allow, in the order of the report; one without data is left out."""
    for draw in (_effects, _random, _compression, _layers, _search, _sensitivity, _costs, _variance, _users):
        yield from draw(results, tables)


def picture(name: str, figure: Figure, table: str | None, *, file_name: str | None = None, **words: str) -> Picture:
    """Return a figure with its caption; ``words`` fill the caption's gaps."""
    section, title, text = CAPTIONS[name]
    return Picture(file_name or name, section, title.format(**words), text.format(**words), figure, table)


def confirmed_note(results: Results, what: str) -> str:
    """Return the line under a figure of confirmed results: data, users, seeds, and what the interval is."""
    teachers, seeds = results.breadth
    over = f"{seeds} seed{'s' if seeds != 1 else ''}" + (f" of each of {teachers} teachers" if teachers > 1 else "")
    return note(results, f"{results.run.users():,} users", over, what)


def note(results: Results, *parts: str) -> str:
    """Return the line under a figure: data, then ``parts``."""
    return " · ".join([f"data: {results.run.data_name}", *(part for part in parts if part)])


def same_sentence(rows: pd.DataFrame) -> str:
    """Return a sentence that says which arms are the same students, with a space before it; nothing without any."""
    shared: dict[str, list[str]] = {}
    for row in rows[~rows[["keep_ratio", "names"]].duplicated()].itertuples():
        if len(row.names) > 1:
            shared.setdefault(same_name(row.names), []).append(f"{100 * row.keep_ratio:g} %")
    groups = [f"{names} (at {' and '.join(ratios)})" for names, ratios in shared.items()]
    return f" The same students under several names: {'; '.join(groups)}." if groups else ""


def _percent(results: Results) -> str:
    return f"{100 * (1 - results.run.settings['level']):g} %"


def _margin(results: Results) -> str:
    return f"{100 * results.run.settings['margin']:g} %"


def _resampled(results: Results) -> str:
    return f"{_percent(results)} intervals from a bootstrap that resamples seeds and users"


def _t_intervals(results: Results, frame: pd.DataFrame, over: str, single: str) -> str:
    """Return what the intervals of a frame are, or why it has none."""
    some = frame["low"].notna().any()
    return f"{_percent(results)} t intervals over {over}" if some else f"no interval: {single}"


def _samples(results: Results) -> str:
    found = results.run.evidence()
    about = found[0].about
    over = f", of each of {len(found)} teachers" if len(found) > 1 else ""
    return f"{about['replicates']} calibration samples of {about['samples']} training examples{over}"


def _effects(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    settings = results.run.settings
    for kind, against in (("reference", settings["reference"]), ("teacher", "teacher")):
        name = f"against_{kind}"
        if name not in tables:
            continue
        rows = tables[name]
        rows = rows[rows["relative"].notna() & ~rows["arm"].isin(["teacher", "popularity"])]
        if rows.empty:
            continue
        percents = {"difference": "relative", "low": "relative_low", "high": "relative_high"}
        rows = rows.assign(verdict=rows["word"], **{new: 100 * rows[old] for new, old in percents.items()})
        figure = effects.forest(
            rows,
            against=against,
            metric=f"test {metric_name(settings['metric'])}",
            margin=100 * settings["margin"],
            note=confirmed_note(results, _resampled(results)),
        )
        words = {"reference": arm_name(against), "margin": _margin(results), "same": same_sentence(rows)}
        yield picture(f"difference_to_{kind}", figure, name, **words)


def _random(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    frame = tables.get("random_draws", pd.DataFrame(columns=["percentile"]))
    placed = frame[frame["percentile"].notna()]
    if placed.empty:
        return
    places = [
        f"beats {r.percentile * r.n_draws:g} of {r.n_draws:.0f} ({100 * r.low:.0f} to {100 * r.high:.0f} %), "
        f"p = {r.p_value:.2g}"
        for r in placed.itertuples()
    ]
    figure = effects.random_place(
        frame[frame["arm"] == "random"],
        placed.assign(place=places),
        metric=metric_axis(results.run.settings["metric"]),
        note=confirmed_note(results, "grey: range of the random draws, each a mean over its seeds"),
    )
    n, level = int(placed["n_draws"].max()), results.run.settings["level"]
    enough = math.ceil(round(1 / level, 6)) - 1
    few = f": no selector can be shown to beat chance, in the grey range or out of it, which takes {enough} draws"
    words = {"percent": _percent(results), "n": f"{n}", "smallest": f"{1 / (n + 1):.2g}"}
    yield picture("random_draws", figure, "random_draws", **words, few=few if n < enough else "")


def _compression(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    if "main" not in tables:
        return
    settings, points = results.run.settings, tables["main"]
    points = points[(points["arm"] != "popularity") & points["share_of_teacher"].notna()].copy()
    same = same_sentence(points)
    # One set of students is one point, under the name of the arm that looks at the least evidence.
    points = points[points["arm"] == points["names"].str[0]]
    points["share"], points["low"], points["high"] = (points[f"share_of_teacher{end}"] for end in ("", "_low", "_high"))
    points.loc[points["arm"] == "teacher", "keep_ratio"] = 1.0
    points = points.drop_duplicates(["arm", "keep_ratio"]).reset_index(drop=True)
    if len(points) < 2 or not points[["backbone_parameters", "latency_ms"]].notna().any().any():
        return
    figure = compression.compression(
        points,
        metric=settings["metric"],
        margin=settings["margin"],
        strong=results.shown(),
        note=confirmed_note(results, _resampled(results)),
    )
    yield picture("compression", figure, "main", margin=_margin(results), same=same)


def _layers(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    run = results.run
    if "layer_scores" in tables:
        scores = tables["layer_scores"]
        under = note(results, _samples(results), _t_intervals(results, scores, "the samples", "one sample"))
        figure = layers.layer_importance(scores, comments=importance.comments(run, scores), note=under)
        yield picture("layer_importance", figure, "layer_scores")
    if "kept_layers" in tables:
        under = confirmed_note(results, "no interval: what was built")
        yield picture("layer_selection", layers.layer_selection(tables["kept_layers"], note=under), "kept_layers")


def _sensitivity(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    if "sensitivity_curves" not in tables:
        return
    trials, metric = tables["search_trials"], results.run.settings["metric"]
    log = tuple(n for n in trials.columns if n not in response.KNOWN and response.log_scaled(trials[n]))
    distinct = len(response.once(trials))
    shared = f" of {distinct} computations" if distinct < len(trials) else ""
    searched = f"{len(trials)} finished search trials{shared}, 1 seed each"
    under = note(results, searched, f"{_percent(results)} t intervals in bins of equal count")
    figure = sensitivity.sensitivity_curves(tables["sensitivity_curves"], trials, metric=metric, log=log, note=under)
    yield picture("sensitivity", figure, "sensitivity_curves")
    if "sensitivity_surface" in tables:
        yield _surface(results, tables["sensitivity_surface"], trials, log, searched)
    if "hyper_parameter_importance" in tables:
        words = {"fANOVA": "fANOVA: all trials", "PED-ANOVA": "PED-ANOVA: the best tenth"}
        under = note(results, searched, "no interval: exploratory")
        figure = sensitivity.parameter_importance(tables["hyper_parameter_importance"].replace(words), note=under)
        yield picture("hyper_parameter_importance", figure, "hyper_parameter_importance")


def _surface(
    results: Results, grid: pd.DataFrame, trials: pd.DataFrame, log: tuple[str, ...], searched: str
) -> Picture:
    """Return the surface of temperature and alpha; where it would be noise, the points that were searched alone."""
    first, metric = grid.iloc[0], results.run.settings["metric"]
    known = {"x": "temperature", "y": "alpha_dist", "metric": metric, "log": log}
    points = f"{first['n_points']:.0f}"
    if not first["r_squared"] > 0:
        figure = sensitivity.searched_points(
            response.once(trials), note=note(results, searched, "no interval"), **known
        )
        fit = f"{first['r_squared']:.2f}".replace("nan", "unknown").replace("-", "−")
        return picture("no_surface", figure, "sensitivity_surface", file_name="surface", points=points, fit=fit)
    under = note(results, searched, "fitted, no interval")
    figure = sensitivity.surface(grid, trials, note=under, direction=results.run.direction, **known)
    fit, strength = (f"{100 * value:.0f} %" for value in (first["r_squared"], first["strength"]))
    return picture("surface", figure, "sensitivity_surface", points=points, fit=fit, strength=strength)


def _search(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    metric, shown = results.run.settings["metric"], results.shown()
    if "training_curves" in tables:
        under = confirmed_note(results, _t_intervals(results, tables["training_curves"], "runs", "one run an arm"))
        figure = curves.training_curves(tables["training_curves"], metric=metric, strong=shown, note=under)
        yield picture("training_curves", figure, "training_curves")
    if "search_budget" in tables:
        under = note(results, f"search trials, 1 seed each, {_percent(results)} bootstrap bands")
        figure = curves.budget_curves(tables["search_budget"], metric=metric, strong=shown, note=under)
        yield picture("search_budget", figure, "search_budget")


def _costs(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    frame = tables.get("costs", pd.DataFrame())
    if any(name in frame and frame[name].notna().any() for name in compression.BARS):
        under = confirmed_note(results, "means, as measured on the machine named below")
        yield picture("costs", compression.costs(frame, note=under), "costs")
    if "cost_points" in tables:
        under = confirmed_note(results, "least-squares lines, no interval")
        figure = compression.scaling(tables["cost_points"], tables["cost_fits"], note=under)
        yield picture("cost_scaling", figure, "cost_fits")


def _variance(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    for name in ("variance_test", "variance_students", "variance_search"):
        if name not in tables:
            continue
        parts, kept = tables[name], ""
        if "keep_ratio" in parts:
            ratio = parts["keep_ratio"].min()
            parts, kept = parts[parts["keep_ratio"] == ratio], keep_name(ratio)
        words = [parts["estimator"].iloc[0], "no interval"]
        if name == "variance_search":
            under = note(results, "finished search trials, 1 seed each", *words)
        else:
            under = confirmed_note(results, " · ".join([*([kept] if kept else []), *words]))
        yield picture(name, effects.variance_split(parts, note=under), name)
    if "variance_scores" in tables:
        parts = tables["variance_scores"]
        under = note(results, _samples(results), parts["estimator"].iloc[0], "no interval")
        yield picture("variance_scores", effects.variance_bars(parts, note=under), "variance_scores")


def _users(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    task = results.run.task
    if "roc" in tables:
        under = confirmed_note(results, f"{_percent(results)} bands over users")
        figure = curves.roc_curves(tables["roc"], note=under, words=task.roc_axes)
        yield picture("roc" if task.has_target else "roc_of_labels", figure, "roc", file_name="roc")
    if "calibration" in tables:
        under = confirmed_note(results, f"{_percent(results)} bands over users")
        yield picture("calibration", curves.calibration_curves(tables["calibration"], note=under), "calibration")
    if "groups_of_users" in tables:
        groups = tables["groups_of_users"]
        ratio = groups["keep_ratio"].min()
        intervals = f"{_percent(results)} intervals over seeds and users, exploratory"
        figure = sensitivity.error_groups(
            groups[groups["keep_ratio"] == ratio],
            against="teacher",
            note=confirmed_note(results, f"{keep_name(ratio)} · {intervals}"),
        )
        name = "groups_of_users" if task.has_target else "groups_of_candidates"
        yield picture(name, figure, "groups_of_users", file_name="groups_of_users")
