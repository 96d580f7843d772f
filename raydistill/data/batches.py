"""Batches of item sequences without padding to speak of, and without a price in quality.

A step's examples are drawn at random over all users, then split by length into a few groups whose
gradients are added before the optimizer steps. The gradient is that of the whole random batch, while
each group is padded only to its own longest example. (Batches made of users of one length would save
the same padding, but learn worse: a step then sees one kind of user only.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from raydistill.data.lengths import GROUP_OVERHEAD, cut_by_tokens, ordered_runs, random_steps, split_by_length
from raydistill.data.splits import SequenceData
from raydistill.seeding import stream


@dataclass(frozen=True)
class Batch:
    """Examples of about one length, padded on the right.

    Attributes:
        input_ids: Item ids, 0 where there is padding.
        attention_mask: 1 at real positions; None where the model is causal and needs none.
        positions: Where the targets are, as indices into the flattened ``[batch * seq]``.
        labels: Classes of the targets, item id - 1.
        slots: Row of each target in the cache of teacher outputs.
        example: Row of ``input_ids`` that each target belongs to.
    """

    input_ids: Int64[Tensor, "batch seq"]
    attention_mask: Int64[Tensor, "batch seq"] | None
    positions: Int64[Tensor, " targets"]
    labels: Int64[Tensor, " targets"]
    slots: Int64[Tensor, " targets"]
    example: Int64[Tensor, " targets"]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(*(None if value is None else value.to(device, non_blocking=True) for value in vars(self).values()))


@dataclass(frozen=True)
class Step:
    """One optimizer step, as one worker sees it.

    Attributes:
        parts: What is run forward and backward at a time: the length groups of one part of the step. One part, unless
            memory is short.
        n_targets: Targets of the whole step over all workers, which their losses are divided by.
    """

    parts: list[list[Batch]]
    n_targets: int

    @property
    def groups(self) -> list[Batch]:
        """All length groups of the step."""
        return [group for part in self.parts for group in part]


class TrainingExamples:
    """Windows over the training part of every user.

    A user's sequence is cut from its end into windows of at most ``max_length`` targets, so that every
    interaction but a user's first is a target exactly once an epoch.

    For a causal model every position predicts the next item. For a bidirectional one the items under a
    mask are predicted (Sun et al. 2019, BERT4Rec): the last position always, as when serving, the
    others with ``mask_probability``. There are ``mask_patterns`` fixed patterns, used by epochs in turn,
    so that the teacher's outputs under each can be cached.

    Args:
        data: Prepared sequences.
        max_length: Longest input, in items.
        causal: Whether the model only looks back.
        mask_probability: Share of positions masked, for a bidirectional model.
        mask_patterns: Number of fixed mask patterns.
        seed: Seed of the patterns; part of the identity of the cache.
    """

    def __init__(
        self,
        data: SequenceData,
        *,
        max_length: int,
        causal: bool,
        mask_probability: float = 0.2,
        mask_patterns: int = 4,
        seed: int = 0,
    ) -> None:
        self.items = data.items
        self.causal = causal
        self.mask_id = data.n_items + 1
        starts, lengths = _windows(data.offsets[:-1], data.train_end, max_length, overlap=1 if causal else 0)
        self.starts, self.lengths = starts, lengths
        self._ends = np.cumsum(lengths)
        # Every process has its own: so a bit a position, and one number a window.
        self._masks: list[np.ndarray] = []
        self._slots: list[np.ndarray] = []
        self.n_slots = int(self._ends[-1]) if lengths.size else 0
        if not causal and lengths.size:
            self._draw_masks(mask_probability, mask_patterns, seed)

    def _draw_masks(self, probability: float, patterns: int, seed: int) -> None:
        """Draw the masks of all patterns and number their targets: those of window i from ``_slots[pattern][i]`` on."""
        n_positions, base = self.n_slots, 0
        for pattern in range(patterns):
            mask = stream(seed, "mask", pattern).random(n_positions, dtype=np.float32) < probability
            mask[self._ends - 1] = True
            counts = np.add.reduceat(mask, self._ends - self.lengths, dtype=np.int64)
            self._masks.append(np.packbits(mask))
            self._slots.append(base + np.concatenate([[0], np.cumsum(counts)]))
            base = int(self._slots[-1][-1])
        self.n_slots = base

    def __len__(self) -> int:
        return self.lengths.size

    @property
    def n_patterns(self) -> int:
        """Number of mask patterns; 1 for a causal model, which has none."""
        return max(1, len(self._masks))

    def batch(self, examples: np.ndarray, pattern: int = 0) -> Batch:
        """Return the named examples as one batch, under one mask pattern.

        Args:
            examples: Indices of examples.
            pattern: Mask pattern, ignored for a causal model.
        """
        lengths = self.lengths[examples]
        column = np.arange(lengths.max())
        real = column < lengths[:, None]
        index = np.where(real, self.starts[examples][:, None] + column, 0)
        flat = np.where(real, (self._ends[examples] - lengths)[:, None] + column, 0)
        input_ids = np.where(real, self.items[index], 0).astype(np.int64)
        if self.causal:
            target = real
            labels = self.items[np.where(real, index + 1, 0)].astype(np.int64)
            slots = flat
        else:
            target = real & _bits(self._masks[pattern], flat)
            labels = input_ids
            slots = self._slots[pattern][examples][:, None] + np.cumsum(target, axis=1) - 1
            input_ids = np.where(target, self.mask_id, input_ids)
        rows, _ = np.nonzero(target)
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=None if self.causal else torch.from_numpy(real.astype(np.int64)),
            positions=torch.from_numpy(np.flatnonzero(target)),
            labels=torch.from_numpy(labels[target] - 1),
            slots=torch.from_numpy(slots[target].astype(np.int64)),
            example=torch.from_numpy(rows),
        )

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
        """Yield the steps of one epoch: every example once, in an order that the seed and epoch decide.

        Args:
            epoch: 0-based; decides the order and the mask pattern.
            batch_size: Examples in a step, over all workers.
            seed: Master seed; arms of one seed share the order.
            groups: Most groups that a part of a step is split into by length.
            parts: Equal parts that a step is run in, one after the other.
            rank: This worker; every worker draws the same step and takes its own share of it.
            world_size: Number of workers.
            overhead: Padded positions that one more group has to save; what a processor needs where None.
        """
        pattern = epoch % self.n_patterns
        layout = {"groups": groups, "parts": parts, "rank": rank, "world_size": world_size}
        layout["overhead"] = GROUP_OVERHEAD if overhead is None else overhead
        for whole, shares in random_steps(self.lengths, epoch, batch_size=batch_size, seed=seed, **layout):
            batches = [[self.batch(group, pattern) for group in share] for share in shares]
            yield Step(batches or [[self._without_targets(whole[:1], pattern)]], self._count_targets(whole, pattern))

    def _without_targets(self, examples: np.ndarray, pattern: int) -> Batch:
        """Return a batch for a worker whose share of a small step is empty, but whom the others wait for."""
        batch, none = self.batch(examples, pattern), torch.empty(0, dtype=torch.int64)
        return replace(batch, positions=none, labels=none, slots=none, example=none)

    def steps_in_epoch(self, batch_size: int) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self) // batch_size)

    def ordered(self, batch_tokens: int, *, pattern: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield every example once, ordered by length, about ``batch_tokens`` positions at a time."""
        for run in ordered_runs(self.lengths, batch_tokens, rank=rank, world_size=world_size):
            yield self.batch(run, pattern)

    def _count_targets(self, examples: np.ndarray, pattern: int) -> int:
        if self.causal:
            return int(self.lengths[examples].sum())
        first = self._slots[pattern]
        return int((first[examples + 1] - first[examples]).sum())


