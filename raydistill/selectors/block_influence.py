"""Block influence: keep the blocks that turn the hidden state most.

Idea: a block whose output points where its input pointed has done nothing.

Paper: Men et al. (2024), "ShortGPT: Layers in large language models are more redundant than you expect".

Formula: ``BI_l = 1 - mean_e mean_i cos(x_l,ei, x_{l+1},ei)``.

Symbols: l = block, e = example, i = real position, x_l = input of block l, x_{l+1} = its output.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class BlockInfluenceParams:
    """The rule that picks layers from scores."""

    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: BlockInfluenceParams) -> tuple[str, ...]:
    """Return the evidence kind ``block_influence``."""
    return ("block_influence",)


def scores(evidence, params: BlockInfluenceParams):
    """Return the block influence of each block, ``Float64[replicates, layers]``."""
    return evidence["block_influence"].copy()


SELECTOR = Selector(
    name="block_influence",
    params_type=BlockInfluenceParams,
    needs_rule=needs,
    scores_rule=scores,
    layers_rule=ranked(scores),
)
