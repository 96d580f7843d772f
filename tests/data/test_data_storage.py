"""Prepared data on disk: memory-mapped, whole or refused, reused where nothing changed."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.data import SequenceData, interaction_batch, prepare, render_statistics, store, write_items
from raydistill.data import preparation as preparation_module
from raydistill.data.splits import ARRAYS
from raydistill.data.storage import locked, new_folder
from raydistill.errors import CorruptArtifactError, DataError, UserError

OPTIONS = {"split": "leave_one_out", "min_interactions": 1}


def make_raw(folder: Path, n_users: int = 20, **provenance):
    users = np.repeat(np.arange(n_users), 6)
    items = (users * 3 + np.tile(np.arange(6), n_users)) % 17
    batch = interaction_batch(
        pa.array(users), pa.array(items), pa.array(np.tile(np.arange(6), n_users) * n_users + users), None, str
    )
    return store(folder, {"source": "test", "time_unit": "s", "n": n_users, **provenance}, [batch])


@pytest.fixture
def data(tmp_path) -> SequenceData:
    return prepare(make_raw(tmp_path), folder=tmp_path / "prepared", **OPTIONS)


def mapped(array: np.ndarray) -> bool:
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False


def test_arrays_are_memory_mapped_and_read_only(data):
    for name, kind in ARRAYS.items():
        array = getattr(data, name)
        assert mapped(array), name
        assert array.dtype == kind
        assert not array.flags.writeable
    # Texts lie in the mapped file as well: Arrow has allocated nothing for them.
    before = pa.total_allocated_bytes()
    again = SequenceData.load(data.folder)
    assert list(again.item_ids) == list(data.item_ids)
    assert pa.total_allocated_bytes() - before < 64


def test_raw_data_are_memory_mapped(tmp_path):
    raw = make_raw(tmp_path, 5000)
    column = raw.interactions.data.column("timestamp")
    assert raw.interactions.cache_files[0]["filename"].endswith("interactions.arrow")
    # A mapped buffer belongs to no Arrow memory pool.
    assert column.nbytes > 200_000 > pa.total_allocated_bytes()


def test_changed_raw_data_are_noticed_when_they_are_read_and_not_before(tmp_path):
    options = {"folder": tmp_path / "prepared", **OPTIONS}
    before = prepare(make_raw(tmp_path), **options)
    (path,) = tmp_path.glob("raw/*/interactions.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    # What was prepared of the data as they were is opened without reading them.
    assert prepare(make_raw(tmp_path), **options).hash == before.hash
    with pytest.raises(CorruptArtifactError, match=r"interactions\.arrow") as caught:
        prepare(make_raw(tmp_path), **options | {"min_interactions": 2})
    assert "makes it anew" in caught.value.mend


def test_raw_data_that_cannot_even_be_opened_are_made_anew(tmp_path):
    raw = make_raw(tmp_path)
    path = raw.folder / "items.arrow"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    assert make_raw(tmp_path).interactions[:] == raw.interactions[:]
    assert path.read_bytes() == content


def test_saved_and_loaded_data_are_equal(data, tmp_path):
    copy = data.save(tmp_path / "copy")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(copy, name), getattr(data, name))
    assert (copy.hash, copy.statistics, copy.provenance) == (data.hash, data.statistics, data.provenance)
    assert list(copy.attributes) == list(data.attributes)


def test_pickle_carries_the_folder_and_not_the_arrays(data):
    blob = pickle.dumps(data)
    assert len(blob) < 1000
    other = pickle.loads(blob)
    assert other.hash == data.hash
    assert mapped(other.items)


def test_unsaved_data_pickle_too(data):
    loose = SequenceData(**{name: np.array(getattr(data, name)) for name in ARRAYS}, split=data.split,
                         user_ids=list(data.user_ids), item_ids=list(data.item_ids), titles=list(data.titles),
                         attributes=list(data.attributes))  # fmt: skip
    assert loose.hash == data.hash
    assert pickle.loads(pickle.dumps(loose)).hash == data.hash


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no meta", "half meta"])
def test_damaged_folders_are_refused_and_made_anew(data, tmp_path, damage):
    victim = data.folder / "items.npy"
    meta = data.folder / "meta.json"
    content = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(content[:-4])
    elif damage == "changed":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        victim.unlink()
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text()[:100])
    with pytest.raises(CorruptArtifactError) as caught:
        SequenceData.load(data.folder)
    assert caught.value.mend
    renewed = prepare(make_raw(tmp_path), folder=tmp_path / "prepared", **OPTIONS)
    assert renewed.hash == json.loads(meta.read_text())["hash"]
    assert victim.read_bytes() == content


def test_the_same_call_opens_what_is_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation_module, "_select", None)  # any work at all would fail
    again = prepare(make_raw(tmp_path), folder=tmp_path / "prepared", **OPTIONS)
    assert again.hash == data.hash


@pytest.mark.parametrize("change", [{"min_interactions": 2}, {"split": "global_time"}, {"duplicates": "keep"}])
def test_another_call_does_not(data, tmp_path, change):
    again = prepare(make_raw(tmp_path), folder=tmp_path / "prepared", **{**OPTIONS, **change})
    assert all(again.statistics[key] == value for key, value in change.items())
    other = prepare(make_raw(tmp_path, 21), folder=tmp_path / "prepared", **OPTIONS)
    assert other.n_users == 21


def test_only_one_process_makes_a_folder_and_the_next_finds_it(tmp_path):
    """Four processes that start at once: one prepares, and what a killed one left behind is gone."""
    folder, log = tmp_path / "cache" / "made", tmp_path / "log"
    stale = folder.parent / f".{folder.name}.x.partial"
    stale.mkdir(parents=True)
    (stale / "half").write_text("")
    processes = [multiprocessing.get_context("fork").Process(target=make_once, args=(folder, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "made\n"
    assert (folder / "file").read_text() == "whole"
    assert not stale.exists()


def make_once(folder: Path, log: Path) -> None:
    with locked(folder):
        if not folder.is_dir():
            with new_folder(folder) as partial:
                (partial / "file").write_text("whole")
                time.sleep(0.2)
            with open(log, "a") as file:
                file.write("made\n")


def test_a_stopped_write_leaves_nothing_behind(tmp_path):
    def batches():
        yield interaction_batch(pa.array(["a"]), pa.array(["b"]), pa.array([1]), None, str)
        raise DataError("a bad row", where="x")

    with pytest.raises(DataError, match="a bad row"):
        store(tmp_path, {"source": "test", "time_unit": "s"}, batches())
    assert [path.suffix for path in (tmp_path / "raw").iterdir()] == [".lock"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    raw = make_raw(tmp_path, 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writes past this fail as on a full disk
    try:
        with pytest.raises(UserError, match="cannot write") as caught:
            prepare(raw, folder=tmp_path / "prepared", **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in caught.value.mend
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        make_raw(tmp_path / "file" / "cache")


def test_items_file_holds_the_catalogue(data, tmp_path):
    write_items(data, tmp_path / "items.parquet")
    table = pq.read_table(tmp_path / "items.parquet")
    assert table.column("item").to_pylist() == list(range(1, data.n_items + 1))
    assert table.column("popularity").to_pylist() == data.popularity[1:].tolist()
    assert [str(kind) for kind in table.schema.types[:2]] == ["int32", "string"]


def test_statistics_by_hand(data):
    found = data.statistics
    assert (found["users"], found["items"], found["interactions"]) == (20, 17, 120)
    assert found["density"] == pytest.approx(120 / 340)
    assert found["mean_length"] == found["median_length"] == found["longest"] == 6
    assert (found["first_time"], found["last_time"]) == (0, 119)
    lines = "\n".join(render_statistics(data))
    assert "20 users, 17 items, 120 interactions" in lines
    assert data.hash[:16] in lines
