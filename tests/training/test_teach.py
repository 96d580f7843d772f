"""Teachers: trained once, stored whole, compared with popularity."""

from __future__ import annotations

import shutil

import pytest
import torch
from job_zoo import METRIC, resources_in

from raydistill.errors import ModelError
from raydistill.metrics import mean_metrics
from raydistill.models.recommender import Recommender
from raydistill.training import teach as teach_module
from raydistill.training.context import RunContext
from raydistill.training.evaluation import rank_users, rank_users_by_popularity
from raydistill.training.teach import describe_teacher, is_whole, read_history, teach, warn_if_weak


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return resources_in(tmp_path_factory.mktemp("teach"))


@pytest.fixture(scope="module")
def identity(resources):
    return teach(resources, 0, RunContext())


def test_the_stored_teacher_is_as_good_as_its_history_says(resources, identity):
    folder = resources.run.teacher(identity)
    history = read_history(folder)
    model = Recommender.from_pretrained(folder)
    assert mean_metrics(rank_users(model, resources.data, "validation")["rank"]) == pytest.approx(history["validation"])
    assert history["validation"][METRIC] == max(row[METRIC] for row in history["curves"])
    assert history["curves"][history["best_epoch"] - 1][METRIC] == history["validation"][METRIC]
    popularity = mean_metrics(rank_users_by_popularity(resources.data, "validation")["rank"])
    assert history["popularity"] == pytest.approx(popularity)
    assert (history["seed"], history["layers"], model.n_layers) == (0, 4, 4)
    assert history["training_seconds"] > 0
    assert history["peak_memory_bytes"] > 0


def test_a_teacher_that_is_there_is_not_trained_again(resources, identity, monkeypatch):
    monkeypatch.setattr(teach_module, "DistillationTrainer", None)
    assert teach(resources, 0, RunContext()) == identity


def test_another_seed_is_another_teacher(resources, identity):
    other = teach(resources, 1, RunContext())
    assert other != identity
    one, two = (resources.teacher(name).state_dict() for name in (identity, other))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("damage", ["weights", "history", "absent"])
def test_a_damaged_teacher_is_not_whole_and_is_made_again_to_the_same_weights(resources, identity, tmp_path, damage):
    folder = resources.run.teacher(identity)
    before = shutil.copytree(folder, tmp_path / "copy")
    if damage == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    elif damage == "history":
        (folder / "history.json").write_text("{")
    else:
        shutil.rmtree(folder)
    assert not is_whole(folder)
    assert teach(resources, 0, RunContext()) == identity
    assert is_whole(folder)
    assert (folder / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()


def test_it_warns_where_popularity_is_not_beaten():
    def history(teacher, popularity):
        return {"validation": {METRIC: teacher}, "popularity": {METRIC: popularity}, "best_epoch": 3}

    assert warn_if_weak(history(0.2, 0.1), METRIC) is None
    for teacher in (0.1, 0.05):
        warning = warn_if_weak(history(teacher, 0.1), METRIC)
        assert "DOES NOT BEAT POPULARITY" in warning
        assert f"{teacher:.4f} against 0.1000" in warning
    assert describe_teacher("abc", history(0.25, 0.1), METRIC) == (
        f"teacher abc: validation {METRIC} 0.2500 after epoch 3, popularity 0.1000"
    )


def test_a_checkpoint_taken_as_it_is_has_validation_of_its_own(resources, identity, tmp_path):
    whole = Recommender.from_pretrained(resources.run.teacher(identity))
    whole.backbone.save_pretrained(tmp_path / "checkpoint")
    own = resources_in(
        tmp_path,
        f"teacher={{pretrained: {tmp_path / 'checkpoint'}, epochs: 0}}",
    )
    history = read_history(own.run.teacher(teach(own, 0, RunContext())))
    assert history["curves"] == []
    assert 0 <= history["validation"][METRIC] <= 1


def test_a_checkpoint_that_is_not_there_is_a_users_mistake(tmp_path):
    own = resources_in(tmp_path, f"teacher={{pretrained: {tmp_path / 'nowhere'}, epochs: 1}}")
    with pytest.raises(ModelError, match="nowhere"):
        teach(own, 0, RunContext())