@dataclass(frozen=True)
class EvaluationBatch:
    """Histories to be continued, with the item that really came next.

    Attributes:
        users: Indices of the users.
        input_ids, attention_mask: As in :class:`Batch`.
        positions: Where the prediction is read, one flattened index a user.
        targets: Item ids that came next.
    """

    users: np.ndarray
    input_ids: Int64[Tensor, "batch seq"]
    attention_mask: Int64[Tensor, "batch seq"] | None
    positions: Int64[Tensor, " batch"]
    targets: np.ndarray


def evaluation_users(data: SequenceData, part: str) -> np.ndarray:
    """Return the users who have a target in a part of the data with any history before it.

    Args:
        data: Prepared sequences.
        part: ``validation`` or ``test``.
    """
    position = _target_positions(data, part)
    return np.flatnonzero(position > data.offsets[:-1])


def evaluation_batches(
    data: SequenceData, part: str, users: np.ndarray, *, max_length: int, causal: bool, batch_tokens: int
) -> Iterator[EvaluationBatch]:
    """Yield the histories of the users, ordered by length so that little is padded.

    Args:
        data: Prepared sequences.
        part: ``validation`` or ``test``.
        users: Users with a target in that part, from :func:`evaluation_users`.
        max_length: Longest input; a bidirectional model spends one place on the mask.
        causal: Whether the model only looks back.
        batch_tokens: Positions in a batch, about.
    """
    targets = _target_positions(data, part)[users]
    longest = max_length if causal else max_length - 1
    lengths = np.minimum(targets - data.offsets[users], longest)
    order = np.argsort(lengths, kind="stable")
    for chosen in cut_by_tokens(order, lengths[order], batch_tokens):
        length = lengths[chosen]
        column = np.arange(length.max() + (0 if causal else 1))
        real = column < length[:, None]
        index = np.where(real, (targets[chosen] - length)[:, None] + column, 0)
        input_ids = np.where(real, data.items[index], 0).astype(np.int64)
        last = length - 1 if causal else length
        if not causal:
            input_ids[np.arange(chosen.size), length] = data.n_items + 1
            real = column <= length[:, None]
        yield EvaluationBatch(
            users=users[chosen],
            input_ids=torch.from_numpy(input_ids),
            attention_mask=None if causal else torch.from_numpy(real.astype(np.int64)),
            positions=torch.from_numpy(np.arange(chosen.size) * column.size + last),
            targets=data.items[targets[chosen]].astype(np.int64),
        )


