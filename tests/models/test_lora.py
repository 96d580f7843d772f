"""Low-rank adapters in classifiers of every family, against the update that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from text_zoo import prompts, scores, tiny
from transformers.pytorch_utils import Conv1D

from raydistill.errors import ModelError
from raydistill.models import FAMILIES, TextClassifier, blocks, model_hash, stacks_of
from raydistill.models.lora import has_adapters, merged, with_lora

SETTINGS = {"rank": 2, "alpha": 6, "dropout": 0.0, "seed": 0}
CASES = [(name, None) for name in FAMILIES] + [("t5", "answer")]


def trained(model: TextClassifier, steps: int = 3) -> TextClassifier:
    """Return the model after some steps on its trainable parameters."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model.logits(model(**prompts())), torch.tensor([0, 2, 1, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_adapters_train_and_merge(family, pooling):
    plain = tiny(family, pooling)
    names = {name for name, _ in plain.named_parameters()}
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    before = copy.deepcopy(plain.state_dict())
    expected = scores(plain)
    model = with_lora(plain, **SETTINGS)
    assert model is plain
    assert not model.backbone.training
    assert torch.equal(scores(model), expected)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if "lora_" not in name} == {"head.weight", "head.bias"}
    trained(model)
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name in trainable)
    adapted = scores(model)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    kept = {
        name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items() if "lora_" not in name
    }
    assert all(torch.equal(kept[name], before[name]) for name in kept if not name.startswith("head."))

    again = merged(model)
    assert again is model
    assert not has_adapters(model.backbone)
    torch.testing.assert_close(scores(model), adapted, rtol=1e-4, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == names
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert all(parameter.requires_grad for parameter in model.parameters())
    inner = [module for stack in stacks_of(model) for module in blocks(model, stack.name).modules()]
    for module in inner:
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            name = next(name for name, other in model.named_modules() if other is module)
            change = module.weight.detach() - before[f"{name}.weight"]
            assert torch.linalg.matrix_rank(change, atol=1e-5) <= 2, name


def test_every_map_of_attention_and_feed_forward_is_adapted():
    for family in FAMILIES:
        model = with_lora(tiny(family), **SETTINGS)
        block = blocks(model)[0]
        linear = [
            name for name, m in block.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and "lora" not in name
        ]
        adapted = [name for name in linear if name.endswith("base_layer")]
        assert adapted == linear
        assert len(linear) >= 4


def test_seed_decides_the_adapters_and_nothing_else_is_seeded():
    before = torch.get_rng_state()
    first = with_lora(tiny("bert"), **SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)
    assert model_hash(first) == model_hash(with_lora(tiny("bert"), **SETTINGS))
    assert model_hash(first) != model_hash(with_lora(tiny("bert"), **{**SETTINGS, "seed": 1}))


def test_a_merged_model_is_cut_and_saved_as_any_other(tmp_path):
    model = trained(with_lora(tiny("llama"), **SETTINGS))
    for misuse in (
        lambda: model.keep_layers([0]),
        lambda: model.save_pretrained(tmp_path),
        lambda: model.reinitialized(0),
    ):
        with pytest.raises(ModelError, match="with LoRA adapters cannot be"):
            misuse()
    with pytest.raises(ModelError, match="given further ones"):
        with_lora(model, **SETTINGS)
    student = merged(model).keep_layers([0, 2])
    student.save_pretrained(tmp_path)
    assert torch.equal(scores(TextClassifier.from_pretrained(tmp_path)), scores(student))
    with pytest.raises(ModelError, match="no LoRA adapters"):
        merged(model)


@pytest.mark.parametrize("change", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_bad_settings(change):
    with pytest.raises(ModelError, match="LoRA cannot have rank"):
        with_lora(tiny("bert"), **{**SETTINGS, **change})


def test_dropout_is_the_adapters_alone():
    model = with_lora(tiny("gpt2", dropout=0.0), **{**SETTINGS, "dropout": 0.5}).train()
    assert torch.equal(model(**prompts()), model(**prompts()))  # B is zero at first
    trained(model)
    assert not torch.equal(model(**prompts()), model(**prompts()))
