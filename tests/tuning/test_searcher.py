"""Between Tune and the dealer, without a Tuner: what is suggested, and what is noted of what ended."""

from __future__ import annotations

import errno
import pickle
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ray.exceptions import ActorUnavailableError
from ray.tune.callback import CallbackList
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher
from ray.tune.trainable.metadata import _TrainingRunMetadata
from tuning_zoo import dealer_of, invented_record, small_sweep

from raydistill.errors import CorruptArtifactError, RunDirectoryError
from raydistill.records import RunDirectory, read_record, write_record
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.capacity import Workers
from raydistill.tuning.refusals import NoRoomError, OtherCodeError, RefusedError, UnseenError, refusal
from raydistill.tuning.searcher import MAX_LOST_NODES, PATIENCE_S, Bookkeeper, DealerSearcher


@pytest.fixture
def sweep(tmp_path):
    return small_sweep(tmp_path)


@pytest.fixture
def parts(sweep, tmp_path):
    """Searcher, bookkeeper, run directory, and what the bookkeeper has said."""
    run, said = RunDirectory(tmp_path / "run"), SimpleNamespace(records=[], started=[], lost=[])
    searcher = DealerSearcher(
        dealer_of(sweep), run, tmp_path / "cache", Workers(1, 1.0, 0.0), storage="s3://bucket", probe=".probe-1"
    )
    keeper = Bookkeeper(
        searcher,
        sweep,
        run,
        on_record=said.records.append,
        on_start=said.started.append,
        on_lost=lambda spec, reason: said.lost.append((spec, reason)),
    )
    return searcher, keeper, run, said


def tune_trial(name: str, error_file: str | None = None, **result) -> SimpleNamespace:
    return SimpleNamespace(
        trial_id=name, error_file=error_file, last_result=result, run_metadata=_TrainingRunMetadata()
    )


def test_a_suggestion_holds_the_whole_spec_as_plain_values(parts):
    searcher, _, run, _ = parts
    config = searcher.suggest("a")
    spec = TrialSpec(**config["spec"])
    assert spec == searcher.specs["a"]
    assert config["run"] == str(run.root)
    assert (config["storage"], config["probe"]) == ("s3://bucket", ".probe-1")
    assert config["identity"] == searcher.dealer.identity(spec)
    assert config["name"] == spec.name


def test_none_while_a_group_runs_and_finished_at_the_end(parts, sweep):
    searcher, keeper, run, _ = parts
    running, number = [], 0
    saw_none = False
    while (config := searcher.suggest(str(number))) != Searcher.FINISHED:
        if config is None:
            saw_none = True
            name = running.pop(0)
            record = invented_record(searcher.specs[name], sweep)
            write_record(run.record_file(record.id), record)
            keeper.on_trial_complete(0, [], tune_trial(name))
        else:
            running.append(str(number))
        number += 1
    assert saw_none
    assert searcher.dealer.is_exhausted


def test_an_ended_trial_is_noted_from_the_record_that_it_wrote(parts, sweep):
    searcher, keeper, run, said = parts
    searcher.suggest("a")
    record = invented_record(searcher.specs["a"], sweep)
    write_record(run.record_file(record.id), record)
    keeper.on_trial_start(0, [], tune_trial("a"))
    keeper.on_trial_complete(0, [], tune_trial("a"))
    assert [one.id for one in said.records] == [record.id]
    assert searcher.dealer.searches[record.arm].records[record.number].id == record.id
    assert searcher.specs == {}


def lose_twice(searcher, keeper, error_file=None):
    """Let the first trial lose its process, and again when it was started anew; return its spec."""
    searcher.suggest("a")
    spec = searcher.specs["a"]
    keeper.on_trial_start(0, [], tune_trial("a"))
    keeper.on_trial_error(0, [], tune_trial("a", error_file))
    searcher.suggest("b")
    assert searcher.specs == {"b": spec}
    keeper.on_trial_start(0, [], tune_trial("b"))
    keeper.on_trial_error(0, [], tune_trial("b", error_file))
    return spec


def test_a_lost_trial_starts_again_before_any_other_and_is_counted_once(parts, sweep):
    searcher, keeper, _run, said = parts
    spec = lose_twice(searcher, keeper)
    assert said.started == [spec]
    assert [lost for lost, _ in said.lost] == [spec]
    assert len(said.records) == 1  # lost again, it has failed


def test_a_trial_that_succeeds_the_second_time_has_one_record(parts, sweep):
    searcher, keeper, run, said = parts
    searcher.suggest("a")
    keeper.on_trial_error(0, [], tune_trial("a"))
    searcher.suggest("b")
    record = invented_record(searcher.specs["b"], sweep)
    write_record(run.record_file(record.id), record)
    keeper.on_trial_complete(0, [], tune_trial("b"))
    assert [one.status for one in said.records] == ["success"]


