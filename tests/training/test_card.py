"""What a model card says: the code in it, run as it stands, gives what the evaluation gives."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
import torch
from job_zoo import prepared_in, resources_in, spec_of
from text_job_zoo import prepared_text, text_resources

from raydistill.data.batches import evaluation_batches, evaluation_users
from raydistill.data.preference.prompts import Template
from raydistill.records import RECORD, Record
from raydistill.training.card import CARD, model_card, write_student
from raydistill.training.trial import Trial
from raydistill.tuning.directory import describe_run
from raydistill.tuning.signature import signature

COST = {"parameters": 9, "backbone_parameters": 5, "training_seconds": 1.0, "evidence_seconds": 0.0, "flops": 7}


def student_in(folder, resources, teacher):
    """Train a student, write it to a folder, and return its trial and record."""
    describe_run(resources.run, resources.sweep, resources.data)
    trial = Trial(spec_of(resources, teacher, "tail", temperature=2.0), resources)
    for _ in trial.epochs():
        pass
    record = trial.finish()
    write_student(resources.sweep, trial.model, trial.folder / RECORD, record, resources.run, folder)
    return trial, record


def code_of(folder) -> str:
    return re.search(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL).group(1)


def run_code(folder, old: str, new: str) -> dict:
    """Run a card's code in its folder, with one text of it replaced, and return its variables."""
    code = code_of(folder)
    assert code.count(old) == 1
    names: dict = {}
    with contextlib.chdir(folder):
        exec(code.replace(old, new), names)
    return names


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_code_of_a_card_scores_items_as_the_evaluation_does(family, tmp_path):
    resources = resources_in(tmp_path, f"teacher.family={family}", "data.max_length=6")
    trial, _ = student_in(tmp_path / "out", resources, prepared_in(resources))
    data, model = resources.data, trial.model.eval()
    users = evaluation_users(data, "test")
    lengths = set()
    places = {"max_length": model.max_length, "causal": model.causal}
    for batch in evaluation_batches(data, "test", users, batch_tokens=4096, **places):
        with torch.no_grad():
            hidden = model.hidden(batch.input_ids, attention_mask=batch.attention_mask)
            expected = model.logits(hidden.flatten(0, 1)[batch.positions])
        for user, scores in list(zip(batch.users, expected, strict=True))[::9]:
            history = data.items[data.offsets[user] : data.test_position[user]].tolist()
            lengths.add(len(history) > model.max_length)
            found = run_code(tmp_path / "out", "[3, 14, 15]", str(history))["scores"][0]
            assert torch.allclose(found, scores, atol=1e-5)
    assert lengths == {True, False}


def test_the_code_of_a_card_never_cuts_a_prompt(tmp_path):
    resources = text_resources(tmp_path)
    trial, _ = student_in(tmp_path / "out", resources, prepared_text(resources))
    assert "truncation" not in code_of(tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    assert "at most 24 tokens" in card
    assert "oldest first" in card
    data = resources.data
    (row,) = data.rows("test")[:1]
    item = data.sequences.titles[int(data.item[row])]
    template = Template(resources.sweep.sections.prompt.template, rated=True)
    begin = data.sequences.offsets[data.user[row]]
    ids = data.sequences.items[begin : begin + data.history_length[row]][-int(data.history_shown[row]) :]
    ratings = data.sequences.ratings[begin : begin + data.history_length[row]][-int(data.history_shown[row]) :]
    history = [
        {"title": data.sequences.titles[int(one)], "rating": float(rating)}
        for one, rating in zip(ids, ratings, strict=True)
    ]
    text = template.render(history, {"title": item})
    found = run_code(tmp_path / "out", '"..."', repr(text))["probabilities"]
    batch = data.batch(np.array([row]))
    with torch.no_grad():
        logits = trial.model.eval().logits(trial.model.hidden(batch.input_ids, batch.attention_mask))
    assert torch.allclose(found, logits.softmax(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha_dist": 0.7}, "built from layers 0, 1 of its teacher `t` and distilled from it."),
        ({"alpha_hidden": 0.5}, "built from layers 0, 1 of its teacher `t` and distilled from it."),
        ({"alpha_dist": 0.0, "alpha_hidden": 0.0}, "built from layers 0, 1 of its teacher `t` and trained without"),
        ({"alpha_dist": None, "alpha_hidden": None}, "of its teacher `t` and trained without distillation."),
        ({"layer_map": None, "alpha_dist": 0.7}, "trained from random weights, distilled from the teacher `t`."),
        ({"layer_map": None, "alpha_dist": None}, "trained from random weights."),
    ],
)
def test_a_card_says_distilled_of_what_was_distilled_alone(tmp_path, change, said):
    resources = resources_in(tmp_path)
    record = Record(
        id="a", name="n", sweep="s", phase="confirm", arm="any", kind="control", number=0, status="success", seed=0,
        teacher="t", n_teacher_layers=4, n_student_layers=2, test={}, cost=COST,
        layer_map=change.get("layer_map", (0, 1)),
        configuration={name: change.get(name) for name in ("alpha_dist", "alpha_hidden")},
    )  # fmt: skip
    card = model_card(resources.sweep, record, signature(resources.sweep, resources.data))
    assert said in card
    assert "FLOPs of one user" in card


def test_what_a_card_counts_the_operations_of_is_a_prompt_where_models_read_prompts(tmp_path):
    resources = text_resources(tmp_path)
    record = Record(
        id="a", name="n", sweep="s", phase="confirm", arm="tail", kind="selector", number=0, status="success", seed=0,
        n_teacher_layers=4, n_student_layers=2, test={}, cost=COST,
    )  # fmt: skip
    card = model_card(resources.sweep, record, signature(resources.sweep, resources.data))
    assert "FLOPs of one prompt" in card


def test_metrics_of_one_part_alone_are_in_the_card(tmp_path):
    resources = resources_in(tmp_path)
    _, record = student_in(tmp_path / "out", resources, prepared_in(resources))
    record.test["cold_ndcg@10"] = 0.25
    record.validation["warm_ndcg@10"] = 0.5
    text = model_card(resources.sweep, record, signature(resources.sweep, resources.data))
    assert "| cold_ndcg@10 | - | 0.2500 |" in text
    assert "| warm_ndcg@10 | 0.5000 | - |" in text
