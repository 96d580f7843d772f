"""The result for machines: ``report/summary.json``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis import describe
from analysis.headline import headline
from analysis.results import Results

SCHEMA = 1

NUMBERS = [
    *("mean", "low", "high", "share_of_teacher", "share_of_teacher_low", "share_of_teacher_high"),
    *("against_reference", "against_reference_low", "against_reference_high"),
    *("n_layers", "n_seeds", "parameters", "backbone_parameters", "flops", "latency_ms", "latency_p95_ms"),
    *(
        "batch_latency_ms",
        "speed_up",
        "batch_speed_up",
        "training_seconds",
        "search_seconds",
        "evidence_seconds",
        "peak_memory_bytes",
    ),
]


def summarize(results: Results) -> dict[str, Any]:
    """Return what ``summary.json`` holds: plain JSON, None where something was not measured."""
    run = results.run
    settings = run.settings
    table = describe.counts(run)
    totals = {name: int(np.nansum(table[name])) for name in ("planned", "success", "stopped", "failed", "missing")}
    teachers, seeds = results.breadth
    return {
        "schema": SCHEMA,
        "sweep": run.name,
        "task": run.task.name,
        "data": run.data_name,
        "protocol_signature": run.protocol_signature,
        "metric": settings["metric"],
        "direction": run.direction,
        "ranked": run.listed,
        "reference": settings["reference"],
        "margin": settings["margin"],
        "level": settings["level"],
        "users": run.users(),
        "seeds": teachers * seeds,
        "teachers": teachers,
        "headline": headline(results),
        "strata": [_stratum(results, ratio) for ratio in run.strata()],
        "trials": totals,
        "complete": totals["missing"] == 0 and not len(run.refused) and bool(run.plan),
        "refused": run.refused.to_dict("records"),
        "notes": run.notes,
        "tests": results.ledger.counts(),
    }


def _stratum(results: Results, ratio: float) -> dict[str, Any]:
    planned = [s for s in results.run.plan.get("strata", []) if math.isclose(s["keep_ratio"], ratio, abs_tol=1e-6)]
    part = results.main[np.isclose(results.main["keep_ratio"].astype(float), ratio)]
    layers = planned[0]["n_student_layers"] if planned else None
    return {"keep_ratio": ratio, "n_student_layers": layers, "arms": [_arm(row) for row in part.to_dict("records")]}


def _arm(row: dict[str, Any]) -> dict[str, Any]:
    judged = isinstance(row["word"], str)
    return {
        "arm": row["arm"],
        "kind": row["kind"],
        **{name: _number(row.get(name)) for name in NUMBERS},
        "p_adjusted": _number(row["p_adjusted"]),
        "verdict": {"word": row["word"], "sentence": row["sentence"]} if judged else None,
        "trials": list(row["trials"]),
    }


def _number(value: Any) -> float | None:
    """Return a number that JSON knows, or None."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
