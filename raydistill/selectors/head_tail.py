"""Head and tail: the first and the last layers, the middle dropped.

Idea: first blocks turn embeddings into features, last ones features into predictions; the middle is the most redundant.

Paper: the symmetric strategy of Sajjad et al. (2023), "On the effect of dropping layers of pre-trained Transformer
models".

Formula: the first ``ceil(n_student / 2)`` and the last ``floor(n_student / 2)`` layers.

Symbols: none. One layer means layer 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Selector


@dataclass(frozen=True)
class HeadTailParams:
    """No parameters."""

    __pydantic_config__ = STRICT


def needs(params: HeadTailParams) -> tuple[str, ...]:
    """Return nothing: no evidence is needed."""
    return ()


def scores(evidence, params: HeadTailParams) -> None:
    """Return None: no layer has a score."""


def layers(evidence, n_student, n_teacher, params, generator):
    """Return the first and the last layers; the odd one goes to the head."""
    n_tail = n_student // 2
    return [*range(n_student - n_tail), *range(n_teacher - n_tail, n_teacher)]


SELECTOR = Selector(
    name="head_tail", params_type=HeadTailParams, needs_rule=needs, scores_rule=scores, layers_rule=layers
)
