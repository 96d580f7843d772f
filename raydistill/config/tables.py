"""What a sweep may name: the tables of the floors above, handed down to the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_RANKING = ("ndcg@K", "hr@K", "mrr")


@dataclass(frozen=True)
class Tables:
    """Names that a sweep file may use, with the params dataclass of each.

    Attributes:
        sources: Data sources; their parameters stand in ``data`` beside the common keys.
        selectors: Selectors; their parameters stand in the entry beside ``name`` and ``label``. A selector
            that draws its layers at random has a parameter ``draws``, how many layer sets confirm trains.
        families: Model families that a teacher can be built from.
        tasks: Tasks.
        sections: Of a task, a dataclass whose fields are sections that only this task has.
        metrics: Of a task, its metrics; ``@K`` stands for every cutoff.
    """

    sources: Mapping[str, type]
    selectors: Mapping[str, type]
    families: Sequence[str]
    tasks: Sequence[str]
    sections: Mapping[str, type] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {
            "next_item": (*_RANKING, "auc"),
            "preference": (
                *_RANKING,
                *("auc", "user_auc", "pr_auc", "accuracy", "log_loss", "calibration_error"),
            ),
        }
    )
