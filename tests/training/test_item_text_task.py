"""Item tables out of titles, in the task of item sequences: prepared once, and cold items told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from job_zoo import prepared_in, resources_in, spec_of
from sklearn.metrics import ndcg_score
from text_job_zoo import write_events, write_tokenizer
from training_zoo import MAX_LENGTH, N_ITEMS, small_data, small_model
from transformers import BertConfig, BertModel

from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.item_text import TextTable
from raydistill.records import read_ranks
from raydistill.training import tasks
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.objective import CatalogueObjective
from raydistill.training.tasks import item_text
from raydistill.training.trial import Trial


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with events, titles and a small text encoder."""
    folder = tmp_path_factory.mktemp("titles")
    write_events(folder)
    write_tokenizer(folder / "encoder")
    config = BertConfig(vocab_size=64, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    return folder


def resources_with(folder, projection: str, run: str):
    """Return a sweep over items with titles."""
    where = f"{{source: interactions, path: {folder}/events.csv, user: user, item: item, timestamp: time,"
    titled = f" items: {folder}/titles.csv, title: title, split: leave_one_out, min_interactions: 1, max_length: 8}}"
    text = f"item_text={{encoder: {folder}/encoder, projection: {projection}}}"
    return resources_in(folder, f"data={where}{titled}", text, run=run)


@pytest.mark.parametrize("projection", ["linear", "none"])
def test_students_of_a_table_out_of_titles_are_trained_and_tested(folder, projection):
    resources = resources_with(folder, projection, run=projection)
    teacher = prepared_in(resources)
    trial = Trial(spec_of(resources, teacher, "tail", temperature=2.0), resources)
    for _ in trial.epochs():
        pass
    record = trial.finish()
    assert record.status == "success"
    assert (trial.model.item_text is not None) == (projection == "linear")
    table_size = (12 + 1) * 8 if projection == "linear" else None
    if table_size:
        own = sum(p.numel() for p in trial.model.item_text.parameters())
        assert own == table_size
    ranks = read_ranks(resources.run.scores_file(record))
    warm = ranks["target_popularity"] > 0
    assert record.test["warm_ndcg@10"] == pytest.approx(_ndcg(ranks["rank"][warm]))
    assert ("cold_ndcg@10" in record.test) == bool((~warm).any())


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_table_is_formed_once_a_step_and_once_a_ranking(family, monkeypatch):
    data = small_data(400)
    texts = np.random.default_rng(0).normal(size=(N_ITEMS, 12))
    model = small_model(family, dropout=0.0).double()
    model = model.with_item_text(texts, "linear", seed=0).double()
    dataset = DistillationDataset(data, max_length=MAX_LENGTH, causal=model.causal)
    ((groups,), n_targets) = next(dataset.steps(0, batch_size=700, seed=0, groups=4))
    assert len(groups) > 1
    own = model.item_text.map.weight

    # Each group with a table of its own, and a loss of whole logits.
    logits = [
        model.logits(model.hidden(one.batch.input_ids, one.batch.attention_mask).flatten(0, 1)[one.batch.positions])
        for one in groups
    ]
    labels = torch.cat([one.batch.labels for one in groups])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), labels, reduction="sum") / n_targets
    (gradient,) = torch.autograd.grad(expected, own)

    formed, form = [], TextTable.forward
    monkeypatch.setattr(TextTable, "forward", lambda self: formed.append(self) or form(self))
    total, _, _ = CatalogueObjective(model, TASK_ONLY)(groups, n_targets)
    total.backward()
    assert len(formed) == 1
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(own.grad, gradient, rtol=1e-5, atol=1e-9)

    formed.clear()
    ranks = rank_users(model, data, "test", batch_tokens=64)["rank"]
    assert len(formed) == 1
    assert (ranks == rank_users(model.plain(), data, "test", batch_tokens=64)["rank"]).all()


def _ndcg(ranks: np.ndarray) -> float:
    """Return NDCG@10 by scikit-learn: the one relevant item stands at its rank among sixty."""
    relevant = np.zeros((len(ranks), 60))
    relevant[np.arange(len(ranks)), ranks - 1] = 1
    return ndcg_score(relevant, np.tile(-np.arange(60.0), (len(ranks), 1)), k=10)


def test_cold_targets_are_measured_apart(folder):
    resources = resources_with(folder, "linear", run="cold")
    columns = {
        "rank": np.array([1, 5, 2, 40], dtype=np.int32),
        "candidates": np.full(4, 50, dtype=np.int32),
        "target_popularity": np.array([3, 0, 9, 0], dtype=np.int32),
    }
    found = tasks.NEXT_ITEM.metrics_of(resources.sweep, columns)
    assert found["warm_ndcg@10"] == pytest.approx(_ndcg(np.array([1, 2])))
    assert found["cold_ndcg@10"] == pytest.approx(_ndcg(np.array([5, 40])))
    assert found["ndcg@10"] == pytest.approx((found["warm_ndcg@10"] + found["cold_ndcg@10"]) / 2)


def test_titles_are_embedded_once(folder, monkeypatch):
    resources = resources_with(folder, "linear", run="once")
    settings = resources.sweep.sections.item_text
    first = item_text.title_embeddings(resources.data, settings)
    assert first.shape == (resources.data.n_items, 12)
    with monkeypatch.context() as patch:
        patch.setattr(item_text, "embed_titles", None)
        assert np.array_equal(item_text.title_embeddings(resources.data, settings), first)
    # Another encoder of the same name is another one.
    config = BertConfig.from_pretrained(folder / "encoder")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    assert not np.allclose(item_text.title_embeddings(resources.data, settings), first)
