"""The task `preference` from prompts to records: the same loop, evidence and trials as for item sequences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from job_zoo import spec_of, whole_model
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from text_job_zoo import METRIC, prepared_text, text_resources
from transformers import GPT2Config, Qwen2Config

from raydistill.config import cache_identity, params
from raydistill.errors import ConfigError, CorruptArtifactError, DataError, ModelError, TrialDivergedError
from raydistill.losses import LossWeights
from raydistill.models.tokenizer import load_tokenizer
from raydistill.records import read_record, read_scores
from raydistill.seeding import stream_seed
from raydistill.training.card import model_card
from raydistill.training.class_cache import ClassCache
from raydistill.training.objective import ClassObjective
from raydistill.training.tasks import PREFERENCE, preference, refusals
from raydistill.training.text_dataset import TextDataset, TextGroup
from raydistill.training.trial import Trial
from raydistill.tuning.job import Job
from raydistill.tuning.plan import Plan
from raydistill.tuning.signature import signature

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return text_resources(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def teacher(resources):
    return prepared_text(resources)


def run(spec, resources):
    trial = Trial(spec, resources)
    rows = list(trial.epochs())
    return trial, trial.finish(), rows


def test_metrics_of_a_record_are_those_of_its_stored_scores(resources, teacher):
    trial, record, _ = run(spec_of(resources, teacher, "tail", keep_ratio=0.5, temperature=2.0), resources)
    assert (record.status, record.n_student_layers, record.layer_map) == ("success", 2, (0, 1))
    path = resources.run.scores_file(record)
    assert path.name == "scores.parquet"
    scores = read_scores(path, sha256=record.ranks_sha256)
    known = scores["label"] >= 0
    truth, score = scores["label"][known], scores["score"][known].astype(float)
    assert record.test["auc"] == pytest.approx(roc_auc_score(truth, score))
    assert record.test["accuracy"] == pytest.approx(accuracy_score(truth, scores["predicted"][known]))
    assert record.test["log_loss"] == pytest.approx(log_loss(truth, score), rel=1e-4)
    # The student's own answers, prompt by prompt and without padding.
    data = resources.data
    rows = data.rows("test")
    assert np.array_equal(scores["item"], data.item[rows])
    model = trial.model.eval()
    for row, expected in list(zip(rows, scores["score"], strict=True))[::17]:
        batch = data.batch(np.array([row]))
        with torch.no_grad():
            logits = model.logits(model.hidden(batch.input_ids, batch.attention_mask))
        assert float(logits.softmax(-1)[0, 1]) == pytest.approx(float(expected), abs=1e-5)


def one_by_one(folder, metric: str, objective: str, run: str):
    """Return the sweep in which each user's list has one item with a label."""
    return text_resources(
        folder,
        "data.split=leave_one_out",
        f"search.objectives={{{objective}: max, backbone_parameters: min}}",
        f"analysis.metric={metric}",
        run=run,
    )


def test_lists_of_one_labelled_item_are_trained_on_and_measured_by_what_is_defined(resources):
    leaving = one_by_one(resources.run.root.parent, "user_accuracy", "auc", "leave_one_out")
    prepared = prepared_text(leaving)
    trial, record, rows = run(spec_of(leaving, prepared, "tail", temperature=2.0), leaving)
    assert record.status == "success"
    assert read_record(leaving.run.record_file(trial.id)) == record
    for found in (record.validation, record.test, rows[0], prepared.validation, prepared.popularity):
        assert {"auc", "user_accuracy", "ndcg@10"} <= set(found)
        assert "user_auc" not in found
    text = model_card(leaving.sweep, record, signature(leaving.sweep, leaving.data))
    assert "user_auc" not in text
    assert "| user_accuracy |" in text
    _, popular, _ = run(whole_model(leaving, prepared, "popularity"), leaving)
    assert set(popular.test) == set(record.test)


