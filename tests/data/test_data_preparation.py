"""Rules of preparation against brute force over plain Python lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.data import RawData, interaction_batch, item_batch, prepare, store
from raydistill.data.preparation import k_core, unrepeated
from raydistill.data.splits import global_time, leave_one_out, user_time
from raydistill.errors import DataError

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 20), st.sampled_from([1.0, 3.0, 5.0])),
    min_size=10,
    max_size=60,
)


def make_raw(folder: Path, rows: list[tuple], items: list[tuple] = (), **provenance) -> RawData:
    """Return raw data of rows ``(user, item, timestamp, rating)``, in two batches, named by their content."""
    users, names, times, ratings = (list(column) for column in zip(*rows, strict=True))
    ratings = None if ratings[0] is None else pa.array(ratings)
    batch = interaction_batch(
        pa.array([f"u{u}" for u in users]), pa.array([f"i{i}" for i in names]), pa.array(times), ratings, str
    )
    described = [item_batch(pa.array([i[0]]), pa.array([i[1]]), pa.array([i[2]]), str) for i in items]
    half = len(rows) // 2
    provenance = {"source": "test", "time_unit": "s", "rows": [list(r) for r in rows], **provenance}
    return store(folder, provenance, [batch.slice(0, half), batch.slice(half)], described)


def brute_force(rows: list[tuple], *, k: int, duplicates: str, min_rating: float | None) -> dict[str, list[tuple]]:
    """Return each user's ``(item, time)`` in order, users in order of first appearance, by the rules as written."""
    first_seen = {f"u{row[0]}": n for n, row in reversed(list(enumerate(rows)))}
    rows = [(f"u{u}", f"i{i}", t) for u, i, t, r in rows if min_rating is None or r >= min_rating]
    rows = sorted(rows, key=lambda row: row[2])  # stable: ties keep the order of the source
    if duplicates != "keep":
        keyed = {}
        for number, row in enumerate(rows):
            if duplicates == "last" or row[:2] not in keyed:
                keyed[row[:2]] = number
        rows = [rows[number] for number in sorted(keyed.values())]
    while True:
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= k and items[r[1]] >= k]
        if len(kept) == len(rows):
            break
        rows = kept
    result = defaultdict(list)
    for user, item, time in rows:
        result[user].append((item, time))
    return {user: result[user] for user in sorted(result, key=first_seen.__getitem__)}


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=80), k=st.integers(0, 4))
def test_k_core_is_the_largest_subset_that_satisfies_itself(pairs, k):
    users = np.array([p[0] for p in pairs], dtype=np.int32)
    items = np.array([p[1] for p in pairs], dtype=np.int32)
    alive = list(range(len(pairs)))
    while True:  # one interaction at a time, an order as different as can be from the code's
        of_user, of_item = Counter(pairs[n][0] for n in alive), Counter(pairs[n][1] for n in alive)
        bad = next((n for n in alive if of_user[pairs[n][0]] < k or of_item[pairs[n][1]] < k), None)
        if bad is None:
            break
        alive.remove(bad)
    assert k_core(users, items, k).tolist() == alive


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40),
    rule=st.sampled_from(["first", "last"]),
)
def test_repeats_are_dropped_but_one(pairs, rule):
    stays = unrepeated(np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], int), rule)
    for number, pair in enumerate(pairs):
        others = pairs[:number] if rule == "first" else pairs[number + 1 :]
        assert bool(stays[number]) == (pair not in others)


