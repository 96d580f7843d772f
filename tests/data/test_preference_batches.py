"""Batches of prompts against plain Python lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from preference_zoo import make_data, make_sequences

from raydistill.data.batches import Step
from raydistill.data.preference import Labels, TextBatch, TextExamples, text_batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sequences = make_sequences(lengths=(40, 35, 50, 28, 44, 9))
    return make_data(tmp_path_factory.mktemp("data") / "p", sequences, labels=Labels(kind="stars"), max_history=6)


def listed(batch: TextBatch) -> list[list[int]]:
    return [row[: int(mask.sum())].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def prompt(data, row: int) -> list[int]:
    return data.tokens[data.token_offsets[row] : data.token_offsets[row + 1]].tolist()


def slots(steps: list[Step]) -> list[list[int]]:
    return [[slot for group in step.groups for slot in group.slots.tolist()] for step in steps]


def test_a_batch_is_padded_on_the_right_to_its_longest(data):
    rows = np.array([3, 0, 71, 17, 3])
    batch = data.batch(rows)
    assert listed(batch) == [prompt(data, row) for row in rows]
    assert batch.input_ids.shape == batch.attention_mask.shape == (5, max(data.lengths[rows]))
    assert (batch.input_ids[batch.attention_mask == 0] == data.pad_id).all()
    assert (batch.attention_mask.diff(dim=1) <= 0).all()
    assert batch.labels.tolist() == data.label[rows].tolist()
    assert batch.slots.tolist() == rows.tolist()
    assert batch.example.tolist() == [0, 1, 2, 3, 4]
    assert all(tensor.dtype == torch.int64 for tensor in vars(batch.to(torch.device("cpu"))).values())


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_example_comes_once_an_epoch(data, world_size, parts):
    examples = TextExamples(data)
    assert len(examples) == examples.n_slots == data.rows("train").size
    arguments = {"batch_size": 17, "seed": 5, "parts": parts, "world_size": world_size}
    workers = [list(examples.steps(0, rank=rank, **arguments)) for rank in range(world_size)]
    sizes = [step.n_targets for step in workers[0]]
    assert len(sizes) == examples.steps_in_epoch(17)
    assert sum(sizes) == len(examples)
    seen = []
    for number, size in enumerate(sizes):
        together = [slot for steps in workers for slot in slots(steps)[number]]
        assert len(together) == size
        seen += together
    assert sorted(seen) == list(range(len(examples)))
    for step in (step for steps in workers for step in steps):
        assert len(step.parts) <= parts
        for group in step.groups:
            assert group.input_ids.shape[1] == data.lengths[group.slots].max()
            assert listed(group) == [prompt(data, slot) for slot in group.slots.tolist()]


def test_the_order_is_of_seed_and_epoch(data):
    examples = TextExamples(data)
    orders = [slots(list(examples.steps(epoch, batch_size=16, seed=seed))) for epoch, seed in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] == slots(list(examples.steps(0, batch_size=16, seed=0)))
    assert sorted(orders[0][0]) != sorted(orders[1][0])
    assert sorted(orders[0][0]) != sorted(orders[2][0])


def test_a_worker_whom_a_step_leaves_nothing_has_a_batch_without_labels(data):
    examples = TextExamples(data)
    size = next(size for size in range(10, 40) if len(examples) % size == 1)
    last = list(examples.steps(0, batch_size=size, seed=0, rank=1, world_size=2))[-1]
    (batch,) = last.groups
    assert batch.input_ids.shape[0] == 1
    assert batch.labels.numel() == batch.slots.numel() == batch.example.numel() == 0
    assert last.n_targets == 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_ordered_batches_keep_within_their_tokens(data, world_size):
    examples = TextExamples(data)
    batches = [batch for rank in range(world_size) for batch in examples.ordered(200, rank=rank, world_size=world_size)]
    assert all(batch.input_ids.numel() <= 200 for batch in batches)
    assert sorted(slot for batch in batches for slot in batch.slots.tolist()) == list(range(len(examples)))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_evaluation_gives_every_row_once(data, part):
    seen = []
    for rank in range(2):
        for rows, batch in text_batches(data, part, batch_tokens=300, rank=rank, world_size=2):
            assert listed(batch) == [prompt(data, row) for row in rows]
            assert batch.labels.tolist() == data.label[rows].tolist()
            seen += rows.tolist()
    assert sorted(seen) == data.rows(part).tolist()


def test_parts_that_do_not_exist(data):
    with pytest.raises(ValueError, match="train, validation, test"):
        data.rows("training")
