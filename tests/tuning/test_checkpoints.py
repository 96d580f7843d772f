"""Places for checkpoints: folders, addresses, and what is refused."""

from __future__ import annotations

import pytest
from tuning_zoo import small_sweep

from raydistill.errors import ConfigError, UserError
from raydistill.records import RunDirectory
from raydistill.tuning.checkpoints import check_place, place_of, remove


def place(folder, *overrides: str) -> str:
    return place_of(small_sweep(folder, *overrides), RunDirectory(folder / "runs" / "mine"))


def test_checkpoints_lie_in_the_run_directory_or_under_its_name_elsewhere(tmp_path):
    assert place(tmp_path) == str(tmp_path / "runs" / "mine" / "ray" / "train")
    assert place(tmp_path, "execution.checkpoints=/mnt/fast") == "/mnt/fast/mine"
    assert place(tmp_path, "execution.checkpoints=s3://bucket/some/") == "s3://bucket/some/mine"
    query = "?endpoint_override=localhost:9000&scheme=http"
    assert place(tmp_path, f"execution.checkpoints=s3://bucket{query}") == f"s3://bucket/mine{query}"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_place_is_tried_and_left_as_it_was(tmp_path, form):
    there = form.format(tmp_path / "new" / "mine")
    check_place(there)
    assert list((tmp_path / "new" / "mine").iterdir()) == []


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
