"""Places for checkpoints: folders, addresses, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tuning_zoo import small_sweep

from raydistill.errors import ConfigError, CorruptArtifactError, UserError
from raydistill.records import RunDirectory, write_json
from raydistill.tuning import places
from raydistill.tuning.checkpoints import (
    NOTED,
    check_place,
    check_seen,
    open_place,
    place_of,
    probed_place,
    remove,
    remove_all,
)
from raydistill.tuning.refusals import UnseenError

QUERY = "?endpoint_override=localhost:9000&scheme=http"


def run_in(folder) -> RunDirectory:
    return RunDirectory(folder / "runs" / "mine")


def test_checkpoints_lie_in_the_run_directory(tmp_path):
    run, sweep = run_in(tmp_path), small_sweep(tmp_path)
    assert open_place(sweep, run) == place_of(sweep, run) == str(tmp_path / "runs" / "mine" / "ray" / "train")
    assert not (run.root / NOTED).exists()


@pytest.mark.parametrize(
    ("named", "pattern"),
    [
        ("/mnt/fast", r"/mnt/fast/mine-[0-9a-f]{8}"),
        ("s3://bucket/some/", r"s3://bucket/some/mine-[0-9a-f]{8}"),
        (f"s3://bucket{QUERY}", rf"s3://bucket/mine-[0-9a-f]{{8}}{re.escape(QUERY)}"),
    ],
)
def test_elsewhere_they_have_a_name_that_the_run_directory_keeps(tmp_path, named, pattern):
    run, sweep = run_in(tmp_path), small_sweep(tmp_path, f"execution.checkpoints={named}")
    place = open_place(sweep, run)
    assert re.fullmatch(pattern, place)
    assert open_place(sweep, run) == place_of(sweep, run) == place
    assert open_place(sweep, run_in(tmp_path / "other")) != place  # of the same name, and another run directory


def test_the_name_stays_where_the_checkpoints_move(tmp_path):
    run = run_in(tmp_path)
    first, second = (
        open_place(small_sweep(tmp_path, f"execution.checkpoints={tmp_path / name}"), run) for name in ("a", "b")
    )
    assert first.rpartition("/")[2] == second.rpartition("/")[2]
    for place in (first, second):
        check_place(place)
    (tmp_path / "a" / "of another").mkdir()
    remove_all(run)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["of another"]
    assert list((tmp_path / "b").iterdir()) == []
    remove_all(run)  # again, and there is nothing left


def test_a_foreign_run_directory_cannot_have_other_folders_deleted(tmp_path, capsys):
    run, home = run_in(tmp_path), tmp_path / "home"
    (home / "photos-0123abcd").mkdir(parents=True)
    (home / "photos-0123abcd" / "one.png").write_bytes(b"1")
    for name, place in (("home", home), ("photos-0123abcd", home / "photos-0123abcd"), ("..", home / "..")):
        write_json(run.root / NOTED, {"name": name, "places": [str(place)]})
        remove_all(run)
        assert f"old checkpoints stay in {place}: it holds something else" in capsys.readouterr().err
    assert (home / "photos-0123abcd" / "one.png").is_file()


def test_what_training_leaves_there_is_deleted(tmp_path):
    run = run_in(tmp_path)
    place = open_place(small_sweep(tmp_path, f"execution.checkpoints={tmp_path / 'a'}"), run)
    for name in ("teacher-1", "trial-2"):
        (Path(place) / name / "checkpoint_1").mkdir(parents=True)
    remove_all(run)
    assert not Path(place).exists()


def test_what_cannot_be_deleted_is_named(tmp_path, capsys):
    run = run_in(tmp_path)
    place = open_place(small_sweep(tmp_path, "execution.checkpoints=unknown://bucket"), run)
    remove_all(run)
    assert f"old checkpoints stay in {place}" in capsys.readouterr().err


def test_a_run_directory_that_does_not_say_the_name_is_named(tmp_path):
    with pytest.raises(CorruptArtifactError, match="not noted"):
        place_of(small_sweep(tmp_path, "execution.checkpoints=/mnt/fast"), run_in(tmp_path))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_place_is_tried_and_left_as_it_was(tmp_path, form):
    there = form.format(tmp_path / "new" / "mine")
    check_place(there)
    assert list((tmp_path / "new" / "mine").iterdir()) == []


@pytest.mark.parametrize("named", [(), ("execution.checkpoints={}/fast",), ("execution.checkpoints=file://{}/fast",)])
def test_a_machine_that_joins_late_sees_them_while_the_sweep_runs(tmp_path, named):
    run, sweep = run_in(tmp_path), small_sweep(tmp_path, *(each.format(tmp_path) for each in named))
    with probed_place(sweep, run) as probe:
        place = place_of(sweep, run)
        check_seen(place, probe)
        assert [path.name for path in Path(place.removeprefix("file://")).iterdir()] == [probe]
    assert list(Path(place.removeprefix("file://")).iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_a_late_machine_does_not_share_is_named_with_the_machine(tmp_path, is_there):
    run, sweep = run_in(tmp_path), small_sweep(tmp_path, f"execution.checkpoints={tmp_path / 'fast'}")
    own = tmp_path / "disk of another machine"
    if is_there:
        own.mkdir()
    with probed_place(sweep, run) as probe:
        for _ in range(2):  # what was refused once is refused again
            with pytest.raises(UnseenError, match=r"node \S+ does not see the place of the checkpoints: ") as caught:
                check_seen(str(own), probe)
    assert caught.value.where == str(own)
    assert "execution.checkpoints" in caught.value.mend
    assert own.exists() == is_there  # Ray would make it, and train on


def test_what_a_killed_sweep_left_to_be_looked_for_goes_with_the_next_start(tmp_path):
    sweep, run = small_sweep(tmp_path), run_in(tmp_path)
    place = Path(open_place(sweep, run))
    old = places.leave_probe(str(place))
    (place / "teacher-0").mkdir()
    with probed_place(sweep, run) as probe:
        assert sorted(path.name for path in place.iterdir()) == sorted([probe, "teacher-0"])
        assert probe != old
    assert [path.name for path in place.iterdir()] == ["teacher-0"]


def test_a_late_machine_that_may_only_read_them_says_so(tmp_path, monkeypatch):
    def refuse(address):
        raise PermissionError("Read-only file system")

    with probed_place(small_sweep(tmp_path), run_in(tmp_path)) as probe:
        monkeypatch.setattr(places, "leave_probe", refuse)
        with pytest.raises(UnseenError, match="may not write to the place of the checkpoints: Read-only file system"):
            check_seen(place_of(small_sweep(tmp_path), run_in(tmp_path)), probe)


def test_a_run_that_has_ended_leaves_nothing_and_others_stay(tmp_path):
    for name in ("ended", "goes on"):
        (tmp_path / name / "checkpoint_0").mkdir(parents=True)
        (tmp_path / name / "checkpoint_0" / "state.json").write_text("{}")
    remove(f"file://{tmp_path}", "ended")
    remove(str(tmp_path), "never there")
    assert [path.name for path in tmp_path.iterdir()] == ["goes on"]


def test_a_place_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    for there in (str(tmp_path / "file" / "below"), "unknown://bucket/name", "relative/folder"):
        with pytest.raises(UserError, match="cannot be kept there") as caught:
            check_place(there)
        assert caught.value.where == there
        assert "execution.checkpoints" in caught.value.mend


def test_a_run_directory_in_a_bucket_is_refused_with_the_way_that_there_is(tmp_path):
    with pytest.raises(ConfigError, match="must be a folder") as caught:
        small_sweep(tmp_path, "execution.storage=s3://bucket/runs")
    assert "execution.checkpoints" in str(caught.value)
