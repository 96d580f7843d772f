"""Llama and the families of the same shape: causal, rotary positions, RMS normalization."""

from __future__ import annotations

from collections.abc import Callable

from transformers import LlamaConfig, PreTrainedConfig

from raydistill.models.families.base import Family, Size, Stack

DROPOUT_KEYS = ("attention_dropout",)


def llama_config(config_class: type[PreTrainedConfig]) -> Callable[..., PreTrainedConfig]:
    """Return a builder of recommender configurations of one Llama-like class.

    These families drop attention probabilities only: the dropout of residual branches that others have is not in them.
    """

    def build(size: Size, **further) -> PreTrainedConfig:
        settings = {
            "vocab_size": size.vocab_size,
            "hidden_size": size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads,
            "head_dim": size.hidden // size.heads,
            "intermediate_size": size.intermediate,
            "attention_dropout": size.dropout,
            "max_position_embeddings": size.max_length,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "use_cache": False,
        }
        return config_class(**{**settings, **further})

    return build


LLAMA = Family(
    name="llama",
    model_types=("llama",),
    base_class="LlamaModel",
    stacks=(Stack("blocks", "layers"),),
    causal=True,
    recommender_config=llama_config(LlamaConfig),
    dropout_keys=DROPOUT_KEYS,
)
