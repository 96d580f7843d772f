"""ONNX files of classifiers and recommenders, run by ONNX Runtime for batch sizes and lengths of every kind."""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from text_zoo import MAX_TOKENS, prompts, scores, tiny

from raydistill.errors import ModelError, UserError
from raydistill.models import build_recommender, model_hash, onnx
from raydistill.models.lora import with_lora
from raydistill.models.onnx import ItemScores, export_onnx

onnxruntime = pytest.importorskip("onnxruntime")

QUICK = [("gpt2", "last"), ("t5", "mean")]
SLOW = [("bert", "mean"), ("bert", "first"), ("roberta", "mean"), ("distilbert", "mean"), ("t5", "answer")]
SLOW += [(name, "last") for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")]


def run(path, **inputs) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


def spy_on_comparisons(monkeypatch) -> dict[str, list[torch.Tensor]]:
    """Return the inputs for which the file is going to be compared with the model, by name."""
    compared, compare = defaultdict(list), onnx._difference

    def difference(module, path, inputs):
        for name, tensor in inputs.items():
            compared[name].append(tensor)
        return compare(module, path, inputs)

    monkeypatch.setattr(onnx, "_difference", difference)
    return compared


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "pooling"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_classifier(family, pooling, tmp_path, monkeypatch):
    model = tiny(family, pooling, layers=2).train()
    before = model_hash(model)
    path = tmp_path / "model.onnx"
    compared = spy_on_comparisons(monkeypatch)
    assert export_onnx(model, path) < 1e-5
    assert compared["attention_mask"][-1].shape == (2, MAX_TOKENS)
    assert 0 < int(compared["attention_mask"][-1][1].sum()) < MAX_TOKENS
    assert (model_hash(model), model.training) == (before, True)
    model.eval()
    np.testing.assert_allclose(run(path, **prompts()), scores(model), atol=1e-4)
    longest = torch.randint(5, 19, (1, MAX_TOKENS))
    for ids in (longest, longest[:, :1], longest.repeat(17, 1)[:, :7]):
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        np.testing.assert_allclose(run(path, **inputs), scores(model, inputs), atol=1e-4)
    if model.pooling == "last":
        np.testing.assert_allclose(run(path, **prompts("left")), scores(model), atol=1e-4)


def recommender(family: str):
    return build_recommender(family, n_items=30, layers=2, hidden=16, heads=2, dropout=0.1, max_length=8, seed=0).eval()


@pytest.mark.long
@pytest.mark.parametrize("family", ["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def test_recommender(family, tmp_path, monkeypatch):
    model = recommender(family)
    path = tmp_path / "model.onnx"
    compared = spy_on_comparisons(monkeypatch)
    assert export_onnx(model, path) < 1e-5
    # The mask item of a bidirectional model takes a position of its own.
    assert compared["input_ids"][-1].shape == (2, 8 if model.causal else 7)
    items = torch.randint(1, 31, (4, 7), generator=torch.Generator().manual_seed(0))
    for row, length in ((1, 3), (2, 1)):
        items[row, length:] = 0
    for ids in (items, items[:1], items[2:3, :1]):
        np.testing.assert_allclose(run(path, input_ids=ids), by_hand(model, ids), atol=1e-4)


def by_hand(model, items) -> np.ndarray:
    """Return each history's scores of all items, one history at a time and without padding."""
    rows = []
    with torch.no_grad():
        for row in items:
            row = row[row != 0]
            if not model.causal:
                row = torch.cat([row, torch.tensor([model.mask_item])])
            rows.append(model.logits(model.hidden(row[None]))[0, -1])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_scores_of_a_recommender(family):
    model = recommender(family)
    items = torch.tensor([[4, 9, 2, 0], [7, 0, 0, 0], [1, 2, 3, 4]])
    with torch.no_grad():
        np.testing.assert_allclose(ItemScores(model)(items), by_hand(model, items), rtol=1e-4, atol=1e-5)


def test_adapters_and_missing_packages(monkeypatch, tmp_path):
    model = with_lora(tiny("gpt2"), rank=2, alpha=4, dropout=0.0, seed=0)
    with pytest.raises(ModelError, match="cannot be exported"):
        export_onnx(model, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="the package 'onnxscript' is missing") as caught:
        export_onnx(tiny("gpt2"), tmp_path / "model.onnx")
    assert 'pip install "raydistill[onnx]"' in str(caught.value)


@pytest.mark.long
def test_outputs_that_differ_are_not_passed_over(monkeypatch, tmp_path):
    monkeypatch.setattr("raydistill.models.onnx.TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differ from the model's by"):
        export_onnx(tiny("gpt2", layers=1), tmp_path / "model.onnx")
