"""The HTML page, from summaries, tables and figures; everything that came from data is escaped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.figures.names import arm_name, keep_name, metric_name
from analysis.report.cells import plain_table, raw, text_of
from analysis.report.extra import more_tables
from analysis.results import Results
from analysis.tables import best_of, count_text, digits, seconds_text, span_text, times_text

HERE = Path(__file__).parent
MOST_RECORDS = 3000
"""Records listed on the page; the CSV always has all."""


def render(title: str, parts: list[dict[str, Any]], across: dict[str, Any] | None) -> str:
    """Return the page as text.

    Args:
        title: Title of the page.
        parts: One entry a run directory, from :func:`part`.
        across: What several data sets show together: ``sentences``, ``pictures`` and the number of ``tests``; or None.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    # Only these two files of our own are taken as they are.
    css, js = (Markup((HERE / name).read_text()) for name in ("style.css", "sort.js"))
    template = environment.get_template("report.html.j2")
    return template.render(title=title, parts=parts, across=across, css=css, js=js)


def part(
    results: Results, summary: dict[str, Any], tables: dict[str, pd.DataFrame], pictures: list[dict[str, Any]],
    *, key: str, base: str, trials: str,
) -> dict[str, Any]:  # fmt: skip
    """Return what the template shows of one run directory.

    Args:
        results: Its comparisons.
        summary: Its summary.
        tables: Its tables by name.
        pictures: ``name``, ``section``, ``title``, ``text``, ``table``, ``data`` (base64 PNG), ``width`` (pixels).
        key: Unique on the page.
        base: Relative path from the page to its ``tables`` and ``figures``.
        trials: Relative path from the page to its ``trials``.
    """
    run = results.run
    records, anchors = _records(results, key, trials)
    sections: dict[str, list] = {}
    for picture in pictures:
        sections.setdefault(picture["section"], []).append(picture)
    shown: dict[str, list] = {}
    for entry in more_tables(results, tables):
        shown.setdefault(entry["section"], []).append(entry)
        sections.setdefault(entry["section"], [])
    all_records = len(run.confirmed())
    return {
        "summary": summary,
        "key": key,
        "base": base,
        "lead": _lead(summary),
        # A number and its sign of percent stay on one line.
        "headline": [text.replace(" %", "\u00a0%") for text in summary["headline"]],
        "metric": metric_name(summary["metric"]),
        "percent": f"{100 * (1 - summary['level']):g} %",
        "margin": f"{100 * summary['margin']:g} %",
        "reference": arm_name(summary["reference"]),
        "smaller": summary["direction"] == "min",
        "strata": [_stratum(s, summary, anchors) for s in summary["strata"]],
        "sections": [
            {
                "name": name,
                "key": f"{key}-section-{i}",
                "pictures": p,
                "tables": shown.get(name, []),
            }
            for i, (name, p) in enumerate(sections.items())
        ],
        "facts": _facts(results, summary),
        "method": _method(results, summary, base),
        "counts": plain_table(tables.get("trial_counts")),
        "failures": plain_table(tables.get("failed_trials")),
        "refused": plain_table(tables.get("refused_records")),
        "records": records,
        "records_note": f"The first {MOST_RECORDS:,} of {all_records:,} are listed; {base}tables/trials.csv has all."
        if all_records > MOST_RECORDS
        else f"{base}tables/trials.csv has these and every search trial.",
    }


def _lead(summary: dict[str, Any]) -> str:
    seeds, users = summary["seeds"], summary["users"]
    parts = [summary["sweep"], f"data: {summary['data']}"]
    if users:
        parts += [f"{users:,} test users", f"{seeds} seed{'' if seeds == 1 else 's'}"]
    trials = summary["trials"]
    parts.append(
        f"{trials['success']:,} finished, {trials['stopped']:,} stopped early, {trials['failed']:,} failed trials"
    )
    return " · ".join(parts)


def _stratum(stratum: dict[str, Any], summary: dict[str, Any], anchors: dict[tuple[str, str], str]) -> dict[str, Any]:
    layers = stratum["n_student_layers"]
    students = [a["mean"] for a in stratum["arms"] if a["arm"] not in ("teacher", "popularity")]
    best = best_of(students, summary)
    return {
        "title": keep_name(stratum["keep_ratio"])
        + (f" ({layers} layer{'' if layers == 1 else 's'})" if layers else ""),
        "rows": [_arm(arm, summary, best, anchors) for arm in stratum["arms"]],
        "sentences": [(arm_name(a["arm"]), a["verdict"]["sentence"]) for a in stratum["arms"] if a["verdict"]],
    }


