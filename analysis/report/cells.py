"""Texts of cells, and whole tables as HTML in which everything that came from data is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from markupsafe import Markup, escape

from analysis.figures.names import arm_name

Cell = str | tuple[str, float | None]
"""A text, or a text with the number that it is sorted by."""


def text_of(value: float | None, pattern: str) -> str:
    """Return a number for people, with a true minus sign and a space before %; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return format(value, pattern).replace("%", " %").replace("-", "−")


def raw(value: float | None) -> str:
    """Return a number that a table is sorted by, empty where there is none."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def number(value: float | None, pattern: str) -> Cell:
    """Return a cell that shows a number and is sorted by it."""
    return text_of(value, pattern), value


def p_number(value: float | None) -> Cell:
    """Return a cell of a p-value: two digits that count, and a bound for tiny ones."""
    if value is None or not math.isfinite(value):
        return "–", None
    return ("< 0.0001" if value < 1e-4 else f"{value:.2g}"), value


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, texts: Iterable[int] = ()) -> Markup | None:
    """Return a sortable HTML table, or None without rows.

    Args:
        heads: Headings.
        rows: Cells of each row.
        texts: Columns that are text, beside the first.
    """
    rows, left = list(rows), set(texts)
    if not rows:
        return None

    def html(cell: Cell, column: int, tag: str) -> Markup:
        text, value = cell if isinstance(cell, tuple) else (cell, None)
        kind = Markup(' class="text"') if column in left else Markup("")
        sort = Markup(' data-v="{}"').format(raw(value)) if isinstance(cell, tuple) else Markup("")
        return Markup("<{}{}{}>{}</{}>").format(Markup(tag), kind, sort, escape(text), Markup(tag))

    head = Markup("").join(html(text, column, "th") for column, text in enumerate(heads))
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(Markup("").join(html(cell, column, "td") for column, cell in enumerate(row)))
        for row in rows
    )
    start = Markup('<div class="scroll"><table class="sortable"><thead><tr>{}</tr></thead><tbody>\n{}')
    return start.format(head, body) + Markup("</tbody></table></div>")


def plain_table(frame: pd.DataFrame | None) -> Markup | None:
    """Return a frame as a sortable HTML table, or None where it is empty."""
    if frame is None or frame.empty:
        return None
    texts = [i for i, column in enumerate(frame.columns) if not pd.api.types.is_numeric_dtype(frame[column])]
    rows = [
        [_plain(str(name), value) for name, value in zip(frame.columns, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    return table([str(name).replace("_", " ") for name in frame.columns], rows, texts=texts)


def _plain(name: str, value: object) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–", None
    if isinstance(value, int | float):
        return f"{value:g}", float(value)
    return arm_name(value) if name == "arm" else str(value)
