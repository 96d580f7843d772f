"""Fisher information: keep the blocks whose parameters the predictions depend on most.

Idea: the Fisher information of a parameter says how far the predicted distribution moves when the parameter does. A
block with little of it can change, or go, and the predictions hardly notice.

Paper: Amari (1998), "Natural gradient works efficiently in learning"; as an importance of parameters Kirkpatrick et al.
(2017), "Overcoming catastrophic forgetting in neural networks". True against empirical: Kunstner, Balles and Hennig
(2019), "Limitations of the empirical Fisher approximation for natural gradient descent".

Formula: ``F_l = mean_e  sum_{p in l}  (d loss_e / d p)^2``, with one gradient for each example. The square of the
gradient averaged over a batch is a different quantity.

Symbols: l = block (``layer``), e = calibration example, p = parameter of the block, loss_e = mean cross-entropy over
the example's targets; ``labels='model'`` draws the targets' labels from the model's own softmax (the true Fisher),
``labels='empirical'`` takes the data's; ``aggregate='mean'`` divides by the number of parameters of the block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raydistill.selectors.base import STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class FisherParams:
    """Whose labels, how the parameters of a block are aggregated, and the rule that picks layers from scores."""

    labels: Literal["model", "empirical"] = "model"
    aggregate: Literal["sum", "mean"] = "sum"
    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def kind(params: FisherParams) -> str:
    """Return the name of the evidence that the params ask for."""
    return ("fisher" if params.labels == "model" else "fisher_empirical") + (
        "_mean" if params.aggregate == "mean" else ""
    )


def needs(params: FisherParams) -> tuple[str, ...]:
    """Return the one kind of Fisher evidence that the params ask for."""
    return (kind(params),)


def scores(evidence, params: FisherParams):
    """Return the Fisher information of each block, ``Float64[replicates, layers]``."""
    return evidence[kind(params)].copy()


SELECTOR = Selector(
    name="fisher", params_type=FisherParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
