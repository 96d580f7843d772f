"""Item tables out of titles: what they start from, that they survive surgery and files, and that cold items gain."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers as hf
from model_zoo import build
from sentence_transformers import SentenceTransformer
from text_zoo import REAL, SPECIAL, WORDS, word_tokenizer

from raydistill.errors import ModelError
from raydistill.losses import LossWeights
from raydistill.losses.catalogue import catalogue_loss
from raydistill.metrics.cost import count_parameters
from raydistill.models import FAMILIES, Recommender, build_recommender, model_hash, skip_layers
from raydistill.models.item_text import embed_titles
from raydistill.training.evidence import CalibrationBatch, measure_evidence

N_ITEMS, HIDDEN, DIM, MAX_LENGTH = 40, 16, 24, 8


def texts(dim: int = DIM, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(N_ITEMS, dim)) * np.linspace(3, 0.1, dim) + 1).astype(np.float32)


def plain_model(family: str, seed: int = 0, **further) -> Recommender:
    settings = {"layers": 3, "hidden": HIDDEN, "heads": 2, "dropout": 0.1, "max_length": MAX_LENGTH, **further}
    return build_recommender(family, n_items=N_ITEMS, seed=seed, **settings).eval()


def model_with(family: str, projection: str = "linear", **further) -> Recommender:
    return plain_model(family, **further).with_item_text(texts(), projection, seed=0)


def histories() -> torch.Tensor:
    items = torch.randint(1, N_ITEMS + 1, (4, MAX_LENGTH), generator=torch.Generator().manual_seed(2))
    items[1, 5:] = 0
    return items


def result(model: Recommender) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(histories()))


@pytest.mark.parametrize("projection", ["none", "linear"])
def test_the_table_starts_from_principal_components(projection):
    before = plain_model("gpt2").output_weight.detach().std()
    table = model_with("gpt2", projection).output_weight.detach()
    torch.testing.assert_close(table.std(), before)
    centred = texts().astype(np.float64) - texts().mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :HIDDEN] * singular[:HIDDEN]
    # Up to scale and the directions' signs, inner products between items are those of the components.
    expected = scores @ scores.T
    found = (table @ table.T).double().numpy()
    np.testing.assert_allclose(found / np.trace(found), expected / np.trace(expected), atol=1e-6)


def test_few_dimensions_are_filled_up_from_the_seed():
    first, again, other = (
        plain_model("gpt2").with_item_text(texts(dim=5), "linear", seed=seed).output_weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.linalg.matrix_rank(first.detach()) == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_of_texts_is_the_ordinary_table_that_it_gives(family):
    model = model_with(family)
    with torch.no_grad():
        model.item_text.map.weight += 0.01 * torch.randn(
            model.item_text.map.weight.shape, generator=torch.Generator().manual_seed(1)
        )
    plain = model.plain()
    assert plain.item_text is None
    torch.testing.assert_close(result(plain), result(model), rtol=1e-4, atol=1e-5)
    table = plain.backbone.get_input_embeddings().weight
    assert not table[0].any()
    assert torch.equal(table[-1], model.item_text.map.weight[-1])
    assert plain.plain() is plain


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_map_and_the_blocks_learn(family):
    model = model_with(family)
    hidden = model(histories()).flatten(0, 1)
    loss = catalogue_loss(hidden, model.output_weight, torch.arange(len(hidden)), LossWeights(1.0, 0.0, 1.0)).total
    loss.backward()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 1
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    other = copy.deepcopy(model)
    other.zero_grad()
    logits = other.logits(other(histories())).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))).backward()
    torch.testing.assert_close(model.item_text.map.weight.grad, other.item_text.map.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_table_that_was_formed_before_is_the_one_formed_for_each_call():
    model = model_with("bert")
    with torch.no_grad():
        table = model.table()
        assert torch.equal(model.items_of(table), model.output_weight)
        assert torch.equal(model.hidden(histories(), table=table), model.hidden(histories()))
        other = model.hidden(histories(), table=2 * table)
    assert not torch.equal(other, model.hidden(histories()))


def test_students_share_the_texts_and_not_the_map():
    teacher = model_with("gpt2")
    student = teacher.keep_layers([0, 2])
    assert student.item_text.texts.data_ptr() == teacher.item_text.texts.data_ptr()
    assert student.item_text.map.weight.data_ptr() != teacher.item_text.map.weight.data_ptr()
    assert torch.equal(student.item_text.map.weight, teacher.item_text.map.weight)
    assert student.item_text.map.weight.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_students_and_files(family, tmp_path):
    teacher = model_with(family)
    student = teacher.keep_layers([0, 2])
    with skip_layers(teacher, [1]):
        assert torch.equal(result(student), result(teacher))
    assert torch.equal(result(teacher.keep_layers([0, 1, 2])), result(teacher))
    with torch.no_grad():
        student.item_text.map.weight *= 1.5
    assert not torch.equal(student.output_weight, teacher.output_weight)
    student.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    assert torch.equal(result(loaded), result(student))
    assert torch.equal(loaded.item_text.map.weight, student.item_text.map.weight)
    assert sum(parameter.requires_grad for parameter in loaded.parameters()) == sum(
        parameter.requires_grad for parameter in student.parameters()
    )
    without_us = hf.AutoModelForTextEncoding if family == "t5" else hf.AutoModel
    table = without_us.from_pretrained(tmp_path).get_input_embeddings().weight
    torch.testing.assert_close(table[1:-1], student.output_weight)
    fresh = student.reinitialized(3)
    assert fresh.training
    torch.testing.assert_close(
        fresh.output_weight.detach().std(),
        torch.tensor(FAMILIES[family].table_std(fresh.backbone.config)),
        rtol=0.2,
        atol=0,
    )
    assert model_hash(fresh) == model_hash(student.reinitialized(3)) != model_hash(student.reinitialized(4))
    (tmp_path / "item_text.safetensors").unlink()
    with pytest.raises(ModelError, match=r"item_text.safetensors cannot be read"):
        Recommender.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_evidence_is_that_of_the_ordinary_table(family):
    batch = CalibrationBatch({"input_ids": histories()[:2]}, torch.tensor([0, 0, 1]), torch.tensor([3, 9, 1]))

    def logits(model, batch):
        hidden = model.hidden(batch.inputs["input_ids"])
        return model.logits(hidden[batch.example, batch.labels % 4])

    kinds = ["fisher", "attention", "gradient", "block_influence", "taylor", "leave_one_out"]
    model = model_with(family)
    one, other = (measure_evidence(m, [[batch]], logits, kinds, seed=0).values for m in (model, model.plain()))
    for kind in kinds:
        np.testing.assert_allclose(one[kind], other[kind], rtol=1e-3, atol=1e-6)


def test_parameters_are_counted_apart_from_the_blocks():
    model = model_with("gpt2")
    plain, mapped = count_parameters(model.plain()), count_parameters(model)
    assert mapped["backbone_parameters"] == plain["backbone_parameters"]
    assert mapped["parameters"] == plain["parameters"] + (DIM + 1) * HIDDEN


def test_bad_input():
    model = plain_model("gpt2")
    with pytest.raises(ModelError, match="unknown projection 'mlp'"):
        model.with_item_text(texts(), "mlp", 0)
    with pytest.raises(ModelError, match="39 text embeddings for 40 items"):
        model.with_item_text(texts()[1:], "none", 0)
    with pytest.raises(ModelError, match="not finite"):
        model.with_item_text(texts() * np.nan, "none", 0)
    with pytest.raises(ModelError, match="the same text embedding"):
        model.with_item_text(np.ones((N_ITEMS, DIM)), "linear", 0)


def test_cold_items_are_ranked_by_what_they_are_called():
    """Users stay with one of four kinds of items, which the texts tell; a quarter of the items is never trained on."""
    rng = np.random.default_rng(0)
    kind = np.arange(N_ITEMS) % 4
    embeddings = (np.eye(4)[kind] @ rng.normal(size=(4, DIM)) + 0.3 * rng.normal(size=(N_ITEMS, DIM))).astype(
        np.float32
    )
    cold = np.arange(N_ITEMS) >= 30
    warm_of = [np.flatnonzero((kind == k) & ~cold) + 1 for k in range(4)]
    sequences = torch.from_numpy(np.stack([rng.choice(warm_of[u % 4], MAX_LENGTH) for u in range(64)]))

    def share_of_pairs_in_order(projection: str | None) -> float:
        model = plain_model("gpt2", layers=1, dropout=0.0).train()
        if projection is not None:
            model.with_item_text(embeddings, projection, seed=0)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(60):
            logits = model.logits(model(sequences[:, :-1])).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, sequences[:, 1:].flatten() - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = model.logits(model(sequences))[:, -1][:, cold].numpy()
        own = kind[cold][None] == (np.arange(64) % 4)[:, None]
        return float(np.mean([(s[o][:, None] > s[~o][None]).mean() for s, o in zip(scores, own, strict=True)]))

    assert share_of_pairs_in_order("linear") > 0.9
    assert share_of_pairs_in_order("linear") > share_of_pairs_in_order(None) + 0.2


# Titles --------------------------------------------------------------------------------------------------------------


def test_published_encoder_embeds_as_its_authors_do():
    titles = ["Alien", "", "The Bridges of Madison County", "Aliens", "Heat"]
    found = embed_titles(titles, str(REAL), batch_size=2)
    assert (found.dtype, found.shape) == (np.float32, (5, 384))
    named = [0, 2, 3, 4]
    theirs = SentenceTransformer(str(REAL), device="cpu").encode([titles[i] for i in named])
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(unit[named], theirs, rtol=1e-4, atol=1e-5)
    assert unit[0] @ unit[3] > unit[0] @ unit[2] + 0.2
    np.testing.assert_allclose(found[1], found[named].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found, embed_titles(titles, str(REAL), batch_size=2))
    np.testing.assert_allclose(found, embed_titles(titles, str(REAL), batch_size=64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2Model", "BertModel", "T5EncoderModel", "LlamaForCausalLM"])
def test_any_family_embeds(name, tmp_path):
    build(name, vocab_size=len(SPECIAL + WORDS), pad_token_id=0).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    titles = ["a good film", "war", "an old film about love not war", "space"]
    found = embed_titles(titles, str(tmp_path), batch_size=3)
    for title, row in zip(titles, found, strict=True):
        np.testing.assert_allclose(embed_titles([title], str(tmp_path))[0], row, rtol=1e-4, atol=1e-5)
    cut = embed_titles(["a good film about war", "a good"], str(tmp_path), max_tokens=4)
    np.testing.assert_allclose(cut[0], cut[1], rtol=1e-4, atol=1e-5)


def test_titles_that_are_all_empty():
    with pytest.raises(ModelError, match="no item has a title"):
        embed_titles(["", "  "], str(REAL))