@pytest.mark.parametrize(
    ("metric", "objective", "key"),
    [("user_auc", "auc", "analysis.metric"), ("user_accuracy", "user_auc", "search.objectives")],
)
def test_a_metric_that_no_list_defines_is_refused_before_anything_is_trained(resources, metric, objective, key):
    asked = one_by_one(resources.run.root.parent, metric, objective, "refused")
    with pytest.raises(DataError, match="user_auc is defined for no user: under the split leave_one_out") as caught:
        _ = asked.data
    assert caught.value.where == key
    assert "validation" in caught.value.what
    for hint in ("user_time", "user_accuracy", "ndcg@10"):
        assert hint in caught.value.mend
    assert ("pr_auc" in caught.value.mend) == (key == "search.objectives")


def test_a_claim_is_refused_where_the_test_part_alone_does_not_define_it(resources, monkeypatch):
    asked = text_resources(resources.run.root.parent, run="refused")
    original = refusals.score_lists_by_popularity

    def one_label(data, part):
        columns = original(data, part)
        return columns | ({"relevant": columns["label"] >= 0} if part == "test" else {})

    monkeypatch.setattr(refusals, "score_lists_by_popularity", one_label)
    with pytest.raises(DataError, match="no list of test has both") as caught:
        _ = asked.data
    assert caught.value.where == "analysis.metric"


def test_every_way_to_start_is_trained_and_tested(resources, teacher):
    for arm in ("scratch", "scratch_kd"):
        _, record, _ = run(spec_of(resources, teacher, arm, temperature=2.0), resources)
        assert (record.status, record.epochs, record.layer_map) == ("success", 2, None)
    _, record, _ = run(whole_model(resources, teacher, "teacher"), resources)
    assert record.validation == pytest.approx(teacher.validation)
    _, record, _ = run(whole_model(resources, teacher, "popularity"), resources)
    scores = read_scores(resources.run.scores_file(record))
    assert np.array_equal(scores["score"], resources.data.popularity[scores["item"]])
    share = (resources.data.label[resources.data.rows("train")] == 1).mean()
    liked = scores["label"] == 1
    assert np.exp(scores["log_probability"][liked]) == pytest.approx(share, rel=1e-5)


def test_a_step_split_by_length_has_the_gradient_of_the_whole_batch(resources, teacher):
    model = resources.teacher(teacher.id).keep_layers([0, 3]).double().eval()
    dataset = PREFERENCE.dataset(resources.sweep, resources.data, causal=False, teacher_seed=0)
    cache = resources.teacher_cache(teacher.id)
    weights = LossWeights(temperature=3.0, alpha_dist=0.6, alpha_task=0.4)
    objective = ClassObjective(model, weights)
    gradients = []
    for groups in (1, 5):
        (step, *_) = dataset.examples.steps(0, batch_size=64, seed=0, groups=groups)
        parts = [[TextGroup(b, cache.logits_of(b.slots).double()) for b in part] for part in step.parts]
        assert len(parts[0]) == 1 if groups == 1 else len(parts[0]) > 1
        model.zero_grad()
        for part in parts:
            objective(part, step.n_targets)[0].backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    # The loss itself is taken in single precision.
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name


def test_the_cache_holds_the_teachers_logits_and_nothing_else_unless_asked(resources, teacher, tmp_path):
    cache = resources.teacher_cache(teacher.id)
    assert cache.hidden is None
    dataset = TextDataset(resources.data, cache)
    model = resources.teacher(teacher.id)
    batch = dataset.examples.batch(np.arange(5, 25))
    with torch.no_grad():
        hidden = model.hidden(batch.input_ids, batch.attention_mask)
        assert torch.allclose(cache.logits_of(batch.slots), model.logits(hidden), atol=1e-5)
    asking = text_resources(resources.run.root.parent, "distillation.alpha_hidden=0.5", run="asking")
    assert cache_identity(asking.sweep, teacher.id) != cache_identity(resources.sweep, teacher.id)
    PREFERENCE.build_cache(asking.sweep, model, dataset, tmp_path, context=Trial(  # the context of one process
        whole_model(resources, teacher, "teacher"), resources).context)  # fmt: skip
    kept = ClassCache.open(tmp_path, verify=True)
    assert torch.allclose(kept.hidden_of(batch.slots).float(), hidden, atol=2e-3)
    plan = [PREFERENCE.workload(one.sweep, resources.data).cache_bytes for one in (resources, asking)]
    assert plan[0] == kept.logits.nbytes
    assert plan[1] == kept.logits.nbytes + kept.hidden.nbytes


