"""Which user and item each prompt is about: training interactions, and whole lists of the later periods."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from raydistill.data.preference.candidates import Candidates
from raydistill.data.preference.labels import Labels
from raydistill.data.preference.negatives import SeenItems, draw_unseen
from raydistill.data.preparation import unrepeated
from raydistill.data.splits import SequenceData
from raydistill.seeding import stream

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """How many of the possible examples are used; None is all of them, any other number is drawn once.

    Attributes:
        train: Interactions of the training part, drawn uniformly; with labels of kind click each brings drawn items.
        validation_users, test_users: Users whose whole lists are kept.
        seed: Seed of the draws.
    """

    train: int | None = None
    validation_users: int | None = None
    test_users: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "validation_users", "test_users"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"examples.{name} must be at least 1 or None, not {value}")


@dataclass(frozen=True)
class Rows:
    """One entry a prompt.

    Attributes:
        user: int32, index of the user.
        item: int32, the candidate.
        label: int8 class, -1 where unlabelled.
        drawn: bool, an item that was drawn and not one of the user's.
        history_end: int64; the history is everything of the user before this index into the sequences' items.
        history_length: int32, interactions in the history, of which a prompt tells the newest.
    """

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    drawn: np.ndarray
    history_end: np.ndarray
    history_length: np.ndarray

    def take(self, index: Any) -> Rows:
        """Return some of the rows."""
        return Rows(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Return rows one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def training_rows(sequences: SequenceData, labels: Labels, examples: Examples) -> tuple[Rows, int]:
    """Return the training examples, and how many interactions they were drawn from.

    Every interaction of the training part with at least one before it can be an example; its history is what came
    before. Items drawn as class 0 are such as the user's training part does not hold (what comes later is not known in
    training), with the same history.
    """
    within = np.arange(len(sequences.items))
    users = np.repeat(np.arange(sequences.n_users), np.diff(sequences.offsets))
    inside = (within > sequences.offsets[users]) & (within < sequences.train_end[users])
    possible = np.flatnonzero(inside)
    chosen = _drawn_once(possible, examples.train, examples.seed, "train")
    own = _rows(
        sequences, users[chosen], sequences.items[chosen], labels.of_ratings(sequences.ratings[chosen]), chosen, False
    )
    if labels.kind != "click":
        return own, possible.size
    in_training = within < sequences.train_end[users]
    negatives = draw_unseen(
        users[chosen],
        labels.negatives,
        draw=labels.draw,
        popularity=sequences.popularity,
        seen=SeenItems.of(users[in_training], sequences.items[in_training], sequences.n_items),
        rng=stream(labels.seed, "negatives"),
        key="labels.negatives",
    )
    return _beside(sequences, own, negatives, labels), possible.size


def list_rows(
    sequences: SequenceData, part: str, labels: Labels, candidates: Candidates, examples: Examples
) -> tuple[Rows, int]:
    """Return the candidate lists of a period, user by user, and how many users they were drawn from.

    A list is every item of the user's period and the drawn ones; all its prompts have the history that the user has
    at the start of the period. An item that the user had twice in the period is in the list once, the first time.

    Args:
        sequences: Prepared sequences.
        part: ``validation`` or ``test``.
        labels, candidates, examples: Rules.
    """
    start = np.asarray(getattr(sequences, f"{part}_position"))
    stop = np.asarray(sequences.offsets[1:])
    if part == "validation":
        stop = np.where(sequences.test_position >= 0, sequences.test_position, stop)
    possible = np.flatnonzero(start >= 0)
    every_user = np.repeat(np.arange(sequences.n_users), np.diff(sequences.offsets))
    negatives = draw_unseen(
        possible,
        candidates.negatives,
        draw=candidates.draw,
        popularity=sequences.popularity,
        seen=SeenItems.of(every_user, sequences.items, sequences.n_items),
        rng=stream(candidates.seed, "candidates", part),
        key="candidates.negatives",
    )
    chosen = _drawn_once(np.arange(possible.size), getattr(examples, f"{part}_users"), examples.seed, part)
    users, negatives = possible[chosen], negatives[chosen]
    counts = stop[users] - start[users]
    owner = np.repeat(np.arange(users.size), counts)
    position = start[users][owner] + np.arange(owner.size) - np.repeat(np.cumsum(counts) - counts, counts)
    first = unrepeated(owner, sequences.items[position], "first")
    owner, position = owner[first], position[first]
    labelled = labels.of_ratings(sequences.ratings[position])
    own = _rows(sequences, users[owner], sequences.items[position], labelled, start[users][owner], False)
    drawn_users = np.repeat(users, candidates.negatives)
    drawn = _rows(
        sequences,
        drawn_users,
        negatives.reshape(-1),
        np.full(negatives.size, labels.drawn_label),
        start[drawn_users],
        True,
    )
    both = Rows.joined([own, drawn])
    return both.take(np.argsort(both.user, kind="stable")), possible.size


def _beside(sequences: SequenceData, own: Rows, negatives: np.ndarray, labels: Labels) -> Rows:
    """Return each interaction followed by the items drawn for it."""
    n = negatives.shape[1]
    repeated = np.repeat(np.arange(own.user.size), n)
    label = np.full(negatives.size, labels.drawn_label)
    drawn = _rows(sequences, own.user[repeated], negatives.reshape(-1), label, own.history_end[repeated], True)
    order = np.argsort(np.concatenate([np.arange(own.user.size), repeated]), kind="stable")
    return Rows.joined([own, drawn]).take(order)


def _rows(
    sequences: SequenceData,
    user: np.ndarray,
    item: np.ndarray,
    label: np.ndarray,
    history_end: np.ndarray,
    drawn: bool,
) -> Rows:
    return Rows(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        label=label.astype(np.int8),
        drawn=np.full(user.size, drawn),
        history_end=history_end.astype(np.int64),
        history_length=(history_end - sequences.offsets[user]).astype(np.int32),
    )


def _drawn_once(possible: np.ndarray, n: int | None, seed: int, part: str) -> np.ndarray:
    """Return ``n`` of the possible ones in their old order, or all of them where there are no more."""
    if n is None or n >= possible.size:
        return possible
    return possible[np.sort(stream(seed, "examples", part).choice(possible.size, n, replace=False))]
