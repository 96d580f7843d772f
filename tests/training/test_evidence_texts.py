"""Evidence on text classifiers of every family: padded prompts with a mask, one state read off, a head of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evidence_zoo import loop, squares

from raydistill.models import FAMILIES, blocks, build_classifier, skip_layers
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.evidence import measure_evidence

CASES = [(name, pooling) for name, family in FAMILIES.items() for pooling in family.poolings]
LAYERS, TOKENS, VOCABULARY = 3, 6, 19


def logits(model, batch):
    return model.logits(model.hidden(**batch.inputs))[batch.example]


def classifier(family, pooling):
    model = build_classifier(
        family, vocab_size=VOCABULARY, pad_id=0, n_classes=3, class_names=("a", "b", "c"), layers=LAYERS, hidden=8,
        heads=2, dropout=0.1, max_tokens=TOKENS, seed=0, pooling=pooling,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def prompts():
    """Return four prompts of 2 to 6 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(TOKENS) < torch.tensor([6, 4, 2, 6])[:, None]).long()
    ids = torch.randint(5, VOCABULARY, (4, TOKENS), generator=generator) * mask
    labels = torch.tensor([0, 1, 2, 1])
    return CalibrationBatch({"input_ids": ids, "attention_mask": mask}, torch.arange(4), labels)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_kinds_equal_the_loop_over_prompts(family, pooling):
    model, batch = classifier(family, pooling), prompts()
    rows = list(blocks(model, model.stack))
    kinds = ["fisher_empirical", "gradient", "leave_one_out", "attention"]
    values = measure_evidence(model, [[batch]], logits, kinds, seed=0, stack=model.stack, chunk_size=3).values
    norms = squares(loop(model, logits, rows, [batch], lambda piece, scores: piece.labels))
    # Attention is measured in the same forward pass, and eager attention takes its softmax in single precision.
    np.testing.assert_allclose(values["fisher_empirical"][0], norms.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values["gradient"][0], np.sqrt(norms).mean(0), rtol=1e-5)
    assert ((values["attention"] > 0) & (values["attention"] < 1)).all()

    def loss(skipped):
        with torch.no_grad(), skip_layers(model, {model.stack: skipped} if model.stack else skipped):
            return float(torch.nn.functional.cross_entropy(logits(model, batch), batch.labels))

    expected = [loss([layer]) - loss([]) for layer in range(LAYERS)]
    np.testing.assert_allclose(values["leave_one_out"][0], expected, rtol=1e-8, atol=1e-12)


def test_low_rank_updates_that_were_merged_count_as_weights_do():
    """What merging leaves behind: changed weights, still frozen until they are asked to be trained."""
    model, batch = classifier("gpt2", None), prompts()
    generator = torch.Generator().manual_seed(3)
    weight = blocks(model)[1].attn.c_attn.weight
    one, other = (torch.randn(8, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        weight += torch.cat([one @ other.T] * 3, dim=1)
    model.requires_grad_(False)
    model.requires_grad_(True)
    values = measure_evidence(model, [[batch]], logits, ["fisher_empirical"], seed=0).values
    norms = squares(loop(model, logits, list(blocks(model)), [batch], lambda piece, scores: piece.labels))
    np.testing.assert_allclose(values["fisher_empirical"][0], norms.mean(0), rtol=1e-8)
