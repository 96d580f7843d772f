"""Hybrid: a weighted mix of scores, each brought to the same scale first.

Idea: each score is fooled by something else; a mix may be fooled less often.

Paper: the 0.5 / 0.3 / 0.2 mix of Fisher, attention and gradient scores is the recipe that this package set out to test;
mixing normalized criteria is common practice in pruning.

Formula: ``S_l = sum_k w_k N(s_k)_l / sum_k w_k``; ``normalize`` chooses N, applied to each replicate alone:
``min_max``: ``(s - min) / (max - min)``; ``rank``: average ranks scaled to 0..1; ``share``: ``s / sum(s)``.
A kind that is the same for all layers says nothing and counts as zero for all of them. ``contiguous``, which scores
runs of blocks, takes part with its runs of one block.

Symbols: l = block, k = evidence kind, w_k = its weight, s_k = its scores over the layers.

Why ``min_max`` by default: Fisher scores spread over orders of magnitude and attention scores over a few hundredths,
so as shares of a sum the attention weight would have next to no effect; after min-max each kind spans the same range
and the weights mean what they say. The price: a kind whose differences are only noise is blown up to the full range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from raydistill.errors import EvidenceError
from raydistill.selectors.base import KINDS, STRICT, Choice, Selector, ranked


@dataclass(frozen=True)
class HybridParams:
    """Weights by evidence kind, the rule that brings kinds to one scale, and the rule that picks layers from scores."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"fisher": 0.5, "attention": 0.3, "gradient": 0.2})
    normalize: Literal["min_max", "rank", "share"] = "min_max"
    choose: Choice = "top_k"
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kinds {unknown} in weights; there is: {', '.join(KINDS)}")
        values = list(self.weights.values())
        if not values or min(values) < 0 or not np.isfinite(values).all() or sum(values) <= 0:
            raise ValueError("weights must be finite, none below zero and at least one above it")


def needs(params: HybridParams) -> tuple[str, ...]:
    """Return the kinds with a weight above zero."""
    return tuple(kind for kind, weight in params.weights.items() if weight > 0)


def scores(evidence, params: HybridParams):
    """Return the weighted mean of the normalized kinds, ``Float64[replicates, layers]``, in 0..1.

    Raises:
        EvidenceError: ``share`` is asked of a kind with negative scores.
    """
    kinds = needs(params)
    total = sum(params.weights[kind] for kind in kinds)
    return sum(
        params.weights[kind] / total * normalized(_by_layer(evidence[kind]), params.normalize, kind) for kind in kinds
    )


def _by_layer(scores: np.ndarray) -> np.ndarray:
    """Return the scores of single layers, which of scores of runs are those of one block."""
    return scores if scores.ndim == 2 else np.diagonal(scores, axis1=1, axis2=2)


def normalized(scores: np.ndarray, rule: str, kind: str) -> np.ndarray:
    """Return scores in 0..1, each replicate (row) alone; a row of equal scores becomes zeros.

    Raises:
        EvidenceError: ``share`` is asked of negative scores, or the rule is unknown.
    """
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    if rule == "min_max":
        shifted, scale = scores - low, high - low
    elif rule == "rank":
        from scipy.stats import rankdata  # takes most of a second to import, in every process of a sweep

        shifted, scale = rankdata(scores, axis=1) - 1, np.full_like(high, max(scores.shape[1] - 1, 1))
    elif rule == "share":
        if (scores < 0).any():
            raise EvidenceError(
                f"evidence {kind!r} has negative scores, which have no share of a sum",
                where="selector hybrid",
                mend="use normalize: min_max or rank",
            )
        shifted, scale = scores, scores.sum(axis=1, keepdims=True)
    else:
        raise EvidenceError(f"unknown normalization {rule!r}", mend="one of min_max, rank, share")
    return np.where(high > low, shifted / np.where(scale > 0, scale, 1.0), 0.0)


SELECTOR = Selector(
    name="hybrid", params_type=HybridParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
