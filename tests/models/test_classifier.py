"""Text classifiers of every family, against transformers' own heads and against pooling by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from text_zoo import CAUSAL, CLASSES, MAX_TOKENS, POOLINGS, prompts, scores, tiny

from raydistill.errors import ModelError
from raydistill.models import FAMILIES, TextClassifier, blocks, build_classifier, model_hash, skip_layers
from raydistill.selectors import KINDS
from raydistill.training.evidence import CalibrationBatch, measure_evidence


@pytest.mark.parametrize(("family", "pooling"), POOLINGS)
def test_shapes_and_gradients(family, pooling):
    model = tiny(family, pooling)
    hidden = model(**prompts())
    assert torch.equal(hidden, model.hidden(**prompts()))
    assert hidden.shape == (4, 16)
    assert model.logits(hidden).shape == (4, 3)
    assert (model.n_classes, model.n_layers, model.class_names) == (3, 3, CLASSES)
    assert model.stack == ("encoder" if pooling == "answer" else None)
    model.logits(hidden).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("family", "pooling"), POOLINGS)
def test_padding_and_neighbours_reach_no_prompt(family, pooling):
    model = tiny(family, pooling)
    together = scores(model)
    for row, length in ((0, 9), (1, 5), (2, 1)):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in prompts().items()}
        torch.testing.assert_close(together[row], scores(model, alone)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_side_of_padding_gives_the_same(family, pooling, attention):
    if family == "gemma2" and attention == "sdpa":
        attention = "eager"  # Gemma 2 has no other
    model = tiny(family, pooling, attention=attention)
    torch.testing.assert_close(scores(model), scores(model, prompts("left")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_by_hand(family):
    model = tiny(family, "mean")
    inputs = prompts()
    with torch.no_grad():
        states = model.backbone(**inputs).last_hidden_state.numpy()
    pairs = zip(states, inputs["attention_mask"], strict=True)
    expected = np.stack([row[: int(mask.sum())].mean(axis=0) for row, mask in pairs])
    np.testing.assert_allclose(model.hidden(**inputs).detach(), expected, rtol=1e-4, atol=1e-5)


HEADS = {
    "gpt2": (hf.GPT2ForSequenceClassification, "transformer"),
    "llama": (hf.LlamaForSequenceClassification, "model"),
    "mistral": (hf.MistralForSequenceClassification, "model"),
    "qwen2": (hf.Qwen2ForSequenceClassification, "model"),
    "qwen3": (hf.Qwen3ForSequenceClassification, "model"),
    "gemma": (hf.GemmaForSequenceClassification, "model"),
    "gemma2": (hf.Gemma2ForSequenceClassification, "model"),
}


@pytest.mark.parametrize("family", HEADS)
def test_last_token_as_transformers_classifies(family):
    model = tiny(family, "last")
    config = model.backbone.config
    config.num_labels = 3
    head_class, attribute = HEADS[family]
    other = head_class(config).eval()
    setattr(other, attribute, model.backbone)
    other.score.weight = model.head.weight
    with torch.no_grad():
        model.head.bias.zero_()
        torch.testing.assert_close(scores(model), other(**prompts()).logits, rtol=1e-4, atol=1e-5)


def test_first_token_as_roberta_reads_it():
    model = tiny("roberta", "first")
    with torch.no_grad():
        first = model.backbone(**prompts()).last_hidden_state[:, 0]
        torch.testing.assert_close(scores(model), first @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(("family", "pooling"), POOLINGS)
def test_keep_layers(family, pooling):
    teacher = tiny(family, pooling)
    student = teacher.keep_layers([0, 2], teacher_hash="feed")
    skipped = [1] if teacher.stack is None else {teacher.stack: [1]}
    with skip_layers(teacher, skipped):
        assert torch.equal(scores(student), scores(teacher))
    whole = teacher.keep_layers([0, 1, 2])
    assert torch.equal(scores(whole), scores(teacher))
    assert whole.backbone.config.raydistill["teacher"] == model_hash(teacher)
    assert student.n_layers == 2
    kept = {"encoder": [0, 2], "decoder": [0, 1, 2]} if pooling == "answer" else [0, 2]
    assert student.backbone.config.raydistill == {"layer_map": kept, "teacher": "feed"}
    assert not student.training
    assert teacher.train().keep_layers([1]).training
    memory = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not memory & {parameter.data_ptr() for parameter in student.parameters()}


PLAIN = {"t5": hf.AutoModelForTextEncoding}


@pytest.mark.parametrize(("family", "pooling"), POOLINGS)
def test_round_trip(family, pooling, tmp_path):
    student = tiny(family, pooling, attention="eager").keep_layers([0, 2])
    student.save_pretrained(tmp_path)
    loaded = TextClassifier.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(scores(loaded), scores(student))
    assert model_hash(loaded) == model_hash(student)
    assert loaded._settings() == student._settings()
    assert loaded.backbone.config._attn_implementation == "eager"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    auto = hf.AutoModel if pooling == "answer" else PLAIN.get(family, hf.AutoModel)
    without_us = auto.from_pretrained(tmp_path).eval()
    mine, plain = student.backbone.state_dict(), without_us.state_dict()
    assert all(torch.equal(mine[name], plain[name]) for name in mine)


@pytest.mark.parametrize(("family", "pooling"), POOLINGS)
def test_seed_decides_the_weights_and_nothing_else_is_seeded(family, pooling):
    before = torch.get_rng_state()
    first = tiny(family, pooling, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert model_hash(first) == model_hash(tiny(family, pooling, seed=1))
    assert model_hash(first) != model_hash(tiny(family, pooling, seed=2))
    torch.manual_seed(4)
    fresh, again = first.reinitialized(3), first.reinitialized(3)
    assert fresh.training
    assert model_hash(fresh) == model_hash(again) != model_hash(first.reinitialized(4))
    assert not torch.equal(fresh.head.weight, first.head.weight)
    assert scores(fresh.eval()).shape == (4, 3)


def test_head_depends_on_seed_and_shape_alone():
    settings = {"vocab_size": 9, "pad_id": 0, "n_classes": 2, "class_names": "ab", "hidden": 16, "heads": 2}
    settings |= {"dropout": 0.0, "max_tokens": 8, "seed": 5}
    heads = [build_classifier(name, layers=n, **settings).head.weight for name in ("bert", "gpt2") for n in (1, 3)]
    assert all(torch.equal(heads[0], head) for head in heads)
    torch.testing.assert_close(heads[0].std(), torch.tensor(0.02), rtol=0.5, atol=0)


def class_logits(model, batch):
    return model.logits(model.hidden(**batch.inputs))


@pytest.mark.parametrize(
    ("family", "pooling"), [(name, FAMILIES[name].poolings[0]) for name in FAMILIES] + [("t5", "answer")]
)
def test_evidence_can_be_measured(family, pooling):
    model = tiny(family, pooling)
    before = model_hash(model)
    batch = CalibrationBatch(prompts(), torch.arange(4), torch.tensor([0, 2, 1, 1]))
    evidence = measure_evidence(model, [[batch], [batch]], class_logits, KINDS, seed=0, stack=model.stack)
    assert set(evidence.values) == set(KINDS)
    assert all(values.shape[:2] == (2, 3) for values in evidence.values.values())
    assert model_hash(model) == before
    losses = [_loss_without(model, batch, layer) for layer in range(3)]
    base = _loss_without(model, batch, None)
    np.testing.assert_allclose(evidence.values["leave_one_out"][0], np.array(losses) - base, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(evidence.values["fisher_empirical"][0], _squared_gradients(model, batch), rtol=1e-3)


def _loss_without(model, batch, layer):
    skipped = [] if layer is None else [layer]
    with torch.no_grad(), skip_layers(model, skipped if model.stack is None else {model.stack: skipped}):
        return float(torch.nn.functional.cross_entropy(class_logits(model, batch), batch.labels))


def _squared_gradients(model, batch):
    """Return the mean over examples of each block's squared gradient norm, one example at a time."""
    rows, total = blocks(model, model.stack), np.zeros(3)
    for i in range(4):
        inputs = {name: tensor[i : i + 1] for name, tensor in batch.inputs.items()}
        model.zero_grad()
        logits = model.logits(model.hidden(**inputs))
        torch.nn.functional.cross_entropy(logits, batch.labels[i : i + 1]).backward()
        total += [sum(float(p.grad.double().square().sum()) for p in row.parameters()) for row in rows]
    model.zero_grad()
    return total / 4


