"""Gemma, Gemma 2 and Gemma 3 (text): Llama's shape, scaled inputs, and blocks that alternate in what they attend to."""

from __future__ import annotations

from transformers import Gemma2Config, Gemma3TextConfig, GemmaConfig, PreTrainedConfig

from raydistill.models.families.base import Size
from raydistill.models.families.llama import llama_config, llama_like


def _gemma2_config(size: Size, **further) -> PreTrainedConfig:
    """Return the configuration of a Gemma 2 recommender."""
    return llama_config(Gemma2Config, query_pre_attn_scalar=size.hidden // size.heads)(size, **further)


def _gemma3_config(size: Size, **further) -> PreTrainedConfig:
    """Return the configuration of a Gemma 3 recommender."""
    return llama_config(Gemma3TextConfig, query_pre_attn_scalar=size.hidden // size.heads)(size, **further)


GEMMA = llama_like("gemma", GemmaConfig, "GemmaModel")
# Gemma 2 caps its attention scores, which sdpa cannot.
GEMMA2 = llama_like(
    "gemma2",
    Gemma2Config,
    "Gemma2Model",
    per_layer_keys=("layer_types",),
    recommender_config=_gemma2_config,
    attention="eager",
)
GEMMA3 = llama_like(
    "gemma3", Gemma3TextConfig, "Gemma3TextModel", per_layer_keys=("layer_types",), recommender_config=_gemma3_config
)
