"""Places that every node must see and write to, and the probes that are left there."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from raydistill.errors import UserError
from raydistill.tuning import checkpoints, places
from raydistill.tuning.places import ROOM, Place, Problem, leave_probe, probed, problem_with


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_node_must_read_what_another_has_left_and_write_for_itself(tmp_path, form):
    place = Place("the run directory", form.format(tmp_path / "run"), "")
    probe = leave_probe(place.address)
    assert problem_with(place, probe) is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == [probe]
    assert problem_with(place, ".probe-another")[0] == "does not see"  # a folder of this node alone, of the same name
    assert problem_with(Place("", form.format(tmp_path / "absent"), ""), probe)[0] == "does not see"
    assert not (tmp_path / "absent").exists()
    (tmp_path / "run" / probe).write_text("other")
    assert problem_with(place, probe) == Problem("does not see", "a file that was written there has another content")


def test_a_node_that_may_not_write_says_so_where_it_has_to(tmp_path, monkeypatch):
    def refuse(address):
        raise PermissionError("no\nlines more")

    probe = leave_probe(str(tmp_path))
    monkeypatch.setattr(places, "leave_probe", refuse)
    assert problem_with(Place("", str(tmp_path), ""), probe) == Problem("may not write to", "no")
    assert problem_with(Place("", str(tmp_path), "", is_written=False), probe) is None


class FullDisk:
    """A file system on which files can be made and nothing can be written to them."""

    def create_dir(self, path):
        Path(path).mkdir(exist_ok=True)

    @contextmanager
    def open_output_stream(self, path):
        Path(path).touch()
        yield self

    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    def delete_file(self, path):
        Path(path).unlink()


def test_a_probe_that_cannot_be_written_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(places.fs, "FileSystem", SimpleNamespace(from_uri=lambda address: (FullDisk(), address)))
    with pytest.raises(OSError, match="No space"):
        leave_probe(str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_folder_that_is_not_shared(tmp_path, monkeypatch, number):
    def refuse(address):
        raise OSError(number, "full")

    place = Place("the run directory", str(tmp_path), "share it")
    probe = leave_probe(place.address)
    monkeypatch.setattr(places, "leave_probe", refuse)
    assert problem_with(place, probe) == Problem("finds no room in", f"[Errno {number}] full", ROOM)
    with pytest.raises(UserError, match="cannot be left") as caught, probed(place):
        pass
    assert caught.value.mend == ROOM
    monkeypatch.setattr(checkpoints, "leave_probe", refuse)
    with pytest.raises(UserError, match="checkpoints cannot be kept") as caught:
        checkpoints.check_place(place.address)
    assert caught.value.mend == ROOM