def seen_items(data: SequenceData, part: str, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the users had seen before their target, as pairs of row (index into ``users``) and item id."""
    begin, end = data.offsets[users], _target_positions(data, part)[users]
    counts = end - begin
    rows = np.repeat(np.arange(users.size), counts)
    within = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, data.items[begin[rows] + within].astype(np.int64)


def _bits(packed: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the bits at some indices of what :func:`numpy.packbits` made."""
    return (packed[index >> 3] << (index & 7).astype(np.uint8)) & 0x80 != 0


def _target_positions(data: SequenceData, part: str) -> np.ndarray:
    if part == "validation":
        return np.asarray(data.validation_position)
    if part == "test":
        return np.asarray(data.test_position)
    raise ValueError(f"part must be 'validation' or 'test', got {part!r}")


def _windows(begin: np.ndarray, end: np.ndarray, max_length: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths of windows of at most ``max_length`` that cover [begin, end - overlap) from the end."""
    begin, end = np.asarray(begin), np.asarray(end)
    spans = np.maximum(end - overlap - begin, 0)
    counts = -(-spans // max_length)
    user = np.repeat(np.arange(spans.size), counts)
    number = np.arange(user.size) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 = latest window
    stop = begin[user] + spans[user] - number * max_length
    start = np.maximum(stop - max_length, begin[user])
    return start, stop - start


__all__ = [
    "GROUP_OVERHEAD",
    "Batch",
    "EvaluationBatch",
    "Step",
    "TrainingExamples",
    "evaluation_batches",
    "evaluation_users",
    "seen_items",
    "split_by_length",
]