@pytest.mark.parametrize("duplicates", ["first", "last", "keep"])
@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    k=st.integers(0, 3),
    min_rating=st.sampled_from([None, 3.0]),
    split=st.sampled_from(["leave_one_out", "global_time", "user_time"]),
)
def test_prepared_sequences_are_those_of_brute_force(tmp_path_factory, duplicates, rows, k, min_rating, split):
    folder = tmp_path_factory.mktemp("data")
    expected = brute_force(rows, k=k, duplicates=duplicates, min_rating=min_rating)
    raw = make_raw(folder, rows)
    options = {"split": split, "min_interactions": k, "duplicates": duplicates, "min_rating": min_rating}
    try:
        data = prepare(raw, folder=folder / "prepared", **options)
    except DataError:
        # Nothing was left, or nobody can be split; the second is checked by the tests of the splits.
        assert not expected or split != "leave_one_out" or max(map(len, expected.values())) < 3
        return
    assert list(data.user_ids) == list(expected)
    appearance = list(dict.fromkeys(f"i{row[1]}" for row in rows))
    left = {item for history in expected.values() for item, _ in history}
    assert list(data.item_ids) == ["", *(item for item in appearance if item in left)]
    for user, (name, history) in enumerate(expected.items()):
        part = slice(data.offsets[user], data.offsets[user + 1])
        found = [(data.item_ids[i], int(t)) for i, t in zip(data.items[part], data.timestamps[part], strict=True)]
        assert found == history, name
    counts = Counter()
    for user in range(data.n_users):
        counts.update(data.items[data.offsets[user] : data.train_end[user]].tolist())
    assert data.popularity.tolist() == [counts[i] for i in range(data.n_items + 1)]
    targets = data.test_position[data.test_position >= 0]
    assert data.statistics["test_targets"] == len(targets)
    assert data.statistics["cold_test_targets"] == sum(counts[int(data.items[p])] == 0 for p in targets)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_leave_one_out_by_hand(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    result = leave_one_out(offsets)
    for user, length in enumerate(lengths):
        start, end = int(offsets[user]), int(offsets[user + 1])
        expected = (end - 2, end - 2, end - 1) if length >= 3 else (end, -1, -1)
        names = ("train_end", "validation_position", "test_position")
        assert tuple(int(result[name][user]) for name in names) == expected
        assert length < 3 or start < end - 2


@settings(max_examples=150, deadline=None)
@given(histories=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8).map(sorted), min_size=1, max_size=10))
def test_global_time_by_hand(histories):
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])])
    times = np.array([t for h in histories for t in h])
    result = global_time(offsets, times, (0.8, 0.9))
    ordered = sorted(times.tolist())
    low, high = ordered[int(0.8 * len(ordered))], ordered[int(0.9 * len(ordered))]
    for user, history in enumerate(histories):
        validation = next((n for n, t in enumerate(history) if low <= t < high), None)
        test = next((n for n, t in enumerate(history) if t >= high), None)
        start = int(offsets[user])
        assert result["train_end"][user] == start + sum(t < low for t in history)
        # A target with an empty history is none.
        assert result["validation_position"][user] == (start + validation if validation else -1)
        assert result["test_position"][user] == (start + test if test else -1)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 130), min_size=1, max_size=10),
    percents=st.lists(st.integers(1, 99), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_user_time_by_hand(lengths, percents):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    result = user_time(offsets, (percents[0] / 100, percents[1] / 100))
    for user, length in enumerate(lengths):
        start = int(offsets[user])
        # In whole numbers, so that no share is a hair off.
        validation, test = (percent * length // 100 for percent in percents)
        assert result["train_end"][user] == start + validation
        assert result["validation_position"][user] == (start + validation if 0 < validation < test else -1)
        assert result["test_position"][user] == (start + test if test else -1)


def test_ties_keep_the_order_of_the_source(tmp_path):
    rows = [(0, item, 7, None) for item in (5, 3, 4, 1)] + [(1, item, 7 - item, None) for item in (1, 2, 3)]
    data = prepare(make_raw(tmp_path, rows), split="leave_one_out", min_interactions=1, folder=tmp_path / "p")
    assert [data.item_ids[i] for i in data.items] == ["i5", "i3", "i4", "i1", "i3", "i2", "i1"]
    assert data.statistics["tied_times"] == 3


def test_users_too_short_to_split_train_only_and_are_counted(tmp_path):
    rows = [(0, 1, 1, None), (0, 2, 2, None), (0, 3, 3, None), (1, 1, 1, None), (1, 2, 2, None)]
    data = prepare(make_raw(tmp_path, rows), split="leave_one_out", min_interactions=1, folder=tmp_path / "p")
    assert data.test_position.tolist() == [2, -1]
    assert data.validation_position.tolist() == [1, -1]
    assert data.train_end.tolist() == [1, 5]
    assert data.statistics["users_without_targets"] == 1
    assert np.isnan(data.ratings).all()


def test_titles_and_attributes_follow_the_items(tmp_path):
    rows = [(u, i, u + i, 4.0) for u in range(3) for i in (9, 2, 5)]
    items = [("i2", "two", ["a", "b"]), ("i77", "never seen", ["c"]), ("i9", "nine", None), ("i2", "again", ["d"])]
    data = prepare(make_raw(tmp_path, rows, items), split="leave_one_out", min_interactions=1, folder=tmp_path / "p")
    assert list(data.item_ids) == ["", "i9", "i2", "i5"]
    assert list(data.titles) == ["", "nine", "two", ""]
    assert list(data.attributes) == [[], [], ["a", "b"], []]


def test_hash_follows_content_and_split_and_nothing_else(tmp_path):
    rows = [(u, i, u * i, 4.0) for u in range(4) for i in range(1, 7)]
    options = {"split": "leave_one_out", "min_interactions": 2}
    base = prepare(make_raw(tmp_path, rows), folder=tmp_path / "a", **options)
    again = prepare(make_raw(tmp_path, rows, note="another file"), folder=tmp_path / "b", **options)
    assert again.hash == base.hash
    changed = [*rows[:-1], (*rows[-1][:3], 3.0)]
    assert prepare(make_raw(tmp_path, changed), folder=tmp_path / "c", **options).hash != base.hash
    other = prepare(make_raw(tmp_path, rows), folder=tmp_path / "d", **{**options, "split": "global_time"})
    assert other.hash != base.hash
    titled = prepare(make_raw(tmp_path, rows, [("i1", "one", [])], note="titled"), folder=tmp_path / "e", **options)
    assert titled.hash != base.hash


def test_empty_results_say_why(tmp_path):
    rows = [(u, 10 * u + i, i, 2.0) for u in range(3) for i in range(3)]  # every item occurs once
    raw = make_raw(tmp_path, rows)
    with pytest.raises(DataError, match="most popular item 1") as caught:
        prepare(raw, split="leave_one_out", min_interactions=2, folder=tmp_path / "p")
    assert "lower data.min_interactions" in caught.value.mend
    with pytest.raises(DataError, match="rating of at least 4"):
        prepare(raw, split="leave_one_out", min_interactions=1, min_rating=4, folder=tmp_path / "p")
    short = make_raw(tmp_path, [(0, 1, 1, None), (1, 1, 2, None)])
    with pytest.raises(DataError, match="no user has a validation target"):
        prepare(short, split="leave_one_out", min_interactions=1, folder=tmp_path / "p")
    with pytest.raises(DataError, match="without a rating"):
        prepare(short, split="leave_one_out", min_interactions=1, min_rating=1, folder=tmp_path / "p")
    untimed = make_raw(tmp_path, rows, time_unit="position")
    with pytest.raises(DataError, match="needs times"):
        prepare(untimed, split="global_time", min_interactions=1, folder=tmp_path / "p")
    # An order inside each user is all that shares of each user need.
    data = prepare(untimed, split="user_time", min_interactions=1, folder=tmp_path / "u", time_cuts=(0.4, 0.7))
    assert data.train_end.tolist() == [1, 4, 7]
    moved = prepare(untimed, split="user_time", min_interactions=1, folder=tmp_path / "u", time_cuts=(0.34, 0.8))
    assert (moved.statistics["time_cuts"], moved.hash == data.hash) == ([0.34, 0.8], True)
