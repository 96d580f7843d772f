"""Prompts as token ids: rendered and tokenized in batches, shortened until they fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from raydistill.data.preference.prompts import ItemTexts, Prompt, Rated, Template, special_tokens
from raydistill.data.preference.rows import Rows
from raydistill.data.splits import SequenceData
from raydistill.errors import DataError, ModelError
from raydistill.records.files import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK = 1 << 14
"""Prompts that are held as text at a time."""


def tokenized(
    sequences: SequenceData, rows: Rows, tokenizer: PreTrainedTokenizerFast, prompt: Prompt, max_history: int
) -> Iterator[tuple[list[list[int]], np.ndarray]]:
    """Yield token ids and the number of history entries that they tell of, for the rows in order, chunk by chunk.

    Args:
        sequences: Prepared sequences.
        rows: Users' items and where their histories end.
        tokenizer: A fast tokenizer.
        prompt: Template and longest prompt.
        max_history: Most history entries in a prompt.

    Raises:
        DataError: The template is not valid, no item has a title, or a candidate does not fit.
    """
    texts = ItemTexts(sequences.titles, sequences.attributes, sequences.item_ids, special_tokens(tokenizer))
    template = Template(
        prompt.template,
        rated=bool(np.isfinite(sequences.ratings).any()),
        unrated_entries=bool(np.isnan(sequences.ratings).any()),
        bare_items=any(not any(genres) for genres in sequences.attributes[1:]),
    )
    for start in range(0, rows.item.size, CHUNK):
        chunk = rows.take(slice(start, start + CHUNK))
        render = _renderer(sequences, chunk, texts, template, max_history)
        yield fitted(render, np.minimum(chunk.history_length, max_history), tokenizer, prompt.max_tokens)


def fitted(
    render: Callable[[int, int], str], wanted: np.ndarray, tokenizer: PreTrainedTokenizerFast, max_tokens: int
) -> tuple[list[list[int]], np.ndarray]:
    """Return the token ids of each prompt with as much history as fits, and how many entries that is.

    All prompts are tokenized at once; those that are too long are rendered again with fewer entries, in rounds that
    halve the numbers still possible (with more entries a prompt has more tokens). So a prompt is rendered at most
    ``2 + log2(entries)`` times, and no tokenizer call is for one prompt alone.

    Args:
        render: From a prompt's number and the number of its history entries (the newest) to its text.
        wanted: Most entries of each prompt.
        tokenizer: A fast tokenizer.
        max_tokens: Most tokens of a prompt.

    Raises:
        DataError: A prompt without any history is too long.
    """
    ids: list[list[int]] = [[] for _ in wanted]
    fits, highest = np.full(len(wanted), -1), wanted.astype(np.int64)  # known to fit; not known to be too long
    tried, left = highest.copy(), np.arange(len(wanted))
    while left.size:
        encoded = _encode(tokenizer, [render(row, tried[row]) for row in left.tolist()])
        for row, tokens in zip(left.tolist(), encoded, strict=True):
            if len(tokens) <= max_tokens:
                ids[row], fits[row] = tokens, tried[row]
            elif tried[row] == 0:
                raise DataError(
                    f"a prompt of the candidate alone, without any history, has {len(tokens)} tokens and may have "
                    f"{max_tokens}: {render(row, 0)!r}",
                    where="prompt.max_tokens",
                    mend=f"raise prompt.max_tokens to at least {len(tokens)}, or shorten prompt.template",
                )
            else:
                highest[row] = tried[row] - 1
        left = left[fits[left] < highest[left]]
        tried[left] = (fits[left] + highest[left] + 1) // 2
    return ids, fits


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a hash of everything in a tokenizer that decides token ids, without the state of its last call.

    Raises:
        ModelError: It is no fast tokenizer, or has no padding token.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "preference needs a fast tokenizer, and this is none",
            where=str(name),
            mend="give one with a tokenizer.json",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "the tokenizer has no padding token",
            where=str(name),
            mend="set tokenizer.pad_token, for a model that has none best to its end-of-text token",
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None, pad_id=tokenizer.pad_token_id, special=special_tokens(tokenizer))
    return content_hash(content)


def _encode(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[list[int]]:
    return tokenizer(
        prompts,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _renderer(
    sequences: SequenceData, rows: Rows, texts: ItemTexts, template: Template, max_history: int
) -> Callable[[int, int], str]:
    """Return a function from a row and a number of entries to text; what rows share is made once."""
    ends, of_row = np.unique(rows.history_end, return_inverse=True)
    longest = np.zeros(ends.size, dtype=np.int64)
    longest[of_row] = np.minimum(rows.history_length, max_history)
    windows = [(end - length, end) for end, length in zip(ends.tolist(), longest.tolist(), strict=True)]
    past = [sequences.items[begin:end] for begin, end in windows]
    known = {item: texts[item] for item in np.unique(np.concatenate([rows.item, *past])).tolist()}
    histories = []
    for (begin, end), items in zip(windows, past, strict=True):
        entries = [known[item] for item in items.tolist()]
        if template.rated:
            ratings = sequences.ratings[begin:end].tolist()
            entries = [
                Rated(entry.title, entry.genres, rating if rating == rating else None)
                for entry, rating in zip(entries, ratings, strict=True)
            ]
        histories.append(entries)

    def render(row: int, n_entries: int) -> str:
        history = histories[of_row[row]]
        return template.render(history[len(history) - n_entries :], known[int(rows.item[row])])

    return render
