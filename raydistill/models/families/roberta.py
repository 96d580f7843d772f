"""RoBERTa: BERT's blocks, with positions counted from the padding index + 1."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, RobertaConfig

from raydistill.models.families.base import Size
from raydistill.models.families.bert import bert_like, bert_settings


def _config(size: Size, **further) -> RobertaConfig:
    """Return the configuration of a RoBERTa recommender; positions count from the row after the padding's."""
    settings = {
        **bert_settings(size),
        "max_position_embeddings": size.max_length + 1 + further.get("pad_token_id", 0),
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return RobertaConfig(**{**settings, **further})


def _position_limit(config: PreTrainedConfig) -> int:
    """Return the longest sequence: positions up to the padding index are not for items."""
    return config.max_position_embeddings - config.pad_token_id - 1


@torch.no_grad()
def _pad_with_zero(model: PreTrainedModel) -> None:
    """Make 0 the padding index, and drop as many position rows, so that every position keeps its learned row."""
    embeddings = model.base_model.embeddings
    shift = embeddings.padding_idx
    rows = embeddings.position_embeddings.weight[shift:]
    embeddings.position_embeddings = nn.Embedding.from_pretrained(rows.clone(), freeze=False, padding_idx=0)
    embeddings.padding_idx = 0
    embeddings.position_ids = embeddings.position_ids[:, : len(rows)].clone()
    embeddings.token_type_ids = embeddings.token_type_ids[:, : len(rows)].clone()
    model.config.pad_token_id = 0
    model.config.max_position_embeddings = len(rows)


ROBERTA = bert_like(
    "roberta",
    RobertaConfig,
    "RobertaModel",
    recommender_config=_config,
    position_limit=_position_limit,
    pad_with_zero=_pad_with_zero,
)
