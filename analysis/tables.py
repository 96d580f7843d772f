"""Tables for people: on the terminal, as CSV and as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.names import arm_name, metric_name
from raydistill.records import atomic_write

LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
WIDTH = 110


def digits(value: float | None) -> str:
    """Return a number with three digits that count, its last zeros too: ``1.50``."""
    return "–" if value is None or not math.isfinite(value) else f"{value:#.3g}".rstrip(".")


def count_text(value: float | None) -> str:
    """Return a count in at most six characters: ``1.25M``."""
    if value is None or not math.isfinite(value):
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def times_text(value: float | None) -> str:
    """Return a ratio for people: ``2.7x``."""
    return "–" if value is None or not math.isfinite(value) else f"{digits(value)}x"


def seconds_text(value: float | None) -> str:
    """Return a duration for people: ``12 s``, ``3.4 min``, ``1.2 h``."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 120:
        return f"{digits(value)} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def span_text(low: float | None, high: float | None, pattern: str) -> str:
    """Return both ends of an interval for people; a dash where it is not known."""
    known = all(end is not None and math.isfinite(end) for end in (low, high))
    return pattern.format(low, high) if known else "–"


def terminal_table(summary: dict[str, Any]) -> str:
    """Return the closing tables of a sweep as plain text, one a keep-ratio, at most 110 columns wide.

    Args:
        summary: The content of ``report/summary.json``.
    """
    metric = metric_name(summary["metric"])
    head = ("arm", metric, f"{100 * (1 - summary['level']):g} % interval", "of teacher",
            "speed-up", "params", "search", "verdict")  # fmt: skip
    blocks = []
    for stratum in summary["strata"]:
        rows = [
            (
                arm_name(arm["arm"]),
                _number(arm["mean"], "{:.4f}"),
                span_text(arm["low"], arm["high"], "{:.4f} to {:.4f}"),
                _number(arm["share_of_teacher"], "{:.1%}"),
                times_text(arm["speed_up"]),
                count_text(arm["backbone_parameters"]),
                seconds_text(arm["search_seconds"]),
                arm["verdict"]["word"] if arm.get("verdict") else "",
            )
            for arm in stratum["arms"]
        ]
        layers = stratum["n_student_layers"]
        depth = f", {layers} layer{'' if layers == 1 else 's'}" if layers else ""
        title = f"{100 * stratum['keep_ratio']:g} % of layers kept{depth}"
        blocks.append(f"{title}\n{_aligned(head, rows)}" if rows else f"{title}\n  no confirmed trial yet")
    lines = [_wrapped(text) for text in summary["headline"]]
    reference = arm_name(summary["reference"])
    legend = (
        f"on test data; speed-up: the teacher's latency over the arm's, one request, measured; params: without "
        f"embeddings; search: time of all search trials of the arm; verdict: against {reference}, corrected for the "
        f"number of different students and keep-ratios; items are ranked over {summary['ranked']}"
    )
    return "\n".join(
        [*lines, "", "\n\n".join(blocks), "", _wrapped(legend), _wrapped(summary["protocol_signature"], "|")]
    )


def _number(value: float | None, pattern: str) -> str:
    return "–" if value is None or not math.isfinite(value) else pattern.format(value)


def _aligned(head: Sequence[str], rows: list[tuple[str, ...]]) -> str:
    """Return columns padded to their widest cell; the last is cut so that a line fits."""
    cells = [tuple(head), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if i in (0, len(head) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(padded).rstrip()[: WIDTH - 2])
    lines.insert(1, "  " + "-" * min(WIDTH - 2, sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _wrapped(text: str, separator: str = " ") -> str:
    lines = [""]
    for word in text.split(separator):
        if lines[-1] and len(lines[-1]) + len(word) + 1 > WIDTH:
            lines[-1] += separator.strip()
            lines.append("")
        lines[-1] = f"{lines[-1]}{separator}{word}" if lines[-1] else word
    return "\n".join(lines)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, atomically; lists of ids are joined with spaces, numbers keep 6 digits."""
    plain = frame.copy()
    for column in plain.columns:
        if len(plain) and any(hasattr(value, "__iter__") and not isinstance(value, str) for value in plain[column]):
            plain[column] = [
                " ".join(map(str, v)) if hasattr(v, "__iter__") and not isinstance(v, str) else v for v in plain[column]
            ]
    with atomic_write(path) as temporary:
        plain.to_csv(temporary, index=False, float_format="%.6g")


def best_of(means: Sequence[float], summary: dict[str, Any]) -> float | None:
    """Return the best mean in the direction of the summary's metric; None without any."""
    return (min if summary["direction"] == "min" else max)(means, default=None)


def latex_escape(text: str) -> str:
    """Return text in which LaTeX sees no command."""
    return "".join(LATEX.get(character, character) for character in text)


def latex_table(stratum: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return the main table of one stratum for LaTeX with booktabs.

    The best student is bold; a dagger marks a difference to the reference that holds after Holm's correction. The
    caption says what was measured, with the protocol's signature.
    """
    students = [arm["mean"] for arm in stratum["arms"] if arm["arm"] not in ("teacher", "popularity")]
    best = best_of(students, summary)
    lines = []
    for arm in stratum["arms"]:
        mean = f"{arm['mean']:.4f}"
        mean = rf"\textbf{{{mean}}}" if arm["mean"] == best and arm["arm"] not in ("teacher", "popularity") else mean
        word = arm["verdict"]["word"] if arm["verdict"] else ""
        mark = r"$^{\dagger}$" if word in ("better", "worse", "inferior") else ""
        cells = [
            latex_escape(arm_name(arm["arm"])),
            mean + mark,
            span_text(arm["low"], arm["high"], "[{:.4f}, {:.4f}]"),
            _number(arm["share_of_teacher"], "{:.1%}").replace("%", r"\%"),
            times_text(arm["speed_up"]).replace("x", r"$\times$"),
            count_text(arm["backbone_parameters"]),
            digits(arm["latency_ms"]),
        ]
        lines.append(" & ".join(cells) + r" \\")
    level = f"{100 * (1 - summary['level']):g}"
    metric = latex_escape(metric_name(summary["metric"]))
    smaller = " (smaller is better)" if summary["direction"] == "min" else ""
    reference = latex_escape(arm_name(summary["reference"]))
    caption = (
        f"Test {metric}{smaller} on {latex_escape(summary['data'])} with {100 * stratum['keep_ratio']:g}\\,\\% of the "
        f"teacher's layers kept: mean over {summary['seeds']} seeds and {summary['users']} users with "
        f"{level}\\,\\% interval. Items are ranked over {latex_escape(summary['ranked'])}. Bold: best student. "
        f"$\\dagger$: differs from {reference} after Holm's correction over all different students and keep-ratios. "
        f"Speed-up is the teacher's measured latency over the student's. Parameters are without embeddings, latency is "
        f"the median of one request in ms. Signature: \\texttt{{{latex_escape(summary['protocol_signature'])}}}."
    )
    head = f"arm & {metric} & {level}\\,\\% interval & of teacher & speed-up & parameters & latency" + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\begin{tabular}{lrcrrrr}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
