"""Students that several arms share: selectors often choose the same layers, and then the models are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

SIMPLE = ("uniform", "head_tail", "tail", "random")
"""Selectors that look at no evidence."""


def cheapest_first(arms: Iterable[str]) -> tuple[str, ...]:
    """Return arms with those first that look at no evidence: theirs is the explanation that must be beaten."""
    return tuple(sorted(arms, key=lambda arm: SIMPLE.index(arm) if arm in SIMPLE else len(SIMPLE)))


def label(names: Iterable[str], keep_ratio: float) -> str:
    """Return the one name that some students have among the tests, whatever the arms that share them are called."""
    return f"{' = '.join(names)}, {100 * keep_ratio:g} % of layers kept"


def namesakes(trials: Mapping[str, pd.DataFrame]) -> dict[str, tuple[str, ...]]:
    """Return for every arm all arms with the very same students, itself among them, the cheapest explanation first.

    They are the same where, teacher by teacher and seed by seed, the answers to every user are the same bits (by the
    hash of their file), which two models that only happen to reach one metric have not.

    Args:
        trials: The confirm trials of each arm: ``id``, ``teacher_seed``, ``seed``, ``ranks_sha256``.
    """
    groups: dict[frozenset, list[str]] = {}
    for arm, rows in trials.items():
        groups.setdefault(_students(rows), []).append(arm)
    return {arm: cheapest_first(group) for group in groups.values() for arm in group}


def _students(trials: pd.DataFrame) -> frozenset:
    answers = trials["ranks_sha256"].where(trials["ranks_sha256"].notna(), trials["id"])
    return frozenset(zip(trials["teacher_seed"].fillna(-1), trials["seed"], answers, strict=True))
