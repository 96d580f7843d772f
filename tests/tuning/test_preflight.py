"""What a sweep refuses before its first trial."""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from raydistill.errors import UserError
from raydistill.tuning import preflight
from raydistill.tuning.preflight import NodeReport, check_reports, check_token, room_for
from raydistill.tuning.sharded import Workers
from raydistill.tuning.versions import OtherCodeError, check_versions, code_hash, versions

VERSIONS = {"raydistill": "0.1.0 (aaaaaaaa)", "ray": "2.60.0"}


def sweep(address: str = "local", **execution) -> SimpleNamespace:
    return SimpleNamespace(execution=SimpleNamespace(address=address, **execution))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def token(home: Path, mode: int, content: str = "a" * 64) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_local_ray_finds_a_token_that_only_its_owner_reads(home):
    check_token(sweep())
    path = home / ".ray" / "auth_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_text()) == 64
    first = path.read_text()
    check_token(sweep())
    assert path.read_text() == first


def test_a_local_token_that_others_read_is_closed(home):
    path = token(home, 0o644)
    check_token(sweep())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_of_a_cluster_that_others_read_is_refused(home, monkeypatch):
    path = token(home, 0o640)
    for address, mode in (("10.0.0.1:6379", None), ("local", "token")):
        if mode:
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        with pytest.raises(UserError, match="0640") as caught:
            check_token(sweep(address))
        assert "chmod 600" in caught.value.mend
        assert path.read_text() not in str(caught.value)
    path.chmod(0o600)
    check_token(sweep("10.0.0.1:6379"))


def test_a_missing_token_is_refused_where_the_cluster_asks_for_one(home, monkeypatch):
    check_token(sweep("10.0.0.1:6379"))  # a cluster without tokens
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UserError, match="there is none"):
        check_token(sweep("10.0.0.1:6379"))
    assert not (home / ".ray").exists()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    check_token(sweep("10.0.0.1:6379"))


@pytest.mark.parametrize("named", [True, False])
def test_an_empty_or_unreadable_token_is_refused(home, monkeypatch, named):
    path = token(home, 0o600, content=" \n")
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(UserError, match="empty"):
        check_token(sweep())
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        check_token(sweep())


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        (Workers(2, 1, 0), [{"CPU": 2}], 2),
        (Workers(2, 1, 0), [{"CPU": 1}, {"CPU": 1.5}], 2),
        (Workers(1, 2, 0), [{"CPU": 1}, {"CPU": 1}], 0),  # a worker is on one node
        (Workers(2, 1, 1), [{"CPU": 8, "GPU": 1}, {"CPU": 8}], 1),
        (Workers(4, 0.9, 0.25), [{"CPU": 4, "GPU": 1}], 4),
        (Workers(3, 0.3, 0), [{"CPU": 0.9}], 3),  # 0.9 / 0.3 is a little below 3 in floating point
        (Workers(1, 1, 0), [], 0),
    ],
)
def test_workers_are_counted_node_by_node(workers, nodes, expected):
    assert room_for(workers, nodes) == expected


def test_more_than_there_is_is_refused_with_what_there_is(monkeypatch):
    monkeypatch.setattr(preflight, "alive_nodes", lambda: [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(preflight, "can_grow", lambda: False)
    monkeypatch.setattr(preflight.ray, "cluster_resources", lambda: {"CPU": 6.0})
    with pytest.raises(UserError) as caught:
        preflight._wait_for_room(Workers(8, 1, 0), "execution.workers", print, 0.1)
    assert "8 worker(s) of 1 CPU" in caught.value.what
    assert "6 fit" in caught.value.what
    assert "4 CPU 0 GPU, 2 CPU 0 GPU" in caught.value.what
    with pytest.raises(UserError) as caught:
        preflight._wait_for_room(Workers(1, 1, 1), "execution.gpus_per_worker", print, 0.1)
    assert "to 0, or submit the sweep to a cluster with GPUs" in caught.value.mend


def test_an_autoscaler_is_asked_and_waited_for_and_not_for_ever(monkeypatch):
    nodes, asked, said = [{"Resources": {"CPU": 0.0}}], [], []
    monkeypatch.setattr(preflight, "alive_nodes", lambda: nodes)
    monkeypatch.setattr(preflight, "can_grow", lambda: True)
    monkeypatch.setattr(preflight, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(preflight.ray, "cluster_resources", lambda: {"CPU": 0.0, "GPU": 1.0})
    with pytest.raises(UserError, match="brought no more in time"):
        preflight._wait_for_room(Workers(2, 0.9, 0.5), "execution.workers", said.append, 0.05)
    # The request is taken back at the end: while it stands, no machine is ended as idle.
    assert asked == [[{"CPU": 1, "GPU": 1}] * 2, []]
    assert len(said) == 1

    def arrive(_seconds: float) -> None:
        nodes.append({"Resources": {"CPU": 4.0, "GPU": 1.0}})

    monkeypatch.setattr(preflight.time, "sleep", arrive)
    preflight._wait_for_room(Workers(2, 0.9, 0.5), "execution.workers", said.append, 60)
    assert asked[2:] == asked[:2]


def report(**changes) -> NodeReport:
    return NodeReport(**({"host": "b", "versions": VERSIONS, "probe": "p", "writable": True} | changes))


def test_nodes_that_agree_pass(tmp_path):
    check_reports([report(), report(host="c")], report(host="a"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"versions": VERSIONS | {"raydistill": "0.1.0 (bbbbbbbb)"}},
            r"raydistill 0\.1\.0 \(bbbbbbbb\) \(here 0\.1\.0",
        ),
        ({"versions": VERSIONS | {"ray": "2.61.0"}}, r"ray 2\.61\.0 \(here 2\.60\.0\)"),
        ({"probe": None}, "does not see the run directory"),
        ({"probe": "another"}, "does not see the run directory"),
        ({"writable": False}, "may not write"),
    ],
)
def test_a_node_that_differs_is_named(changes, what, tmp_path):
    with pytest.raises(UserError, match=what) as caught:
        check_reports([report(), report(host="odd", **changes)], report(host="a"), tmp_path)
    assert "odd" in caught.value.what


def test_the_hash_of_the_code_moves_with_content_and_name(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    second = code_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, code_hash(tmp_path)}) == 3
    assert len(first) == 8


def test_a_node_reads_the_probe_only_where_it_lies(tmp_path):
    probe = tmp_path / "probe"
    assert preflight.look_at(str(probe)).probe is None
    probe.write_text("content")
    assert preflight.look_at(str(probe)).probe == "content"
    assert preflight.look_at(str(tmp_path / "absent" / "probe")).writable is (os.access(tmp_path / "absent", os.W_OK))


def test_a_process_on_a_machine_with_other_code_refuses_to_work():
    check_versions(versions())
    with pytest.raises(OtherCodeError, match=r"runs ray .* \(here 0\.0\)") as caught:
        check_versions(versions() | {"ray": "0.0"})
    assert pickle.loads(pickle.dumps(caught.value)).what == caught.value.what
