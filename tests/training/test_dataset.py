"""Batches with the teacher's outputs beside them, and two workers against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_zoo import MAX_LENGTH, small_data, small_model

from raydistill.training.dataset import DistillationDataset
from raydistill.training.teacher_cache import TeacherCache

DATA = small_data()
WORKER = Path(__file__).with_name("two_workers.py")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_each_target_comes_with_its_own_row_of_the_cache(causal, parts):
    plain = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=causal)
    n = plain.examples.n_slots
    cache = TeacherCache(np.arange(n, dtype=np.float16)[:, None] * np.ones(3, np.float16), np.ones((5, 3), np.float32))
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=causal, cache=cache)
    assert torch.equal(dataset.teacher_weight, torch.ones(5, 3))
    for step, n_targets in dataset.steps(0, batch_size=9, seed=0, parts=parts):
        assert n_targets == sum(len(item.batch.labels) for part in step for item in part)
        for item in (item for part in step for item in part):
            assert torch.equal(item.teacher_hidden, item.batch.slots.half()[:, None].expand(-1, 3))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("batch_size", [1, 9, 32])
def test_a_padded_batch_has_the_same_targets_and_few_shapes(family, batch_size):
    model = small_model(family, dropout=0.0).eval()
    plain = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=model.causal)
    n = plain.examples.n_slots
    cache = TeacherCache(np.arange(n, dtype=np.float16)[:, None] * np.ones(3, np.float16), np.ones((5, 3), np.float32))
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=model.causal, cache=cache)

    def hidden(batch):
        return model(batch.input_ids, batch.attention_mask).flatten(0, 1)[batch.positions]

    shapes = set()
    for step, _ in dataset.steps(0, batch_size=batch_size, seed=0, groups=2):
        for group in step[0]:
            padded = dataset.padded(group, batch_size)
            shapes.add(tuple(tensor.shape for tensor in padded.tensors()))
            targets = len(group.batch.labels)
            assert padded.batch.input_ids.shape == (batch_size, MAX_LENGTH)
            assert (padded.batch.labels[targets:] == -1).all()
            for name in ("labels", "slots", "example"):
                assert torch.equal(getattr(padded.batch, name)[:targets], getattr(group.batch, name)), name
            assert torch.equal(padded.teacher_hidden[:targets], group.teacher_hidden)
            states = hidden(padded.batch)
            assert states.isfinite().all()
            assert torch.allclose(states[:targets], hidden(group.batch), atol=1e-5)
    assert len(shapes) <= 3


def test_without_a_cache_there_is_no_teacher():
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=True)
    assert dataset.teacher_weight is None
    for step, _ in dataset.steps(0, batch_size=9, seed=0):
        assert all(item.teacher_hidden is None for part in step for item in part)


@pytest.mark.long
@pytest.mark.parametrize("family", ["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def test_two_workers_give_the_curve_and_the_ranks_of_one(tmp_path, family):
    """Half batches on two processes, with last steps so small that one worker has nothing to do in them."""
    path = os.pathsep.join([str(WORKER.parents[2]), str(WORKER.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), "2", family, str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    first, second, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("0", "1", "alone"))
    assert first == second
    assert first["curve"] == pytest.approx(alone["curve"], rel=1e-5)
    assert alone["curve"][2] < alone["curve"][0]
    assert alone["curve"][5] < alone["curve"][3]
    assert first["ranks"] == alone["ranks"]
    assert first["cache"] == pytest.approx(alone["cache"], rel=1e-3)
    assert first["left"] == ["hidden.npy", "meta.json", "output_weight.npy"]
    assert first["evidence"] == alone["evidence"]
    # Said to both, and neither waits for the other.
    assert "a score is not finite" in first["diverged"]
    assert "'taylor' is not finite" in first["refused"]
