"""From the records of a sweep to verdicts, tables, figures and a report; needs neither torch nor ray.

In a notebook::

    from analysis import compare, load, sensitivity

    run = load("runs/ablation")
    compare(run)                  # every arm against the reference, a tidy frame
    sensitivity(run).importance   # which hyper-parameter mattered
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "Run": "analysis.run",
    "load": "analysis.loading",
    "load_each": "analysis.loading",
    "compare": "analysis.comparison",
    "conclude": "analysis.results",
    "sensitivity": "analysis.response",
    "write_report": "analysis.report.write",
}

__all__ = ["Run", "compare", "conclude", "load", "load_each", "sensitivity", "write_report"]


def __getattr__(name: str) -> Any:
    """Return a public function; imported on first use, because pandas and scipy take seconds to import."""
    if name not in _PLACES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
