"""Transformer families, layer surgery and the recommender over items."""

from __future__ import annotations

from raydistill.models.classifier import TextClassifier, build_classifier, classifier_from_pretrained
from raydistill.models.families import (
    FAMILIES,
    Family,
    Stack,
    attention_probabilities,
    backbone_of,
    blocks,
    depth,
    family_of,
    stacks_of,
)
from raydistill.models.recommender import Recommender, build_recommender, recommender_from_pretrained
from raydistill.models.surgery import check_layer_map, keep_layers, model_hash, skip_layers, with_attention
from raydistill.models.tokenizer import load_tokenizer

__all__ = [
    "FAMILIES",
    "Family",
    "Recommender",
    "Stack",
    "TextClassifier",
    "attention_probabilities",
    "backbone_of",
    "blocks",
    "build_classifier",
    "build_recommender",
    "check_layer_map",
    "classifier_from_pretrained",
    "depth",
    "family_of",
    "keep_layers",
    "load_tokenizer",
    "model_hash",
    "recommender_from_pretrained",
    "skip_layers",
    "stacks_of",
    "with_attention",
]
