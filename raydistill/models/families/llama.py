"""Llama and the families of the same shape: causal, rotary positions, RMS normalization."""

from __future__ import annotations

from collections.abc import Callable

from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from raydistill.models.families.base import Family, LayerMaps, Size, Stack


def llama_config(config_class: type[PreTrainedConfig], **own) -> Callable[..., PreTrainedConfig]:
    """Return a builder of recommender configurations of one Llama-like class.

    These families drop attention probabilities only: the dropout of residual branches that others have is not in them.

    Args:
        config_class: The configuration class.
        own: Keys of this class alone.
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
            **own,
        }
        return config_class(**{**settings, **further})

    return build


def llama_like(
    name: str,
    config_class: type[PreTrainedConfig],
    base_class: str,
    *,
    per_layer_keys: tuple[str, ...] = (),
    slice_config: Callable[[PreTrainedConfig, LayerMaps], None] | None = None,
    recommender_config: Callable[..., PreTrainedConfig] | None = None,
    attention: str = "sdpa",
) -> Family:
    """Return a family whose base model keeps its blocks in ``layers``, as Llama does."""
    return Family(
        name=name,
        model_types=(config_class.model_type,),
        base_class=base_class,
        stacks=(Stack("blocks", "layers", per_layer_keys=per_layer_keys),),
        causal=True,
        recommender_config=recommender_config or llama_config(config_class),
        dropout_keys=("attention_dropout",),
        slice_config=slice_config,
        attention=attention,
        poolings=("last", "mean"),
    )


def _count_full_layers(config: PreTrainedConfig, layer_maps: LayerMaps) -> None:
    """Lower ``max_window_layers`` to the kept blocks below it: some readers derive the list of layer types from it."""
    config.max_window_layers = sum(i < config.max_window_layers for i in layer_maps["blocks"])


LLAMA = llama_like("llama", LlamaConfig, "LlamaModel")
MISTRAL = llama_like("mistral", MistralConfig, "MistralModel")
QWEN2 = llama_like("qwen2", Qwen2Config, "Qwen2Model", per_layer_keys=("layer_types",), slice_config=_count_full_layers)
QWEN3 = llama_like("qwen3", Qwen3Config, "Qwen3Model", per_layer_keys=("layer_types",), slice_config=_count_full_layers)
