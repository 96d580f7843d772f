"""What models of each depth cost: counts against built models, measured latencies."""

from __future__ import annotations

import pytest
import torch
from training_zoo import N_ITEMS, small_model

from raydistill.models.surgery import model_hash
from raydistill.training.profile import profile
from raydistill.training.tasks import NEXT_ITEM


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def measured(request):
    teacher = small_model(request.param, layers=3).train()
    before = model_hash(teacher)
    found = profile(teacher, [1, 3], NEXT_ITEM.serve, device=torch.device("cpu"), repeats=2)
    assert model_hash(teacher) == before
    return teacher, found


def test_parameters_are_those_of_the_models(measured):
    teacher, found = measured
    for depth in (1, 3):
        model = teacher.keep_layers(list(range(depth)))
        row = found["depths"][str(depth)]
        assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["backbone_parameters"] < row["parameters"] - N_ITEMS * 16
    blocks = [found["depths"][depth]["parameters"] for depth in ("1", "3")]
    one_block = sum(parameter.numel() for parameter in teacher.parameters()) - blocks[0]
    assert blocks[1] - blocks[0] == one_block
    assert one_block % 2 == 0


def test_operations_grow_by_the_same_for_each_layer(measured):
    teacher, found = measured
    two = profile(teacher, [2], NEXT_ITEM.serve, device=torch.device("cpu"), repeats=1)["depths"]["2"]["flops"]
    one, three = (found["depths"][depth]["flops"] for depth in ("1", "3"))
    assert three - two == two - one > 0
    # A block's products alone: four projections and the two of the feed-forward part, twice for multiply and add.
    assert two - one >= 2 * 12 * 16 * 16 * teacher.max_length


def test_latencies_are_positive_and_ordered(measured):
    _, found = measured
    for row in found["depths"].values():
        assert set(row["latency_ms"]) == {"1", "32"}
        for latency in row["latency_ms"].values():
            assert 0 < latency["p50"] <= latency["p95"]
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()


def test_the_teacher_is_left_as_it_was(measured):
    teacher, _ = measured  # its weights are compared where it is measured
    assert teacher.n_layers == 3
    assert teacher.training
