"""A complete run directory of the preference task, made of SIMULATED scores; see ``fake_run``.

python tests/analysis/fake_preference.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from fake_run import Builder, Simulation, build

from raydistill.records import REPORTED_SCORES, SCORES, score_metrics, write_scores

DRAWN, OWN = 12, 8
"""Candidates of a list that were drawn, and the most that are the user's own."""


class PreferenceBuilder(Builder):
    """Lists of a user's own candidates, labelled, and drawn ones, unlabelled."""

    task, candidates = "preference", "period+12 drawn by popularity, seed 0"

    def __init__(self, root: Path, plan: Simulation) -> None:
        super().__init__(root, plan)
        rng = np.random.default_rng([plan.seed, 1])
        own = rng.integers(2, OWN + 1, plan.users)
        self.user = np.repeat(np.arange(plan.users, dtype=np.int32), own + DRAWN)
        place = np.arange(len(self.user)) - np.repeat(np.cumsum(own + DRAWN) - (own + DRAWN), own + DRAWN)
        self.drawn = place >= own[self.user]
        lists = [rng.permutation(plan.items)[: n + DRAWN] + 1 for n in own]
        self.item = np.concatenate(lists).astype(np.int32)
        taste = rng.standard_normal(plan.users)
        self.utility = 0.5 + 0.5 * taste[self.user] + 1.2 * rng.standard_normal(len(self.user)) - 1.5 * self.drawn
        self.label = np.where(self.drawn, -1, self.utility + 0.5 * rng.standard_normal(len(self.user)) > 0.5)
        self.relevant = self.label == 1

    def ranks(self, shift: float) -> dict[str, np.ndarray]:
        """Return the columns of a scores file: the better the model, the nearer its logits are to the utilities."""
        noise = np.exp(-shift) * self.rng.standard_normal(len(self.user)) + 0.2 * self.rng.standard_normal()
        logit = 1.1 * (self.utility - 0.5 + noise)
        score = (1 / (1 + np.exp(-logit))).astype(np.float32)
        liked = self.label == 1
        truth = np.where(self.drawn, np.nan, np.log(np.where(liked, score, 1 - score)))
        return {
            "user": self.user,
            "item": self.item,
            "label": self.label.astype(np.int8),
            "relevant": self.relevant,
            "drawn": self.drawn,
            "score": score,
            "log_probability": truth.astype(np.float32),
            "predicted": (score > 0.5).astype(np.int8),
            "confidence": np.maximum(score, 1 - score),
            "history_length": self.history[self.user],
            "item_popularity": self.popularity[self.item - 1].astype(np.int32),
        }

    def metrics(self, ranks: dict[str, np.ndarray]) -> dict[str, float]:
        return score_metrics(REPORTED_SCORES, ranks)

    def store(self, identity: str, ranks: dict[str, np.ndarray]) -> str:
        return write_scores(self.run.trial(identity) / SCORES, ranks)


def build_preference(root: Path, plan: Simulation | None = None) -> Path:
    """Return ``root`` after writing a simulated run directory of the preference task into it."""
    return build(root, plan or Simulation(metric="user_log_loss"), PreferenceBuilder)


if __name__ == "__main__":
    print(build_preference(Path(sys.argv[1])))
