"""Batches of prompts, put together as those of item sequences are: random steps, split by length inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from raydistill.data.batches import Step
from raydistill.data.lengths import ordered_runs, random_steps

if TYPE_CHECKING:
    from raydistill.data.preference.dataset import PreferenceData

TEXT_GROUP_OVERHEAD = 16
"""Padded positions that one more length group has to save; a position of a text model costs more than one of a small
recommender, so fewer are worth one more pass."""


@dataclass(frozen=True)
class TextBatch:
    """Prompts of about one length, padded on the right.

    Attributes:
        input_ids: Token ids.
        attention_mask: 1 at real positions.
        labels: Class of each example, -1 where unlabelled.
        slots: Row of each example in the cache of teacher outputs; of meaning for training rows only.
        example: Row of ``input_ids`` that each label belongs to: all of them in order, but none in the batch of a
            worker whom a small step leaves nothing.
    """

    input_ids: Int64[Tensor, "batch seq"]
    attention_mask: Int64[Tensor, "batch seq"]
    labels: Int64[Tensor, " examples"]
    slots: Int64[Tensor, " examples"]
    example: Int64[Tensor, " examples"]

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch on a device."""
        return TextBatch(*(value.to(device, non_blocking=True) for value in vars(self).values()))


class TextExamples:
    """The training rows, as :class:`raydistill.data.batches.TrainingExamples` gives the windows of item sequences.

    Args:
        data: Prepared prompts.
    """

    n_patterns = 1

    def __init__(self, data: PreferenceData) -> None:
        self.data = data
        self._rows = data.rows("train")
        self.lengths = np.asarray(data.lengths[self._rows], dtype=np.int64)

    def __len__(self) -> int:
        return self.lengths.size

    @property
    def n_slots(self) -> int:
        """Rows of the cache of teacher outputs: one an example."""
        return self.lengths.size

    def batch(self, examples: np.ndarray, pattern: int = 0) -> TextBatch:
        """Return the named training examples as one batch; there is no pattern to choose."""
        return self.data.batch(self._rows[examples])

    def steps(
        self,
        epoch: int,
        *,
        batch_size: int,
        seed: int,
        groups: int = 5,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        overhead: int | None = None,
    ) -> Iterator[Step]:
        """Yield the steps of one epoch; the arguments are those of :func:`raydistill.data.lengths.random_steps`."""
        layout = {"groups": groups, "parts": parts, "rank": rank, "world_size": world_size}
        layout["overhead"] = TEXT_GROUP_OVERHEAD if overhead is None else overhead
        for whole, shares in random_steps(self.lengths, epoch, batch_size=batch_size, seed=seed, **layout):
            batches = [[self.batch(group) for group in share] for share in shares]
            yield Step(batches or [[self._without_labels(whole[:1])]], whole.size)

    def _without_labels(self, examples: np.ndarray) -> TextBatch:
        """Return a batch for a worker whose share of a small step is empty, but whom the others wait for."""
        none = torch.empty(0, dtype=torch.int64)
        return replace(self.batch(examples), labels=none, slots=none, example=none)

    def steps_in_epoch(self, batch_size: int) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self) // batch_size)

    def ordered(
        self, batch_tokens: int, *, pattern: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[TextBatch]:
        """Yield every example once, ordered by length, about ``batch_tokens`` positions at a time."""
        for run in ordered_runs(self.lengths, batch_tokens, rank=rank, world_size=world_size):
            yield self.batch(run)


def text_batches(
    data: PreferenceData, part: str, *, batch_tokens: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[np.ndarray, TextBatch]]:
    """Yield the rows of a part with their batches, ordered by length, about ``batch_tokens`` positions at a time."""
    rows = data.rows(part)
    lengths = np.asarray(data.lengths[rows], dtype=np.int64)
    for run in ordered_runs(lengths, batch_tokens, rank=rank, world_size=world_size):
        yield rows[run], data.batch(rows[run])
