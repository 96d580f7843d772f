"""What a sweep refuses before its first trial."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.state import state
from tuning_zoo import small_sweep

from raydistill.errors import UserError
from raydistill.records import RunDirectory
from raydistill.tuning import preflight
from raydistill.tuning.capacity import Workers, room_for
from raydistill.tuning.checkpoints import open_place
from raydistill.tuning.places import ROOM, Place, Problem, leave_probe, problem_with
from raydistill.tuning.preflight import NodeReport, check_reports, check_token, places_of
from raydistill.tuning.refusals import OtherCodeError, RefusedError
from raydistill.tuning.versions import check_versions, code_hash, versions

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


def test_a_token_that_cannot_be_made_is_an_error_that_says_where(home, monkeypatch):
    (home / ".ray").symlink_to("/proc/nowhere")
    with pytest.raises(UserError, match="no token can be made for Ray there") as caught:
        check_token(sweep())
    assert str(home / ".ray" / "auth_token") in str(caught.value)
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.mend


def test_a_token_that_another_sweep_makes_meanwhile_is_taken(home, monkeypatch):
    path = home / ".ray" / "auth_token"

    def made_by_another(there: Path) -> None:
        token(home, 0o600)
        make(there)

    make = preflight._make_token
    monkeypatch.setattr(preflight, "_make_token", made_by_another)
    check_token(sweep())
    assert path.read_text() == "a" * 64


@pytest.mark.parametrize(("asked", "said"), [("auto", ""), ("1", ""), ("3", "execution.concurrency is 3, and 1 such")])
def test_more_trials_at_once_than_fit_are_said(tmp_path, monkeypatch, capsys, asked, said):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None)
    monkeypatch.setattr(preflight, "_is_here", lambda node: True)
    own = small_sweep(tmp_path, "execution.workers=2", f"execution.concurrency={asked}")
    preflight.check_cluster(own, RunDirectory(tmp_path), tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith(said) if said else not printed


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


PLACES = [
    Place("the run directory", "/shared/run", "set execution.storage"),
    Place("the prepared data", "/shared/.cache", "set execution.storage too", is_written=False),
]


def report(**changes) -> NodeReport:
    return NodeReport(**({"host": "b", "versions": VERSIONS, "problems": {}} | changes))


def test_nodes_that_agree_pass():
    check_reports([report(), report(host="c")], VERSIONS, PLACES)


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        (
            {"versions": VERSIONS | {"raydistill": "0.1.0 (bbbbbbbb)"}},
            r"raydistill 0\.1\.0 \(bbbbbbbb\) \(here 0\.1\.0",
            "ray up",
        ),
        ({"versions": VERSIONS | {"ray": "2.61.0"}}, r"ray 2\.61\.0 \(here 2\.60\.0\)", "ray up"),
        (
            {"problems": {"/shared/run": Problem("does not see", "No such file")}},
            "node odd does not see the run directory: No such file",
            "set execution.storage",
        ),
        (
            {"problems": {"/shared/.cache": Problem("does not see", "No such file")}},
            "node odd does not see the prepared data: No such file",
            "set execution.storage too",
        ),
        (
            {"problems": {"/shared/run": Problem("may not write to", "Read-only file system")}},
            "node odd may not write to the run directory: Read-only",
            "set execution.storage",
        ),
        (
            {"problems": {"/shared/run": Problem("finds no room in", "No space left on device", ROOM)}},
            "node odd finds no room in the run directory: No space",
            "free some space",
        ),
    ],
)
def test_a_node_that_differs_is_named(changes, what, mend):
    with pytest.raises(RefusedError, match=what) as caught:
        check_reports([report(), report(host="odd", **changes)], VERSIONS, PLACES)
    assert "odd" in caught.value.what
    assert mend in caught.value.mend


def test_every_place_that_is_used_on_other_nodes_is_tried(tmp_path):
    run, cache = RunDirectory(tmp_path / "run"), tmp_path / "runs" / ".cache"
    found = places_of(small_sweep(tmp_path), run, cache)
    assert [(place.address, place.is_written) for place in found] == [(str(run.root), True), (str(cache), False)]
    assert "execution.storage" in found[1].name
    assert "--run-dir moves the results alone" in found[1].mend
    sweep = small_sweep(tmp_path, f"execution.checkpoints={tmp_path / 'fast'}")
    elsewhere = open_place(sweep, run)
    last = places_of(sweep, run, cache)[-1]
    assert (last.address, last.is_written) == (elsewhere, True)
    assert "execution.checkpoints" in last.mend


def test_the_hash_of_the_code_moves_with_content_and_name(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    second = code_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, code_hash(tmp_path)}) == 3
    assert len(first) == 8


def test_a_node_says_what_is_wrong_with_which_place(tmp_path):
    (tmp_path / "seen").mkdir()
    seen, unseen = (Place(name, str(tmp_path / name), "") for name in ("seen", "unseen"))
    said = preflight.look_at([(seen, leave_probe(seen.address)), (unseen, ".probe")])
    assert list(said.problems) == [unseen.address]
    assert said.versions == versions()


def refuse(probes):
    assert problem_with(*probes[0]) is None
    raise UserError("odd")


def test_probes_are_taken_back_also_after_a_refusal(tmp_path):
    here = Place("the run directory", str(tmp_path / "run"), "")
    with pytest.raises(UserError, match="odd"), preflight._probes([here]) as probes:
        refuse(probes)
    (tmp_path / "file").write_text("")
    below = Place("the prepared data", str(tmp_path / "file" / "below"), "")
    with pytest.raises(UserError, match="cannot be left for the nodes in the prepared data"):
        preflight._probes([here, below]).__enter__()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_on_a_machine_with_other_code_refuses_to_work():
    check_versions(versions())
    with pytest.raises(OtherCodeError, match=r"runs ray .* \(here 0\.0\)") as caught:
        check_versions(versions() | {"ray": "0.0"})
    assert pickle.loads(pickle.dumps(caught.value)).what == caught.value.what
