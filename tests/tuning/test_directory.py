"""A run directory holds one sweep, for one process at a time; what is damaged in it is named and made again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2Config
from tuning_zoo import dealer_of, invented_record, play, small_sweep

from raydistill.errors import RunDirectoryError
from raydistill.records import RANK_COLUMNS, RunDirectory, write_ranks, write_record
from raydistill.training import build
from raydistill.training.tasks import NEXT_ITEM
from raydistill.tuning.checkpoints import open_place
from raydistill.tuning.directory import LOCK, describe_run, kept_records, open_run_directory, search_failures, set_aside


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def sweep(tmp_path):
    return small_sweep(tmp_path)


def opened(run, sweep, *, fresh=False):
    with open_run_directory(run, sweep, fresh=fresh):
        return sorted(path.name for path in run.root.iterdir())


def test_a_new_directory_holds_the_resolved_sweep(run, sweep):
    assert opened(run, sweep) == [LOCK, "sweep.yaml"]
    assert build.load_sweep(run.sweep_file) == sweep


def test_the_same_sweep_opens_it_again_and_keeps_what_is_there(run, sweep):
    opened(run, sweep)
    (run.root / "trials").mkdir()
    assert "trials" in opened(run, sweep)


def test_fresh_deletes_the_checkpoints_that_lie_elsewhere(run, tmp_path):
    sweep = small_sweep(tmp_path, f"execution.checkpoints={tmp_path / 'fast'}")
    opened(run, sweep)
    places = []
    for fresh in (False, True):
        opened(run, sweep, fresh=fresh)
        places.append(Path(open_place(sweep, run)))
        (places[-1] / "teacher-a").mkdir(parents=True)
    assert places[0] != places[1]
    assert [path.is_dir() for path in places] == [False, True]


def test_only_one_process_at_a_time(run, sweep):
    with open_run_directory(run, sweep, fresh=False):
        with pytest.raises(RunDirectoryError, match="another process") as caught:
            opened(run, sweep)
        with pytest.raises(RunDirectoryError, match="another process"):
            opened(run, sweep, fresh=True)
    assert str(run.root) in str(caught.value)
    opened(run, sweep)


def test_a_file_system_without_locks_is_an_error_that_says_so(run, sweep, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunDirectoryError, match="cannot be locked against other processes: No locks available"):
        opened(run, sweep)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_as_it_is(run, sweep, fresh):
    run.root.mkdir()
    (run.root / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        opened(run, sweep, fresh=fresh)
    assert (run.root / "thesis.tex").read_text() == "years of work"
    assert not run.sweep_file.exists()


def test_a_file_at_its_place_is_refused(run, sweep):
    run.root.write_text("a file")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        opened(run, sweep)


def test_another_sweep_is_refused_with_every_difference(run, sweep, tmp_path):
    opened(run, sweep)
    other = small_sweep(tmp_path, "training.lr=0.5", "selectors.1=tail", "analysis.reference=tail")
    with pytest.raises(RunDirectoryError) as caught:
        opened(run, other)
    text = str(caught.value)
    assert "training.lr (0.001 there, 0.5 now)" in text
    assert "selectors.1.name (uniform there, tail now)" in text
    assert "analysis.reference" in text
    assert "--fresh" in text
    assert build.load_sweep(run.sweep_file) == sweep


def test_fresh_starts_anew_with_another_sweep(run, sweep, tmp_path):
    opened(run, sweep)
    (run.root / "trials").mkdir()
    (run.root / "trials" / "x").write_text("")
    assert opened(run, small_sweep(tmp_path, "training.lr=0.5"), fresh=True) == [LOCK, "sweep.yaml"]
    assert build.load_sweep(run.sweep_file).training.lr == 0.5


def test_seeds_of_confirm_may_grow_but_not_shrink_and_execution_may_change(run, sweep, tmp_path):
    opened(run, sweep)
    opened(run, small_sweep(tmp_path, "confirm.seeds=4", "execution.concurrency=1", "execution.trackers=[]"))
    assert build.load_sweep(run.sweep_file).confirm.seeds == 4
    with pytest.raises(RunDirectoryError, match=r"confirm\.seeds \(4 there, 3 now\)"):
        opened(run, small_sweep(tmp_path, "confirm.seeds=3"))


def test_data_may_have_moved_but_objectives_not_their_order(run, tmp_path):
    source = "data={source: sequences, path: PATH, min_interactions: 1}"
    objectives = "search.objectives={ndcg@10: max, mrr: max}"
    opened(run, small_sweep(tmp_path, source.replace("PATH", "/old/a.txt"), objectives))
    moved = source.replace("PATH", "/new/a.txt")
    opened(run, small_sweep(tmp_path, moved, objectives))
    with pytest.raises(RunDirectoryError, match=r"search\.objectives \(the first is ndcg@10 there, mrr now\)"):
        opened(run, small_sweep(tmp_path, moved, "search.objectives={mrr: max, ndcg@10: max}"))


def ranks(n_users: int = 3) -> dict[str, np.ndarray]:
    columns = {name: np.ones(n_users, dtype=np.int32) for name in RANK_COLUMNS}
    return columns | {"top": np.ones((n_users, 10), dtype=np.int32)}


@pytest.fixture
def stored(run, sweep):
    """Three records of confirm, with ranks, in the run directory."""
    opened(run, sweep)
    dealer = dealer_of(sweep)
    play(dealer)
    records = []
    for spec in [spec for spec in dealer.confirm if spec.arm == "fisher"][:3]:
        digest = write_ranks(run.ranks_file(dealer.identity(spec)), ranks())
        record = type(made := invented_record(spec, sweep))(**vars(made) | {"ranks_sha256": digest})
        write_record(run.record_file(record.id), record)
        records.append(record)
    return records


def test_whole_records_are_kept(run, stored, capsys):
    assert {record.id for record in kept_records(run)} == {record.id for record in stored}
    assert capsys.readouterr().err == ""


def change_a_value(run, record):
    path = run.record_file(record.id)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 99}))


def cut_the_record(run, record):
    path = run.record_file(record.id)
    path.write_text(path.read_text()[:50])


def change_the_ranks(run, record):
    write_ranks(run.ranks_file(record.id), ranks(4))


def lose_the_ranks(run, record):
    run.ranks_file(record.id).unlink()


@pytest.mark.parametrize("damage", [change_a_value, cut_the_record, change_the_ranks, lose_the_ranks])
def test_what_is_damaged_is_named_and_removed_so_that_it_runs_again(run, stored, capsys, damage):
    damage(run, stored[1])
    assert {record.id for record in kept_records(run)} == {stored[0].id, stored[2].id}
    said = capsys.readouterr().err
    assert "WARNING" in said
    assert stored[1].id in said
    assert "runs again" in said
    assert not run.trial(stored[1].id).exists()
    assert run.trial(stored[0].id).is_dir()


def test_trials_that_belong_no_more_are_set_aside_not_deleted(run, stored):
    first, second, third = stored
    assert set_aside(run, {first.id, third.id}) == [second.id]
    assert {record.id for record in kept_records(run)} == {first.id, third.id}
    assert (run.root / "superseded" / second.id / "record.json").is_file()
    assert set_aside(run, {first.id, third.id}) == []


def test_failures_of_the_search_are_known_after_they_were_mended(run, sweep):
    dealer = dealer_of(sweep)
    specs = [dealer.next() for _ in range(2)]
    failed, whole = (
        invented_record(spec, sweep, fails=fails) for spec, fails in zip(specs, (True, False), strict=True)
    )
    for record in (failed, whole):
        write_record(run.record_file(record.id), record)
    assert search_failures(run, kept_records(run)) == [failed]
    assert kept_records(run) == [whole]
    write_record(run.record_file(failed.id), invented_record(specs[0], sweep))
    assert search_failures(run, kept_records(run)) == [failed]
    assert len(kept_records(run)) == 2


def test_the_description_is_written_and_refuses_data_that_have_changed(run, sweep, tmp_path):
    opened(run, sweep)
    data = NEXT_ITEM.prepared_data(sweep, tmp_path / "cache")
    describe_run(run, sweep, data)
    describe_run(run, sweep, data)
    signature = run.signature()
    assert signature["data"]["hash"] == data.hash
    assert json.loads((run.data / "statistics.json").read_text())["users"] == data.n_users
    assert (run.data / "items.parquet").is_file()
    other = NEXT_ITEM.prepared_data(small_sweep(tmp_path, "data.n_users=70"), tmp_path / "cache")
    with pytest.raises(RunDirectoryError, match="the data have changed"):
        describe_run(run, sweep, other)
    assert run.signature() == signature


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("teacher={{pretrained: {folder}, epochs: 2}}", "checkpoint"),
        ("item_text={{encoder: {folder}}}", "item_text_checkpoint"),
    ],
)
def test_a_checkpoint_that_has_changed_under_its_name_is_refused(run, tmp_path, override, key):
    folder = tmp_path / "ckpt"
    GPT2Config(n_layer=8, n_embd=8, n_head=2).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    sweep = small_sweep(tmp_path, override.format(folder=folder))
    data = NEXT_ITEM.prepared_data(sweep, tmp_path / "cache")
    opened(run, sweep)
    describe_run(run, sweep, data)
    before = run.signature()
    assert before["teacher"][key]
    describe_run(run, sweep, data)  # the same content is no change
    (folder / "model.safetensors").write_bytes(b"others!")
    with pytest.raises(RunDirectoryError, match="has changed since") as caught:
        describe_run(run, sweep, data)
    assert str(folder) in caught.value.what
    assert "--run-dir" in caught.value.mend
    assert "--fresh" in caught.value.mend
    assert run.signature() == before
    # A run directory of before says nothing of its checkpoints: it goes on, and says so from now on.
    older = {**before, "teacher": {name: value for name, value in before["teacher"].items() if name != key}}
    run.signature_file.write_text(json.dumps(older))
    describe_run(run, sweep, data)
    assert run.signature()["teacher"][key] not in (None, before["teacher"][key])
    opened(run, sweep, fresh=True)
    describe_run(run, sweep, data)