def _arm(arm: dict[str, Any], summary: dict[str, Any], best: float | None, anchors: dict) -> dict[str, Any]:
    verdict = arm["verdict"] or {"word": "", "sentence": ""}
    row = {
        "name": arm_name(arm["arm"]),
        "is_reference": arm["arm"] == summary["reference"],
        "is_best": arm["mean"] == best and arm["arm"] not in ("teacher", "popularity"),
        "word": verdict["word"],
        "sentence": verdict["sentence"],
        "interval": span_text(arm["low"], arm["high"], "{:.4f} to {:.4f}").replace("-", "−"),
        "low_raw": raw(arm["low"]),
        "runs": len(arm["trials"]),
        "anchor": anchors.get(arm["trials"][0], "") if arm["trials"] else "",
    }
    shown = {
        "mean": text_of(arm["mean"], ".4f"),
        "share": text_of(arm["share_of_teacher"], ".1%"),
        "against": "" if arm["arm"] == summary["reference"] else text_of(arm["against_reference"], "+.1%"),
        "backbone": count_text(arm["backbone_parameters"]),
        "parameters": count_text(arm["parameters"]),
        "latency": digits(arm["latency_ms"]),
        "speed": times_text(arm["speed_up"]),
        "training": seconds_text(arm["training_seconds"]),
        "search": seconds_text(arm["search_seconds"]),
    }
    columns = {
        "mean": "mean", "share": "share_of_teacher", "against": "against_reference", "backbone": "backbone_parameters",
        "parameters": "parameters", "latency": "latency_ms",
        "speed": "speed_up", "training": "training_seconds", "search": "search_seconds",
    }  # fmt: skip
    return {**row, **shown, **{f"{name}_raw": raw(arm[key]) for name, key in columns.items()}}


def _records(results: Results, key: str, trials: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows of the records table, and the anchor of each arm's first record by trial id."""
    run = results.run
    order = {arm: index for index, arm in enumerate(run.arms())}
    frame = run.confirmed()
    frame = frame.assign(place=frame["arm"].map(order)).sort_values(
        ["place", "keep_ratio", "teacher_seed", "seed", "draw"]
    )
    metric = f"test.{run.settings['metric']}"
    searched = [c for c in frame.columns if c.startswith("configuration.")]
    rows, anchors = [], {}
    for row in frame.head(MOST_RECORDS).to_dict("records"):
        anchors[row["id"]] = f"{key}-t-{row['id']}"
        configuration = {c.removeprefix("configuration."): row[c] for c in searched if not _absent(row[c])}
        layers = row["layer_map"]
        rows.append(
            {
                "anchor": anchors[row["id"]],
                "arm": arm_name(row["arm"]),
                "keep": "" if _absent(row["keep_ratio"]) else f"{100 * row['keep_ratio']:g} %",
                "keep_raw": "" if _absent(row["keep_ratio"]) else row["keep_ratio"],
                "seed": _integer(row["seed"]),
                "draw": _integer(row["draw"]),
                "teacher_seed": _integer(row["teacher_seed"]),
                "test": text_of(row.get(metric), ".4f"),
                "layers": "" if layers is None or _absent(layers) else " ".join(str(int(x)) for x in layers),
                "configuration": ", ".join(f"{k} {_short(v)}" for k, v in configuration.items()),
                "id": row["id"],
                "href": f"{trials}{row['id']}/record.json",
            }
        )
    return rows, anchors


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _integer(value: Any) -> str:
    return "" if _absent(value) else f"{int(value)}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _facts(results: Results, summary: dict[str, Any]) -> list[tuple[str, str]]:
    signature = results.run.signature
    data = signature.get("data", {})
    facts = [("sweep", summary["sweep"]), ("task", str(summary["task"] or "unknown"))]
    known = _statistics(data.get("statistics") or {})
    facts.append(
        ("data", ", ".join([summary["data"], *(f"{k.replace('_', ' ')} {_short(v)}" for k, v in known.items())]))
    )
    facts.append(("data hash", str(data.get("hash", "unknown"))))
    for name in ("protocol", "teacher", "training", "versions", "hardware", "git"):
        content = signature.get(name)
        if isinstance(content, dict) and content:
            facts.append((name, ", ".join(f"{k.replace('_', ' ')}: {_fact(v)}" for k, v in content.items())))
        elif content:
            facts.append((name, str(content)))
    return facts


def _statistics(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the data, times as dates where their unit is one of time."""
    known = {k: v for k, v in statistics.items() if v is not None and k not in ("source", "split")}
    unit = known.get("time_unit")
    if unit in ("s", "ms", "us"):
        del known["time_unit"]
        for name in ("first_time", "last_time"):
            known[name] = str(pd.to_datetime(known[name], unit=unit).date()) if name in known else None
    return {name: value for name, value in known.items() if value is not None}


def _fact(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _method(results: Results, summary: dict[str, Any], base: str) -> list[str]:
    level = f"{100 * (1 - summary['level']):g} %"
    pooled = not results.run.task.is_mean_over_users(summary["metric"])
    only_seeds = (
        f"{metric_name(summary['metric'])} is one number a trained model and no mean over users, so here intervals and "
        "tests know seeds only; a single run has no interval."
    )
    return [
        "Every arm had the same search budget and saw validation data only. Its best configuration was trained again "
        "with fresh seeds, which touched the test set once.",
        f"Intervals ({level}) resample seeds and users together, so they speak about the method and not only about "
        "the models that were trained. Comparisons are paired: the same seed and the same users on both sides. With "
        "several teachers the teacher is the unit.",
        *([only_seeds] if pooled else []),
        f"Items are ranked over {summary['ranked']}. Numbers of different candidates never stand in one table.",
        f"A verdict needs the interval and the corrected test to agree. Not worse, and equivalent, are tests against "
        f"the margin of {100 * summary['margin']:g} % of the other arm's quality; a large p-value alone is never taken "
        "for equality. Tests over users alone (in the CSV files) describe these trained models only: with thousands "
        "of users they find almost any difference.",
        f"{results.ledger.sentence()}. All are in {base}tables/tests.csv.",
    ]
