"""Files of a report: page, tables, figures, summary."""

from __future__ import annotations

import base64
import io
import json
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

FILES = "files.json"
"""Name of the file that lists the figures and tables of a report, so that the next one knows which are its own."""

WRITTEN = re.compile(r"(figures/[^/\\]+\.(png|pdf)|tables/[^/\\]+\.(csv|tex))")


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
    tables = {"ranks": joint.ranks, "scores": joint.scores, **({"tests": joint.tests} if len(joint.tests) else {})}
    files = [_write_table(frame, folder / "tables" / f"{name}.csv") for name, frame in tables.items()]
    shown = [_save(one, folder / "figures") for one in joint.pictures]
    summaries = [summary for _, _, summary in written]
    write_json(folder / "summary.json", {"runs": summaries, "across": joint.sentences})
    page = render(
        f"{len(runs)} sweeps: which layers should a small recommender keep?",
        [content for _, content, _ in written],
        {"sentences": joint.sentences, "pictures": shown, "tests": len(joint.tests)},
    )
    _write_text(folder / "index.html", page)
    _replace_files(folder, [*files, *_figures(shown, folder)])
    return summaries


def _write_part(run: Run, folder: Path, *, key: str, page: Path) -> tuple[Results, dict[str, Any], dict[str, Any]]:
    """Write tables, figures and summary; return the comparisons, what the page shows of them, and the summary."""
    results = conclude(run)
    tables = frames(results)
    summary = summarize(results)
    files = write_tables(results, tables, summary, folder / "tables")
    shown = [_save(picture, folder / "figures") for picture in pictures(results, tables)]
    write_json(folder / "summary.json", summary)
    _replace_files(folder, [*files, *_figures(shown, folder)])
    base, trials = _relative(folder, page), _relative(run.root / "trials", page)
    return results, part(results, summary, tables, shown, key=key, base=base, trials=trials), summary


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "run"


def write_tables(
    results: Results, tables: dict[str, pd.DataFrame], summary: dict[str, Any], folder: Path
) -> list[Path]:
    """Write every table as CSV, the trials among them, and the main tables as LaTeX; return the files."""
    whole = {**tables, "trials": results.run.trials.drop(columns="root")}
    written = [_write_table(frame, folder / f"{name}.csv") for name, frame in whole.items()]
    for stratum in summary["strata"]:
        if stratum["arms"]:
            name = f"main_keep_{100 * stratum['keep_ratio']:g}".replace(".", "_")
            written.append(folder / f"{name}.tex")
            _write_text(written[-1], latex_table(stratum, summary))
    return written


def _write_table(frame: pd.DataFrame, path: Path) -> Path:
    write_csv(frame, path)
    return path


def _figures(shown: list[dict[str, Any]], folder: Path) -> list[Path]:
    return [folder / "figures" / f"{one['name']}.{ending}" for one in shown for ending in ("png", "pdf")]


def _replace_files(folder: Path, written: list[Path]) -> None:
    """Remove the figures and tables that an earlier report wrote and this one did not, and note those of this one.

    One that has no data any more must not stay. The folder may be anybody's (``--output paper``): what no report has
    noted is not touched.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in written)
    for old in set(_noted(folder)) - set(names):
        (folder / old).unlink(missing_ok=True)
    write_json(folder / FILES, names)


def _noted(folder: Path) -> list[str]:
    """Return the figures and tables that an earlier report noted in a folder; nothing that leads elsewhere."""
    try:
        names = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    known = names if isinstance(names, list) else []
    return [name for name in known if isinstance(name, str) and WRITTEN.fullmatch(name)]


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