def test_the_end_is_not_said_while_the_last_trial_may_have_to_start_again(parts, sweep):
    searcher, keeper, run, _ = parts
    number = 0
    while not searcher.dealer.is_exhausted:
        if searcher.suggest(str(number)) is None or len(searcher.specs) > 2:
            name = next(iter(searcher.specs))
            record = invented_record(searcher.specs[name], sweep)
            write_record(run.record_file(record.id), record)
            keeper.on_trial_complete(0, [], tune_trial(name))
        number += 1
    assert searcher.specs
    assert searcher.suggest("waits") is None
    last = next(iter(searcher.specs))
    spec = searcher.specs[last]
    keeper.on_trial_error(0, [], tune_trial(last))
    searcher.suggest("again")
    assert searcher.specs["again"] == spec
    for name in list(searcher.specs):
        record = invented_record(searcher.specs[name], sweep)
        write_record(run.record_file(record.id), record)
        keeper.on_trial_complete(0, [], tune_trial(name))
    assert searcher.suggest("end") == Searcher.FINISHED


def test_a_lost_trial_gets_a_record_with_the_last_line_of_its_error(parts, tmp_path):
    searcher, keeper, run, said = parts
    (tmp_path / "error.txt").write_text("Traceback ...\n  File ...\nMemoryError: too large\n\n")
    spec = lose_twice(searcher, keeper, str(tmp_path / "error.txt"))
    (record,) = said.records
    assert record.status == "failed"
    assert record.error.startswith("MemoryError: too large")
    assert said.lost[0][1].startswith("MemoryError: too large")
    assert read_record(run.record_file(searcher.dealer.identity(spec))) == record


def test_a_trial_that_ends_without_a_word_says_so(parts):
    searcher, keeper, _, said = parts
    lose_twice(searcher, keeper)
    assert "without a word" in said.records[0].error


@pytest.mark.parametrize(
    "error",
    [
        OtherCodeError.of("late", ["raydistill 0 (here 1)"]),
        UnseenError("node late cannot open what the sweep has prepared", where="late", mend="mount it"),
        NoRoomError("no room was found", where="execution.workers", mend="bring them back"),
    ],
)
def test_what_no_trial_is_to_blame_for_ends_the_sweep_and_leaves_no_record(parts, error):
    searcher, keeper, run, said = parts
    searcher.suggest("a")
    with pytest.raises(RefusedError) as caught:
        keeper.on_trial_complete(0, [], tune_trial("a", **refusal(error)))
    assert str(caught.value) == str(error)
    assert keeper.error is caught.value
    with pytest.raises(RefusedError):
        keeper.on_trial_error(0, [], tune_trial("a"))
    assert said.records == []
    assert list(run.records()) == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, on a cluster of a node that is too small."""
    now = SimpleNamespace(time=1.0, nodes=[{"CPU": 0.5}])
    monkeypatch.setattr("raydistill.tuning.searcher.time", SimpleNamespace(monotonic=lambda: now.time))
    monkeypatch.setattr("raydistill.tuning.searcher.node_resources", lambda: now.nodes)
    return now


def test_a_sweep_whose_trials_fit_nowhere_any_more_ends(parts, clock):
    searcher, keeper, *_ = parts
    keeper.on_step_end(0, [])  # nothing waits
    searcher.suggest("a")
    keeper.on_step_end(0, [])
    clock.time += PATIENCE_S - 1
    keeper.on_step_end(0, [])
    clock.time += 2
    with pytest.raises(
        NoRoomError, match=r"for 10 minutes: 1 worker.* 1 CPU each .*, 0 fit .*\(0\.5 CPU 0 GPU\)"
    ) as caught:
        keeper.on_step_end(0, [])
    assert keeper.error is caught.value


def test_trials_may_wait_for_what_holds_the_machines_or_comes_in_time(parts, clock):
    searcher, keeper, *_ = parts
    searcher.suggest("a")
    keeper.on_step_end(0, [])
    clock.nodes = [{"CPU": 4.0}]  # there, and in use
    clock.time += 2 * PATIENCE_S
    keeper.on_step_end(0, [])
    keeper.on_trial_start(0, [], tune_trial("a"))
    clock.nodes = []
    keeper.on_step_end(0, [])  # one runs
    keeper.on_trial_error(0, [], tune_trial("a"))
    searcher.suggest("b")
    keeper.on_step_end(0, [])  # and now waits anew
    clock.time += PATIENCE_S - 1
    keeper.on_step_end(0, [])


NODE_DIED = """\
The actor died unexpectedly before finishing this task.
	class_name: DistillTrainable
The actor died because its node has died. Node Id: 1f
	the actor's node was terminated unexpectedly: health check failed