def test_a_cache_of_other_texts_is_refused(resources, teacher):
    short = ClassCache(np.zeros((3, 2), np.float32))
    with pytest.raises(CorruptArtifactError, match="holds 3 texts"):
        TextDataset(resources.data, short)


def test_less_log_loss_is_better_everywhere(resources, teacher):
    asked = text_resources(
        resources.run.root.parent, "search.objectives={log_loss: min}", "analysis.metric=user_log_loss", run="loss"
    )
    prepared = prepared_text(asked)
    _, record, rows = run(spec_of(asked, prepared, "tail", phase="search", temperature=2.0), asked)
    assert record.validation["log_loss"] == min(row["log_loss"] for row in rows)
    # A threshold is a gain: the negative of the loss.
    reached = -rows[0]["log_loss"]
    for threshold, status in ((reached - 0.1, "success"), (reached, "stopped"), (reached + 0.1, "stopped")):
        spec = spec_of(asked, prepared, "tail", phase="search", stop_below={1: threshold}, temperature=2.0)
        assert run(spec, asked)[1].status == status


def test_the_second_of_two_equal_computations_takes_the_first_ones_record(resources, teacher, monkeypatch):
    specs = [spec_of(resources, teacher, arm, seed=5, temperature=3.0) for arm in ("tail", "leave_one_out")]
    specs[1] = type(specs[1])(**{**vars(specs[1]), "layer_map": specs[0].layer_map})
    _, first, rows = run(specs[0], resources)
    with monkeypatch.context() as patched:
        patched.setattr(Trial, "_build", None)  # nothing is trained
        trial, second, again = run(specs[1], resources)
    assert again == rows
    assert (second.arm, second.same_as, second.id) == ("leave_one_out", first.id, trial.id)
    assert (second.test, second.validation, second.curves) == (first.test, first.validation, first.curves)
    assert second.evidence == teacher.evidence_id
    assert second.cost["evidence_seconds"] > 0 == first.cost["evidence_seconds"]
    scores = [read_scores(resources.run.scores_file(one), sha256=one.ranks_sha256) for one in (first, second)]
    assert all(
        np.array_equal(scores[0][name], scores[1][name], equal_nan=name == "log_probability") for name in scores[0]
    )
    # Another seed, layer or temperature is another computation.
    for change in (
        {"seed": 6},
        {"layer_map": (1, 2)},
        {"configuration": {**specs[0].configuration, "temperature": 4.0}},
    ):
        other = type(specs[1])(**{**vars(specs[1]), **change})
        names = [spec.computation(resources.sweep, resources.data.hash) for spec in (specs[0], specs[1], other)]
        assert names[0] == names[1] != names[2]


