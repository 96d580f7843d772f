"""How one state is read off a sequence of final hidden states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydistill.errors import ModelError
from raydistill.models.families import Family


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(states.dtype)
    total = torch.einsum("bsd,bs->bd", states, weights)
    return total / weights.sum(dim=1, keepdim=True).clamp(min=1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _last_real(states: Tensor, mask: Tensor) -> Tensor:
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]


def _answer(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, -1]  # these are the decoder's states, whose input has no padding


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "first": _first,
    "last": _last_real,
    "answer": _answer,
}
"""``mean`` over the tokens, ``first`` or ``last`` token, or the decoder's state from which its ``answer`` follows."""


def pooled(
    states: Float[Tensor, "batch seq dim"], mask: Int[Tensor, "batch real"], pooling: str
) -> Float[Tensor, "batch dim"]:
    """Return one state for each sequence; ``mask`` is 1 where the model's input has a token."""
    return POOLINGS[pooling](states, mask)


def checked_pooling(family: Family, pooling: str | None) -> str:
    """Return the pooling, or the family's usual one for None.

    Raises:
        ModelError: It does not fit the family: a causal model's first token has seen nothing, a bidirectional one's
            last is as good as any, and only an encoder-decoder answers.
    """
    if pooling is None:
        return family.poolings[0]
    if pooling not in family.poolings:
        what = "does not fit" if pooling in POOLINGS else "is unknown, as for"
        raise ModelError(
            f"the pooling '{pooling}' {what} a model of the family {family.name}",
            where="classifier.pooling",
            mend=f"use one of {', '.join(family.poolings)}",
        )
    return pooling
