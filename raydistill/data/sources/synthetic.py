"""Synthetic: a seeded catalogue, and users whose next item follows from rules of several hops over their history.

Every item has a genre and a theme, attributes that a person can read. A user's next item is drawn in two steps:

1. **The rule gives the genre.** Start with the genre of the user's latest item. A hop looks up that genre together
   with the genre of the item one place further back in a square of its own; what stands there is the genre that the
   next hop starts from. After ``hops`` hops (fewer where the history is shorter) the genre is the next item's.
   The squares are Latin: every genre once in each row and column, so that a genre left out of the look-up tells
   nothing at all of the result. With probability ``noise`` the next genre is drawn at random instead.
2. **Popularity, taste and series choose the item** among the items of that genre that the user has not had:
   its weight is Zipf's law of its rank, times ``exp(taste)`` where its theme is the user's favourite, times ``series``
   where the user has had the part before it, and divided by ``series`` where that part is still to come.

Each hop needs the result of the hop before it, and the looked-up values are never shown: composing them layer by
layer takes depth (Liu et al. 2023, "Transformers learn shortcuts to automata": composing k functions in parallel
takes a depth that grows with log k), and what is not composed has to be learned by heart, ``n_genres ** (hops + 1)``
cases of it. What that is worth to a trained model is measured in docs/synthetic.md. No item occurs twice in a history,
so a protocol that drops repeats changes nothing.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydistill.data.interactions import RawData, interaction_batch, item_batch, provenance_of, store
from raydistill.errors import DataError
from raydistill.seeding import stream

GENRES = (
    "Adventure", "Comedy", "Drama", "Fantasy", "Horror", "Mystery", "Noir", "Romance", "Science", "Thriller",
    "Travel", "Western",
)  # fmt: skip
THEMES = ("Autumn", "Family", "Music", "War")
ADJECTIVES = (
    "Amber", "Broken", "Crimson", "Distant", "Empty", "Frozen", "Golden", "Hidden", "Iron", "Jade", "Lonely", "Marble",
    "Northern", "Open", "Pale", "Quiet", "Restless", "Silver", "Tender", "Wild",
)  # fmt: skip
NOUNS = (
    "Anchor", "Bridge", "Coast", "Door", "Echo", "Forest", "Garden", "Harbour", "Island", "Journey", "Key", "Lantern",
    "Mirror", "Night", "Orchard", "Path", "River", "Summer", "Tower", "Voice",
)  # fmt: skip
PARTS = 3
GENERATOR = 5  # goes up when the same parameters give another world, so that no cache serves the old one
FIRST_DAY = 1_600_000_000
WORDS = len(ADJECTIVES) * len(NOUNS)


@dataclass(frozen=True)
class Params:
    """Keys of the source ``synthetic``.

    Attributes:
        n_users: Number of users.
        n_items: Number of items of the catalogue.
        shortest, longest: The number of items of a user is uniform between the two, both included.
            Keep them far apart: the places that only the longest histories reach are hardly trained on.
        n_genres: Number of genres, 2 to 12.
        hops: Look-ups that the next genre takes, each with the genre of one item further back.
        noise: Probability that a genre is drawn at random instead of by the rule.
        popularity: Exponent of Zipf's law of the items' popularity; 0 makes all equally popular.
        taste: Log of the factor for items of a user's favourite theme; 0 for no taste.
        series: Factor for the next part of a series that the user has begun; 1 for no series order.
        series_share: Share of the items that are part of a series of three.
        seed: Seed of the catalogue and of the users.
    """

    n_users: int = 2000
    n_items: int = 200
    shortest: int = 8
    longest: int = 28
    n_genres: int = 6
    hops: int = 2
    noise: float = 0.05
    popularity: float = 1.0
    taste: float = 1.0
    series: float = 10.0
    series_share: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Catalogue:
    """The items, by index from 0.

    Attributes:
        genre, theme: Int64 ``[n_items]``.
        previous_part: Int64 ``[n_items]``, the item that is the part before, or -1.
        popularity: Float64 ``[n_items]``, Zipf weights.
        titles: ``[n_items]``; the second part of "The Amber Coast" is "The Amber Coast 2".
        squares: Int64 ``[hops, n_genres, n_genres]``, a Latin square a hop: genre so far by the one further back.
    """

    genre: np.ndarray
    theme: np.ndarray
    previous_part: np.ndarray
    popularity: np.ndarray
    titles: list[str]
    squares: np.ndarray


@dataclass(frozen=True)
class World:
    """A catalogue, its users, and the true distribution of each user's last item.

    Attributes:
        catalogue: The items.
        items: Int64 ``[n_users, longest]``, item indices in time order, -1 after a user's end.
        lengths: Int64 ``[n_users]``.
        favourite: Int64 ``[n_users]``, the theme that a user prefers.
        by_rule: Bool ``[n_users, longest]``, whether the item's genre is the rule's (False where noise drew it).
        last_probability: Float64 ``[n_users, n_items]``, the probability of each item at the user's last position,
            given the history and the favourite theme: the ranking by it is the best that any model can reach.
    """

    catalogue: Catalogue
    items: np.ndarray
    lengths: np.ndarray
    favourite: np.ndarray
    by_rule: np.ndarray
    last_probability: np.ndarray


def load(params: Params, cache: Path) -> RawData:
    """Return the generated world as raw data: ratings are null, and time is one interaction a day.

    Args:
        params: See :class:`Params`.
        cache: Folder for the Arrow files.

    Raises:
        DataError: A parameter is out of range.
    """
    check(params)
    provenance = {**provenance_of("synthetic", [], asdict(params), time_unit="s"), "generator": GENERATOR}
    made = functools.cache(generate)  # one world for both tables, and none where the cache has them
    interactions = (_interactions(made(given)) for given in [params])
    items = (_items(made(given).catalogue) for given in [params])
    return store(cache, provenance, interactions, items)


def check(params: Params) -> None:
    """Raise an error for the first parameter that is out of range.

    Raises:
        DataError: With the key, the value and the range.
    """
    largest = params.n_genres * params.longest + PARTS * (params.n_genres - 1)
    longest = (WORDS - PARTS * (params.n_genres - 1)) // max(1, params.n_genres)
    ranges = {
        "n_users": (1, 10**6),  # each has the probabilities of all items at a time
        "n_genres": (2, len(GENRES)),
        "longest": (3, longest),
        "shortest": (3, params.longest),
        "n_items": (largest, WORDS),
        "hops": (1, 16),
        "noise": (0, 1),
        "popularity": (0, 5),
        "taste": (0, 10),
        "series": (1, 1e6),
        "series_share": (0, 1),
        "seed": (0, 2**63 - 1),
    }
    for key, (low, high) in ranges.items():
        value = getattr(params, key)
        if not low <= value <= high:
            raise DataError(
                f"the synthetic source cannot use {key} = {value}",
                where=f"data.{key}",
                mend=f"give {key} a value from {low} to {high}"
                + (" (n_genres x (longest + 3) - 3, so that no genre runs out)" if key == "n_items" else ""),
            )


def generate(params: Params) -> World:
    """Return the world of the parameters; the same parameters give the same world.

    Args:
        params: Checked by :func:`check`.
    """
    catalogue = make_catalogue(params)
    draws = stream(params.seed, "synthetic-users")
    users = np.arange(params.n_users)
    lengths = draws.integers(params.shortest, params.longest + 1, params.n_users)
    favourite = draws.integers(len(THEMES), size=params.n_users)
    taste = np.where(catalogue.theme == favourite[:, None], np.exp(params.taste), 1.0)
    has_previous = catalogue.previous_part >= 0
    items = np.full((params.n_users, params.longest), -1)
    by_rule = np.zeros(items.shape, dtype=bool)
    seen = np.zeros((params.n_users, params.n_items), dtype=bool)
    last_probability = np.zeros(seen.shape)
    for position in range(params.longest):
        begun = seen[:, catalogue.previous_part]
        order = np.where(has_previous, np.where(begun, params.series, 1 / params.series), 1.0)
        weight = catalogue.popularity * taste * order * ~seen
        genre = next_genre(catalogue, items, position) if position else draws.integers(params.n_genres, size=len(users))
        probability = _mixture(weight, catalogue.genre, genre, params.noise, params.n_genres)
        active = lengths > position
        chosen = (probability.cumsum(axis=1) < draws.random(len(users))[:, None]).sum(axis=1)
        chosen = np.minimum(chosen, params.n_items - 1)
        items[:, position] = np.where(active, chosen, -1)
        by_rule[:, position] = active & (catalogue.genre[chosen] == genre)
        last_probability = np.where((lengths == position + 1)[:, None], probability, last_probability)
        seen[users, chosen] = True
    return World(catalogue, items, lengths, favourite, by_rule, last_probability)


def next_genre(catalogue: Catalogue, items: np.ndarray, position: int) -> np.ndarray:
    """Return the genre that the rule gives to ``position``.

    Args:
        catalogue: The items.
        items: Int ``[n_users, length]`` with the history before ``position``.
        position: Of the next item, from 1.

    Returns:
        Int64 ``[n_users]``.
    """
    genre = catalogue.genre[items[:, position - 1]]
    for hop, square in enumerate(catalogue.squares[: position - 1]):
        genre = square[genre, catalogue.genre[items[:, position - 2 - hop]]]
    return genre


def make_catalogue(params: Params) -> Catalogue:
    """Return the items of the parameters."""
    draws = stream(params.seed, "synthetic-catalogue")
    n_series = int(params.series_share * params.n_items) // PARTS
    part = np.zeros(params.n_items, dtype=np.int64)
    part[: n_series * PARTS] = np.tile(np.arange(PARTS), n_series)
    work = np.cumsum(part == 0) - 1
    genre = _even_genres(work, params.n_genres)
    previous = np.where(part > 0, np.arange(params.n_items) - 1, -1)
    words = draws.permutation(WORDS)[work]
    titles = [
        f"The {ADJECTIVES[word // len(NOUNS)]} {NOUNS[word % len(NOUNS)]}" + (f" {number + 1}" if number else "")
        for word, number in zip(words, part, strict=True)
    ]
    rank = draws.permutation(params.n_items)
    return Catalogue(
        genre=genre,
        theme=draws.integers(len(THEMES), size=params.n_items),
        previous_part=previous,
        popularity=(1.0 + rank) ** -params.popularity,
        titles=titles,
        squares=np.stack([_latin_square(params.n_genres, draws) for _ in range(params.hops)]),
    )


def _latin_square(n: int, draws: np.random.Generator) -> np.ndarray:
    """Return Int64 ``[n, n]``: the addition table of the integers modulo n, its rows, columns and symbols shuffled."""
    table = np.add.outer(draws.permutation(n), draws.permutation(n)) % n
    return draws.permutation(n)[table]


def _even_genres(work: np.ndarray, n_genres: int) -> np.ndarray:
    """Return Int64 ``[n_items]``: all parts of a work in one genre, genres of equal size but for one series."""
    genre = np.zeros(len(work), dtype=np.int64)
    size = np.zeros(n_genres, dtype=np.int64)
    for parts in np.split(np.arange(len(work)), np.flatnonzero(np.diff(work)) + 1):
        genre[parts] = size.argmin()
        size[size.argmin()] += len(parts)
    return genre


def _mixture(weight: np.ndarray, genre: np.ndarray, target: np.ndarray, noise: float, n_genres: int) -> np.ndarray:
    """Return Float64 ``[n_users, n_items]``: the weights inside each genre, mixed over the genres."""
    member = genre[:, None] == np.arange(n_genres)
    share = noise / n_genres + (1 - noise) * (target[:, None] == np.arange(n_genres))
    return weight * (share / (weight @ member))[:, genre]


def _interactions(world: World) -> pa.RecordBatch:
    user, position = np.nonzero(world.items >= 0)
    batch = [
        pa.array([f"u{number}" for number in user.tolist()]),
        pa.array([f"i{number}" for number in world.items[user, position].tolist()]),
        pa.array(FIRST_DAY + 86_400 * position.astype(np.int64)),
    ]
    return interaction_batch(*batch, None, lambda row: f"row {row}")


def _items(catalogue: Catalogue) -> pa.RecordBatch:
    attributes = [[GENRES[genre], THEMES[theme]] for genre, theme in zip(catalogue.genre, catalogue.theme, strict=True)]
    ids = [f"i{number}" for number in range(len(attributes))]
    return item_batch(pa.array(ids), pa.array(catalogue.titles), pa.array(attributes), lambda row: f"item {row}")
