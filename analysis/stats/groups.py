"""Groups of users for error analysis, and the overlap of two models' lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.arrays import Floats, check_level, finite, paired_difference
from analysis.stats.bootstrap import Interval
from analysis.stats.crossed import crossed_mean


@dataclass(frozen=True)
class Grouping:
    """Named groups of users, which may overlap (attributes).

    Attributes:
        by: What they are grouped by.
        names: `[group]`, in their natural order.
        members: `[group, user]`, True where the user belongs to the group.
    """

    by: str
    names: tuple[str, ...]
    members: np.ndarray


@dataclass(frozen=True)
class GroupResult:
    """One group's metric; differences are exploratory.

    Attributes:
        group: Its name.
        n_users: Its users.
        mean: Interval of its mean; None with fewer than two users.
        difference: Interval of the mean difference from the reference; None without one, or fewer than two users.
    """

    group: str
    n_users: int
    mean: Interval | None
    difference: Interval | None


def history_groups(lengths: ArrayLike, *, edges: Sequence[int] | None = None) -> Grouping:
    """Return users grouped by history length.

    Args:
        lengths: `[user]`, interactions before the target.
        edges: Ascending first lengths of every group but the first; by default the quartiles.

    Raises:
        ValueError: NaN, wrong axes, edges that do not ascend.
    """
    array = finite(lengths, "lengths", ndim=1)
    if edges is None:
        edges = [int(e) for e in np.unique(np.ceil(np.quantile(array, [0.25, 0.5, 0.75]))) if e > array.min()]
    if list(edges) != sorted(set(edges)):
        raise ValueError(f"edges {list(edges)} do not ascend")
    index = np.searchsorted(np.asarray(edges, dtype=np.float64), array, side="right")
    bounds = [int(array.min()), *edges, int(array.max()) + 1]
    names = [_span(bounds[i], bounds[i + 1] - 1) for i in range(len(edges) + 1)]
    return Grouping("history length", tuple(names), index == np.arange(len(names))[:, None])


def popularity_groups(
    target_popularity: ArrayLike, item_popularity: ArrayLike, *, shares: tuple[float, float] = (0.5, 0.8)
) -> Grouping:
    """Return users grouped by their target's popularity: head, torso and tail.

    Items are sorted by training interactions, most popular first. The head holds the first `shares[0]` of all
    interactions, the torso what follows up to `shares[1]`, the tail the rest. Items of equal popularity are never
    parted: they go where the first of them goes.

    Args:
        target_popularity: `[user]`, training interactions of the target.
        item_popularity: `[item]`, training interactions of every item (without padding).
        shares: Where head and torso end, as shares of all interactions.

    Raises:
        ValueError: NaN, wrong axes, no interactions at all, shares that do not ascend.
    """
    targets = finite(target_popularity, "target_popularity", ndim=1)
    items = np.sort(finite(item_popularity, "item_popularity", ndim=1))[::-1]
    if not 0 < shares[0] < shares[1] < 1:
        raise ValueError(f"shares {shares} do not ascend between 0 and 1")
    if items.sum() <= 0:
        raise ValueError("no item has a training interaction")
    before = (np.cumsum(items) - items) / items.sum()
    head, torso = (items[before < share].min() for share in shares)
    in_head = targets >= head
    in_torso = (targets >= torso) & ~in_head
    return Grouping("target popularity", ("head", "torso", "tail"), np.stack([in_head, in_torso, targets < torso]))


def attribute_groups(attributes: Sequence[Iterable[str]], *, most: int = 12, least_users: int = 2) -> Grouping:
    """Return users grouped by their target's attributes; a user is in every group its target has.

    Args:
        attributes: `[user]`, each target's attributes.
        most: Keep this many attributes, those with the most users.
        least_users: Leave out attributes of fewer users.

    Raises:
        ValueError: No user.
    """
    if len(attributes) == 0:
        raise ValueError("attributes is empty")
    users: dict[str, list[int]] = {}
    for user, names in enumerate(attributes):
        for name in set(names):
            users.setdefault(name, []).append(user)
    kept = sorted((name for name in users if len(users[name]) >= least_users), key=lambda n: (-len(users[n]), n))[:most]
    members = np.zeros((len(kept), len(attributes)), dtype=bool)
    for row, name in enumerate(kept):
        members[row, users[name]] = True
    return Grouping("attribute", tuple(kept), members)


def group_means(
    values: ArrayLike, grouping: Grouping, *, reference: ArrayLike | None = None, level: float = 0.05
) -> tuple[GroupResult, ...]:
    """Return each group's mean, and its difference from the reference, with crossed intervals.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.
        grouping: Groups over the same users.
        reference: The same axes, paired.
        level: Error rate of the intervals.

    Raises:
        ValueError: Wrong axes, NaN, or a grouping over other users.
    """
    array = finite(values, "values", ndim=(2, 3))
    if grouping.members.shape[-1] != array.shape[-1]:
        raise ValueError(f"groups are over {grouping.members.shape[-1]} users, values over {array.shape[-1]}")
    check_level(level)
    differences = None if reference is None else paired_difference(array, reference)
    results = []
    for name, member in zip(grouping.names, grouping.members, strict=True):
        n_users = int(member.sum())
        mean = _interval(array[..., member], level, None) if n_users > 1 else None
        difference = (
            _interval(differences[..., member], level, 0.0) if differences is not None and n_users > 1 else None
        )
        results.append(GroupResult(name, n_users, mean, difference))
    return tuple(results)


def top_k_overlap(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return `[user]`, the share of items that two top-k lists have in common, whatever their order.

    Args:
        first: `[user, k]` item ids, without repeats in a list.
        second: `[user, k]` item ids.

    Raises:
        ValueError: Shapes differ or have other than two axes.
    """
    ours, theirs = np.asarray(first), np.asarray(second)
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise ValueError(f"lists have shapes {ours.shape} and {theirs.shape}, but both must be [user, k]")
    return (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)


def _interval(values: Floats, level: float, null: float | None) -> Interval:
    mean = crossed_mean(values)
    low, high = mean.interval(level)
    p_value = np.nan if null is None else mean.p_value(null)
    return Interval(mean.estimate, low, high, level, p_value, mean.unit, mean.n_replicates, mean.n_users)


def _span(first: int, last: int) -> str:
    return f"{first}" if first >= last else f"{first}-{last}"
