"""Exports: a student's folder is whole or absent, and needs nothing but the run directory."""

from __future__ import annotations

import shutil
import sys

import pytest
from job_zoo import prepared_in, resources_in, spec_of, whole_model
from text_job_zoo import prepared_text, text_resources
from transformers import AutoTokenizer

from raydistill import steps
from raydistill.data.preference.tokens import tokenizer_identity
from raydistill.errors import ConfigError, ModelError, RunDirectoryError, UserError
from raydistill.models.tokenizer import load_tokenizer
from raydistill.training.trial import Trial
from raydistill.tuning.directory import describe_run, open_run_directory

KEPT = "execution.keep_models=true"


def opened(resources):
    """Return the resources, their run directory being one that an export can read."""
    with open_run_directory(resources.run, resources.sweep, fresh=False):
        describe_run(resources.run, resources.sweep, resources.data)
    return resources


def trained(resources, spec) -> Trial:
    """Run a trial to its end."""
    trial = Trial(spec, resources)
    for _ in trial.epochs():
        pass
    trial.finish()
    return trial


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return opened(resources_in(tmp_path_factory.mktemp("export"), KEPT))


@pytest.fixture(scope="module")
def teacher(resources):
    return prepared_in(resources)


@pytest.fixture(scope="module")
def student(resources, teacher):
    return trained(resources, spec_of(resources, teacher, "tail", temperature=2.0)).folder


@pytest.mark.long
def test_a_text_student_is_exported_with_the_tokenizer_that_it_was_trained_with(tmp_path):
    resources = opened(text_resources(tmp_path, KEPT))
    teacher = prepared_text(resources)
    trial = trained(resources, spec_of(resources, teacher, "tail", temperature=2.0))
    origin = tmp_path / "tokenizer"
    expected = tokenizer_identity(load_tokenizer(str(origin)))
    shutil.rmtree(origin)
    assert steps.export(trial.folder, tmp_path / "out") == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer_identity(tokenizer) == expected
    assert tokenizer.padding_side == "right"
    # A run of before has its teacher without a tokenizer, and asks for the origin.
    (resources.run.teacher(teacher.id) / "tokenizer.json").unlink()
    with pytest.raises((ModelError, ConfigError), match="tokenizer"):
        steps.export(trial.folder, tmp_path / "old")
    load_tokenizer(str(tmp_path / "out")).save_pretrained(origin)
    assert steps.export(trial.folder, tmp_path / "old") == 0
    assert tokenizer_identity(AutoTokenizer.from_pretrained(tmp_path / "old")) == expected


def test_missing_packages_are_said_before_anything_is_written(student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="the package 'onnxscript' is missing"):
        steps.export(student, tmp_path / "out", onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_an_export_that_fails_leaves_room_for_the_next(student, tmp_path, monkeypatch, is_there):
    output = tmp_path / "deep" / "out"
    if is_there:
        output.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr("raydistill.models.onnx.export_onnx", _differing)
        with pytest.raises(ModelError, match="differ"):
            steps.export(student, output, onnx=True)
    assert output.exists() == is_there
    assert not list(output.parent.glob(".*"))
    assert steps.export(student, output) == 0
    names = {path.name for path in output.iterdir()}
    assert {"README.md", "record.json", "items.parquet", "model.safetensors"} <= names
    assert not any(name.startswith(".") for name in names)
    assert output.stat().st_mode & 0o777 == output.parent.stat().st_mode & 0o777
    with pytest.raises(RunDirectoryError, match="there is something"):
        steps.export(student, output)


def _differing(model, path):
    path.write_bytes(b"half")
    raise ModelError("the outputs differ")


def test_a_search_trial_leads_to_the_confirm_trials_of_its_arm(resources, teacher, student, tmp_path):
    searched = trained(resources, spec_of(resources, teacher, "tail", phase="search", temperature=2.0)).folder
    elsewhere = trained(resources, spec_of(resources, teacher, "tail", keep_ratio=0.25, temperature=2.0)).folder
    with pytest.raises(RunDirectoryError, match="only confirm trials") as caught:
        steps.export(searched, tmp_path / "out")
    assert f"{student} (seed 1)" in caught.value.mend
    assert str(elsewhere) not in caught.value.mend
    assert "keep_models" not in caught.value.mend
    assert steps.export(student, tmp_path / "out") == 0
    alone = trained(resources, spec_of(resources, teacher, "fisher", phase="search", temperature=2.0)).folder
    with pytest.raises(RunDirectoryError, match="only confirm trials") as caught:
        steps.export(alone, tmp_path / "other")
    assert "no trial of fisher is confirmed at keep-ratio 0.5" in caught.value.mend


def test_trials_without_weights_of_their_own_say_where_they_are(resources, teacher, tmp_path):
    for start, hint in (("teacher", str(resources.run.teacher(teacher.id))), ("popularity", "no weights")):
        trial = trained(resources, whole_model(resources, teacher, start))
        with pytest.raises(RunDirectoryError) as caught:
            steps.export(trial.folder, tmp_path / start)
        assert hint in str(caught.value)
        assert "keep_models" not in str(caught.value)
    assert resources.task.load(resources.run.teacher(teacher.id)).n_layers == 4
