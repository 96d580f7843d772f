"""Ranks of all users against a loop that scores one user at a time."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_zoo import MAX_LENGTH, N_ITEMS, small_data, small_model

from raydistill.data.splits import SequenceData, user_time
from raydistill.errors import TrialDivergedError
from raydistill.records import RANK_COLUMNS, read_ranks, write_ranks
from raydistill.training import evaluation
from raydistill.training.evaluation import rank_users, rank_users_by_popularity

DATA = small_data(60)


def timed_data() -> SequenceData:
    """Return users split by shares of their own time, who have many items twice, and some of whom have no target."""
    data = small_data(60, seed=4)
    items, lengths = data.items.copy(), np.diff(data.offsets)
    for user in range(0, data.n_users, 3):
        begin, end = data.offsets[user], data.offsets[user + 1]
        items[end - 1] = items[begin]  # has been had before
        items[end - 3] = items[begin]
    positions = user_time(data.offsets, (0.5, 0.8))
    short = lengths < 6
    for name in ("validation_position", "test_position"):
        positions[name] = np.where(short, -1, positions[name])
    return replace(data, items=items, popularity=np.bincount(items, minlength=N_ITEMS + 1), **positions)


TIMED = timed_data()


def one_by_one(model, data: SequenceData, part: str) -> dict[int, dict]:
    """Return by user what the rule as written gives, from scores of one unpadded history at a time."""
    result = {}
    positions = data.validation_position if part == "validation" else data.test_position
    for user in range(data.n_users):
        begin, position = int(data.offsets[user]), int(positions[user])
        if position <= begin:
            continue
        history, target = data.items[begin:position].astype(int), int(data.items[position])
        longest = MAX_LENGTH if model.causal else MAX_LENGTH - 1
        ids = list(history[-longest:]) + ([] if model.causal else [model.mask_item])
        with torch.no_grad():
            scores = model.logits(model.hidden(torch.tensor([ids]))[0, -1]).double().numpy()
        candidates = np.array([i for i in range(1, N_ITEMS + 1) if i == target or i not in history])
        own_score = scores[target - 1]
        result[user] = {
            "target": target,
            "candidates": candidates.size,
            # One score of a batch may differ in the last bit; the ranks that this allows.
            "least": int((scores[candidates - 1] > own_score + 1e-5).sum()) + 1,
            "most": int((scores[candidates - 1] >= own_score - 1e-5).sum()),
            "history_length": history.size,
            "target_popularity": data.popularity[target],
            "top": candidates[np.argsort(-scores[candidates - 1])][:10],
            "scores": scores,
        }
    return result


def test_the_other_split_has_users_without_target_and_targets_that_were_had_before():
    for part, positions in (("validation", TIMED.validation_position), ("test", TIMED.test_position)):
        with_target = np.flatnonzero(positions >= 0)
        assert 10 < with_target.size < TIMED.n_users, part
        repeated = [TIMED.items[positions[u]] in TIMED.items[TIMED.offsets[u] : positions[u]] for u in with_target]
        assert any(repeated), part


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("data", [DATA, TIMED], ids=["leave one out", "user time"])
@pytest.mark.parametrize(
    ("cut", "batch_tokens"),
    [({}, None), ({"SCORES_AT_A_TIME": 3 * N_ITEMS}, None), ({"BLOCK_ITEMS": 7}, None), ({}, 40)],
    ids=["whole", "few users at a time", "few items at a time", "small batches"],
)
def test_ranks_are_those_of_one_user_at_a_time(family, part, data, cut, batch_tokens, monkeypatch):
    for name, value in cut.items():
        monkeypatch.setattr(evaluation, name, value)
    model = small_model(family).eval()
    with torch.no_grad():
        model.output_weight.mul_(20)
    expected = one_by_one(model, data, part)
    columns = rank_users(model, data, part, batch_tokens=batch_tokens)
    assert set(columns) == set(RANK_COLUMNS)
    assert columns["user"].tolist() == sorted(expected)
    assert len({row["least"] for row in expected.values()}) > 10
    for number, user in enumerate(columns["user"]):
        row = expected[user]
        assert row["least"] <= columns["rank"][number] <= row["most"]
        for name in ("target", "candidates", "history_length", "target_popularity"):
            assert columns[name][number] == row[name]
        best = row["scores"][columns["top"][number] - 1]
        np.testing.assert_allclose(best, row["scores"][row["top"] - 1], atol=1e-5)


def test_without_the_best_ten_the_rest_is_the_same():
    model = small_model()
    whole, quick = rank_users(model, DATA, "test"), rank_users(model, DATA, "test", top=False, candidates=False)
    assert set(whole) - set(quick) == {"top", "candidates"}
    assert all((whole[name] == quick[name]).all() for name in quick)


def test_columns_can_be_stored(tmp_path):
    columns = rank_users(small_model(), DATA, "test")
    digest = write_ranks(tmp_path / "ranks.parquet", columns)
    stored = read_ranks(tmp_path / "ranks.parquet", sha256=digest)
    assert all((stored[name] == columns[name]).all() for name in columns)


def test_evaluation_needs_no_gradient_and_switches_dropout_off():
    model = small_model(dropout=0.5).train()
    first, second = (rank_users(model, DATA, "validation") for _ in range(2))
    assert (first["rank"] == second["rank"]).all()
    assert not model.training
    assert model.output_weight.requires_grad


def test_popularity_ranks_by_training_count():
    columns = rank_users_by_popularity(DATA, "test")
    for number, user in enumerate(columns["user"]):
        own = DATA.items[DATA.offsets[user] : DATA.offsets[user + 1]]
        target, history = own[-1], set(own[:-1])
        others = [i for i in range(1, N_ITEMS + 1) if i != target and i not in history]
        rank = 1 + sum(DATA.popularity[i] >= DATA.popularity[target] for i in others)
        assert columns["rank"][number] == rank
        assert columns["candidates"][number] == len(others) + 1


@pytest.mark.parametrize("where", ["hidden", "an item"])
def test_a_diverged_model_is_never_ranked(where):
    model = small_model()
    with torch.no_grad():
        if where == "hidden":
            model.backbone.ln_f.weight.fill_(torch.nan)
        else:
            unseen = np.setdiff1d(np.arange(1, N_ITEMS + 1), DATA.items[DATA.test_position])[0]
            model.output_weight[unseen - 1] = torch.nan  # no target, so no target's score is harmed
    with pytest.raises(TrialDivergedError):
        rank_users(model, DATA, "test")


def test_a_model_that_cannot_be_ranked_is_freed_at_once():
    """Its error must not hold the frames that hold the model: nobody collects garbage between trials."""
    model = small_model()
    with torch.no_grad():
        model.output_weight[3] = torch.nan
    gone = weakref.ref(model)
    gc.disable()
    try:
        with pytest.raises(TrialDivergedError, match="not finite"):
            rank_users(model, DATA, "test")
        del model
        assert gone() is None
    finally:
        gc.enable()
