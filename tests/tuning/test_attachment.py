"""A machine that joins late, and does not see what the sweep has prepared: it says so, and the sweep ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tuning_zoo import small_sweep

from raydistill.records import RunDirectory, write_json
from raydistill.training.context import RunContext
from raydistill.training.resources import PREPARED, Resources
from raydistill.tuning import places, workers
from raydistill.tuning.attachment import attach
from raydistill.tuning.directory import open_run_directory
from raydistill.tuning.refusals import REFUSED, OtherCodeError, UnseenError
from raydistill.tuning.trainable import DistillTrainable
from raydistill.tuning.versions import versions


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def config(run, tmp_path):
    return {"run": str(run.root), "cache": str(tmp_path / "cache"), "versions": versions(), "seed": 0, "spec": {}}


def no_data(run, folder):
    """The run directory is there, and the prepared data lie elsewhere."""
    with open_run_directory(run, small_sweep(folder), fresh=False):
        write_json(run.data / PREPARED, {"folders": [str(folder / "cache" / "prepared")], "hash": "datahash"})


def not_told(run, folder):
    with open_run_directory(run, small_sweep(folder), fresh=False):
        pass


@pytest.mark.parametrize("seen", [no_data, not_told])
def test_what_is_not_seen_is_named_with_the_node_and_ends_the_sweep(run, config, tmp_path, seen):
    seen(run, tmp_path)
    with pytest.raises(UnseenError, match=r"node \S+ cannot open what the sweep has prepared: ") as caught:
        attach(config)
    assert "let that node see execution.storage and the run directory" in caught.value.mend
    assert str(tmp_path) in caught.value.where
    assert_sweep_ends(config, caught.value)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.EACCES])
def test_a_share_that_is_not_seen_is_named_with_the_node_and_ends_the_sweep(run, config, monkeypatch, number):
    def fails(path, **settings):
        raise OSError(number, os.strerror(number))

    if number != errno.ENOENT:  # it is not there anyway
        monkeypatch.setattr(Path, "stat", fails)
    with pytest.raises(UnseenError, match=r"node \S+ does not see the run directory: ") as caught:
        attach(config)
    assert os.strerror(number) in caught.value.what
    assert caught.value.where == str(run.root)
    assert "let that node see execution.storage and the run directory" in caught.value.mend
    assert_sweep_ends(config, caught.value)
    monkeypatch.undo()
    assert not run.root.exists()


def assert_sweep_ends(config, error):
    with pytest.raises(UnseenError):
        workers.prepare_in_worker(config, RunContext())
    trainable = DistillTrainable.__new__(DistillTrainable)
    trainable.setup(config)
    result = trainable.step()
    assert result["done"]
    assert result[REFUSED] == {name: getattr(error, name) for name in ("what", "where", "mend")}


def test_a_machine_that_may_only_read_the_run_directory_says_so(run, config, monkeypatch):
    monkeypatch.setattr(Resources, "attach", classmethod(lambda cls, run, cache: "resources"))
    run.root.mkdir()
    run.sweep_file.touch()
    assert attach(config) == "resources"
    assert list(run.root.iterdir()) == [run.sweep_file]

    def refuses(address):
        raise OSError("Read-only file system")

    monkeypatch.setattr(places, "leave_probe", refuses)
    with pytest.raises(UnseenError, match="may not write to the run directory: Read-only file system") as caught:
        attach(config)
    assert caught.value.where == str(run.root)


def test_other_code_comes_first(config):
    with pytest.raises(OtherCodeError):
        attach(config | {"versions": versions() | {"ray": "0.0"}})
