"""Published counts of real data sets."""

from __future__ import annotations

import numpy as np

from raydistill.data import prepare
from raydistill.data.sources import SOURCES


def load(source, cache, *args):
    return SOURCES[source].load(SOURCES[source].params(*args), cache)


def test_amazon_beauty_has_the_published_counts_and_targets(shared_data, tmp_path):
    path = shared_data / "amazon-beauty" / "Beauty.txt"
    attributes = path.with_name("Beauty_item2attributes.json")
    raw = load("sequences", tmp_path, str(path), str(attributes))
    data = prepare(raw, split="leave_one_out", min_interactions=5, folder=tmp_path / "p")
    found = data.statistics
    assert (found["users"], found["items"], found["interactions"]) == (22_363, 12_101, 198_502)
    assert found["removed_by_k_core"] == found["removed_duplicates"] == 0
    # S3-Rec evaluates every user on the last item of their line.
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [data.item_ids[i] for i in data.items[data.test_position]] == [line[-1] for line in lines]
    assert [data.item_ids[i] for i in data.items[data.validation_position]] == [line[-2] for line in lines]
    np.testing.assert_array_equal(data.train_end - data.offsets[:-1], [len(line) - 3 for line in lines])


def test_movielens_latest_small_has_the_published_counts(shared_data, tmp_path):
    raw = load("movielens", tmp_path, "latest-small", str(shared_data / "ml-latest-small"))
    # The README of the data names users 1 to 610; a copy with a further line is not taken for published.
    users = np.array(raw.interactions["user"][:], dtype=int)
    assert np.count_nonzero(users <= 610) == 100_836
    assert len(np.unique(users[users <= 610])) == 610
    assert len(raw.items) == 9_742
    data = prepare(raw, split="leave_one_out", min_interactions=5, folder=tmp_path / "p")
    assert data.n_users == data.statistics["test_targets"] == 610
    assert data.titles[list(data.item_ids).index("1")] == "Toy Story (1995)"
    assert data.attributes[list(data.item_ids).index("1")] == [
        "Adventure",
        "Animation",
        "Children",
        "Comedy",
        "Fantasy",
    ]