def test_a_trial_that_runs_again_after_all_was_written_is_not_its_own_twin(resources, teacher, monkeypatch):
    spec = spec_of(resources, teacher, "tail", seed=9, temperature=3.0)
    trial, first, rows = run(spec, resources)
    before = trial.folder.joinpath("record.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Trial, "_build", None)  # nothing is trained
        _, second, again = run(spec, resources)
    assert (second, again) == (first, rows)
    assert second.same_as is None
    assert trial.folder.joinpath("record.json").read_bytes() == before


def test_a_twin_that_was_damaged_is_computed_anew(resources, teacher):
    specs = [spec_of(resources, teacher, arm, seed=8, temperature=3.0) for arm in ("tail", "leave_one_out")]
    specs[1] = type(specs[1])(**{**vars(specs[1]), "layer_map": specs[0].layer_map})
    _, first, _ = run(specs[0], resources)
    resources.run.record_file(first.id).write_text("{")
    _, second, _ = run(specs[1], resources)
    assert second.same_as is None
    assert second.test == first.test


def test_the_signature_tells_lists_from_the_full_catalogue(resources):
    protocol = signature(resources.sweep, resources.data)["protocol"]
    assert protocol["candidates"] == "period+2 drawn uniformly, seed 0"
    assert protocol["split"] == "user_time-0.6-0.8"
    other = text_resources(resources.run.root.parent, "prompt.max_tokens=20", run="other")
    assert signature(other.sweep, other.data)["protocol"]["prompt"] != protocol["prompt"]


def test_a_plan_reads_no_weights(resources, monkeypatch):
    monkeypatch.setattr(PREFERENCE.__class__, "untrained", None)
    plan = Plan.of(resources.sweep, resources.data)
    assert plan.n_teacher_layers == 4
    assert "students of 1 of 4 and 2 of 4 layers" in plan.text()


def test_a_teacher_without_a_tokenizer_is_told_to_name_one(tmp_path):
    asked = text_resources(tmp_path, "classifier.tokenizer=null")
    with pytest.raises(ConfigError, match="no tokenizer of its own"):
        _ = asked.data


def test_training_lowers_the_loss(resources, teacher):
    _, _, rows = run(spec_of(resources, teacher, "tail", seed=3, alpha_dist=0.5, temperature=2.0), resources)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {METRIC, "task_loss", "distillation_loss", "seconds"} <= set(rows[0])


@pytest.fixture(scope="module")
def tuned(resources):
    """Return the sweep with adapters on a teacher that was trained before."""
    folder = resources.run.root.parent
    start = PREFERENCE.untrained(resources.sweep, resources.data, seed=11)
    start.save_pretrained(folder / "checkpoint", load_tokenizer(str(folder / "tokenizer")))
    return text_resources(
        folder,
        f"teacher={{pretrained: {folder / 'checkpoint'}, epochs: 3, lr: 3.0e-3, batch_size: 16}}",
        "tuning={teacher: lora, students: lora, rank: 2, alpha: 8.0}",
        run="lora",
    )


def changed_names(before, after) -> set[str]:
    """Return the parameters that differ between two models of one shape."""
    pairs = zip(before.named_parameters(), after.named_parameters(), strict=True)
    return {name for (name, one), (_, other) in pairs if not torch.equal(one, other)}


def test_teachers_and_students_by_adapters_are_plain_models_in_the_end(tuned, tmp_path):
    prepared = prepared_text(tuned)
    teacher = tuned.teacher(prepared.id)
    start = PREFERENCE.untrained(tuned.sweep, tuned.data, seed=stream_seed(0, "initialization") % 2**31)
    names = [name for name, _ in start.named_parameters()]
    assert [name for name, _ in teacher.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    changed = changed_names(start, teacher)
    assert any("attention" in name for name in changed)
    assert not any("embedding" in name or "LayerNorm" in name for name in changed)  # frozen: only adapters and head
    trial, record, _ = run(spec_of(tuned, prepared, "tail", temperature=2.0), tuned)
    assert record.status == "success"
    assert sum(p.numel() for p in trial.model.parameters()) == record.cost["parameters"]
    trial.model.save_pretrained(tmp_path / "student")  # refused where adapters are left


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_adapters_that_a_trial_ends_with_are_no_parameters_of_its_student(tuned, monkeypatch, end):
    prepared = prepared_text(tuned)
    _, whole, _ = run(spec_of(tuned, prepared, "tail", phase="search", temperature=2.0), tuned)
    stop_below = {1: 2.0} if end == "stopped" else {}
    if end == "failed":

        def diverging(*_arguments, **_named):
            raise TrialDivergedError("a score is not finite")

        monkeypatch.setattr(preference, "score_lists", diverging)
    spec = spec_of(tuned, prepared, "tail", phase="search", seed=3, stop_below=stop_below, temperature=2.0)
    _, record, _ = run(spec, tuned)
    assert record.status == end
    for name in ("parameters", "backbone_parameters"):
        assert record.cost[name] == whole.cost[name]


@pytest.mark.parametrize("arm", ["scratch", "scratch_kd"])
def test_controls_of_random_weights_are_trained_in_full_beside_students_by_adapters(tuned, arm):
    spec = spec_of(tuned, prepared_text(tuned), arm, temperature=2.0)
    trial, record, _ = run(spec, tuned)
    assert record.status == "success"
    changed = changed_names(Trial(spec, tuned)._build(), trial.model)
    assert any("word_embeddings" in name for name in changed)
    assert any("LayerNorm" in name for name in changed)


def test_adapters_on_a_teacher_of_random_weights_are_refused(resources):
    asked = text_resources(resources.run.root.parent, "tuning.teacher=lora", run="refused")
    with pytest.raises(ConfigError, match="would leave them random") as caught:
        _ = asked.data
    assert caught.value.where == "tuning.teacher"
    assert "teacher.pretrained" in caught.value.mend
    students = text_resources(resources.run.root.parent, "tuning.students=lora", run="refused")
    assert students.data.hash == resources.data.hash


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("prompt.max_tokens=1024",), "covers 512 positions, fewer than the 1024 tokens"),
        (("classifier.pooling=first",), "'first' does not fit a model of the family gpt2"),
        (("teacher={family: bert, layers: 4, hidden: 16, heads: 2, epochs: 1}", "classifier.pooling=last"), "bert"),
    ],
)
def test_what_the_teacher_cannot_read_is_refused_before_anything_is_tokenized(tmp_path, monkeypatch, overrides, said):
    GPT2Config(n_positions=512, n_layer=4, n_embd=16, n_head=2).save_pretrained(tmp_path / "checkpoint")
    asked = text_resources(tmp_path, f"teacher={{pretrained: {tmp_path / 'checkpoint'}, epochs: 1}}", *overrides)
    monkeypatch.setattr(preference, "load_tokenizer", None)
    with pytest.raises(ModelError, match=said) as caught:
        Job(asked.sweep, asked.run, asked.cache).describe(every_trial=True)
    assert caught.value.mend