BAD = [
    ({"pooling": "last"}, "'last' does not fit a model of the family bert", "use one of mean, first"),
    ({"pooling": "max"}, "'max' is unknown, as for a model of the family bert", "use one of mean, first"),
    ({"family": "gpt2", "pooling": "first"}, "'first' does not fit", "use one of last, mean"),
    ({"family": "gpt2", "pooling": "answer"}, "'answer' does not fit", "use one of last, mean"),
    ({"family": "t5", "pooling": "first"}, "'first' does not fit", "use one of mean, answer"),
    ({"family": "gpt3"}, "unknown model family 'gpt3'", "use one of bert"),
    ({"n_classes": 1, "class_names": ["liked"]}, "there is 1 class", "at least two"),
    ({"n_classes": 2}, "do not name 2 classes", "own name"),
    ({"class_names": ["a", "b", "a"]}, "do not name 3 classes", "own name"),
    ({"max_tokens": 0}, "max_tokens is 0", "at least 1"),
    ({"heads": 3}, "not a multiple of heads", "divide"),
    ({"dropout": 1.0}, "dropout is 1.0", "below 1"),
    ({"hiden_act": "relu"}, "no key 'hiden_act'", "did you mean hidden_act"),
]


@pytest.mark.parametrize(("change", "message", "mend"), BAD)
def test_bad_settings(change, message, mend):
    with pytest.raises(ModelError, match=message) as caught:
        tiny(**{"family": "bert", **change})
    assert mend in str(caught.value)


def test_longest_prompt_fits():
    inputs = {
        "input_ids": torch.full((1, MAX_TOKENS), 7),
        "attention_mask": torch.ones(1, MAX_TOKENS, dtype=torch.int64),
    }
    for family, pooling in POOLINGS:
        for pad in (0, 1):
            assert scores(tiny(family, pooling, pad_id=pad), inputs).isfinite().all()


def test_folders_that_hold_no_classifier(tmp_path):
    with pytest.raises(ModelError, match="holds no TextClassifier"):
        TextClassifier.from_pretrained(tmp_path)
    tiny("gpt2").save_pretrained(tmp_path)
    head = tmp_path / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:20])
    with pytest.raises(ModelError, match=r"head.safetensors cannot be read"):
        TextClassifier.from_pretrained(tmp_path)
    head.unlink()
    with pytest.raises(ModelError, match=r"head.safetensors cannot be read"):
        TextClassifier.from_pretrained(tmp_path)
    (tmp_path / "classifier.json").write_text('{"class_names": ["a", "b"]}')
    with pytest.raises(ModelError, match=r"classifier.json lacks attention, decoder_start"):
        TextClassifier.from_pretrained(tmp_path)
