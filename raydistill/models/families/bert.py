"""BERT: bidirectional, learned positions, normalization after each sublayer."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, PreTrainedModel

from raydistill.models.families.base import Family, Size, Stack

STACKS = (Stack("blocks", "encoder.layer"),)
DROPOUT_KEYS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


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


def pooler_argument(model: PreTrainedModel) -> dict[str, Any]:
    """Return the constructor argument that says whether a base model has a pooler; its configuration does not tell."""
    if model is not model.base_model:
        return {}
    return {"add_pooling_layer": model.pooler is not None}


def _config(size: Size, **further) -> BertConfig:
    """Return the configuration of a BERT recommender."""
    return BertConfig(**{**bert_settings(size), **further})


BERT = Family(
    name="bert",
    model_types=("bert",),
    base_class="BertModel",
    stacks=STACKS,
    causal=False,
    recommender_config=_config,
    dropout_keys=DROPOUT_KEYS,
    base_arguments={"add_pooling_layer": False},
    constructor_arguments=pooler_argument,
)
