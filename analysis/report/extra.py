"""The tables between the figures: every test, interactions, lists against the teacher's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis.captions import BETTER, CLOSE, SEARCH, USERS
from analysis.figures.names import arm_name, metric_name, parameter_name, same_name, the
from analysis.report.cells import Cell, number, p_number, table, text_of
from analysis.results import Results
from analysis.stats import CANDIDATES, FEW, MODELS, SAME, YARDSTICKS
from analysis.tasks import sign

TESTS = (
    *("arm", "kept", "difference", "interval", "p", "p of not worse by more than the margin"),
    *("p of worse by more than the margin", "p of equivalence", "effect size over seeds"),
    *("smallest difference found with 80 % power", "more seeds for 1 %"),
)
TESTS_TEXT = (
    "Differences in % of the other arm’s mean. p: that there is no difference, corrected with {correction} over the "
    "rows under one heading, as are the three tests against the margin; arms that are the same students are one row "
    "and one test. Effect size: Hedges’ g of paired differences over seeds, which takes three. The last two columns "
    "say what the seeds and users at hand could find, with the same correction: ranges, since so few seeds tell their "
    f"own variance badly, and nothing with fewer than {FEW} of them."
)
GROUPS = {
    CANDIDATES: "Candidates",
    YARDSTICKS: "Yardsticks, which nobody chooses between",
    MODELS: "These models only: no claim about a method",
    SAME: "The same students under another name: nothing to test",
}


def more_tables(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, str | Markup]]:
    """Yield ``section``, ``title``, ``text`` and ``table`` (HTML) of each table that is shown as a table."""
    settings = results.run.settings
    for name, section, against in (
        ("against_reference", BETTER, settings["reference"]),
        ("against_uniform", BETTER, "uniform"),
        ("against_teacher", CLOSE, "teacher"),
    ):
        if name in tables:
            title = f"Every test against {the(against)}"
            yield _entry(section, title, TESTS_TEXT.format(correction="Holm"), name, _grouped(tables[name]))
    yield from _distilled(tables)
    if "metrics" in tables:
        yield _metrics(results, tables["metrics"])
    if "against_best_simple" in tables:
        frame = tables["against_best_simple"]
        rows = _rows(_once(frame[frame["kind"] == "selector"]))
        cells = [
            [same_name(row["names"]), kept(row["keep_ratio"]), arm_name(row["against"]),
             number(row["relative"], "+.1%"), _interval(row), str(row["word"])]
            for row in rows
        ]  # fmt: skip
        text = "The opponent is the best of those that measure nothing, by validation quality; exploratory."
        heads = ("arm", "kept", "against", "difference", "interval", "verdict")
        title = "Against the best selector without evidence"
        yield _entry(BETTER, title, text, "against_best_simple", table(heads, cells, texts=(2, 5)))
    yield from _searched(tables)
    yield from _lists(results, tables)


def _grouped(frame: pd.DataFrame) -> Markup:
    """Return the tests in groups that are corrected together, each with its heading."""
    parts = []
    for group, title in GROUPS.items():
        rows = _rows(_once(frame[frame["group"] == group]))
        if rows:
            parts.append(Markup("<h4>{}</h4>").format(title) + table(TESTS, map(_tests, rows)))
    return Markup("\n").join(parts)


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each set of students once, whatever arms share it."""
    return frame[~frame[["keep_ratio", "names"]].duplicated()]


def _distilled(tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, str | Markup]]:
    if "distillation" not in tables:
        return
    text = (
        "Distilled students against those of the control that is not distilled, of the very same layers and seeds: "
        "against any other students that control differs in its layers too. A keep-ratio where nobody distilled the "
        "same layers has no row. " + TESTS_TEXT.format(correction="Holm")
    )
    title = "Distilled against not distilled, of the same layers"
    yield _entry(CLOSE, title, text, "distillation", _grouped(tables["distillation"]))


def kept(ratio: float) -> Cell:
    """Return a cell of a keep-ratio."""
    return f"{100 * ratio:g} %", ratio


