"""From configuration to objects: every key arrives where it is meant to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from job_zoo import TEXT, resources_in

from raydistill.errors import ModelError
from raydistill.models.families import FAMILIES
from raydistill.models.recommender import Recommender
from raydistill.records import metric_per_user
from raydistill.selectors import SELECTORS
from raydistill.training import build
from raydistill.training.resources import Resources
from raydistill.training.tasks import NEXT_ITEM


def test_the_tables_name_what_the_floors_have():
    tables = build.tables()
    assert set(tables.selectors) == set(SELECTORS)
    assert tuple(tables.families) == tuple(FAMILIES)
    assert "synthetic" in tables.sources
    assert "movielens" in tables.sources


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "t5"])
def test_an_untrained_model_has_the_shape_that_is_asked_for(tmp_path, family):
    resources = resources_in(tmp_path, f"teacher.family={family}", "teacher.hidden=12", "teacher.heads=3")
    model = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=3)
    assert (model.n_layers, model.max_length, model.n_items) == (4, 8, resources.data.n_items)
    assert model.output_weight.shape == (resources.data.n_items, 12)
    assert NEXT_ITEM.untrained(resources.sweep, resources.data, seed=3, layers=2).n_layers == 2
    same = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=3).state_dict()
    other = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=4).state_dict()
    state = model.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert any(not torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_a_control_of_a_pretrained_teacher_has_its_shape_and_none_of_its_weights(tmp_path, family):
    first = resources_in(tmp_path, f"teacher.family={family}")
    teacher = NEXT_ITEM.untrained(first.sweep, first.data, seed=0)
    teacher.backbone.save_pretrained(tmp_path / "checkpoint")
    resources = resources_in(tmp_path, f"teacher={{pretrained: {tmp_path / 'checkpoint'}, epochs: 1}}", run="other")
    loaded = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=0)
    control = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=0, layers=2)
    states = [model.keep_layers([0, 1]).state_dict() for model in (teacher, loaded, control)]
    weights = [name for name, value in states[0].items() if value.ndim == 2 and "embed" not in name and "w" in name]
    blocks = [name for name in weights if ".0." in name]
    assert blocks
    for name in blocks:
        before, theirs, own = (state[name] for state in states)
        assert torch.equal(theirs, before)
        assert own.shape == theirs.shape
        assert not torch.allclose(own, theirs)
    again = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=0, layers=2).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in control.state_dict().items())
    batch = torch.tensor([[1, 2, 3]])
    assert torch.isfinite(control.eval().logits(control.hidden(batch))).all()
    assert control.n_layers == 2
    with pytest.raises(ModelError, match="deeper"):
        NEXT_ITEM.untrained(resources.sweep, resources.data, seed=0, layers=5)


def test_students_are_trained_as_training_says_but_for_what_is_searched(tmp_path):
    overrides = {
        "epochs": 5,
        "epoch_examples": 11,
        "batch_size": 7,
        "lr": 0.5,
        "weight_decay": 0.25,
        "warmup": 0.125,
        "schedule": "constant",
        "clip": 2.0,
        "groups": 3,
        "gradient_accumulation": 2,
        "gradient_checkpointing": True,
        "precision": "bfloat16",
        "patience": 4,
    }
    sweep = resources_in(tmp_path, *(f"training.{key}={str(value).lower()}" for key, value in overrides.items())).sweep
    settings = build.student_settings(sweep, seed=9, lr=None, weight_decay=None)
    assert dataclasses.asdict(settings) == overrides | {"metric": "ndcg@10", "seed": 9}
    searched = build.student_settings(sweep, seed=9, lr=0.01, weight_decay=0.0)
    assert (searched.lr, searched.weight_decay) == (0.01, 0.0)
    assert (
        build.student_settings(
            resources_in(tmp_path, "training.clip=null").sweep, seed=0, lr=None, weight_decay=None
        ).clip
        == 0
    )


def test_a_teacher_has_its_own_settings_and_those_of_training_for_the_rest(tmp_path):
    sweep = resources_in(
        tmp_path, "teacher.lr=0.5", "teacher.batch_size=3", "teacher.patience=1", "training.weight_decay=0.125"
    ).sweep
    settings = build.teacher_settings(sweep, 4)
    assert (settings.lr, settings.batch_size, settings.patience, settings.epochs) == (0.5, 3, 1, 2)
    assert (settings.weight_decay, settings.seed) == (0.125, 4)


def test_every_metric_that_the_sweep_asks_for_is_reported(tmp_path):
    sweep = resources_in(tmp_path, "search.objectives={hr@3: max, flops: min}", "analysis.metric=auc").sweep
    columns = {"rank": np.array([1, 4, 30]), "candidates": np.array([50, 50, 50])}
    found = NEXT_ITEM.metrics_of(sweep, columns)
    assert set(found) == {"ndcg@5", "ndcg@10", "hr@5", "hr@10", "mrr", "hr@3", "auc"}
    assert found["hr@3"] == pytest.approx(1 / 3)
    assert found["auc"] == pytest.approx(np.mean([1, 1 - 3 / 49, 1 - 29 / 49]))
    assert found["ndcg@10"] == pytest.approx(metric_per_user("ndcg@10", columns["rank"]).mean())


def test_data_are_prepared_once_for_all_sweeps_of_a_storage_place(tmp_path):
    def folders() -> list[Path]:
        return sorted(path for path in (tmp_path / ".cache" / "prepared").iterdir() if path.is_dir())

    first = resources_in(tmp_path)
    hashed, before = first.data.hash, folders()
    second = resources_in(tmp_path, "teacher.layers=6", run="other")
    assert second.data.hash == hashed
    assert folders() == before
    assert resources_in(tmp_path, "data.min_interactions=2").data is not None
    assert len(folders()) == 2


def test_places_follow_from_storage_and_name_or_are_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(TEXT)
    default = Resources.load("s.yaml")
    assert (default.run.root, default.cache) == (tmp_path / "runs" / "smallest", tmp_path / "runs" / ".cache")
    given = Resources.load("s.yaml", ("execution.storage=elsewhere",), "here")
    assert (given.run.root, given.cache) == (tmp_path / "here", tmp_path / "elsewhere" / ".cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_teacher_and_students_see_the_same_examples(tmp_path):
    resources = resources_in(tmp_path, "teacher.family=bert")
    one, two = (
        NEXT_ITEM.dataset(resources.sweep, resources.data, causal=False, teacher_seed=seed).examples for seed in (0, 0)
    )
    batches = [next(iter(examples.ordered(1000))) for examples in (one, two)]
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    other = NEXT_ITEM.dataset(resources.sweep, resources.data, causal=False, teacher_seed=1).examples
    assert not torch.equal(batches[0].input_ids, next(iter(other.ordered(1000))).input_ids)


def test_a_saved_teacher_opens_in_eval_mode_once(tmp_path):
    resources = resources_in(tmp_path)
    model = NEXT_ITEM.untrained(resources.sweep, resources.data, seed=0)
    model.save_pretrained(resources.run.teacher("abc"))
    opened = resources.teacher("abc")
    assert isinstance(opened, Recommender)
    assert not opened.training
    assert resources.teacher("abc") is opened
