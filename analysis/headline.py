"""What a sweep answers, in a few sentences chosen by rules, the unwelcome answer as readily as the welcome one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.describe import counts
from analysis.distillation import PLAIN
from analysis.figures.names import arm_name, metric_name, same_name
from analysis.results import Results
from analysis.students import SIMPLE, cheapest_first
from analysis.tasks import share_kept, sign

CHEAP = ("scratch", "scratch_kd")


def headline(results: Results) -> list[str]:
    """Return the answer of a run directory, most important sentence first; plain text."""
    run = results.run
    if results.main.empty:
        finished = int((run.trials["status"] == "success").sum())
        done = f"{finished} search trials have finished" if finished else "no trial has finished"
        return [f"Nothing can be concluded yet: {done}, and no confirmed result is there."]
    teacher, good = _teacher(results)
    strata = [part for ratio in run.strata() for part in (_selectors(results, ratio), _kept(results, ratio))]
    answer = [*strata, _free(results), _distilled(results)]
    # A teacher that learned nothing is the first thing to know; a good one is a footnote.
    sentences = [*answer, teacher] if good else [teacher, *answer]
    return [sentence for sentence in [*sentences, _scope(results), _state(results)] if sentence]


def percent(share: float, *, sign: bool = False) -> str:
    """Return a share as a percentage for people."""
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"


def _part(frame: pd.DataFrame, ratio: float) -> pd.DataFrame:
    return frame[np.isclose(frame["keep_ratio"].astype(float), ratio)]


def _teacher(results: Results) -> tuple[str | None, bool]:
    """Return what the teacher is worth beside a list of popular items, and whether it is surely better."""
    rows = results.teacher[results.teacher["arm"] == "popularity"]
    if rows.empty:
        return None, True
    row, metric = rows.iloc[0], metric_name(results.run.settings["metric"])
    numbers = f"{row['reference_mean']:.4f} against {row['mean']:.4f} {metric}"
    low, high = sorted(sign(results.run.settings["metric"]) * row[end] for end in ("low", "high"))
    if high < 0:
        return f"The teacher is better than recommending what is popular ({numbers}).", True
    if low > 0:
        return (
            f"The teacher is worse than recommending what is popular ({numbers}): "
            "how its layers are chosen says nothing about good recommendations here."
        ), False
    return (
        f"The teacher is not shown to be better than recommending what is popular ({numbers}): "
        "what follows compares models that may have learned nothing of use."
    ), False


def _selectors(results: Results, ratio: float) -> str | None:
    """Return which selectors beat, or lose to, the reference in a stratum."""
    reference = arm_name(results.run.settings["reference"])
    rows = _part(results.reference, ratio)
    rows = rows[rows["kind"] == "selector"]
    where = f"With {100 * ratio:g} % of the layers kept"
    if len(rows) and (rows["drawn"] > 0).all():
        sets = int(rows["drawn"].iloc[0])
        return f"{where} selectors stand against {sets} random layer set{'s' if sets > 1 else ''}, which is no method."
    rows = rows[rows["drawn"] == 0]
    if rows.empty:
        return f"{where} there is no selector to compare with {reference} yet."
    if (rows["unit"] == "users").all():
        return None
    same = rows["word"] == "same students"
    # Several names of one set of students are one finding.
    once = rows[~same & ~rows["names"].duplicated()]
    better = once[once["word"] == "better"]
    worse = once[once["word"].isin(["worse", "inferior"])]
    equal = once[once["word"] == "equivalent"]
    parts = [f"{_named(better)} {_be(better)} better than {reference}"] if len(better) else []
    parts = parts or [f"no selector is shown to be better than {reference}"]
    parts += [f"{_named(worse)} {_be(worse)} worse"] if len(worse) else []
    parts += [f"{_named(equal)} {_be(equal)} equivalent to it"] if len(equal) else []
    if same.any():
        parts.append(f"{same_name(rows.loc[same, 'arm'])} gave exactly the students of {reference} (the same layers)")
    rest = once[~once["word"].isin(["better", "worse", "inferior", "equivalent"])]
    if len(rest):
        n_names = int((~same).sum())
        names = f" different sets of students (under {n_names} names)" if n_names > len(once) else ""
        be = "is" if len(rest) == 1 else "are"
        parts.append(f"{len(rest)} of {len(once)}{names} {be} not shown to be better or worse{_limit(rest)}")
    return f"{where}, {'; '.join(parts)}."


def _limit(rest: pd.DataFrame) -> str:
    """Return what differences could have been missed; a range, since so few replicates tell their variance badly."""
    low, high = (rest[f"detectable_{end}"].replace(np.inf, np.nan).median() for end in ("low", "high"))
    if not np.isfinite(high):
        units = rest.loc[rest["unit"] != "users", "unit"]
        if units.empty:
            return ""
        seeds = f"{rest['n_replicates'].min():.0f} {units.iloc[0]}"
        return f" ({seeds} hardly tell how much {units.iloc[0]} vary, nor what difference would have been seen)"
    if low > 1:
        return " (with so few seeds and users hardly any difference would be seen)"
    return f" (differences under {percent(low)} to {percent(high)} would mostly be missed: the seeds tell no closer)"


def _kept(results: Results, ratio: float) -> str | None:
    """Return how much of the teacher's quality is kept in a stratum, and by whom surely enough."""
    rows = _part(results.teacher, ratio)
    rows = rows[(rows["arm"] != "popularity") & rows["relative"].notna()]
    if rows.empty:
        return None
    margin = f"{100 * results.run.settings['margin']:g} %"
    gains = sign(results.run.settings["metric"]) * rows["mean"]
    best = rows[gains == gains.max()]
    kept = f"{_best(best)} the best mean{_share(best.iloc[0], results.run.settings['metric'])}"
    if (rows["unit"] == "users").all():
        return f"At {100 * ratio:g} %, of the models that were trained, {kept}."
    held = rows[rows["non_inferior"].astype(bool) & rows["method_claim"].astype(bool)]
    if len(held) == len(rows) and len(held) > 1:
        return f"At {100 * ratio:g} %, every student loses less than {margin} to the teacher, if anything; {kept}."
    if len(held):
        verb = "loses" if len(held) == 1 else "lose"
        names = _names(held)
        return f"At {100 * ratio:g} %, {names} {verb} less than {margin} to the teacher, if anything; {kept}."
    return f"At {100 * ratio:g} %, no student is shown to lose less than {margin} to the teacher; {kept}."