def _searched(tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, str | Markup]]:
    if "interactions" not in tables:
        return
    cells = [
        [arm_name(row["arm"]), parameter_name(row["x"]), parameter_name(row["y"]),
         number(row["strength"] if row["r_squared"] > 0 else None, ".0%"), number(row["r_squared"], ".2f"),
         number(row["n"], ".0f"), number(row["n_points"], ".0f")]
        for row in _rows(tables["interactions"])
    ]  # fmt: skip
    text = (
        "How much of a random forest’s surface over two hyper-parameters no sum of two curves explains. The fit is its "
        "R² on trials that it has not seen; a dash stands where it is not above 0: that surface is noise."
    )
    heads = ("arm", "hyper-parameter", "with", "interaction", "fit (R²)", "trials", "distinct points")
    title = "Pairs of hyper-parameters, arm by arm"
    yield _entry(SEARCH, title, text, "interactions", table(heads, cells, texts=(1, 2)))


def _lists(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, str | Markup]]:
    if "lists_against_teacher" not in tables:
        return
    shares = ("overlap", "both", "only_teacher", "only_student", "neither")
    cells = [
        [arm_name(row["arm"]), kept(row["keep_ratio"]), *(number(row[name], ".1%") for name in shares)]
        for row in _rows(tables["lists_against_teacher"])
    ]
    text = (
        "Overlap: how many of the teacher’s ten best items an arm also has among its ten, of users with more than ten "
        f"candidates. The other columns are shares of users who find {results.run.task.wanted} among the ten of both, "
        "of the teacher alone, of the arm alone, or of neither; means over users and runs. Items are ranked over "
        f"{results.run.listed}."
    )
    heads = ("arm", "kept", "overlap", "found by both", "by the teacher alone", "by the arm alone", "by neither")
    yield _entry(USERS, "Lists of ten beside the teacher’s", text, "lists_against_teacher", table(heads, cells))


def _metrics(results: Results, frame: pd.DataFrame) -> dict[str, str | Markup]:
    names = list(dict.fromkeys(frame["metric"]))
    cells = []
    for (arm, ratio), part in frame.groupby(["arm", "keep_ratio"], dropna=False, sort=False):
        own = part.set_index("metric")["mean"]
        share = ("all", 1.0) if pd.isna(ratio) else kept(ratio)
        cells.append([arm_name(arm), share, *(number(own.get(name), ".4f") for name in names)])
    text = (
        f"Means over runs; ranking metrics over {results.run.listed}. Only the metric of the sweep was tested, the "
        "others describe."
    )
    heads = ("arm", "kept", *(metric_name(name) + (" ↓" if sign(name) < 0 else "") for name in names))
    return _entry(CLOSE, "Every test metric", text + " ↓: smaller is better.", "metrics", table(heads, cells))


def _entry(section: str, title: str, text: str, name: str, content: Markup | None) -> dict[str, str | Markup]:
    return {"section": section, "title": title, "text": text, "name": name, "table": content or Markup("")}


def _rows(frame: pd.DataFrame) -> list[dict]:
    return frame.to_dict("records")


def _tests(row: dict) -> list[Cell]:
    return [
        same_name(row["names"]),
        kept(row["keep_ratio"]),
        number(row["relative"], "+.1%"),
        _interval(row),
        p_number(row["p_adjusted"]),
        p_number(row["p_non_inferior"]),
        p_number(row["p_inferior"]),
        p_number(row["p_equivalent"]),
        number(row["effect_seeds"], "+.2f"),
        _range(row["detectable_low"], row["detectable_high"], ".1%"),
        _range(row["more_low"], row["more_high"], ",.0f"),
    ]


def _range(low: float, high: float, pattern: str) -> Cell:
    """Return a range, sorted by its lower end; a dash where it is not known, words where it has no end."""
    if np.isnan(low):
        return "–", None
    if np.isinf(low):
        return "no number", low
    first = text_of(low, pattern)
    if np.isinf(high):
        return f"{first} or more", low
    return (first if low == high else f"{first} to {text_of(high, pattern)}"), low


def _interval(row: dict) -> Cell:
    low, high = number(row["relative_low"], "+.1%"), number(row["relative_high"], "+.1%")
    return f"{low[0]} to {high[0]}", row["relative_low"]
