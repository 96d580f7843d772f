"""Per-example Fisher information never holds an array of examples times parameters."""

from __future__ import annotations

import pytest
import torch
from evidence_zoo import LargestTensor, item_logits

from raydistill.models import blocks, build_recommender
from raydistill.training import per_example
from raydistill.training.evidence import CalibrationBatch, measure_evidence

EXAMPLES, N_ITEMS = 64, 11


def batch_of(length: int) -> CalibrationBatch:
    ids = torch.randint(1, N_ITEMS, (EXAMPLES, length), generator=torch.Generator().manual_seed(0))
    last = torch.full((EXAMPLES,), length - 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "last": last}
    return CalibrationBatch(inputs, torch.arange(EXAMPLES).repeat(2).sort().values, ids[:, :2].flatten())


# Sequences so short that products of inputs are the smaller side, and so long that gradients are, in pieces.
@pytest.mark.parametrize(("hidden", "length"), [(32, 6), (16, 14)], ids=["gram", "pieces"])
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "llama"])
def test_no_weight_has_a_gradient_for_every_example_at_once(family, hidden, length, monkeypatch):
    monkeypatch.setattr(per_example, "SCRATCH", 4 * hidden * hidden)
    model = build_recommender(
        family, n_items=N_ITEMS, layers=2, hidden=hidden, heads=2, dropout=0.0, max_length=length, seed=0
    )
    with LargestTensor() as largest:
        measure_evidence(
            model, [[batch_of(length)]], item_logits, ["fisher", "fisher_empirical"], draws=1, seed=0, samples=EXAMPLES
        )
    weights = [parameter.numel() for block in blocks(model) for parameter in block.parameters()]
    assert largest.numbers > 0
    assert largest.numbers < EXAMPLES * max(weights)
