"""Random: the baseline that any selector must beat, as a distribution.

Idea: if scores carry no information, a random set of layers does as well. The arm draws several sets, and every other
arm has a place among them.

Paper: Gale, Elsen and Hooker (2019), "The state of sparsity in deep neural networks", on why random baselines belong in
every pruning table.

Formula: a uniform draw of n_student of the n_teacher layers without replacement, sorted.

Symbols: one draw is one call with a fresh generator; ``draws`` is how many different sets confirm trains. A set that an
earlier draw has is drawn again, and where there are fewer sets than ``draws``, each is trained once.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Selector


@dataclass(frozen=True)
class RandomParams:
    """How many layer sets the arm is made of, so that other selectors have a place in a distribution."""

    draws: int = 5
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be at least 1")


def needs(params: RandomParams) -> tuple[str, ...]:
    """Return nothing: no evidence is needed."""
    return ()


def scores(evidence, params: RandomParams) -> None:
    """Return None: no layer has a score."""


def layers(evidence, n_student, n_teacher, params, generator):
    """Return layers drawn without replacement."""
    return generator.choice(n_teacher, size=n_student, replace=False)


SELECTOR = Selector(
    name="random",
    params_type=RandomParams,
    needs_rule=needs,
    scores_rule=scores,
    layers_rule=layers,
    stochastic=True,
)
