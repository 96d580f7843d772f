"""What a sweep may name: the tables of the floors above, handed down to the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
        claims: Of a task, those that are means over users: claims are made of these.
    """

    sources: Mapping[str, type]
    selectors: Mapping[str, type]
    families: Sequence[str]
    tasks: Sequence[str]
    sections: Mapping[str, type] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
