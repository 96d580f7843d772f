"""Tail: DROP the tail, that is, keep the first n_student layers.

The name says what is dropped, not what is kept: this is the baseline of the published finding that dropping the last
k layers beats elaborate importance scores. ``drop: first`` is the mirror image and keeps the last n_student layers.

Idea: the last blocks of a deep network refine little and are easily mended by training.

Paper: top-layer dropping of Sajjad et al. (2023), "On the effect of dropping layers of pre-trained Transformer models";
Gromov et al. (2024), "The unreasonable ineffectiveness of the deeper layers".

Formula: layers ``0 .. n_student - 1``; with ``drop: first``, layers ``n_teacher - n_student .. n_teacher - 1``.

Symbols: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raydistill.selectors.base import STRICT, Selector


@dataclass(frozen=True)
class TailParams:
    """Which end is dropped."""

    drop: Literal["last", "first"] = "last"
    __pydantic_config__ = STRICT


def needs(params: TailParams) -> tuple[str, ...]:
    """Return nothing: no evidence is needed."""
    return ()


def scores(evidence, params: TailParams) -> None:
    """Return None: no layer has a score."""


def layers(evidence, n_student, n_teacher, params, generator):
    """Return the layers left when the tail (or the head) is dropped."""
    first = 0 if params.drop == "last" else n_teacher - n_student
    return range(first, first + n_student)


SELECTOR = Selector(name="tail", params_type=TailParams, needs_rule=needs, scores_rule=scores, layers_rule=layers)
