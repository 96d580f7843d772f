"""Base models with random weights, from a family's name and sizes."""

from __future__ import annotations

from difflib import get_close_matches

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from raydistill.errors import ModelError
from raydistill.models.checkpoint import one_line
from raydistill.models.families import FAMILIES, Family, Size


def family_named(name: str) -> Family:
    """Return a family of the table.

    Raises:
        ModelError: There is none of that name.
    """
    if name not in FAMILIES:
        raise ModelError(f"unknown model family '{name}'", mend=f"use one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def random_backbone(
    family: Family, size: Size, *, attention: str | None = None, model_class: str | None = None, further: dict
) -> PreTrainedModel:
    """Return a base model with random weights, from torch's global random numbers.

    Args:
        family: The family.
        size: Vocabulary, depth, widths, dropout and longest sequence.
        attention: Attention implementation of transformers; the family's own by default.
        model_class: Name of a class in ``transformers``; the family's ``base_class`` by default.
        further: Further keys of the family's configuration class.

    Raises:
        ModelError: An unknown key, a dropout that is no probability, or what transformers refuses.
    """
    if not 0 <= size.dropout < 1:
        raise ModelError(f"dropout is {size.dropout}", mend="it must be at least 0 and below 1")
    attention = attention or family.attention
    config = _configuration(family, size, attention, further)
    try:
        if model_class is not None:
            return getattr(transformers, model_class)(config)
        return getattr(transformers, family.base_class)(config, **family.base_arguments)
    except (ValueError, ImportError) as error:
        raise ModelError(
            f"transformers refuses this model: {one_line(error)}",
            where=f"family {family.name}, attention '{attention}'",
            mend=f"attention '{family.attention}' always works for this family",
        ) from error


def _configuration(family: Family, size: Size, attention: str, further: dict) -> PreTrainedConfig:
    """Return the family's configuration, with further keys that its class must know."""
    known = family.recommender_config(size)
    for key in further:
        # transformers takes any key and ignores what it does not know.
        if not hasattr(known, key):
            near = get_close_matches(key, [*known.to_dict(), *known.attribute_map])
            raise ModelError(
                f"{type(known).__name__} has no key '{key}'", mend=f"did you mean {near[0]}?" if near else None
            )
    try:
        config = family.recommender_config(size, attn_implementation=attention, **further)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"transformers refuses this configuration: {one_line(error)}", where=f"{size}") from error
    # Whole sequences are trained on and scored: a cache would be filled and thrown away.
    config.use_cache = False
    return config


def check_sizes(*, hidden: int = 1, heads: int = 1, **counts: int) -> None:
    """Refuse counts below one, and heads that do not divide the width.

    Raises:
        ModelError: One of them.
    """
    for name, count in {"hidden": hidden, "heads": heads, **counts}.items():
        if count < 1:
            raise ModelError(f"{name} is {count}", mend=f"{name} must be at least 1")
    if hidden % heads:
        raise ModelError(f"hidden {hidden} is not a multiple of heads {heads}", mend="choose heads that divide hidden")
