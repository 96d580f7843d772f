"""Taylor importance: keep the blocks whose removal would raise the loss, to first order.

Idea: what happens to the loss when something is set to zero is, to first order, minus gradient times value.

Paper: Molchanov et al. (2017), "Pruning convolutional neural networks for resource efficient inference", and (2019),
"Importance estimation for neural network pruning"; for blocks of language models Ma et al. (2023), "LLM-Pruner".

Formula, by ``form``:
``weights``: ``T_l = sum_{p in l} | p * mean_e g_ep |``;
``group``:   ``T_l = mean_e | sum_{p in l} p * g_ep |``;
``block``:   ``T_l = mean_e  sum_i  - < d loss_e / d y_ei, y_ei - x_ei >``, the loss change when the block becomes the
identity; it may be negative, and estimates what ``leave_one_out`` measures.

Symbols: l = block, p = parameter, e = example, g_ep = d loss_e / d p, i = position, x = input and y = output of the
block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raydistill.selectors.base import STRICT, Choice, Selector, ranked

KIND_OF_FORM = {"weights": "taylor", "group": "taylor_group", "block": "taylor_block"}


@dataclass(frozen=True)
class TaylorParams:
    """What is taken away in thought, and the rule that picks layers from scores."""

    form: Literal["weights", "group", "block"] = "weights"
    choose: Choice = "top_k"
    __pydantic_config__ = STRICT


def needs(params: TaylorParams) -> tuple[str, ...]:
    """Return the one kind of Taylor evidence that the params ask for."""
    return (KIND_OF_FORM[params.form],)


def scores(evidence, params: TaylorParams):
    """Return the first-order importance of each block, ``Float64[replicates, layers]``."""
    return evidence[KIND_OF_FORM[params.form]].copy()


SELECTOR = Selector(
    name="taylor", params_type=TaylorParams, needs_rule=needs, scores_rule=scores, layers_rule=ranked(scores)
)
