"""A teacher that is ready to have students: trained, scored layer by layer, its outputs cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raydistill.config import Arm
from raydistill.selectors import SELECTORS


@dataclass(frozen=True)
class PreparedTeacher:
    """What the search needs to know of a teacher, without its weights.

    Attributes:
        id: Identity.
        seed: Seed that it was trained from.
        n_layers: Its depth.
        evidence_id: Identity of the evidence on it.
        evidence: Arrays by kind, ``Float64[replicates, layers]``.
        evidence_cost: Seconds by arm, of all that its selector needs.
        profile: What models of each depth cost, see :func:`raydistill.training.profile.profile`.
        validation: Its validation metrics; ``popularity`` those of the popularity baseline.
    """

    id: str
    seed: int
    n_layers: int
    evidence_id: str
    evidence: dict[str, np.ndarray]
    evidence_cost: dict[str, float]
    profile: dict[str, Any]
    validation: dict[str, float]
    popularity: dict[str, float]

    def layers(self, arm: Arm, n_student: int, generator: np.random.Generator) -> tuple[int, ...]:
        """Return the layer map that an arm's selector chooses."""
        return SELECTORS[arm.selector].select(
            self.evidence, n_student, n_teacher=self.n_layers, params=arm.params, generator=generator
        )

    def evidence_seconds(self, arm: Arm) -> float:
        """Return what the evidence that an arm's selector needs has cost, in seconds."""
        return self.evidence_cost[arm.name]
