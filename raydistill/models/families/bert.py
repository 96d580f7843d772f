"""BERT: bidirectional, learned positions, normalization after each sublayer."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, PreTrainedConfig, PreTrainedModel

from raydistill.models.families.base import Family, Size, Stack


def bert_like(name: str, config_class: type[PreTrainedConfig], base_class: str, **own) -> Family:
    """Return a family whose base model keeps its blocks in ``encoder.layer``, as BERT does.

    Args:
        name: What sweeps call it.
        config_class: The configuration class.
        base_class: Name of the base model's class.
        own: Further attributes of the :class:`Family`; ``recommender_config`` where its keys differ.
    """

    def config(size: Size, **further) -> PreTrainedConfig:
        return config_class(**{**bert_settings(size), **further})

    return Family(
        name=name,
        model_types=(config_class.model_type,),
        base_class=base_class,
        stacks=(Stack("blocks", "encoder.layer"),),
        causal=False,
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        base_arguments={"add_pooling_layer": False},
        constructor_arguments=_pooler_argument,
        **{"recommender_config": config, **own},
    )


def bert_settings(size: Size) -> dict[str, Any]:
    """Return the configuration keys that BERT and RoBERTa share."""
    return {
        "vocab_size": size.vocab_size,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate,
        "hidden_dropout_prob": size.dropout,
        "attention_probs_dropout_prob": size.dropout,
        "max_position_embeddings": size.max_length,
        "type_vocab_size": 1,
        "pad_token_id": 0,
    }


def _pooler_argument(model: PreTrainedModel) -> dict[str, Any]:
    """Return the constructor argument that says whether a base model has a pooler; its configuration does not tell."""
    if model is not model.base_model:
        return {}
    return {"add_pooling_layer": model.pooler is not None}


BERT = bert_like("bert", BertConfig, "BertModel")