def _best(rows: pd.DataFrame) -> str:
    """Return every arm that shares the best mean, and whether they are one set of students."""
    sets = rows[~rows["names"].duplicated()]
    names = cheapest_first(arm for names in sets["names"] for arm in names if arm in set(rows["arm"]))
    if len(sets) > 1:
        return f"{_joined([arm_name(arm) for arm in names])} share"
    return f"{same_name(names)} (the same students) have" if len(names) > 1 else f"{arm_name(names[0])} has"


def _share(row: pd.Series, metric: str) -> str:
    """Return the share of the teacher's quality with its interval, nothing where there is none."""
    share, low, high = (share_kept(row[name], metric) for name in ("relative", "relative_low", "relative_high"))
    if not np.isfinite(share):
        return ""
    span = f"{percent(low)} to {percent(high)}" if np.isfinite(high) else f"{percent(low)} or more"
    return f", {percent(share)} of the teacher's ({span})"


def _free(results: Results) -> str | None:
    """Return whether a small student costs nothing whatever its layers, which makes selectors pointless."""
    rows = results.teacher
    if rows.empty:
        return None
    rows = rows[rows["non_inferior"].astype(bool) & rows["method_claim"].astype(bool)]
    for ratio in results.run.strata():
        part = _part(rows, ratio)
        plain = [arm for arm in CHEAP if arm in set(part["arm"])]
        if plain:
            return (
                f"A small student is free here: at {100 * ratio:g} % even one trained {arm_name(plain[0])} keeps the "
                "teacher's quality within the margin, whatever layers a selector would have chosen."
            )
        simple = [arm for arm in SIMPLE if arm in set(part["arm"])]
        if simple:
            return (
                f"Measuring layers is not needed here: at {100 * ratio:g} % the choice without evidence "
                f"({_joined([arm_name(arm) for arm in simple])}) already keeps the teacher's quality within the margin."
            )
    return None


