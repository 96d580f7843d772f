"""Contiguous: drop the one run of blocks that turns the hidden state least.

Idea: if the input of block i and the output of block j point the same way, the blocks between can go together.

Paper: Gromov et al. (2024), "The unreasonable ineffectiveness of the deeper layers". They measure at the last token;
here the angle is averaged over all real positions, so that bidirectional models are treated alike.

Formula: drop blocks i .. j, ``j = i + n_teacher - n_student - 1``, with the least ``A_ij``;
``A_ij = mean_e mean_t arccos(cos(x_i,et, x_{j+1},et)) / pi``.

Symbols: x_i = input of block i, x_{j+1} = output of block j, e = example, t = real position. The evidence has the shape
[replicates, layers, layers], entry [i, j] for i <= j and zero below. Of equal runs the deepest is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.selectors.base import STRICT, Selector


@dataclass(frozen=True)
class ContiguousParams:
    """No parameters."""

    __pydantic_config__ = STRICT


def needs(params: ContiguousParams) -> tuple[str, ...]:
    """Return the evidence kind ``contiguous``."""
    return ("contiguous",)


def scores(evidence, params: ContiguousParams) -> None:
    """Return None: runs have scores, single layers have none."""


def layers(evidence, n_student, n_teacher, params, generator):
    """Return the layers outside the run that is dropped."""
    n_dropped = n_teacher - n_student
    if n_dropped == 0:
        return range(n_teacher)
    distances = evidence["contiguous"].mean(axis=0)
    runs = np.array([distances[start, start + n_dropped - 1] for start in range(n_student + 1)])
    start = int(np.flatnonzero(runs == runs.min())[-1])
    return [*range(start), *range(start + n_dropped, n_teacher)]


SELECTOR = Selector(
    name="contiguous", params_type=ContiguousParams, needs_rule=needs, scores_rule=scores, layers_rule=layers
)
