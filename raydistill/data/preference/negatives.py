"""Items that a user has not seen, drawn without replacement for many users at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.errors import DataError

DRAWS = ("popularity", "uniform")

_ROWS = 1 << 18
"""Rows drawn at a time; part of what a seed means."""

_ROUNDS = 6
"""Rounds of drawing and leaving out what was seen, before the rest is drawn from each user's own unseen items."""

_CELLS = 1 << 24
"""Keys (rows x catalogue) held at a time by the exact draw."""


@dataclass(frozen=True)
class SeenItems:
    """Which items each user has had.

    Attributes:
        keys: int64, sorted and distinct: user * (n_items + 1) + item.
        n_items: Items of the catalogue, from 1.
    """

    keys: np.ndarray
    n_items: int

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, n_items: int) -> SeenItems:
        """Return the seen items of interactions given as two columns."""
        return cls(np.unique(users.astype(np.int64) * (n_items + 1) + items), n_items)

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return whether each user (broadcast over ``items``) has had each item."""
        wanted = users.astype(np.int64) * (self.n_items + 1) + items
        if not self.keys.size:
            return np.zeros(wanted.shape, dtype=bool)
        place = np.minimum(np.searchsorted(self.keys, wanted), self.keys.size - 1)
        return self.keys[place] == wanted

    def of_user(self, user: int) -> np.ndarray:
        """Return the items that a user has had."""
        base = user * (self.n_items + 1)
        begin, end = np.searchsorted(self.keys, [base, base + self.n_items + 1])
        return self.keys[begin:end] - base


def draw_unseen(
    users: np.ndarray, n: int, *, draw: str, popularity: np.ndarray, seen: SeenItems, rng: np.random.Generator, key: str
) -> np.ndarray:
    """Return int32 ``[rows, n]``: for each row ``n`` different items of the training catalogue unseen by its user.

    Items are drawn one after the other, each with probability proportional to its weight among those that are left;
    drawing with replacement and leaving out what was seen or drawn already gives just that. Users who have seen so
    much of what is popular that this would take long get the rest by the largest of log(weight) + Gumbel noise, which
    has the same distribution.

    Args:
        users: int64 ``[rows]``; a user may have several rows, drawn independently.
        n: Items for each row.
        draw: ``popularity``: weights are the counts in the training part; ``uniform``: all weights are equal.
        popularity: int64 ``[n_items + 1]``, counts in the training part; an item with none is never drawn.
        seen: What may not be drawn.
        rng: Generator.
        key: Key of the configuration that asks for ``n``, for the error.

    Raises:
        DataError: A user has fewer than ``n`` unseen items.
    """
    weights = popularity.astype(np.float64) if draw == "popularity" else (popularity > 0).astype(np.float64)
    _check_enough(users, n, weights, seen, key)
    result = np.zeros((users.size, n), dtype=np.int32)
    if n:
        for start in range(0, users.size, _ROWS):
            _fill(result[start : start + _ROWS], users[start : start + _ROWS], weights, seen, rng)
    return result


def _check_enough(users: np.ndarray, n: int, weights: np.ndarray, seen: SeenItems, key: str) -> None:
    owner, item = np.divmod(seen.keys, seen.n_items + 1)
    n_users = int(max(owner.max(initial=0), users.max(initial=0))) + 1
    had = np.bincount(owner[weights[item] > 0], minlength=n_users)
    unseen = np.count_nonzero(weights) - had[users]
    short = np.flatnonzero(unseen < n)
    if short.size:
        worst = short[np.argmin(unseen[short])]
        raise DataError(
            f"{n} unseen items are to be drawn, and {np.unique(users[short]).size:,} users have fewer: "
            f"user index {int(users[worst])} has {int(unseen[worst])} left of the training catalogue's "
            f"{np.count_nonzero(weights):,}",
            where=key,
            mend=f"lower {key} to at most {int(unseen[worst])}, or leave out users with so many interactions",
        )


def _fill(
    chosen: np.ndarray, users: np.ndarray, weights: np.ndarray, seen: SeenItems, rng: np.random.Generator
) -> None:
    """Fill ``chosen`` [rows, n], in which 0 means nothing yet, for one block of rows."""
    n = chosen.shape[1]
    running = np.cumsum(weights)
    open_rows = np.arange(users.size)
    for _ in range(_ROUNDS):
        if not open_rows.size:
            return
        points = np.minimum(rng.random((open_rows.size, n + 2)) * running[-1], np.nextafter(running[-1], 0))
        new = np.searchsorted(running, points, side="right").astype(np.int32)
        new[seen.contains(users[open_rows, None], new)] = 0
        chosen[open_rows] = _first_different(np.hstack([chosen[open_rows], new]), n)
        open_rows = open_rows[chosen[open_rows, -1] == 0]
    block = max(1, _CELLS // weights.size)
    for start in range(0, open_rows.size, block):
        rows = open_rows[start : start + block]
        chosen[rows] = _exact(chosen[rows], users[rows], weights, seen, rng)


def _first_different(items: np.ndarray, n: int) -> np.ndarray:
    """Return the first ``n`` different non-zero items of each row, 0 where there are fewer."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    repeated = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    good = (items > 0) & ~repeated
    front = np.argsort(~good, axis=1, kind="stable")[:, :n]
    return np.where(np.take_along_axis(good, front, axis=1), np.take_along_axis(items, front, axis=1), 0)


def _exact(
    chosen: np.ndarray, users: np.ndarray, weights: np.ndarray, seen: SeenItems, rng: np.random.Generator
) -> np.ndarray:
    """Return ``chosen`` with its empty places filled from the whole catalogue (Gumbel top-k; Kool et al. 2019)."""
    n = chosen.shape[1]
    with np.errstate(divide="ignore"):
        keys = np.log(weights)[None, :] + rng.gumbel(size=(users.size, weights.size))
    for row, user in enumerate(users):
        keys[row, seen.of_user(int(user))] = -np.inf
    np.put_along_axis(keys, chosen.astype(np.int64), -np.inf, axis=1)  # place 0, padding, has no weight anyway
    best = np.argpartition(-keys, n - 1, axis=1)[:, :n]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(keys, best, axis=1), axis=1), axis=1)
    # Only as many as are missing are taken: those that were drawn before stay in front.
    return _first_different(np.hstack([chosen, best.astype(np.int32)]), n)
