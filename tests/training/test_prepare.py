"""All that comes before the first student: made once, made again where it is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from job_zoo import prepared_in, resources_in

from raydistill.config import arms, cache_identity, dump_sweep, evidence_identity
from raydistill.errors import CorruptArtifactError, EvidenceError
from raydistill.selectors import SELECTORS
from raydistill.training import calibration
from raydistill.training import prepare as prepare_module
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.context import RunContext
from raydistill.training.prepare import calibration_samples, prepare_teacher, prepared_teacher
from raydistill.training.resources import Resources, note_prepared
from raydistill.training.tasks import NEXT_ITEM
from raydistill.training.tasks.next_item import NextItem


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return resources_in(tmp_path_factory.mktemp("prepare"))


@pytest.fixture(scope="module")
def teacher(resources):
    return prepared_in(resources)


def again(resources):
    """The same places, with nothing opened yet."""
    return Resources(resources.sweep, resources.run, resources.cache)


def test_a_worker_needs_the_prepared_data_and_not_their_source(resources, monkeypatch):
    note_prepared(resources.run, resources.task, resources.data)
    resources.run.sweep_file.write_text(dump_sweep(resources.sweep))
    with monkeypatch.context() as patch:
        patch.setattr(NextItem, "prepared_data", None)
        attached = Resources.attach(resources.run, resources.cache)
        assert attached.data.hash == resources.data.hash
        assert attached.data.folder == resources.data.folder
    place = resources.run.data / "prepared.json"
    noted = place.read_text()
    place.write_text(noted.replace(resources.data.hash, "0" * 64))
    with pytest.raises(CorruptArtifactError, match="not those that the sweep began with"):
        Resources.attach(resources.run, resources.cache)
    place.unlink()
    with pytest.raises(CorruptArtifactError, match="where the data lie"):
        Resources.attach(resources.run, resources.cache)


def test_what_is_needed_of_a_teacher_is_in_the_run_directory(resources, teacher):
    assert (teacher.seed, teacher.n_layers) == (0, 4)
    assert all(array.shape == (2, 4) for array in teacher.evidence.values())
    assert set(teacher.evidence_cost) == {"fisher", "tail", "random"}
    assert teacher.evidence_cost["fisher"] > 0
    assert teacher.evidence_cost["tail"] == 0
    assert set(teacher.profile["depths"]) == {"1", "2", "4"}


def test_the_peak_memory_of_each_phase_is_noted(resources, teacher):
    peaks = json.loads((resources.run.teacher(teacher.id) / "memory.json").read_text())
    assert set(peaks) == {"evidence_bytes", "teacher_cache_bytes", "profile_bytes"}
    assert all(peak > 20 << 20 for peak in peaks.values())


def test_layers_are_those_that_the_selector_chooses(resources, teacher):
    by_name = {arm.name: arm for arm in arms(resources.sweep) if arm.selector}
    generator = np.random.default_rng(0)
    assert teacher.layers(by_name["tail"], 2, generator) == (0, 1)
    (kind,) = SELECTORS["fisher"].needs(by_name["fisher"].params)
    scores = teacher.evidence[kind].mean(axis=0)
    assert teacher.layers(by_name["fisher"], 1, generator) == (int(np.argmax(scores)),)


def test_preparing_again_makes_nothing_anew(resources, teacher, monkeypatch):
    for name in ("measure", "profile"):
        monkeypatch.setattr(prepare_module, name, None)
    monkeypatch.setattr(NextItem, "build_cache", None)
    assert prepare_teacher(again(resources), 0, RunContext()) == teacher.id


@pytest.mark.parametrize("artifact", ["evidence", "cache", "profile"])
def test_a_damaged_part_is_made_again_and_the_others_are_kept(resources, teacher, artifact):
    run = resources.run
    places = {
        "evidence": run.evidence(evidence_identity(resources.sweep, teacher.id)) / "scores.parquet",
        "cache": run.cache(cache_identity(resources.sweep, teacher.id)) / "hidden.npy",
        "profile": run.teacher(teacher.id) / "profile.json",
    }
    times = {name: place.stat().st_mtime_ns for name, place in places.items()}
    contents = places["cache"].read_bytes()
    if artifact == "profile":
        places[artifact].unlink()
    else:
        size = places[artifact].stat().st_size
        places[artifact].write_bytes(b"\0" * size)
    assert prepared_teacher(again(resources), teacher.id) is None
    assert prepare_teacher(again(resources), 0, RunContext()) == teacher.id
    restored = prepared_teacher(again(resources), teacher.id)
    for kind, values in teacher.evidence.items():
        assert np.array_equal(restored.evidence[kind], values)
    assert places["cache"].read_bytes() == contents
    for name in set(places) - {artifact}:
        assert places[name].stat().st_mtime_ns == times[name]


def test_a_teacher_that_was_never_made_is_not_there(resources):
    assert prepared_teacher(resources, "0" * 16) is None


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_calibration_samples_are_drawn_without_replacement_from_training_examples(tmp_path, family):
    resources = resources_in(tmp_path, f"teacher.family={family}")
    sweep, causal = resources.sweep, family == "gpt2"
    dataset = NEXT_ITEM.dataset(sweep, resources.data, causal=causal, teacher_seed=0)
    samples = calibration_samples(NEXT_ITEM, sweep, dataset)
    assert [len(sample) for sample in samples] == [2, 2]  # 12 examples in batches of at most 6
    counts = [[len(batch.inputs["input_ids"]) for batch in sample] for sample in samples]
    assert counts == [[6, 6], [6, 6]]
    rows = [
        {tuple(row[row > 0].tolist()) for batch in sample for row in batch.inputs["input_ids"]} for sample in samples
    ]
    assert rows[0] != rows[1]
    # Nothing of validation or test is in them: inputs and labels are items of users' training parts.
    data = resources.data
    training = [data.items[b:e].tolist() for b, e in zip(data.offsets[:-1], data.train_end, strict=True)]
    for sample in samples:
        for batch in sample:
            for number, row in enumerate(batch.inputs["input_ids"]):
                labels = (batch.labels[batch.example == number] + 1).tolist()
                items = [item for item in row.tolist() if 0 < item <= data.n_items]
                if causal:
                    assert any(part[-len(items) - 1 :] == [*items, labels[-1]] for part in training)
                else:
                    assert any(set(items) | set(labels) <= set(part) for part in training)
    again = calibration_samples(NEXT_ITEM, sweep, dataset)
    assert all(
        torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
        for first, second in zip(samples, again, strict=True)
        for one, two in zip(first, second, strict=True)
    )


def test_more_samples_than_examples_are_refused_with_the_number_there_is(tmp_path):
    resources = resources_in(tmp_path, "evidence.samples=5000")
    dataset = NEXT_ITEM.dataset(resources.sweep, resources.data, causal=True, teacher_seed=0)
    with pytest.raises(EvidenceError, match=f"the training data have {len(dataset.examples)}") as caught:
        calibration_samples(NEXT_ITEM, resources.sweep, dataset)
    assert caught.value.where == "evidence.samples"


def test_logits_are_those_at_the_target_positions(resources, teacher):
    model = resources.teacher(teacher.id)
    dataset = NEXT_ITEM.dataset(resources.sweep, resources.data, causal=True, teacher_seed=0)
    batch: CalibrationBatch = calibration_samples(NEXT_ITEM, resources.sweep, dataset)[0][0]
    with torch.no_grad():
        found = NEXT_ITEM.calibration_logits(model, batch)
        every = model.logits(model.hidden(batch.inputs["input_ids"]))
    rows, columns = torch.nonzero(batch.inputs["is_target"], as_tuple=True)
    assert torch.equal(rows, batch.example)
    assert torch.allclose(found, every[rows, columns], atol=1e-6)
    assert len(found) == len(batch.labels)


def test_evidence_holds_no_more_scores_than_it_may(resources, teacher, monkeypatch):
    most = 20 * resources.data.n_items
    monkeypatch.setattr(calibration, "SCORES", most)
    sizes = []
    original = NextItem.calibration_logits

    def noting(self, model, batch):
        scores = original(self, model, batch)
        sizes.append(scores.numel())
        return scores

    monkeypatch.setattr(NextItem, "calibration_logits", noting)
    found = []
    monkeypatch.setattr(prepare_module, "write_evidence", lambda folder, evidence, *_, **__: found.append(evidence))
    prepare_module.measure(resources, teacher.id, 0)
    assert max(sizes) <= most < sum(sizes) / 2
    for kind, values in teacher.evidence.items():
        np.testing.assert_allclose(found[0].values[kind], values, rtol=1e-4)
