"""Prompts, tokenized, with labels: the prepared data of the task ``preference``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raydistill.data.preference.batches import TextBatch
from raydistill.data.preference.rows import PARTS
from raydistill.data.splits import SequenceData
from raydistill.data.storage import new_folder, read_sealed, seal
from raydistill.errors import CorruptArtifactError

COLUMNS = {
    "part": np.int8,
    "user": np.int32,
    "item": np.int32,
    "label": np.int8,
    "relevant": np.bool_,
    "drawn": np.bool_,
    "history_length": np.int32,
    "history_shown": np.int32,
    "lengths": np.int32,
}
ABOUT = ("class_names", "class_values", "pad_id", "statistics", "provenance", "hash")
FILE = "examples.arrow"


@dataclass(frozen=True, eq=False)
class PreferenceData:
    """Examples of all parts, one row a prompt, memory-mapped; training rows first.

    Pickles as the path of its folder, and the sequences as theirs.

    Attributes:
        sequences: What the prompts tell of.
        part: int8 ``[rows]``: 0 train, 1 validation, 2 test.
        user: int32, index of the user.
        item: int32, the candidate, from 1.
        label: int8, class; -1 where unlabelled.
        relevant: bool, liked or clicked or stars enough.
        drawn: bool, not one of the user's interactions.
        history_length: int32, interactions the user had before.
        history_shown: int32, how many of them the prompt tells.
        lengths: int32, tokens.
        tokens: int32, all prompts one after the other.
        token_offsets: int64 ``[rows + 1]``; row r owns ``tokens[token_offsets[r]:token_offsets[r + 1]]``.
        class_names: Names by class.
        class_values: float64 by class; a score is their mean under the predicted probabilities.
        pad_id: Token id of padding.
        statistics: See :func:`raydistill.data.preference.statistics.preference_statistics`.
        provenance: ``sequences`` (their provenance and hash), ``tokenizer``, and the rules.
        hash: SHA-256 (64 hex digits) of all columns and tokens, classes and padding.
        folder: Where it is saved.
    """

    sequences: SequenceData
    part: np.ndarray
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    relevant: np.ndarray
    drawn: np.ndarray
    history_length: np.ndarray
    history_shown: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    token_offsets: np.ndarray
    class_names: tuple[str, ...]
    class_values: tuple[float, ...]
    pad_id: int
    statistics: dict[str, Any]
    provenance: dict[str, Any]
    hash: str
    folder: Path

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def n_items(self) -> int:
        return self.sequences.n_items

    @property
    def popularity(self) -> np.ndarray:
        """int64 ``[n_items + 1]``, interactions in the training part of the sequences."""
        return self.sequences.popularity

    def __len__(self) -> int:
        return self.part.size

    def rows(self, part: str) -> np.ndarray:
        """Return int64 indices of the rows of ``train``, ``validation`` or ``test``."""
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        begin, end = np.searchsorted(self.part, [PARTS.index(part), PARTS.index(part) + 1])
        return np.arange(begin, end)

    def batch(self, rows: np.ndarray) -> TextBatch:
        """Return the prompts of some rows, padded on the right to the longest of them."""
        rows = np.asarray(rows)
        lengths = self.lengths[rows]
        column = np.arange(lengths.max())
        real = column < lengths[:, None]
        index = np.where(real, self.token_offsets[rows][:, None] + column, 0)
        return TextBatch(
            input_ids=torch.from_numpy(np.where(real, self.tokens[index], self.pad_id).astype(np.int64)),
            attention_mask=torch.from_numpy(real.astype(np.int64)),
            labels=torch.from_numpy(self.label[rows].astype(np.int64)),
            slots=torch.from_numpy(rows.astype(np.int64)),
            example=torch.arange(rows.size),
        )

    def save(self, folder: Path, *, identity: str = "") -> PreferenceData:
        """Write a copy to ``folder``, whole or not at all, and return it memory-mapped from there."""
        with new_folder(Path(folder)) as partial:
            columns = {name: getattr(self, name) for name in COLUMNS}
            write_arrow(partial / FILE, columns, self.tokens, self.token_offsets)
            about = {name: getattr(self, name) for name in ABOUT}
            seal(partial, {**about, "sequences": self.sequences.hash, "identity": identity})
        return PreferenceData.load(folder, self.sequences, verify=False)

    @classmethod
    def load(cls, folder: Path, sequences: SequenceData, *, verify: bool = True) -> PreferenceData:
        """Return the data saved in ``folder``, memory-mapped, read-only.

        Args:
            folder: Written by :func:`raydistill.data.preference.prepare_preference`.
            sequences: The sequences that it was made of.
            verify: Compare the SHA-256 of each file, and not only its size.

        Raises:
            CorruptArtifactError: The folder is missing, cut off or changed, or belongs to other sequences.
        """
        folder = Path(folder)
        meta = read_sealed(folder, verify=verify)
        try:
            about = {name: meta[name] for name in ABOUT}
            if meta["sequences"] != sequences.hash:
                raise CorruptArtifactError("prompts of other sequences lie here", where=str(folder))
        except KeyError as error:
            raise CorruptArtifactError(f"prompts were written without {error}", where=str(folder)) from error
        about["class_names"], about["class_values"] = tuple(about["class_names"]), tuple(about["class_values"])
        return cls(sequences=sequences, **read_arrow(folder / FILE), **about, folder=folder)

    def __reduce__(self):
        return (_load_unverified, (str(self.folder), self.sequences))


def digest(columns: dict[str, np.ndarray], tokens: np.ndarray, about: dict[str, Any]) -> str:
    """Return the SHA-256 of all columns and tokens, and of what else decides what a model is given."""
    total = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, values in {**{name: columns[name] for name in COLUMNS}, "tokens": tokens}.items():
        total.update(f"|{name}{values.shape}".encode())
        total.update(np.ascontiguousarray(values, dtype=COLUMNS.get(name, np.int32)).data.cast("B"))
    return total.hexdigest()


def write_arrow(path: Path, columns: dict[str, np.ndarray], tokens: np.ndarray, token_offsets: np.ndarray) -> None:
    """Write all rows as one record batch, so that every column is one piece that can be mapped.

    Args:
        path: An Arrow file; ``input_ids`` is a list of int32, the others are :data:`COLUMNS`, bool as uint8.
        columns: One value a row each.
        tokens: Token ids of all rows, best memory-mapped: they are written from where they lie.
        token_offsets: int64 ``[rows + 1]``.
    """
    arrays = {}
    for name, kind in COLUMNS.items():
        values = np.ascontiguousarray(columns[name], dtype=kind)
        # Arrow packs bools into bits, which numpy cannot map.
        arrays[name] = pa.array(values.view(np.uint8) if kind is np.bool_ else values)
    offsets = pa.array(np.ascontiguousarray(token_offsets, dtype=np.int64))
    arrays["input_ids"] = pa.LargeListArray.from_arrays(offsets, pa.array(tokens))
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_arrow(path: Path) -> dict[str, np.ndarray]:
    """Return the columns that :func:`write_arrow` wrote, with ``tokens`` and ``token_offsets``, memory-mapped."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            batch = reader.get_batch(0)
        columns = {name: batch.column(name).to_numpy() for name in COLUMNS}
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise CorruptArtifactError(f"the prompts cannot be read: {error}", where=str(path)) from error
    for name, kind in COLUMNS.items():
        if kind is np.bool_:
            columns[name] = columns[name].view(np.bool_)
    ids = batch.column("input_ids")
    return {**columns, "tokens": ids.values.to_numpy(), "token_offsets": ids.offsets.to_numpy()}


def _load_unverified(folder: str, sequences: SequenceData) -> PreferenceData:
    return PreferenceData.load(Path(folder), sequences, verify=False)
