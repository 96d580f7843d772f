"""Training and evaluation batches against plain Python lists of every user's items."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.data import prepare
from raydistill.data.batches import (
    GROUP_OVERHEAD,
    TrainingExamples,
    evaluation_batches,
    evaluation_users,
    seen_items,
    split_by_length,
)
from raydistill.data.lengths import even_share
from raydistill.data.sources import SOURCES
from raydistill.data.splits import SequenceData, leave_one_out

N_ITEMS = 50


def make_data(lengths, seed: int = 0) -> SequenceData:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = rng.integers(1, N_ITEMS + 1, offsets[-1]).astype(np.int32)
    n_users = len(lengths)
    return SequenceData(
        items=items,
        timestamps=np.arange(offsets[-1]),
        ratings=np.full(offsets[-1], np.nan, dtype=np.float32),
        offsets=offsets,
        **leave_one_out(offsets),
        popularity=np.bincount(items, minlength=N_ITEMS + 1),
        user_ids=[str(u) for u in range(n_users)],
        item_ids=[str(i) for i in range(N_ITEMS + 1)],
        titles=[""] * (N_ITEMS + 1),
        attributes=[[]] * (N_ITEMS + 1),
        split="leave_one_out",
    )


LENGTHS = [1, 2, 3, 4, 5, 6, 7, 9, 12, 20, 33, 3, 3, 41, 8]
DATA = make_data(LENGTHS)


def training_parts(data: SequenceData) -> list[list[int]]:
    return [list(data.items[begin:end]) for begin, end in zip(data.offsets[:-1], data.train_end, strict=True)]


def unpacked(batch):
    """Yield each target as (example row, column, label item, slot, the row's real input)."""
    seq = batch.input_ids.shape[1]
    for position, label, slot, example in zip(
        batch.positions.tolist(), batch.labels.tolist(), batch.slots.tolist(), batch.example.tolist(), strict=True
    ):
        row, column = divmod(position, seq)
        assert row == example
        yield row, column, label + 1, slot, batch.input_ids[row].tolist()


def causal(data=DATA, max_length=7) -> TrainingExamples:
    return TrainingExamples(data, max_length=max_length, causal=True)


def bidirectional(data=DATA, max_length=7, **arguments) -> TrainingExamples:
    return TrainingExamples(data, max_length=max_length, causal=False, **arguments)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_interaction_but_a_users_first_is_a_causal_target_once(lengths, max_length):
    data = make_data(lengths)
    examples = causal(data, max_length)
    expected = Counter()
    for items in training_parts(data):
        for stop in range(1, len(items)):
            expected[items[stop]] += 1
    got, slots = Counter(), []
    if len(examples):
        batch = examples.batch(np.arange(len(examples)))
        assert batch.input_ids.shape[1] <= max_length
        for _, _, label, slot, _ in unpacked(batch):
            got[label] += 1
            slots.append(slot)
    assert got == expected
    assert sorted(slots) == list(range(examples.n_slots))


def test_a_causal_window_is_followed_by_its_labels_and_nothing_of_the_future():
    examples = causal(max_length=7)
    texts = ["," + ",".join(map(str, part)) + "," for part in training_parts(DATA)]
    batch = examples.batch(np.arange(len(examples)))
    for row in range(len(examples)):
        length = int(examples.lengths[row])
        inputs = batch.input_ids[row, :length].tolist()
        labels = [label for r, _, label, _, _ in unpacked(batch) if r == row]
        assert labels[:-1] == inputs[1:]
        window = "," + ",".join(map(str, [*inputs, labels[-1]])) + ","
        assert any(window in text for text in texts)
        assert not batch.input_ids[row, length:].any()
    assert batch.attention_mask is None


def test_long_histories_are_cut_from_the_end():
    examples = causal(make_data([2 + 10]), max_length=4)  # ten training items, nine targets: windows of 4, 4 and 1
    assert sorted(examples.lengths) == [1, 4, 4]
    batch = examples.batch(np.array([np.argmax(examples.starts)]))
    assert batch.input_ids[0].tolist() == list(make_data([12]).items[5:9])


@pytest.mark.parametrize("pattern", [0, 1, 3])
def test_bidirectional_targets_are_masked_and_the_last_position_is_one_of_them(pattern):
    examples = bidirectional(mask_patterns=4)
    original = bidirectional(mask_probability=0.0)
    batch = examples.batch(np.arange(len(examples)), pattern)
    plain = original.batch(np.arange(len(examples)))
    masked = {(row, column) for row, column, *_ in unpacked(batch)}
    for row, length in enumerate(examples.lengths):
        items = DATA.items[examples.starts[row] : examples.starts[row] + length].tolist()
        assert (row, length - 1) in masked
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        for column, item in enumerate(items):
            assert batch.input_ids[row, column] == (N_ITEMS + 1 if (row, column) in masked else item)
    assert all(label == DATA.items[examples.starts[row] + column] for row, column, label, *_ in unpacked(batch))
    assert len(plain.positions) == len(original)  # without chance the last position alone


def test_bidirectional_windows_cover_every_interaction_once():
    examples = bidirectional(mask_probability=1.0, mask_patterns=1)
    got = Counter(label for _, _, label, *_ in unpacked(examples.batch(np.arange(len(examples)))))
    assert got == Counter(item for items in training_parts(DATA) for item in items)


def test_mask_patterns_differ_are_reproducible_and_share_no_slot():
    examples, again, other = bidirectional(seed=3), bidirectional(seed=3), bidirectional(seed=4)
    everything = np.arange(len(examples))
    patterns = [examples.batch(everything, p) for p in range(4)]
    assert len({tuple(batch.positions.tolist()) for batch in patterns}) == 4
    slots = [slot for batch in patterns for slot in batch.slots.tolist()]
    assert sorted(slots) == list(range(examples.n_slots))
    for p, batch in enumerate(patterns):
        assert batch.positions.equal(again.batch(everything, p).positions)
    assert not patterns[0].positions.equal(other.batch(everything, 0).positions)


@pytest.mark.parametrize("make", [causal, bidirectional])
def test_slots_belong_to_the_target_whatever_batch_it_is_in(make):
    examples = make()

    def by_slot(batches):
        return {
            slot: (examples.starts[chosen[row]], column, label)
            for chosen, batch in batches
            for row, column, label, slot, _ in unpacked(batch)
        }

    whole = by_slot([(np.arange(len(examples)), examples.batch(np.arange(len(examples))))])
    order = np.random.default_rng(0).permutation(len(examples))
    split = by_slot([(part, examples.batch(part)) for part in np.array_split(order, 5)])
    assert whole == split


def all_steps(examples, epoch=0, *, batch_size=6, seed=0, **arguments):
    return list(examples.steps(epoch, batch_size=batch_size, seed=seed, **arguments))


@pytest.mark.parametrize("make", [causal, bidirectional])
def test_an_epoch_sees_every_target_once_and_counts_them_right(make):
    examples = make()
    for epoch in range(5):
        steps = all_steps(examples, epoch)
        assert len(steps) == examples.steps_in_epoch(6)
        slots = [slot for step in steps for group in step.groups for slot in group.slots.tolist()]
        pattern = examples.batch(np.arange(len(examples)), epoch % examples.n_patterns)
        assert sorted(slots) == sorted(pattern.slots.tolist())
        for step in steps:
            assert step.n_targets == sum(len(group.labels) for group in step.groups)
            assert sum(len(group.input_ids) for group in step.groups) <= 6


def test_order_follows_seed_and_epoch_alone():
    def order(*, epoch=0, seed=0, groups=5):
        return [
            sorted(slot for group in step.groups for slot in group.slots.tolist())
            for step in all_steps(causal(), epoch, seed=seed, groups=groups)
        ]

    assert order() == order()
    assert order() == order(groups=1)
    assert order() != order(epoch=1)
    assert order() != order(seed=1)


@pytest.mark.parametrize("make", [causal, bidirectional])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_workers_partition_each_step_and_agree_on_its_size(make, world_size):
    examples = make()
    whole = all_steps(examples)
    shares = [all_steps(examples, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert {part.n_targets for part in parts} == {step.n_targets}
        slots = [slot for part in parts for group in part.groups for slot in group.slots.tolist()]
        assert sorted(slots) == sorted(slot for group in step.groups for slot in group.slots.tolist())


def test_a_worker_without_examples_gets_a_batch_without_targets():
    """All workers exchange gradients in every step, so each needs something to run backward through."""
    examples = causal()
    last = [all_steps(examples, batch_size=len(examples) - 1, rank=rank, world_size=3)[-1] for rank in range(3)]
    assert [sum(len(group.labels) > 0 for group in step.groups) for step in last] == [1, 0, 0]
    for step in last[1:]:
        (group,) = step.groups
        assert group.input_ids.numel() > 0
        assert group.labels.numel() == group.positions.numel() == group.slots.numel() == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_workers_have_as_many_examples_and_as_long_ones(lengths, world_size):
    lengths = np.array(lengths)
    shares = [even_share(lengths, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares)) == list(range(lengths.size))
    assert all((np.diff(share) > 0).all() for share in shares)  # in the order of the step
    assert np.ptp([share.size for share in shares]) <= 1
    assert np.ptp([lengths[share].sum() for share in shares]) <= lengths.max()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 4), st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_the_split_by_length_is_the_best_of_all_cuts(lengths, groups, overhead):
    lengths = np.array(lengths)
    parts = split_by_length(np.arange(lengths.size), lengths, groups, overhead)
    assert sorted(np.concatenate(parts)) == list(range(lengths.size))
    assert 1 <= len(parts) <= groups

    def cost(pieces):
        return sum(len(piece) * max(piece) + overhead for piece in pieces)

    ordered = sorted(lengths)
    cuts = [c for k in range(groups) for c in combinations(range(1, lengths.size), k)]
    best = min(cost([ordered[a:b] for a, b in zip((0, *cut), (*cut, lengths.size), strict=True)]) for cut in cuts)
    assert cost([list(lengths[part]) for part in parts]) == best


def test_groups_take_most_of_the_padding_away():
    lengths = np.random.default_rng(0).geometric(1 / 6, 256).clip(1, 50)
    parts = split_by_length(np.arange(256), lengths, 5)
    padded = sum(len(part) * lengths[part].max() for part in parts)
    assert padded < 1.6 * lengths.sum()
    assert 256 * lengths.max() > 3 * lengths.sum()


def test_groups_are_as_many_as_save_enough():
    examples = causal(make_data([4, 5, 20, 30] * 8), max_length=50)

    def groups(overhead):
        return [len(step.groups) for step in examples.steps(0, batch_size=32, seed=0, groups=3, overhead=overhead)]

    assert groups(0) == [3]
    assert groups(10**6) == [1]
    assert groups(None) == groups(GROUP_OVERHEAD) == [2]


@pytest.mark.parametrize("make", [causal, bidirectional])
@pytest.mark.parametrize("world_size", [1, 2])
def test_ordered_batches_hold_every_target_within_the_budget(make, world_size):
    examples = make()
    slots = []
    for rank in range(world_size):
        for batch in examples.ordered(40, pattern=0, rank=rank, world_size=world_size):
            assert batch.input_ids.numel() <= 40
            slots += batch.slots.tolist()
    assert sorted(slots) == sorted(examples.batch(np.arange(len(examples))).slots.tolist())


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("batch_tokens", [10, 64, 10_000])
def test_evaluation_histories_are_what_stood_before_the_target(part, is_causal, batch_tokens):
    users = evaluation_users(DATA, part)
    assert list(users) == [u for u, n in enumerate(LENGTHS) if n >= 3]
    longest = 7 if is_causal else 6
    seen = []
    for batch in evaluation_batches(DATA, part, users, max_length=7, causal=is_causal, batch_tokens=batch_tokens):
        seq = batch.input_ids.shape[1]
        for row, (user, position, target) in enumerate(
            zip(batch.users, batch.positions.tolist(), batch.targets, strict=True)
        ):
            own = DATA.items[DATA.offsets[user] : DATA.offsets[user + 1]].tolist()
            before, expected = (own[:-2], own[-2]) if part == "validation" else (own[:-1], own[-1])
            history = before[-longest:] + ([] if is_causal else [N_ITEMS + 1])
            assert target == expected
            assert batch.input_ids[row].tolist() == history + [0] * (seq - len(history))
            assert position == row * seq + len(history) - 1
            if not is_causal:
                assert batch.attention_mask[row].tolist() == [1] * len(history) + [0] * (seq - len(history))
            seen.append(user)
    assert sorted(seen) == list(users)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_seen_items_are_the_whole_history(part):
    users = evaluation_users(DATA, part)[[0, 3, 7]]
    rows, items = seen_items(DATA, part, users)
    for row, user in enumerate(users):
        own = DATA.items[DATA.offsets[user] : DATA.offsets[user + 1]].tolist()
        assert items[rows == row].tolist() == (own[:-2] if part == "validation" else own[:-1])


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="validation"):
        evaluation_users(DATA, "training")


def test_beauty_is_hardly_padded(shared_data: Path, tmp_path):
    source = SOURCES["sequences"]
    path = shared_data / "amazon-beauty" / "Beauty.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    raw = source.load(source.params(path=str(path)), tmp_path / "raw")
    data = prepare(raw, split="leave_one_out", min_interactions=0, folder=tmp_path / "prepared")
    examples = TrainingExamples(data, max_length=50, causal=True)
    steps = [step for _, step in zip(range(20), examples.steps(0, batch_size=256, seed=0), strict=False)]
    targets = sum(step.n_targets for step in steps)
    padded = sum(group.input_ids.numel() for step in steps for group in step.groups)
    assert padded < 1.6 * targets
    assert 7 * targets < 20 * 256 * 50  # what padding to max_length would cost
