"""Small sequences with titles, and a tokenizer that makes a token of every word and sign."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raydistill.data.preference import Candidates, Examples, Labels, PreferenceData, Prompt, prepare_preference
from raydistill.data.preparation import training_popularity
from raydistill.data.splits import SequenceData, user_time

TEMPLATE = "{% for h in history %}{{ h.title }} rated {{ h.rating }} ; {% endfor %}next {{ candidate.title }}"


def make_sequences(lengths=(12, 9, 3, 15, 1, 10), n_items: int = 60, seed: int = 0, **changes) -> SequenceData:
    """Return sequences of different items a user, rated in half stars; item i has a title of i % 5 + 1 words."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate([rng.permutation(n_items)[:length] + 1 for length in lengths]).astype(np.int32)
    positions = user_time(offsets, (0.6, 0.8))
    content = {
        "items": items,
        "timestamps": np.arange(offsets[-1]),
        "ratings": (rng.integers(1, 11, offsets[-1]) / 2).astype(np.float32),
        "offsets": offsets,
        **positions,
        "popularity": training_popularity(items, offsets, positions["train_end"], n_items),
        "user_ids": [f"u{u}" for u in range(len(lengths))],
        "item_ids": ["", *(f"i{i}" for i in range(1, n_items + 1))],
        "titles": ["", *(" ".join([f"film{i}", *["word"] * (i % 5)]) for i in range(1, n_items + 1))],
        "attributes": [[], *([f"genre{i % 3}", "drama"] for i in range(1, n_items + 1))],
        "split": "user_time",
        "provenance": {"source": "test"},
    }
    return SequenceData(**{**content, **changes})


def make_tokenizer(words: int = 400) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and signs with [CLS] and [SEP] around."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "next", "rated", "word", "drama", ";", ".", "[", "]", "SEP"]
    names += [f"{kind}{n}" for kind in ("film", "genre") for n in range(100)] + [str(n) for n in range(words - 220)]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def make_data(folder, sequences: SequenceData | None = None, tokenizer=None, **changes) -> PreferenceData:
    """Return prompts of small sequences, with some of the arguments changed."""
    arguments = {
        "labels": Labels(),
        "prompt": Prompt(TEMPLATE, max_tokens=40),
        "candidates": Candidates(negatives=3),
        "examples": Examples(),
        "max_history": 4,
        **changes,
    }
    return prepare_preference(sequences or make_sequences(), tokenizer or make_tokenizer(), folder=folder, **arguments)
