"""From split sequences to labelled, tokenized prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydistill.data.preference.candidates import Candidates
from raydistill.data.preference.dataset import FILE, PreferenceData, digest, write_arrow
from raydistill.data.preference.labels import Labels
from raydistill.data.preference.prompts import Prompt
from raydistill.data.preference.rows import PARTS, Examples, Rows, list_rows, training_rows
from raydistill.data.preference.statistics import preference_statistics
from raydistill.data.preference.tokens import tokenized, tokenizer_identity
from raydistill.data.splits import SequenceData
from raydistill.data.storage import new_folder, read_sealed, seal
from raydistill.errors import CorruptArtifactError, DataError
from raydistill.records.files import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SCHEMA = 1
"""Raise when the same sequences would be prepared differently; old folders are then not used any more."""


def prepare_preference(
    sequences: SequenceData,
    tokenizer: PreTrainedTokenizerFast,
    *,
    labels: Labels,
    prompt: Prompt,
    candidates: Candidates,
    examples: Examples,
    max_history: int,
    folder: Path,
    identity: str = "",
    padding_note: str | None = None,
) -> PreferenceData:
    """Return labelled prompts, tokenized, saved in ``folder`` and memory-mapped from there.

    - Training: every interaction of the training part but a user's first; the prompt tells what the user had before it.
    - Validation and test: for each user with a history before the period, the whole list of candidates; every prompt of
      a list tells what the user had before the period.

    If ``folder`` already holds the result of the same call, it is opened instead; if that is damaged, it is made anew.

    Args:
        sequences: Prepared sequences.
        tokenizer: The fast tokenizer of the model.
        labels, prompt, candidates, examples: Rules.
        max_history: Most history entries in a prompt.
        folder: Where the result is written.
        identity: What else the content depends on, as far as the caller knows.
        padding_note: What people are to be told of the tokenizer's padding token; goes into the statistics.

    Raises:
        DataError: The data do not allow such labels, lists or prompts, or the folder cannot be written.
        ModelError: The tokenizer is no fast one, or has no padding token.
    """
    if max_history < 1:
        raise ValueError(f"max_history must be at least 1, not {max_history}")
    rules = {
        "labels": asdict(labels),
        "prompt": asdict(prompt),
        "candidates": asdict(candidates),
        "examples": asdict(examples),
        "max_history": max_history,
        "tokenizer": tokenizer_identity(tokenizer),
    }
    identity = content_hash({"schema": _SCHEMA, "sequences": sequences.hash, "caller": identity, **rules})
    with contextlib.suppress(CorruptArtifactError):
        if read_sealed(Path(folder), verify=False).get("identity") == identity:
            return PreferenceData.load(folder, sequences)
    if not any(sequences.titles):
        raise DataError(
            "no item has a title, and a prompt has nothing else to tell",
            where="data.source",
            mend="give a source with titles, or use task: next_item",
        )
    parts, possible = {}, {}
    parts["train"], possible["train"] = training_rows(sequences, labels, examples)
    for part in PARTS[1:]:
        parts[part], possible[part] = list_rows(sequences, part, labels, candidates, examples)
    for part in PARTS:
        labels.check(part, parts[part].label)
    rows = Rows.joined([parts[part] for part in PARTS])
    columns = {
        **{name: getattr(rows, name) for name in ("user", "item", "label", "drawn", "history_length")},
        "part": np.repeat(np.arange(len(PARTS), dtype=np.int8), [parts[part].user.size for part in PARTS]),
        "relevant": labels.relevant(rows.label) & ~rows.drawn,
    }
    with new_folder(Path(folder)) as partial:
        tokens = _write_tokens(
            partial / "tokens.raw", tokenized(sequences, rows, tokenizer, prompt, max_history), columns
        )
        offsets = np.concatenate([[0], np.cumsum(columns["lengths"], dtype=np.int64)])
        write_arrow(partial / FILE, columns, tokens, offsets)
        about: dict[str, Any] = {
            "class_names": list(labels.class_names),
            "class_values": labels.class_values.tolist(),
            "pad_id": int(tokenizer.pad_token_id),
        }
        counts = preference_statistics(sequences, columns, labels, candidates, prompt, max_history, possible)
        content = {
            **about,
            "hash": digest(columns, tokens, about),
            "statistics": counts | {"padding_note": padding_note},
            "provenance": {"sequences": {**sequences.provenance, "hash": sequences.hash}, **rules},
        }
        (partial / "tokens.raw").unlink()
        seal(partial, {**content, "sequences": sequences.hash, "identity": identity})
    return PreferenceData.load(folder, sequences, verify=False)


def _write_tokens(
    path: Path, chunks: Iterator[tuple[list[list[int]], np.ndarray]], columns: dict[str, np.ndarray]
) -> np.ndarray:
    """Write the token ids of all chunks to a file and return them mapped; add ``lengths`` and ``history_shown``."""
    lengths, shown = [], []
    with open(path, "wb") as file:
        for ids, entries in chunks:
            lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
            shown.append(entries.astype(np.int32))
            np.fromiter(chain.from_iterable(ids), np.int32).tofile(file)
    columns["lengths"], columns["history_shown"] = np.concatenate(lengths), np.concatenate(shown)
    if not columns["lengths"].all():
        raise DataError(
            "a prompt has no tokens at all", where="prompt.template", mend="let the template print something always"
        )
    return np.memmap(path, dtype=np.int32, mode="r")
