"""Checkpoints hold every bit, and a harmed one is noticed."""

from __future__ import annotations

import json

import pytest
import torch

from raydistill.errors import CorruptArtifactError
from raydistill.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint

TENSORS = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "b.c": torch.tensor(7.0)}
STATE = {"curves": [{"epoch": 1, "loss": 0.1}], "best_epoch": 1}


def test_round_trip(tmp_path):
    view = torch.arange(12.0).reshape(3, 4).T  # not contiguous
    save_checkpoint(tmp_path, {**TENSORS, "view": view}, STATE)
    tensors, state = load_checkpoint(tmp_path)
    assert state == STATE
    assert set(tensors) == {*TENSORS, "view"}
    assert torch.equal(tensors["view"], view)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_tensors_that_share_memory_are_stored_each_on_its_own(tmp_path):
    shared = torch.arange(6.0)
    save_checkpoint(tmp_path, {"x": shared, "y": shared}, {})
    tensors, _ = load_checkpoint(tmp_path)
    assert torch.equal(tensors["x"], shared)
    assert torch.equal(tensors["y"], shared)


def test_writing_again_replaces_the_old_one(tmp_path):
    save_checkpoint(tmp_path, TENSORS, STATE)
    save_checkpoint(tmp_path, {"a": torch.zeros(2)}, {"best_epoch": 2})
    tensors, state = load_checkpoint(tmp_path)
    assert list(tensors) == ["a"]
    assert state == {"best_epoch": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


@pytest.mark.parametrize("harm", ["absent", "no state", "half state", "half tensors", "a bit", "tensors of another"])
def test_a_harmed_checkpoint_is_noticed(tmp_path, harm):
    save_checkpoint(tmp_path, TENSORS, STATE)
    tensors, state = tmp_path / "state.safetensors", tmp_path / "state.json"
    if harm == "absent":
        tensors.unlink()
        state.unlink()
    elif harm == "no state":
        state.unlink()
    elif harm == "half state":
        state.write_text(state.read_text()[:15])
    elif harm == "half tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif harm == "a bit":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    else:
        content = json.loads(state.read_text())
        save_checkpoint(tmp_path, {"a": torch.zeros(3)}, STATE)
        state.write_text(json.dumps(content))
    with pytest.raises(CorruptArtifactError):
        load_checkpoint(tmp_path)


def test_an_optimizer_continues_with_the_same_bits():
    def make():
        draw = torch.Generator().manual_seed(0)
        weights = [
            torch.randn(4, 3, generator=draw, requires_grad=True),
            torch.randn(3, generator=draw, requires_grad=True),
        ]
        groups = [{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:], "weight_decay": 0.0}]
        return weights, torch.optim.AdamW(groups, lr=0.01, fused=True)

    def step(weights, optimizer, number):
        draw = torch.Generator().manual_seed(number)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()

    weights, optimizer = make()
    for number in range(6):
        step(weights, optimizer, number)
        if number == 2:
            kept = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
            copies = [weight.detach().clone() for weight in weights]
    resumed, other = make()
    with torch.no_grad():
        for weight, copy in zip(resumed, copies, strict=True):
            weight.copy_(copy)
    restore_optimizer(other, kept)
    for number in range(3, 6):
        step(resumed, other, number)
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))
