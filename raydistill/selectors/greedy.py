"""Greedy removal: leave out the block whose absence hurts least, score the rest again, repeat.

Idea: as leave-one-out, but after each removal the others are measured anew, so that two blocks that stand in for each
other are not both thrown away.

Paper: Zhong et al. (2025), "BlockPruner", and Song et al. (2024), "SLEB: Streamlining LLMs through redundancy
verification and elimination of Transformer blocks".

Formula: ``l_1 = argmin_l loss(model without l)``, ``l_s = argmin_l loss(model without l_1 .. l_{s-1}, l)``; the score
of block l is the step s at which it goes: 1 for the first, n_teacher for the one that is left at the end.

Symbols: l = block, s = step, loss = mean over examples. Over several calibration samples the mean step ranks (Borda
count); equal losses: the deeper block goes first."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class GreedyParams:
    """The rule that picks layers from scores."""

    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: GreedyParams) -> tuple[str, ...]:
    """Return the evidence kind ``greedy``."""
    return ("greedy",)


def scores(evidence, params: GreedyParams):
    """Return the step at which each block is removed, ``Float64[replicates, layers]``."""
    return evidence["greedy"].copy()


SELECTOR = Selector(
    name="greedy", params_type=GreedyParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