"""
NOT_YET_KNOWN = str(
    ActorUnavailableError("The actor is temporarily unavailable: RpcError: Connection reset by peer", b"0" * 16)
)


@pytest.mark.parametrize("error", [NODE_DIED, NOT_YET_KNOWN])
def test_lost_nodes_are_not_counted_as_failures_of_the_trial(parts, tmp_path, error):
    searcher, keeper, _run, said = parts
    (tmp_path / "node.txt").write_text(error)
    (tmp_path / "own.txt").write_text("MemoryError\n")
    assert searcher.suggest("start")["name"]
    spec, name = searcher.specs["start"], "start"
    for number, file in enumerate(["node.txt"] * MAX_LOST_NODES + ["own.txt"]):
        keeper.on_trial_error(0, [], tune_trial(name, str(tmp_path / file)))
        name = str(number)
        searcher.suggest(name)
        assert searcher.specs[name] == spec
    assert said.records == []
    assert said.lost[0][1].startswith(error.splitlines()[-1].strip())
    keeper.on_trial_error(0, [], tune_trial(name, str(tmp_path / "own.txt")))
    assert [record.status for record in said.records] == ["failed"]


def test_a_trial_whose_node_is_lost_each_time_fails_in_the_end(parts, tmp_path):
    searcher, keeper, _run, said = parts
    (tmp_path / "node.txt").write_text(NODE_DIED)
    for number in range(MAX_LOST_NODES + 1):
        assert said.records == []
        searcher.suggest(str(number))
        keeper.on_trial_error(0, [], tune_trial(str(number), str(tmp_path / "node.txt")))
    assert len(said.lost) == MAX_LOST_NODES
    assert "node was terminated" in said.records[0].error


def test_the_reason_is_what_went_wrong_and_not_how_to_mend_it(parts, tmp_path):
    searcher, keeper, _run, said = parts
    error = RunDirectoryError("cannot write record.json: disk full", where="/runs/a", mend="free some space")
    (tmp_path / "error.txt").write_text(f"Traceback ...\n  File ...\nraydistill.errors.RunDirectoryError: {error}\n")
    lose_twice(searcher, keeper, str(tmp_path / "error.txt"))
    for told in (said.lost[0][1], said.records[0].error):
        assert told.startswith("raydistill.errors.RunDirectoryError: cannot write record.json: disk full (whole error")


def stopped_by_tune(keeper, trial):
    """Let Ray's own controller stop a trial that has reported its last result; it catches what a callback raises."""
    controller = object.__new__(TuneController)
    controller._iteration, controller._trials, controller._live_trials = 0, [trial], {trial}
    controller._fail_fast, controller._has_errored = False, False
    controller._scheduler_alg = controller._search_alg = MagicMock()
    controller._schedule_trial_stop = controller._schedule_graceful_trial_stop = lambda *arguments, **named: None
    controller._callbacks = CallbackList([keeper])
    controller.stop_trial(trial)


def running(name: str) -> MagicMock:
    trial = MagicMock(trial_id=name, error_file=None, last_result={}, status=TuneTrial.RUNNING)
    trial.should_recover.return_value = False
    return trial


def full(record):
    raise OSError(errno.ENOSPC, "No space left on device", "studies/fisher.log")


def missing(run, record):
    return None


def cut(run, record):
    write_record(run.record_file(record.id), record)
    run.record_file(record.id).write_text("{")


def whole(run, record):
    write_record(run.record_file(record.id), record)


@pytest.mark.parametrize(
    ("write", "on_record", "kind", "says"),
    [
        (missing, None, RunDirectoryError, "No such file"),
        (cut, None, CorruptArtifactError, "cannot be read"),
        (whole, full, RunDirectoryError, "No space left"),
    ],
)
def test_a_record_that_cannot_be_noted_ends_the_sweep_with_the_reason(parts, sweep, write, on_record, kind, says):
    searcher, keeper, run, said = parts
    keeper._on_record = on_record or keeper._on_record
    searcher.suggest("a")
    write(run, invented_record(searcher.specs["a"], sweep))
    with pytest.raises(kind, match=says):
        stopped_by_tune(keeper, running("a"))
    assert isinstance(keeper.error, kind)
    assert says in keeper.error.what
    assert keeper.error.where
    assert said.lost == []


def test_a_failure_that_cannot_be_noted_ends_the_sweep_with_the_reason(parts):
    searcher, keeper, *_ = parts
    keeper._on_record = full
    with pytest.raises(RunDirectoryError, match="No space left"):
        lose_twice(searcher, keeper)
    assert "then continues" in keeper.error.mend


def test_tune_keeps_little_of_a_trial_that_has_ended(parts, sweep):
    searcher, keeper, run, _ = parts
    searcher.suggest("a")
    record = invented_record(searcher.specs["a"], sweep)
    write_record(run.record_file(record.id), record)
    trial = TuneTrial("unused", stub=True, trial_id="a")
    for epoch in range(1, 13):
        trial.update_last_result({f"metric {number}": epoch for number in range(20)} | {"training_iteration": epoch})
    before = len(trial.get_json_state()[1])
    keeper.on_trial_complete(0, [], trial)
    assert trial.run_metadata.metric_analysis == trial.run_metadata.metric_n_steps == {}
    assert trial.last_result["metric 0"] == 12  # for trackers
    assert len(trial.get_json_state()[1]) < before / 5


def test_tunes_snapshots_hold_nothing_of_them(parts, tmp_path):
    searcher, keeper, *_ = parts
    assert vars(pickle.loads(pickle.dumps(searcher))) == {}
    assert vars(pickle.loads(pickle.dumps(keeper))) == {}
    searcher.save(str(tmp_path / "snapshot"))
    assert (tmp_path / "snapshot").read_bytes() == b""
