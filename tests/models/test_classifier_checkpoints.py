"""Pretrained checkpoints and their tokenizers as classifiers, a published one among them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from model_zoo import build
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from text_zoo import REAL, SPECIAL, WORDS, prompts, scores, word_tokenizer

from raydistill.errors import ModelError
from raydistill.models import (
    FAMILIES,
    TextClassifier,
    classifier_from_pretrained,
    load_tokenizer,
    model_hash,
    skip_layers,
)
from raydistill.models.tokenizer import answer_tokens, padding_note

VOCABULARY = len(SPECIAL + WORDS)
PRETRAINED = {
    "BertForMaskedLM": hf.BertModel,
    "RobertaForMaskedLM": hf.RobertaModel,
    "DistilBertForMaskedLM": hf.DistilBertModel,
    "GPT2LMHeadModel": hf.GPT2Model,
    "T5ForConditionalGeneration": hf.T5EncoderModel,
    "LlamaForCausalLM": hf.LlamaModel,
    "Qwen2-sliding": hf.Qwen2Model,
}


def saved(name: str, folder, **further):
    """Return a checkpoint's folder, with the word tokenizer in it; its padding token is the model's."""
    model = build(name, vocab_size=VOCABULARY, **further)
    model.save_pretrained(folder)
    pad = model.config.pad_token_id
    word_tokenizer(pad_token="[PAD]" if pad is None else (SPECIAL + WORDS)[pad]).save_pretrained(folder)
    return folder


def from_folder(folder, **further) -> TextClassifier:
    settings = {"n_classes": 2, "class_names": ("disliked", "liked"), "max_tokens": 9, "seed": 0, **further}
    return classifier_from_pretrained(folder, **settings).eval()


@pytest.mark.parametrize("name", PRETRAINED)
def test_checkpoint_under_a_fresh_head(name, tmp_path):
    folder = saved(name, tmp_path / "teacher")
    # transformers gives every tokenizer beside a Qwen2 its own padding token.
    tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(folder)
    model = from_folder(folder, dropout=0.25, tokenizer=tokenizer)
    family = FAMILIES[model.backbone.config.model_type]
    assert model.pooling == family.poolings[0]
    inputs = prompts()
    inputs["input_ids"][inputs["attention_mask"] == 0] = model.backbone.config.pad_token_id
    original = PRETRAINED[name].from_pretrained(folder).eval()
    with torch.no_grad():
        states = original(**inputs).last_hidden_state
        lengths = inputs["attention_mask"].sum(dim=1)
        rows = [row[:n] for row, n in zip(states, lengths, strict=True)]
        expected = torch.stack([row[-1] if model.pooling == "last" else row.mean(dim=0) for row in rows])
        torch.testing.assert_close(model.hidden(**inputs), expected, rtol=1e-4, atol=1e-5)
    assert all(getattr(model.backbone.config, key) == 0.25 for key in family.dropout_keys)
    assert model.dropout.p == 0.25
    student = model.keep_layers([1, 3])
    with skip_layers(model, [0, 2]):
        assert torch.equal(scores(student, inputs), scores(model, inputs))
    student.save_pretrained(tmp_path / "student", tokenizer=tokenizer)
    assert torch.equal(scores(TextClassifier.from_pretrained(tmp_path / "student"), inputs), scores(student, inputs))
    again = hf.PreTrainedTokenizerFast.from_pretrained(tmp_path / "student")
    assert again("a good film")["input_ids"] == tokenizer("a good film")["input_ids"]
    half = from_folder(folder, dtype=torch.bfloat16, tokenizer=tokenizer)
    assert (half.backbone.dtype, scores(half, inputs).dtype) == (torch.bfloat16, torch.float32)


def test_published_checkpoint(tmp_path):
    model, tokenizer = from_folder(REAL, max_tokens=64), load_tokenizer(REAL)
    titles = ["Star Wars", "Star Trek: The Motion Picture", "The Bridges of Madison County"]
    inputs = tokenizer(titles, padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(model.hidden(**inputs), dim=1)
    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert alike > unlike + 0.2
    assert (model.n_layers, model.dropout.p) == (6, 0.1)
    student = model.keep_layers([0, 5])
    with skip_layers(model, [1, 2, 3, 4]):
        assert torch.equal(scores(student, inputs), scores(model, inputs))
    student.save_pretrained(tmp_path, tokenizer=tokenizer)
    loaded = TextClassifier.from_pretrained(tmp_path)
    assert model_hash(loaded) == model_hash(student)
    assert torch.equal(scores(loaded, inputs), scores(student, inputs))
    assert hf.AutoModel.from_pretrained(tmp_path).config.num_hidden_layers == 2


def test_published_checkpoint_embeds_as_its_authors_do():
    titles = ["Alien", "The Bridges of Madison County", "Heat"]
    inputs = load_tokenizer(REAL)(titles, padding=True, return_tensors="pt")
    with torch.no_grad():
        mine = from_folder(REAL).hidden(inputs["input_ids"], inputs["attention_mask"])
    theirs = SentenceTransformer(str(REAL), device="cpu").encode(titles, convert_to_tensor=True)
    torch.testing.assert_close(mine / mine.norm(dim=1, keepdim=True), theirs, rtol=1e-4, atol=1e-5)


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "T5-gated-unscaled"])
def test_answer_is_what_the_checkpoint_says(name, untied, tmp_path):
    folder = saved(name, tmp_path)
    if untied:  # as in the published checkpoints of version 1.1
        path = folder / "model.safetensors"
        weights = load_file(path)
        weights["lm_head.weight"] = torch.randn(weights["shared.weight"].shape)
        save_file(weights, path, metadata={"format": "pt"})
    model = from_folder(folder, pooling="answer")
    original = hf.T5ForConditionalGeneration.from_pretrained(folder).eval()
    if untied:
        assert torch.equal(original.lm_head.weight, weights["lm_head.weight"])
    inputs = prompts()
    with torch.no_grad():
        logits = original(**inputs, decoder_input_ids=torch.zeros(4, 1, dtype=torch.int64)).logits[:, 0]
    classes = word_tokenizer().convert_tokens_to_ids(["disliked", "liked"])
    torch.testing.assert_close(scores(model, inputs), logits[:, classes], rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(scores(TextClassifier.from_pretrained(tmp_path / "again"), inputs), scores(model, inputs))


def test_answer_after_what_the_words_share(tmp_path):
    folder = saved("T5ForConditionalGeneration", tmp_path)
    model = from_folder(folder, pooling="answer", class_names=("not bad", "not good"))
    original = hf.T5ForConditionalGeneration.from_pretrained(folder).eval()
    bad, good, negation = word_tokenizer().convert_tokens_to_ids(["bad", "good", "not"])
    with torch.no_grad():
        logits = original(**prompts(), decoder_input_ids=torch.tensor([[0, negation]] * 4)).logits[:, 1]
    torch.testing.assert_close(scores(model), logits[:, [bad, good]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", [("good", "good film"), ("not bad", "not good", "good"), ("film noir", "film noire")])
def test_answers_that_one_token_cannot_tell_apart(words):
    with pytest.raises(ModelError, match=f"cannot be told apart by one token: '{words[0]}' is "):
        answer_tokens(word_tokenizer(), words)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("special", "token", "message"),
    [
        ({"eos_token": "[EOS]", "unk_token": "[UNK]"}, "[EOS]", "its own '[EOS]' is used"),
        ({"unk_token": "[UNK]"}, "[UNK]", "its own '[UNK]' is used"),
        ({"cls_token": "[CLS]"}, "[PAD]", "'[PAD]' is added"),
    ],
)
def test_padding_is_set_and_said(special, token, message, tmp_path):
    tokenizer = word_tokenizer(**special)
    if "is added" in message:
        vocabulary = {word: i for i, word in enumerate(["start", *SPECIAL[1:], *WORDS])}
        tokenizer = _without_padding(tokenizer, vocabulary, tmp_path)
    else:
        tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == token
    assert message in padding_note(loaded)
    assert loaded("a good film")["input_ids"] == tokenizer("a good film")["input_ids"]
    build("GPT2LMHeadModel", vocab_size=VOCABULARY).save_pretrained(tmp_path)
    model = from_folder(tmp_path)
    inputs = loaded(["a good film", "war"], padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    alone = {name: tensor[1:, : int(inputs["attention_mask"][1].sum())] for name, tensor in inputs.items()}
    torch.testing.assert_close(scores(model, inputs)[1:], scores(model, alone), rtol=1e-4, atol=1e-5)
    assert model.backbone.get_input_embeddings().num_embeddings == VOCABULARY + ("is added" in message)


def test_of_a_padding_token_of_its_own_nothing_is_said(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    assert padding_note(load_tokenizer(tmp_path)) is None


def _without_padding(tokenizer, vocabulary, folder):
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = vocabulary
    path.write_text(json.dumps(content))
    return hf.PreTrainedTokenizerFast.from_pretrained(folder)


def test_checkpoints_that_do_not_fit(tmp_path):
    folder = saved("BertForMaskedLM", tmp_path / "bert")
    with pytest.raises(ModelError, match="covers 32 positions, fewer than the 33 tokens") as caught:
        from_folder(folder, max_tokens=33)
    assert "at most 32" in str(caught.value)
    with pytest.raises(ModelError, match="'answer' does not fit a model of the family bert"):
        from_folder(folder, pooling="answer")
    with pytest.raises(ModelError, match="has no padding token"):
        from_folder(folder, tokenizer=word_tokenizer(unk_token="[UNK]"))
    with pytest.raises(ModelError, match="padding token is 4 and the checkpoint's is 0"):
        from_folder(folder, tokenizer=word_tokenizer(pad_token="[EOS]"))
    with pytest.raises(ModelError, match=f"has 30522 tokens and the checkpoint a table of {VOCABULARY}"):
        from_folder(folder, tokenizer=load_tokenizer(REAL))
    with pytest.raises(ModelError, match="there is 1 class"):
        from_folder(folder, n_classes=1)
    hf.OPTConfig().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="type 'opt'"):
        from_folder(tmp_path / "other")


WITHOUT = ["GPT2Model", "BertModel", "RobertaModel", "T5Model", "LlamaForCausalLM", "GemmaForCausalLM"]


@pytest.mark.parametrize("name", WITHOUT)
def test_checkpoint_without_tokenizer(name, tmp_path):
    build(name).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no tokenizer|tokenizer cannot be loaded") as caught:
        from_folder(tmp_path)
    assert "the folder must hold tokenizer.json" in str(caught.value)


def test_unreachable_hub_says_what_to_download(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(hf.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="couldn't connect") as caught:
        load_tokenizer("some/model")
    needed = ("tokenizer.json", "tokenizer_config.json", "config.json", "*.safetensors", "huggingface.co/some/model")
    assert all(text in caught.value.mend for text in needed)
    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="couldn't connect") as caught:
        from_folder("some/model")
    assert all(text in caught.value.mend for text in needed)
