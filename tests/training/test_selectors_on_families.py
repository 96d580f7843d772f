"""Every selector on every family: from measured evidence to a student that is the teacher with blocks skipped."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from evidence_zoo import EncoderDecoder, decoder_batch, decoder_logits

from raydistill.config.expand import n_student_layers
from raydistill.models import FAMILIES, blocks, build_recommender, keep_layers, skip_layers
from raydistill.selectors import KINDS, SELECTORS
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.evidence import measure_evidence

N_ITEMS, LENGTH, LAYERS = 11, 6, 4


@cache
def teacher(family):
    """Return a teacher in eval mode, a batch and its evidence of every kind, two replicates."""
    model = build_recommender(
        family, n_items=N_ITEMS, layers=LAYERS, hidden=8, heads=2, dropout=0.1, max_length=LENGTH, seed=0
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    samples = []
    for _ in range(2):
        ids = torch.randint(1, N_ITEMS + 1, (5, LENGTH), generator=generator)
        labels = torch.randint(0, N_ITEMS, (5,), generator=generator)
        samples.append([CalibrationBatch({"input_ids": ids}, torch.arange(5), labels)])
    return model, samples[0][0], measure_evidence(model, samples, last_logits, KINDS, seed=0)


def last_logits(model, batch):
    return model.logits(model.hidden(batch.inputs["input_ids"])[batch.example, -1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SELECTORS)
def test_student_is_the_teacher_with_the_other_blocks_skipped(name, family):
    model, batch, evidence = teacher(family)
    selector, params = SELECTORS[name], SELECTORS[name].params_type()
    before = {kind: array.copy() for kind, array in evidence.values.items()}
    for n_student in (1, 2, LAYERS):
        chosen = [
            selector.select(
                evidence.values, n_student, n_teacher=LAYERS, params=params, generator=np.random.default_rng(3)
            )
            for _ in range(2)
        ]
        assert chosen[0] == chosen[1]
        assert len(set(chosen[0])) == n_student
        student = model.keep_layers(list(chosen[0]), teacher_hash="feed")
        assert len(blocks(student)) == n_student
        with torch.no_grad(), skip_layers(model, [i for i in range(LAYERS) if i not in chosen[0]]):
            assert torch.equal(last_logits(student, batch), last_logits(model, batch))
    for kind, array in evidence.values.items():
        np.testing.assert_array_equal(array, before[kind])


@pytest.mark.parametrize("name", ["fisher", "attention", "gradient", "block_influence", "greedy", "uniform", "tail"])
def test_each_stack_of_an_encoder_decoder_keeps_its_own_ratio_of_its_own_best_blocks(name):
    model, batch = EncoderDecoder().eval(), decoder_batch(4)
    selector, params = SELECTORS[name], SELECTORS[name].params_type()
    layer_map, skipped = {}, {}
    for stack, keep_ratio in (("encoder", 1 / 2), ("decoder", 2 / 3)):
        n_teacher = len(blocks(model.backbone, stack))
        evidence = measure_evidence(model, [[batch]], decoder_logits, selector.needs(params), seed=0, stack=stack)
        n_student = n_student_layers(keep_ratio, n_teacher)
        kept = selector.select(
            evidence.values, n_student, n_teacher=n_teacher, params=params, generator=np.random.default_rng(0)
        )
        layer_map[stack] = list(kept)
        skipped[stack] = [i for i in range(n_teacher) if i not in kept]
    assert [len(kept) for kept in layer_map.values()] == [1, 2]
    student = EncoderDecoder().eval()
    student.load_state_dict(model.state_dict())
    student.backbone = keep_layers(student.backbone, layer_map)
    assert (student.backbone.config.num_layers, student.backbone.config.num_decoder_layers) == (1, 2)
    with torch.no_grad(), skip_layers(model.backbone, skipped):
        assert torch.equal(decoder_logits(student, batch), decoder_logits(model, batch))
