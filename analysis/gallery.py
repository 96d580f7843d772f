"""The figures of a report: which, in which order, with which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis import breakdown, describe, response
from analysis.figures import compression, curves, effects, layers, sensitivity
from analysis.figures.names import metric_name, the
from analysis.results import Results


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
    scores, _ = describe.layer_scores(run, level)
    scaling_points, scaling_lines = breakdown.scaling(run)
    found = {
        "main": results.main,
        "against_reference": results.reference,
        "against_teacher": results.teacher,
        "against_best_simple": results.simple,
        "random_draws": results.random,
        "trial_counts": describe.counts(run),
        "failed_trials": describe.failures(run),
        "refused_records": run.refused,
        "layer_scores": scores,
        "kept_layers": describe.kept_layers(run),
        "training_curves": describe.learning(run, level),
        "costs": describe.cost_table(run),
        "cost_points": scaling_points,
        "cost_fits": scaling_lines,
        "search_trials": answer.trials,
        "sensitivity_curves": answer.curves,
        "sensitivity_surface": answer.surface,
        "hyper_parameter_importance": answer.importance,
        "search_budget": response.budget(run),
        "variance_search": response.search_variance(run),
        "variance_test": breakdown.variance(run),
        "roc": breakdown.roc(run, results.shown()),
        "groups_of_users": breakdown.errors(run, _students(results), against="teacher", ledger=results.ledger),
        "overlap_with_teacher": describe.top_overlap(run, [a for a in run.arms() if a != "teacher"]),
    }
    found["tests"] = pd.DataFrame(results.ledger.rows())
    return {name: frame for name, frame in found.items() if len(frame)}


def _students(results: Results) -> tuple[str, ...]:
    return tuple(arm for arm in results.shown() if arm not in ("teacher", "popularity"))


def pictures(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    """Yield the figures that the tables allow; a figure without data is left out."""
    yield from _effects(results, tables)
    yield from _layers(results, tables)
    yield from _search(results, tables)
    yield from _costs(results, tables)
    yield from _users(results, tables)


def note(results: Results, *parts: str) -> str:
    """Return the line under a figure: data, what was measured, seeds, interval."""
    return " · ".join([f"data: {results.run.data_name}", *(part for part in parts if part)])


def _confirmed_note(results: Results, what: str) -> str:
    rows = results.main[~results.main["arm"].isin(["teacher", "popularity"])]
    seeds = int(rows["n_seeds"].max()) if len(rows) else 1
    teachers = int(results.run.confirmed()["teacher_seed"].dropna().nunique()) or 1
    over = f"{seeds} seed{'s' if seeds != 1 else ''}" + (f" over {teachers} teachers" if teachers > 1 else "")
    return note(results, f"{results.run.users():,} users", over, what)


def _percent(results: Results) -> str:
    return f"{100 * (1 - results.run.settings['level']):g} %"


def _effects(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    settings, metric = results.run.settings, metric_name(results.run.settings["metric"])
    resampled = f"{_percent(results)} intervals from a bootstrap that resamples seeds and users"
    for name, against, section in (
        ("against_reference", settings["reference"], "Is any selector better?"),
        ("against_teacher", "teacher", "How close to the teacher?"),
    ):
        frame = tables.get(name)
        if frame is None:
            continue
        rows = frame[frame["relative"].notna() & ~frame["arm"].isin(["teacher", "popularity"])]
        if rows.empty:
            continue
        rows = rows.assign(
            difference=100 * rows["relative"], low=100 * rows["relative_low"], high=100 * rows["relative_high"],
            verdict=rows["word"],
        )  # fmt: skip
        margin = 100 * settings["margin"]
        figure = effects.forest(
            rows, against=against, metric=f"test {metric}", margin=margin, note=_confirmed_note(results, resampled)
        )
        text = (
            f"Right of the line is better than {the(against)}. The grey band is the margin of {margin:g} %; the word "
            "at the right is the verdict after correction for the number of arms."
        )
        title = f"Difference of every student to {the(against)}"
        yield Picture(f"difference_to_{against}", section, title, text, figure, name)
    yield from _random(results, tables, metric)
    if "main" in tables:
        points = tables["main"][tables["main"]["arm"] != "popularity"]
        points = points[points["share_of_teacher"].notna()].rename(
            columns={"share_of_teacher": "share", "low": "mean_low", "high": "mean_high"}
        )
        points = points.rename(columns={"share_of_teacher_low": "low", "share_of_teacher_high": "high"})
        measured = points[["backbone_parameters", "latency_ms"]].notna().any()
        if len(points) > 1 and measured.any():
            points.loc[points["arm"] == "teacher", "keep_ratio"] = 1.0
            points = points.drop_duplicates(["arm", "keep_ratio"])
            yield Picture(
                "compression", "How close to the teacher?", "Quality kept against size and measured latency",
                "The dashed line joins the models that no cheaper model beats; small points are the other arms. The band "
                "under 100 % is the margin.",
                compression.compression(points, metric=settings["metric"], margin=settings["margin"], strong=results.shown(),
                                        note=_confirmed_note(results, resampled)), "main")  # fmt: skip


def _random(results: Results, tables: dict[str, pd.DataFrame], metric: str) -> Iterator[Picture]:
    frame = tables.get("random_draws")
    placed = None if frame is None else frame[frame["percentile"].notna()]
    if placed is None or placed.empty:
        return
    draws = frame[frame["arm"] == "random"]
    words = [f"beats {round(p * n):d} of {n:.0f}" for p, n in zip(placed["percentile"], placed["n_draws"], strict=True)]
    yield Picture(
        "random_draws", "Is any selector better?", "Where each selector stands among students of random layers",
        "Every tick is one random set of layers, distilled like the others. A selector inside the grey range does what "
        "chance does.",
        effects.random_place(draws, placed.assign(place=words), metric=metric,
                             note=_confirmed_note(results, "grey: range of the random draws, each a mean over its seeds")),
        "random_draws")  # fmt: skip


def _layers(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    run, section = results.run, "Which layers?"
    if "layer_scores" in tables:
        about, _ = run.evidence()
        _, comments = describe.layer_scores(run, run.settings["level"])
        samples = f"{about['replicates']} calibration samples of {about['samples']} training users"
        yield Picture(
            "layer_importance", section, "Importance of every teacher layer by each selector",
            "Scores are scaled so that a selector's largest mean is 1. Deep/shallow is the mean importance of the deepest "
            "quarter of layers over the shallowest quarter; stability is the rank agreement between calibration samples.",
            layers.layer_importance(tables["layer_scores"], comments=comments,
                                    note=note(results, samples, f"{_percent(results)} t intervals over the samples")),
            "layer_scores")  # fmt: skip
    if "kept_layers" in tables:
        yield Picture(
            "layer_selection", section, "Layers that the students were built from",
            "A dot: every student of the arm keeps this layer. A number: the share (%) of its students that do.",
            layers.layer_selection(tables["kept_layers"], note=_confirmed_note(results, "no interval: what was built")),
            "kept_layers")  # fmt: skip


def _search(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    settings, section = results.run.settings, "Temperature, alpha and keep-ratio"
    trials = tables.get("search_trials")
    level = f"{_percent(results)} t intervals in bins of equal count"
    if "sensitivity_curves" in tables:
        names = [n for n in trials.columns if n not in ("id", "arm", "value")]
        log = tuple(name for name in names if response.log_scaled(trials[name]))
        searched = f"{len(trials)} finished search trials, 1 seed each"
        yield Picture(
            "sensitivity", section, "Validation quality over what was searched",
            "Points are search trials, coloured by arm; the black line is their mean. A sampler chose the trials, so this "
            "describes the search and does not prove an effect.",
            sensitivity.sensitivity_curves(tables["sensitivity_curves"], trials, metric=settings["metric"], log=log,
                                           note=note(results, searched, level)), "sensitivity_curves")  # fmt: skip
        if "sensitivity_surface" in tables:
            yield Picture(
                "surface", section, "Temperature and alpha together",
                "A random forest fitted to all search trials (white rings); the star is its best point.",
                sensitivity.surface(tables["sensitivity_surface"], trials, x="temperature", y="alpha_dist", log=log,
                                    metric=settings["metric"], note=note(results, searched, "fitted, no interval")),
                "sensitivity_surface")  # fmt: skip
        if "hyper_parameter_importance" in tables:
            methods = tables["hyper_parameter_importance"].replace(
                {"fANOVA": "fANOVA: all trials", "PED-ANOVA": "PED-ANOVA: the best tenth"}
            )
            yield Picture(
                "hyper_parameter_importance", section, "Which hyper-parameter mattered",
                "Bars: all arms together and each arm alone, averaged; dots: each arm. The two methods ask different "
                "questions: what moves quality anywhere, and what sets the best trials apart.",
                sensitivity.parameter_importance(methods, note=note(results, searched, "no interval: exploratory")),
                "hyper_parameter_importance")  # fmt: skip
    if "search_budget" in tables:
        yield Picture(
            "search_budget", section, "What more search would have bought",
            "The expected best of so many trials drawn from those that were run; exploratory, because a learning sampler "
            "chose them.",
            curves.budget_curves(tables["search_budget"], metric=settings["metric"], strong=results.shown(),
                                 note=note(results, f"search trials, 1 seed each, {_percent(results)} bootstrap bands")),
            "search_budget")  # fmt: skip
    if "training_curves" in tables:
        yield Picture(
            "training_curves", section, "Training of the confirmed students",
            "Mean over the confirm runs of an arm; bands for the arms that the report talks about.",
            curves.training_curves(tables["training_curves"], metric=settings["metric"], strong=results.shown(),
                                   note=_confirmed_note(results, f"{_percent(results)} t intervals over runs")),
            "training_curves")  # fmt: skip


def _costs(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    section = "What it cost"
    if "costs" in tables:
        measured = [c for c in ("evidence_seconds", "training_seconds", "peak_memory_bytes", "latency_ms")
                    if c in tables["costs"] and tables["costs"][c].notna().any()]  # fmt: skip
        if measured:
            yield Picture(
                "costs", section, "Computing time, memory and latency of every arm",
                "Means over the confirmed students. Layer evidence is measured once and serves every student.",
                compression.costs(tables["costs"], note=_confirmed_note(results, "means; times as measured on the machine "
                                                                        "named below")), "costs")  # fmt: skip
    if "cost_points" in tables:
        yield Picture(
            "cost_scaling", section, "How cost grows with depth",
            "Points are confirmed models, the line is a least-squares fit. What a model of no layers would cost is what "
            "keeping fewer layers can never save.",
            compression.scaling(tables["cost_points"], tables["cost_fits"],
                                note=_confirmed_note(results, "least-squares lines")), "cost_fits")  # fmt: skip


def _users(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Picture]:
    metric, section = metric_name(results.run.settings["metric"]), "Where the numbers come from"
    for name, title, text in (
        ("variance_test", "What makes test results differ", "Shares of the variance between single users' test results of "
         "the selectors. Most of it is users; what an arm adds is what selection can change."),
        ("variance_search", "What makes search trials differ", "Shares that arm and hyper-parameters explain of the "
         "validation quality of search trials. Shared: what several explain only together."),
    ):  # fmt: skip
        if name in tables:
            parts = tables[name]
            if "keep_ratio" in parts:
                parts = parts[parts["keep_ratio"] == parts["keep_ratio"].min()]
            estimator = parts["estimator"].iloc[0]
            kept = f"{100 * parts['keep_ratio'].iloc[0]:g} % of layers kept" if "keep_ratio" in parts else ""
            figure = effects.variance_split(parts, note=note(results, kept, estimator, "no interval"))
            yield Picture(name, section, title, text, figure, name)
    if "roc" in tables:
        yield Picture(
            "roc", section, "ROC curves over the whole catalogue",
            "How many targets are found while going down the list. A long list flatters every model: the main metric looks "
            "at the first places only.",
            curves.roc_curves(tables["roc"], note=_confirmed_note(results, f"{_percent(results)} bands over users")),
            "roc")  # fmt: skip
    if "groups_of_users" in tables:
        groups = tables["groups_of_users"]
        ratio = groups["keep_ratio"].min()
        figure = sensitivity.error_groups(
            groups[groups["keep_ratio"] == ratio], metric=metric, against="teacher",
            note=_confirmed_note(results, f"{100 * ratio:g} % of layers kept, {_percent(results)} intervals over seeds and "
                                 "users, exploratory"),
        )  # fmt: skip
        yield Picture("groups_of_users", section, "Where students lose against the teacher",
                      "Users grouped by the length of their history, and by their target's popularity and attributes. Head: "
                      "the most popular items that make half of all interactions; tail: the last fifth.",
                      figure, "groups_of_users")  # fmt: skip
