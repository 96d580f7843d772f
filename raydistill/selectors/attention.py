"""Attention concentration: keep the blocks whose heads look at few positions.

Idea: a head that spreads its attention evenly only averages the sequence; one that looks at a few positions has found
something. A block of focused heads is taken to be important.

Paper: Voita et al. (2019), "Analyzing multi-head self-attention", who find confident heads to be the important ones;
entropy as the measure: Clark et al. (2019), "What does BERT look at?".

Formula: ``C_l = mean_e mean_h mean_i (1 - H(a_ei^h) / log n_ei)``, with ``H(a) = -sum_j a_j log a_j``.

Symbols: l = block, e = example, h = head, i = real query position, a_ei^h = attention probabilities of the row, n_ei
= how many real keys the row may look at (i + 1 in a causal model without padding); rows with one key are left out."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class AttentionParams:
    """The rule that picks layers from scores."""

    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: AttentionParams) -> tuple[str, ...]:
    """Return the evidence kind ``attention``."""
    return ("attention",)


def scores(evidence, params: AttentionParams):
    """Return the attention concentration of each block, ``Float64[replicates, layers]``."""
    return evidence["attention"].copy()


SELECTOR = Selector(
    name="attention", params_type=AttentionParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
