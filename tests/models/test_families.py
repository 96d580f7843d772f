"""The table of families, attention probabilities, and refusals."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from model_zoo import CASES, LENGTH, N_LAYERS, build, inputs_of, result
from torch import nn

from raydistill.errors import ModelError
from raydistill.models import (
    FAMILIES,
    attention_probabilities,
    backbone_of,
    blocks,
    depth,
    family_of,
    keep_layers,
    skip_layers,
    stacks_of,
    with_attention,
)


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_what_the_configuration_counts(name):
    model = build(name)
    for stack in stacks_of(model):
        rows = blocks(model, stack.name)
        assert isinstance(rows, nn.ModuleList)
        assert len(rows) == depth(model, stack.name) == getattr(model.config, stack.depth_key)


def test_table_names_and_types_are_unique():
    assert all(name == family.name for name, family in FAMILIES.items())
    types = [kind for family in FAMILIES.values() for kind in family.model_types]
    assert len(types) == len(set(types))
    assert all(hasattr(hf, family.base_class) for family in FAMILIES.values())


@pytest.mark.parametrize("name", CASES)
def test_attention_probabilities_of_every_block(name):
    model = build(name)
    before = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
    logits = result(model)
    with with_attention(model, "eager"), torch.no_grad():
        output = model(**inputs_of(model), output_attentions=True)
    for stack in stacks_of(model):
        probabilities = attention_probabilities(output, stack)
        assert len(probabilities) == depth(model, stack.name)
        length = 7 if stack.name == "decoder" else LENGTH
        for tensor in probabilities:
            assert tensor.shape == (3, 2, length, length)
            torch.testing.assert_close(tensor.sum(-1), torch.ones(3, 2, length))
    eager = output.logits if hasattr(output, "logits") else output.last_hidden_state
    torch.testing.assert_close(eager, logits, rtol=1e-3, atol=1e-3)
    assert [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")] == before
    assert torch.equal(result(model), logits)


def test_attention_is_restored_after_an_error():
    model = build("T5ForConditionalGeneration")
    parts = (model, model.encoder, model.decoder)
    with with_attention(model, "eager"):
        assert {part.config._attn_implementation for part in parts} == {"eager"}
    with pytest.raises(RuntimeError, match="stop"), with_attention(model, "eager"):
        raise RuntimeError("stop")
    assert {part.config._attn_implementation for part in parts} == {"sdpa"}


def test_attention_must_be_known_and_give_probabilities():
    model = build("GPT2Model")
    with pytest.raises(ModelError, match="unknown attention implementation 'fast'"), with_attention(model, "fast"):
        pass
    with torch.no_grad():
        output = model(**inputs_of(model))
    with pytest.raises(ModelError, match="no attention probabilities"):
        attention_probabilities(output, stacks_of(model)[0])


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ([], "empty"),
        ({}, "empty"),
        ([0, 4], "out of range"),
        ([-1, 2], "out of range"),
        ([2, 1], "ascending"),
        ([1, 1], "ascending"),
        ([0.5, 2], "whole numbers"),
        (["0"], "whole numbers"),
        ({"encoder": [0]}, "names the stack 'encoder'"),
    ],
)
def test_layer_maps_that_do_not_fit(layer_map, message):
    with pytest.raises(ModelError, match=message):
        keep_layers(build("GPT2Model"), layer_map)


def test_two_stacks_must_be_named():
    teacher = build("T5Model")
    with pytest.raises(ModelError, match="several stacks") as caught:
        keep_layers(teacher, [0, 1])
    assert "encoder, decoder" in str(caught.value)
    with pytest.raises(ModelError, match="several stacks"):
        blocks(teacher)
    with pytest.raises(ModelError, match="no stack 'middle'"):
        blocks(teacher, "middle")
    with pytest.raises(ModelError, match="out of range"):
        keep_layers(teacher, {"encoder": [0], "decoder": [3]})
    assert depth(build("T5EncoderModel")) == N_LAYERS


def test_one_block_is_refused():
    with pytest.raises(ModelError, match="one block"):
        keep_layers(build("GPT2Model", n_layer=1), [0])


def test_numpy_and_tensor_indices_are_whole_numbers():
    teacher = build("GPT2Model")
    expected = result(keep_layers(teacher, [1, 3]))
    student = keep_layers(teacher, torch.tensor([1, 3]).numpy())
    assert torch.equal(result(student), expected)
    assert student.config.raydistill["layer_map"] == [1, 3]


def test_skipping_an_unknown_block():
    with pytest.raises(ModelError, match="no block 4"), skip_layers(build("GPT2Model"), [4]):
        pass


def test_unknown_family_says_how_to_add_one():
    config = hf.OPTConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, ffn_dim=8, word_embed_proj_dim=8
    )
    with pytest.raises(ModelError, match="type 'opt'") as caught:
        family_of(hf.OPTModel(config))
    assert "raydistill/models/families/" in str(caught.value)
    with pytest.raises(ModelError, match="type 'opt'"):
        family_of(config)


def test_shared_layers_are_refused_with_the_reason():
    config = hf.AlbertConfig(vocab_size=11, embedding_size=8, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match="shared block"):
        keep_layers(hf.AlbertModel(config), [0])


def test_text_and_image_gemma_is_refused_with_the_reason():
    with pytest.raises(ModelError, match="gemma3_text"):
        family_of(hf.Gemma3Config())


def test_quantized_weights_are_refused():
    by_config = build("GPT2Model")
    by_config.config.quantization_config = {"quant_method": "gptq"}
    by_weight = build("GPT2Model")
    weight = by_weight.h[0].mlp.c_fc.weight
    by_weight.h[0].mlp.c_fc.weight = nn.Parameter(weight.detach().to(torch.int8), requires_grad=False)
    for teacher in (by_config, by_weight):
        with pytest.raises(ModelError, match="quantized"):
            keep_layers(teacher, [0, 1])


def test_weights_left_on_disk_are_refused():
    with torch.device("meta"):
        teacher = hf.GPT2Model(hf.GPT2Config(**CASES["GPT2Model"].settings))
    with pytest.raises(ModelError, match="not loaded"):
        keep_layers(teacher, [0, 1])


def test_blocks_of_different_shape_are_refused():
    teacher = build("LlamaForCausalLM")
    teacher.config.per_layer_config = {1: {"intermediate_size": 12}}
    with pytest.raises(ModelError, match="differ in shape"):
        keep_layers(teacher, [0, 1])


def test_anything_else_is_refused():
    with pytest.raises(ModelError, match="Linear is not a Hugging Face model"):
        backbone_of(nn.Linear(2, 2))
    wrapper = nn.Module()
    wrapper.backbone = build("GPT2Model")
    assert len(blocks(wrapper)) == N_LAYERS
    with pytest.raises(ModelError, match="not a Hugging Face model itself"):
        keep_layers(wrapper, [0, 1])