def test_a_padding_token_that_the_tokenizer_was_given_is_said_with_the_data(tmp_path):
    plain = text_resources(tmp_path)
    assert "pad token" not in "\n".join(plain.task.describe(plain.data))
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "pad_token"}))
    given = text_resources(tmp_path)
    said = "\n".join(given.task.describe(given.data))
    assert "pad token   the tokenizer has no padding token: its own '[UNK]' is used" in said
    again = text_resources(tmp_path)  # prepared already
    assert "\n".join(again.task.describe(again.data)) == said


def test_a_trial_by_adapters_is_reckoned_with_the_optimizer_state_of_adapters_alone(resources):
    folder = resources.run.root.parent
    sizes = []
    for controls in ("[teacher]", "[teacher, scratch]"):
        for students in ("full", "lora"):
            asked = text_resources(folder, f"controls={controls}", f"tuning.students={students}", run="sizes")
            sizes.append(Plan.of(asked.sweep, asked.data).cost.trial_bytes)
    full, lora, with_scratch, lora_with_scratch = sizes
    student = len(load_tokenizer(str(folder / "tokenizer"))) * 16 + 2 * 12 * 16**2
    assert full - lora == 12 * (student - 2 * 18 * 16 * 8)
    # That control starts from random weights, all of which are trained.
    assert lora_with_scratch == with_scratch == full


@pytest.mark.parametrize("name", ["llm_text", "movielens_text", "movielens_text_full"])
def test_a_shipped_text_sweep_is_checked_by_a_dry_run_without_any_weights(tmp_path, name):
    resources = text_resources(tmp_path)  # writes events, titles and the tokenizer
    checkpoint = tmp_path / "checkpoint"
    Qwen2Config(num_hidden_layers=12, hidden_size=64, num_attention_heads=4, num_key_value_heads=2).save_pretrained(
        checkpoint
    )
    data = {
        "source": "interactions",
        "split": "user_time",
        "time_cuts": [0.6, 0.8],
        **params.plain(resources.sweep.data.params),
    }
    overrides = [
        f"data={json.dumps(data | {'min_interactions': 1, 'max_length': 3})}",
        f"teacher.pretrained={checkpoint}",
        f"classifier.tokenizer={tmp_path / 'tokenizer'}",
        *("examples={}", "candidates.negatives=2", "evidence.samples=64", "search.space.keep_ratio.choice=[0.25, 0.5]"),
        f"execution.storage={tmp_path / 'storage'}",
    ]
    job = Job.load(ROOT / "sweeps" / f"{name}.yaml", overrides, tmp_path / "dry")
    text = job.describe(every_trial=True)
    assert "students of 3 of 12 and 6 of 12 layers" in text
    expected = Plan.of(job.sweep, job.resources.data).trials_by_arm()
    listed = [line for line in text.splitlines() if line.startswith(("  search ", "  confirm ")) and " keep " in line]
    assert len(listed) == sum(expected.values()) - expected["teacher"] - expected["popularity"]
    assert not (tmp_path / "dry").exists()
