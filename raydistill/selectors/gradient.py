"""Gradient norm: keep the blocks that the training loss still pulls at.

Idea: a block with a large gradient is one that the loss is sensitive to.

Paper: Lee, Ajanthan and Torr (2019), "SNIP", for sensitivity by gradients; norms per block as in Lee et al. (2023),
"Surgical fine-tuning improves adaptation to distribution shifts".

Formula: ``G_l = mean_e || d loss_e / d theta_l ||_2``, one gradient for each example.

Symbols: l = block, e = example, theta_l = all parameters of the block, loss_e = mean cross-entropy over the targets
of the example with the labels of the data."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class GradientParams:
    """The rule that picks layers from scores."""

    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: GradientParams) -> tuple[str, ...]:
    """Return the evidence kind ``gradient``."""
    return ("gradient",)


def scores(evidence, params: GradientParams):
    """Return the mean per-example gradient norm of each block, ``Float64[replicates, layers]``."""
    return evidence["gradient"].copy()


SELECTOR = Selector(
    name="gradient", params_type=GradientParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
