"""The synthetic source: the same seed gives the same world, and the histories obey the rules that are promised."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydistill.data.sources.synthetic import GENRES, THEMES, Params, check, generate, load
from raydistill.errors import DataError

SMALL = Params(n_users=200, n_items=160, shortest=8, longest=20, n_genres=6, hops=3)
CHANGES = {
    "n_users": 201, "n_items": 170, "shortest": 9, "longest": 21, "n_genres": 5, "hops": 4,
    "noise": 0.5, "popularity": 0.5, "taste": 0.1, "series": 2.0, "series_share": 0.1, "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return generate(SMALL)


def read(raw):
    """Return histories (lists of item ids by user) and the title and attributes of each item, from the tables alone."""
    histories: dict[str, list[tuple[int, str]]] = {}
    for row in raw.interactions:
        histories.setdefault(row["user"], []).append((row["timestamp"], row["item"]))
    items = {row["item"]: row for row in raw.items}
    return {user: [item for _, item in sorted(rows)] for user, rows in histories.items()}, items


def resolve(genres, squares, hops):
    """Return the next genre of a history of genres, by recursion; an oracle that shares no code with the generator."""

    def value(left):
        return genres[-1] if left == 0 else squares[left - 1][value(left - 1)][genres[-1 - left]]

    return value(min(hops, len(genres) - 1))


def test_load_gives_the_schema_of_every_source(tmp_path):
    raw = load(SMALL, tmp_path)
    assert {name: str(kind.dtype) for name, kind in raw.interactions.features.items()} == {
        "user": "string", "item": "string", "timestamp": "int64", "rating": "float32",
    }  # fmt: skip
    assert list(raw.items.features) == ["item", "title", "attributes"]
    assert raw.provenance["source"] == "synthetic"
    assert raw.provenance["parameters"] == dataclasses.asdict(SMALL)
    histories, items = read(raw)
    assert len(histories) == SMALL.n_users
    assert len(items) == SMALL.n_items
    assert all(SMALL.shortest <= len(history) <= SMALL.longest for history in histories.values())
    assert all(len(set(history)) == len(history) for history in histories.values())
    assert len({item["title"] for item in items.values()}) == SMALL.n_items
    genre, theme = items["i0"]["attributes"]
    assert genre in GENRES
    assert theme in THEMES


def test_times_of_a_user_rise(tmp_path):
    raw = load(SMALL, tmp_path)
    rows = raw.interactions.to_pandas()
    assert (rows.groupby("user")["timestamp"].diff().dropna() > 0).all()


def test_the_same_parameters_give_the_same_world_again(world):
    again = generate(SMALL)
    assert np.array_equal(world.items, again.items)
    assert world.catalogue.titles == again.catalogue.titles
    assert np.array_equal(world.last_probability, again.last_probability)


def test_every_parameter_has_a_change_below():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Params)}


@pytest.mark.parametrize("key", CHANGES)
def test_every_parameter_bites(world, key):
    changed = generate(dataclasses.replace(SMALL, **{key: CHANGES[key]}))
    assert world.items.shape != changed.items.shape or not np.array_equal(world.items, changed.items)


def test_the_rule_gives_every_genre_when_there_is_no_noise(tmp_path):
    params = dataclasses.replace(SMALL, noise=0.0)
    histories, items = read(load(params, tmp_path))
    squares = generate(params).catalogue.squares.tolist()
    for history in histories.values():
        genres = [GENRES.index(items[item]["attributes"][0]) for item in history]
        assert genres[1:] == [resolve(genres[:end], squares, params.hops) for end in range(1, len(genres))]


def test_every_square_is_latin(world):
    symbols = list(range(SMALL.n_genres))
    assert world.catalogue.squares.shape == (SMALL.hops, SMALL.n_genres, SMALL.n_genres)
    for square in world.catalogue.squares:
        assert all(sorted(line) == symbols for line in [*square.tolist(), *square.T.tolist()])


def test_noise_breaks_the_rule_as_often_as_it_says():
    noisy = generate(dataclasses.replace(SMALL, n_users=1000, noise=0.3))
    inside = (noisy.items >= 0)[:, 1:]
    share = noisy.by_rule[:, 1:][inside].mean()
    assert share == pytest.approx(1 - 0.3 * (1 - 1 / SMALL.n_genres), abs=0.01)


def test_fewer_hops_do_not_explain_the_genres(world):
    agreement = [_agreement(world, hops) for hops in range(SMALL.hops + 1)]
    assert agreement[-1] > 0.9
    assert max(agreement[:-1]) < 0.4


def _agreement(world, hops):
    """Return the share of places whose genre the rule gives when it makes no more than ``hops`` hops."""
    squares = world.catalogue.squares.tolist()
    good, total = 0, 0
    for row, length in zip(world.items, world.lengths, strict=True):
        genres = world.catalogue.genre[row[:length]].tolist()
        good += sum(resolve(genres[:end], squares, hops) == genres[end] for end in range(SMALL.hops + 1, length))
        total += length - SMALL.hops - 1
    return good / total


def test_parts_of_a_series_come_in_order(tmp_path):
    histories, items = read(load(dataclasses.replace(SMALL, series=50.0), tmp_path))
    number = {row["title"]: item for item, row in items.items()}
    pairs = [(number[title], number[f"{title} 2"]) for title in number if f"{title} 2" in number]
    assert len(pairs) == int(SMALL.series_share * SMALL.n_items) // 3
    assert all(items[one]["attributes"][0] == items[two]["attributes"][0] for one, two in pairs)
    places = [(h.index(one), h.index(two)) for h in histories.values() for one, two in pairs if one in h and two in h]
    assert len(places) > 100
    assert np.mean([one < two for one, two in places]) > 0.95


def test_popular_items_and_favourite_themes_are_taken_more(world):
    catalogue, taken = world.catalogue, np.bincount(world.items[world.items >= 0], minlength=SMALL.n_items)
    single = np.array([not any(title.endswith(part) for part in (" 2", " 3")) for title in catalogue.titles])
    best = catalogue.popularity >= np.median(catalogue.popularity[single])
    assert taken[single & best].mean() > 1.5 * taken[single & ~best].mean()
    inside = world.items >= 0
    favourite = catalogue.theme[world.items] == world.favourite[:, None]
    assert favourite[inside].mean() > 1.3 / len(THEMES)


def test_the_true_distribution_of_the_last_item_is_one(world):
    users = np.arange(SMALL.n_users)
    last = world.items[users, world.lengths - 1]
    assert world.last_probability.sum(axis=1) == pytest.approx(1)
    assert (world.last_probability[users, last] > 0).all()
    for user in users:
        assert not world.last_probability[user, world.items[user, : world.lengths[user] - 1]].any()


@pytest.mark.parametrize("n_genres", [2, 7, 12])
@pytest.mark.parametrize("series_share", [0.0, 1.0])
def test_no_genre_runs_out_in_the_smallest_catalogue(n_genres, series_share):
    smallest = n_genres * 20 + 3 * (n_genres - 1)
    params = dataclasses.replace(SMALL, n_genres=n_genres, n_items=smallest, series_share=series_share, noise=0.0)
    check(params)
    world = generate(params)
    assert np.isfinite(world.last_probability).all()
    assert all(len(set(row[:length])) == length for row, length in zip(world.items, world.lengths, strict=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_users", 0), ("n_items", 50), ("n_items", 10_000), ("shortest", 2), ("shortest", 21), ("n_genres", 1),
        ("longest", 100), ("longest", 2), ("n_genres", 0), ("n_users", 10**7),
        ("n_genres", 13), ("hops", 0), ("noise", 1.5), ("noise", float("nan")), ("popularity", -1.0),
        ("taste", -1.0), ("series", 0.5), ("series_share", 2.0), ("seed", -1),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named_with_its_range(tmp_path, key, value):
    with pytest.raises(DataError, match=f"{key} = {value}") as caught:
        load(dataclasses.replace(SMALL, **{key: value}), tmp_path)
    assert caught.value.where == f"data.{key}"
    assert "from" in caught.value.mend


def test_the_second_load_reads_what_the_first_wrote(tmp_path, monkeypatch):
    first = load(SMALL, tmp_path)
    monkeypatch.setattr("raydistill.data.sources.synthetic.generate", lambda params: pytest.fail("generated again"))
    assert load(SMALL, tmp_path).interactions.to_dict() == first.interactions.to_dict()


def test_importing_the_source_loads_no_torch():
    code = "import sys, raydistill.data.sources.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
