"""What a sweep answers, in a few sentences chosen by rules, the unwelcome answer as readily as the welcome one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.describe import counts
from analysis.figures.names import arm_name, metric_name
from analysis.results import Results
from analysis.tasks import share_kept, sign

WITHOUT_EVIDENCE = ("uniform", "head_tail", "tail", "random")
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
    answer = [*strata, _free(results)]
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
    same = (rows[["difference", "low", "high"]] == 0).all(axis=1)
    better = rows[rows["word"] == "better"]
    worse = rows[rows["word"].isin(["worse", "inferior"])]
    equal = rows[(rows["word"] == "equivalent") & ~same]
    parts = [f"{_named(better)} {_be(better)} better than {reference}"] if len(better) else []
    parts = parts or [f"no selector is shown to be better than {reference}"]
    parts += [f"{_named(worse)} {_be(worse)} worse"] if len(worse) else []
    parts += [f"{_named(equal)} {_be(equal)} equivalent to it"] if len(equal) else []
    if same.any():
        parts.append(f"{_names(rows.loc[same, 'arm'])} gave exactly the students of {reference} (the same layers)")
    rest = rows[~rows["word"].isin(["better", "worse", "inferior", "equivalent"]) & ~same]
    if len(rest):
        smallest = rest["detectable"].replace(np.inf, np.nan).median()
        limit = f" (a difference under {percent(smallest)} would mostly be missed)" if np.isfinite(smallest) else ""
        if 1 < smallest < np.inf:
            limit = " (with so few seeds and users hardly any difference would be seen)"
        be = "is" if len(rest) == 1 else "are"
        parts.append(f"{len(rest)} of {len(rows)} {be} not shown to be better or worse{limit}")
    return f"{where}, {'; '.join(parts)}."


def _kept(results: Results, ratio: float) -> str | None:
    """Return how much of the teacher's quality is kept in a stratum, and by whom surely enough."""
    rows = _part(results.teacher, ratio)
    rows = rows[(rows["arm"] != "popularity") & rows["relative"].notna()]
    if rows.empty:
        return None
    margin = f"{100 * results.run.settings['margin']:g} %"
    best = rows.loc[(sign(results.run.settings["metric"]) * rows["mean"]).idxmax()]
    kept = f"{arm_name(best['arm'])} has the best mean{_share(best, results.run.settings['metric'])}"
    if (rows["unit"] == "users").all():
        return f"At {100 * ratio:g} %, of the models that were trained, {kept}."
    held = rows[rows["non_inferior"].astype(bool) & rows["method_claim"].astype(bool)]
    if len(held) == len(rows) and len(held) > 1:
        return f"At {100 * ratio:g} %, every student loses less than {margin} to the teacher, if anything; {kept}."
    if len(held):
        verb = "loses" if len(held) == 1 else "lose"
        names = _names(held["arm"])
        return f"At {100 * ratio:g} %, {names} {verb} less than {margin} to the teacher, if anything; {kept}."
    return f"At {100 * ratio:g} %, no student is shown to lose less than {margin} to the teacher; {kept}."


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
        simple = [arm for arm in WITHOUT_EVIDENCE if arm in set(part["arm"])]
        if simple:
            return (
                f"Measuring layers is not needed here: at {100 * ratio:g} % the choice without evidence "
                f"({_names(simple)}) already keeps the teacher's quality within the margin."
            )
    return None


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
    """Return arms with their differences (intervals too, of one or two): the largest three, then a count."""
    order = rows.reindex(rows["relative"].abs().sort_values(ascending=False).index)
    spans = [
        f"{percent(r.relative_low, sign=True)} to {percent(r.relative_high, sign=True)}" for r in order.itertuples()
    ]
    gains = [f"{arm_name(r.arm)} ({percent(r.relative, sign=True)}" for r in order.itertuples()]
    # Many intervals in one sentence are not read; the table and the figure have them all.
    texts = [f"{g}, {s})" if len(rows) <= 2 else f"{g})" for g, s in zip(gains, spans, strict=True)]
    if len(texts) > 4:
        texts = [*texts[:3], f"{len(texts) - 3} more"]
    return _joined(texts)


def _names(arms) -> str:
    return _joined([arm_name(arm) for arm in arms])


def _joined(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _be(rows: pd.DataFrame) -> str:
    return "is" if len(rows) == 1 else "are"
