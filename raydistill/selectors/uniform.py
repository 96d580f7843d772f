"""Uniform: evenly spaced layers, both ends included.

Idea: neighbouring blocks do similar things, so every k-th one covers them all.

Paper: Sanh et al. (2019), "DistilBERT"; with 12 layers and a student of 6 the formula gives their 0, 2, 4, 7, 9, 11.

Formula: ``layer_i = floor(i (n_teacher - 1) / (n_student - 1) + 1/2)``, i = 0 .. n_student - 1; layer 0 where
n_student = 1.

Symbols: i = layer of the student.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Selector


@dataclass(frozen=True)
class UniformParams:
    """No parameters."""

    __pydantic_config__ = STRICT


def needs(params: UniformParams) -> tuple[str, ...]:
    """Return nothing: no evidence is needed."""
    return ()


def scores(evidence, params: UniformParams) -> None:
    """Return None: no layer has a score."""


def layers(evidence, n_student, n_teacher, params, generator):
    """Return evenly spaced layers, in whole numbers so that halves always round up."""
    gaps = max(n_student - 1, 1)
    return [(2 * i * (n_teacher - 1) + gaps) // (2 * gaps) for i in range(n_student)]


SELECTOR = Selector(name="uniform", params_type=UniformParams, needs_rule=needs, scores_rule=scores, layers_rule=layers)
