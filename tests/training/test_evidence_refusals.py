"""What evidence cannot be measured on, and what it says then."""

from __future__ import annotations

import pytest
import torch
from evidence_zoo import LENGTH, N_ITEMS, item_batch, item_logits, make

from raydistill.errors import EvidenceError
from raydistill.models import blocks, build_recommender
from raydistill.selectors import KINDS
from raydistill.training.evidence import CalibrationBatch, measure_evidence


def test_one_block_is_refused():
    model = build_recommender(
        "gpt2", n_items=N_ITEMS, layers=1, hidden=8, heads=2, dropout=0.0, max_length=LENGTH, seed=0
    )
    with pytest.raises(EvidenceError, match="one block has no layers to choose from"):
        measure_evidence(model, [[item_batch(4, 0)]], item_logits, ["attention"], seed=0)


@pytest.mark.parametrize("kind", ["fisher", "gradient", "taylor_block"])
def test_frozen_parameters_are_refused_for_gradients_only(kind):
    model, logits, _, batches = make("gpt2")
    blocks(model)[1].mlp.c_fc.weight.requires_grad_(False)
    with pytest.raises(EvidenceError, match=r"mlp\.c_fc\.weight of block 1 is frozen") as caught:
        measure_evidence(model, [batches], logits, [kind], seed=0)
    assert "requires_grad_" in caught.value.mend
    measure_evidence(model, [batches], logits, ["attention", "block_influence", "leave_one_out"], seed=0)


def test_quantized_parameters_are_refused_for_gradients():
    model, logits, _, batches = make("gpt2")
    model.backbone.is_quantized = True
    with pytest.raises(EvidenceError, match="quantized"):
        measure_evidence(model, [batches], logits, ["fisher"], seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_is_not_finite_is_refused(kind):
    model, logits, _, batches = make("gpt2")
    with torch.no_grad():
        blocks(model)[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(EvidenceError, match="not finite"):
        measure_evidence(model, [batches], logits, [kind], seed=0)


def test_too_little_data_unknown_kinds_and_rows_without_target_are_refused():
    model, logits, _, batches = make("gpt2")
    with pytest.raises(EvidenceError, match="fewer than the 8 asked for") as caught:
        measure_evidence(model, [batches], logits, ["fisher"], seed=0, samples=8)
    assert "at most 7" in caught.value.mend
    with pytest.raises(EvidenceError, match="no examples"):
        measure_evidence(model, [], logits, ["fisher"], seed=0)
    with pytest.raises(EvidenceError, match=r"unknown evidence kinds \['fishre'\]"):
        measure_evidence(model, [batches], logits, ["fishre"], seed=0)
    bare = CalibrationBatch(batches[0].inputs, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(EvidenceError, match="no target"):
        measure_evidence(model, [[bare]], logits, ["fisher"], seed=0)


def test_sequences_of_one_item_have_no_attention_to_measure():
    model, logits, _, _ = make("gpt2")
    ids = torch.tensor([[3, 0], [4, 0]])
    batch = CalibrationBatch({"input_ids": ids, "last": torch.zeros(2, dtype=torch.long)}, torch.arange(2), ids[:, 0])
    with pytest.raises(EvidenceError, match="no calibration example"):
        measure_evidence(model, [[batch]], logits, ["attention"], seed=0)
