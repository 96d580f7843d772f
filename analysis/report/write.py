"""Files of a report: page, tables, figures, summary."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.across import across
from analysis.gallery import Picture, frames, pictures
from analysis.report.page import part, render
from analysis.results import Results, conclude
from analysis.run import Run
from analysis.summary import summarize
from analysis.tables import latex_table, write_csv
from raydistill.records import atomic_write, write_json

SCREEN_DPI = 170


def write_report(run: Run, folder: Path | None = None) -> dict[str, Any]:
    """Return the summary of a run directory after writing its report.

    Args:
        run: The run directory, from ``load``.
        folder: Where to write; by default ``report`` inside the run directory.

    Raises:
        RunDirectoryError: The folder cannot be written.
    """
    folder = folder or run.root / "report"
    _, content, summary = _write_part(run, folder, key="r0", page=folder)
    title = f"{summary['sweep']}: which layers should a small recommender keep?"
    _write_text(folder / "index.html", render(title, [content], None))
    return summary


def write_joint_report(runs: list[Run], folder: Path) -> list[dict[str, Any]]:
    """Return the summaries of several run directories after writing one report over all of them.

    Each has its own folder ``1-NAME``, ``2-NAME``, ... with tables, figures and summary; numbers of different data
    never stand in one table, only ranks are compared.

    Raises:
        RunDirectoryError: As :func:`write_report`, or the runs were planned with different metrics.
    """
    written = [
        _write_part(run, folder / f"{i}-{_safe(run.name)}", key=f"r{i}", page=folder) for i, run in enumerate(runs, 1)
    ]
    joint = across([results for results, _, _ in written])
    _clear(folder)
    write_csv(joint.ranks, folder / "tables" / "ranks.csv")
    write_csv(joint.scores, folder / "tables" / "scores.csv")
    if len(joint.tests):
        write_csv(joint.tests, folder / "tables" / "tests.csv")
    shown = [_save(one, folder / "figures") for one in joint.pictures]
    summaries = [summary for _, _, summary in written]
    write_json(folder / "summary.json", {"runs": summaries, "across": joint.sentences})
    page = render(
        f"{len(runs)} sweeps: which layers should a small recommender keep?",
        [content for _, content, _ in written],
        {"sentences": joint.sentences, "pictures": shown, "tests": len(joint.tests)},
    )
    _write_text(folder / "index.html", page)
    return summaries


def _write_part(run: Run, folder: Path, *, key: str, page: Path) -> tuple[Results, dict[str, Any], dict[str, Any]]:
    """Write tables, figures and summary; return the comparisons, what the page shows of them, and the summary."""
    results = conclude(run)
    tables = frames(results)
    summary = summarize(results)
    _clear(folder)
    write_tables(results, tables, summary, folder / "tables")
    shown = [_save(picture, folder / "figures") for picture in pictures(results, tables)]
    write_json(folder / "summary.json", summary)
    base, trials = _relative(folder, page), _relative(run.root / "trials", page)
    return results, part(results, summary, tables, shown, key=key, base=base, trials=trials), summary


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "run"


def write_tables(results: Results, tables: dict[str, pd.DataFrame], summary: dict[str, Any], folder: Path) -> None:
    """Write every table as CSV, the trials among them, and the main tables as LaTeX."""
    for name, frame in {**tables, "trials": results.run.trials.drop(columns="root")}.items():
        write_csv(frame, folder / f"{name}.csv")
    for stratum in summary["strata"]:
        if stratum["arms"]:
            name = f"main_keep_{100 * stratum['keep_ratio']:g}".replace(".", "_")
            _write_text(folder / f"{name}.tex", latex_table(stratum, summary))


def _clear(folder: Path) -> None:
    """Remove the figures and tables of an earlier report: one that has no data any more must not stay."""
    for name, endings in (("figures", ("png", "pdf")), ("tables", ("csv", "tex"))):
        for ending in endings:
            for old in (folder / name).glob(f"*.{ending}"):
                old.unlink()


def _save(picture: Picture, folder: Path) -> dict[str, Any]:
    """Write a figure as PNG and PDF; return what the page shows of it."""
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=SCREEN_DPI)
    with atomic_write(folder / f"{picture.name}.png") as temporary:
        temporary.write_bytes(buffer.getvalue())
    # The layout is the same for both formats, and finding it takes longer than drawing.
    picture.figure.set_layout_engine("none")
    with atomic_write(folder / f"{picture.name}.pdf") as temporary:
        picture.figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    return {
        "name": picture.name,
        "section": picture.section,
        "title": picture.title,
        "text": picture.text,
        "table": picture.table,
        "data": base64.b64encode(buffer.getvalue()).decode(),
        "width": round(picture.figure.get_figwidth() * 100),
    }


def _relative(target: Path, start: Path) -> str:
    path = os.path.relpath(target, start).replace(os.sep, "/")
    return "" if path == "." else f"{path}/"


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
