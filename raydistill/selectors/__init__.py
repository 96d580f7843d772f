"""Rules that pick layers: pure functions from evidence to scores and layer maps, one file a selector."""

from __future__ import annotations

from raydistill.selectors import (
    attention,
    block_influence,
    contiguous,
    fisher,
    gradient,
    greedy,
    head_tail,
    hybrid,
    leave_one_out,
    random,
    tail,
    taylor,
    uniform,
)
from raydistill.selectors.base import KINDS, LAYER_KINDS, RUN_KINDS, Selector, choose_layers

SELECTORS: dict[str, Selector] = {
    "fisher": fisher.SELECTOR,
    "attention": attention.SELECTOR,
    "gradient": gradient.SELECTOR,
    "hybrid": hybrid.SELECTOR,
    "block_influence": block_influence.SELECTOR,
    "taylor": taylor.SELECTOR,
    "random": random.SELECTOR,
    "uniform": uniform.SELECTOR,
    "head_tail": head_tail.SELECTOR,
    "tail": tail.SELECTOR,
    "leave_one_out": leave_one_out.SELECTOR,
    "greedy": greedy.SELECTOR,
    "contiguous": contiguous.SELECTOR,
}

__all__ = ["KINDS", "LAYER_KINDS", "RUN_KINDS", "SELECTORS", "Selector", "choose_layers"]
