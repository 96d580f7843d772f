"""Leave one out: keep the blocks whose absence hurts most.

Idea: skip the block, measure the loss. No approximation, but blocks that stand in for each other all look dispensable.

Paper: Kim et al. (2024), "Shortened LLaMA: Depth pruning for large language models", who rank blocks by perplexity so.

Formula: ``D_l = mean_e [ loss_e(model without block l) - loss_e(model) ]``.

Symbols: l = block, e = example, loss_e = mean cross-entropy over the targets of the example. May be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class LeaveOneOutParams:
    """The rule that picks layers from scores."""

    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: LeaveOneOutParams) -> tuple[str, ...]:
    """Return the evidence kind ``leave_one_out``."""
    return ("leave_one_out",)


def scores(evidence, params: LeaveOneOutParams):
    """Return the loss increase when each block is skipped, ``Float64[replicates, layers]``."""
    return evidence["leave_one_out"].copy()


SELECTOR = Selector(
    name="leave_one_out",
    params_type=LeaveOneOutParams,
    needs_rule=needs,
    scores_rule=scores,
    layers_rule=ranked(scores),
)
