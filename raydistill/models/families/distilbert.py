"""DistilBERT: BERT with half the blocks, other names and no pooler."""

from __future__ import annotations

from transformers import DistilBertConfig

from raydistill.models.families.base import Family, Size, Stack


def _config(size: Size, **further) -> DistilBertConfig:
    """Return the configuration of a DistilBERT recommender."""
    settings = {
        "vocab_size": size.vocab_size,
        "dim": size.hidden,
        "n_layers": size.layers,
        "n_heads": size.heads,
        "hidden_dim": size.intermediate,
        "dropout": size.dropout,
        "attention_dropout": size.dropout,
        "max_position_embeddings": size.max_length,
        "pad_token_id": 0,
    }
    return DistilBertConfig(**{**settings, **further})


DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    base_class="DistilBertModel",
    stacks=(Stack("blocks", "transformer.layer", "n_layers"),),
    causal=False,
    recommender_config=_config,
    dropout_keys=("dropout", "attention_dropout"),
)