def _distilled(results: Results) -> str | None:
    """Return whether distillation matters, told by students of the very same layers alone."""
    run = results.run
    parts, margin = [], f"{100 * run.settings['margin']:g} %"
    words = {
        "better": "it helps",
        "worse": "it hurts",
        "inferior": f"it hurts by more than {margin}",
        "equivalent": f"it changes less than {margin}",
        "non-inferior": f"it does not hurt by more than {margin}, and is not shown to help",
    }
    for ratio in run.strata():
        rows = _part(results.distillation, ratio)
        if len(rows):
            row = rows.iloc[0]
            word = words.get(row["word"], "it is not shown to help or to hurt")
            word = "one seed allows no claim" if row["unit"] == "users" else word
            span = f"{percent(row['relative_low'], sign=True)} to {percent(row['relative_high'], sign=True)}"
            numbers = f"{same_name(row['names'])}: {percent(row['relative'], sign=True)}, {span}"
            parts.append(f"at {100 * ratio:g} % {word} ({numbers})")
        elif len(run.chosen(PLAIN, ratio)):
            parts.append(f"at {100 * ratio:g} % nothing can be said, since nobody distilled students of these layers")
    return f"Distillation, judged by students of the same layers: {'; '.join(parts)}." if parts else None


def _scope(results: Results) -> str:
    """Return over how many seeds, users and teachers the answer holds."""
    teachers, seeds = results.breadth
    pooled = not results.run.task.is_mean_over_users(results.run.settings["metric"])
    users = f"{results.run.users():,} users" + (" taken together" if pooled else "")
    if seeds * teachers <= 1:
        return (
            f"One seed only: these are the models that were trained, over {users}; no claim about any method is made."
        )
    if teachers > 1:
        each = f"{seeds} seed{'' if seeds == 1 else 's'} each"
        return f"It holds over {teachers} independently trained teachers, {each}, and {users}."
    one = "all with one teacher: another teacher may rank selectors differently"
    # Runs that are missing or failed make arms of fewer seeds.
    fewest = int(results.main.loc[~results.main["arm"].isin(["teacher", "popularity"]), "n_seeds"].min())
    span = f"{seeds} seeds" if fewest == seeds else f"{fewest} to {seeds} seeds an arm"
    return f"It holds over {span} and {users}, {one}."


def _state(results: Results) -> str | None:
    """Return what is missing or was refused, so that no table looks more complete than it is."""
    table = counts(results.run)
    missing, failed = table["missing"].sum(), int(table["failed"].sum())
    refused = len(results.run.refused)
    found = ((missing, "planned trial", "missing"), (failed, "trial", "failed"), (refused, "record", "refused"))
    parts = [f"{int(n)} {what}{'' if n == 1 else 's'} {state}" for n, what, state in found if n > 0]
    return f"Read with care: {', '.join(parts)} (listed below)." if parts else None


def _named(rows: pd.DataFrame) -> str:
    """Return arms with their differences (intervals too, of one or two): the largest three, then a count.

    Args:
        rows: One row a set of students.
    """
    order = rows.reindex(rows["relative"].abs().sort_values(ascending=False).index)
    spans = [
        f"{percent(r.relative_low, sign=True)} to {percent(r.relative_high, sign=True)}" for r in order.itertuples()
    ]
    gains = [f"{same_name(r.names)} ({percent(r.relative, sign=True)}" for r in order.itertuples()]
    # Many intervals in one sentence are not read; the table and the figure have them all.
    texts = [f"{g}, {s})" if len(rows) <= 2 else f"{g})" for g, s in zip(gains, spans, strict=True)]
    if len(texts) > 4:
        texts = [*texts[:3], f"{len(texts) - 3} more"]
    return _joined(texts)


def _names(rows: pd.DataFrame) -> str:
    """Return the arms of some rows, each set of students once with all its names."""
    return _joined([same_name(names) for names in rows.loc[~rows["names"].duplicated(), "names"]])


def _joined(texts: Iterable[str]) -> str:
    texts = list(texts)
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _be(rows: pd.DataFrame) -> str:
    return "is" if len(rows) == 1 else "are"
