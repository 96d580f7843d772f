"""What surrounds the forward and backward pass of a step."""

from __future__ import annotations

import pytest
import torch
from training_zoo import MAX_LENGTH, small_data, small_model

from raydistill.losses.distillation import TASK_ONLY
from raydistill.training.dataset import DistillationDataset
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.objective import CatalogueObjective
from raydistill.training.update import without_cudnn_attention


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_steps_in_half_precision_do_without_cudnns_attention(monkeypatch, precision):
    forward, seen = CatalogueObjective.forward, []

    def look(self, groups, normalizer):
        seen.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.is_autocast_enabled("cpu")))
        return forward(self, groups, normalizer)

    monkeypatch.setattr(CatalogueObjective, "forward", look)
    dataset = DistillationDataset(small_data(n_users=40), max_length=MAX_LENGTH, causal=True)
    settings = TrainingSettings(epochs=1, batch_size=32, precision=precision)
    DistillationTrainer(small_model(), dataset, TASK_ONLY, settings).fit()
    is_half = precision == "bfloat16"
    assert set(seen) == {(not is_half, is_half)}
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("was_on", [True, False])
def test_cudnns_attention_is_as_it_was_also_after_an_error(was_on):
    def fail():
        with without_cudnn_attention():
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            raise RuntimeError("out of memory")

    torch.backends.cuda.enable_cudnn_sdp(was_on)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            fail()
        assert torch.backends.cuda.cudnn_sdp_enabled() == was_on
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
