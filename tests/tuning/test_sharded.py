"""Runs of several workers, as far as they can be asked about without any."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from ray import tune
from ray.train import Checkpoint, CheckpointConfig, FailureConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import BackendSetupCallback, DatasetsCallback
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from tuning_zoo import small_sweep

from raydistill.errors import RaydistillError
from raydistill.records import RunDirectory
from raydistill.training import prepare as prepare_module
from raydistill.training import trial as trial_module
from raydistill.training.checkpoint import STATE, TENSORS, load_checkpoint, save_checkpoint
from raydistill.training.context import RunContext
from raydistill.tuning import attachment, checkpoints, job, sharded, sharded_trial, trainable, workers
from raydistill.tuning.capacity import Workers
from raydistill.tuning.directory import open_run_directory
from raydistill.tuning.refusals import REFUSED, NoRoomError, OtherCodeError, UnseenError, refusal
from raydistill.tuning.versions import versions

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # Ray's own files


SPEC = {"phase": "search", "arm": "uniform", "kind": "selector", "number": 0, "seed": 0, "start": "random"}


def told(sweep, run, probe):
    """Return what Tune tells a trial of two workers."""
    return {
        "spec": SPEC,
        "identity": "identity",
        "name": "search uniform #0",
        "run": str(run.root),
        "cache": "",
        "versions": versions(),
        "workers": asdict(Workers(2, 1.0, 0.0)),
        "storage": checkpoints.place_of(sweep, run),
        "probe": probe,
    }


def begun(sweep, folder):
    """Return the run directory of a sweep that has begun."""
    run = RunDirectory(folder / "run")
    with open_run_directory(run, sweep, fresh=False):
        return run


@pytest.mark.parametrize(
    "error", [OtherCodeError.of("late", ["raydistill 0 (here 1)"]), UnseenError("not there"), NoRoomError("too few")]
)
def test_what_no_trial_is_to_blame_for_ends_the_sweep_and_not_its_trial_alone(tmp_path, monkeypatch, error):
    said, named = [], []

    def refuse(*arguments, **settings):
        raise error

    sweep = small_sweep(tmp_path)
    own = begun(sweep, tmp_path)
    monkeypatch.setattr(sharded_trial, "run_sharded", refuse)
    monkeypatch.setattr(sharded_trial, "setproctitle", named.append)
    monkeypatch.setattr(tune, "report", said.append)
    with checkpoints.probed_place(sweep, own) as probe:
        sharded_trial.run_sharded_trial(told(sweep, own, probe))
    assert said == [refusal(error)]
    assert named == ["ray::run_sharded_trial search uniform #0"]


SHARDED = ("execution.workers=2", "execution.strategy=fsdp", "execution.cuda_graphs=false")


def test_workers_hold_models_and_take_steps_as_the_sweep_says(tmp_path, monkeypatch):
    contexts = []

    def prepare(resources, seed, context):
        contexts.append(context)

    def trial(spec, resources, context):
        contexts.append(context)
        return SimpleNamespace(spec=spec, epochs=lambda: iter([]), finish=lambda: SimpleNamespace(id="identity"))

    resources = SimpleNamespace(sweep=small_sweep(tmp_path, *SHARDED))
    monkeypatch.setattr(attachment, "attach", lambda config: resources)
    monkeypatch.setattr(trainable, "resources_of", lambda config: resources)
    monkeypatch.setattr(prepare_module, "prepare_teacher", prepare)
    monkeypatch.setattr(trial_module, "Trial", trial)
    given = RunContext(rank=1, world_size=2)
    workers.prepare_in_worker({"seed": 0, "versions": versions()}, given)
    workers.train_in_worker({"spec": SPEC, "versions": versions()}, given)
    for context in contexts:
        assert (context.strategy, context.graphs, context.rank, context.world_size) == ("fsdp", False, 1, 2)
    assert len(contexts) == 2


def test_every_worker_of_a_trial_is_named_after_it(tmp_path, monkeypatch):
    named = []
    trial = SimpleNamespace(
        spec=SimpleNamespace(name="search uniform keep=0.5 #0"),
        epochs=lambda: iter([{}, {}]),
        finish=lambda: SimpleNamespace(id="identity"),
    )
    resources = SimpleNamespace(sweep=small_sweep(tmp_path))
    monkeypatch.setattr(trainable, "resources_of", lambda config: resources)
    monkeypatch.setattr(trial_module, "Trial", lambda *arguments: trial)
    monkeypatch.setattr(workers, "setproctitle", named.append)
    assert workers.train_in_worker({"spec": SPEC, "versions": versions()}, RunContext()) == "identity"
    assert set(named) == {"ray::RayTrainWorker search uniform keep=0.5 #0"}


def test_a_worker_of_the_teacher_that_runs_other_code_refuses(tmp_path):
    arguments = {"run": str(tmp_path), "cache": "", "seed": 0, "versions": versions() | {"raydistill": "another"}}
    with pytest.raises(OtherCodeError, match="another"):
        workers.prepare_in_worker(arguments, RunContext())


def test_a_worker_looks_for_the_probe_before_it_reads_a_checkpoint(tmp_path, launch):
    config = launch(probe=".probe-1").train_loop_config
    with pytest.raises(UnseenError, match="does not see the place of the checkpoints") as caught:
        sharded._worker(config)  # ``ray.train.get_checkpoint`` would raise here
    assert caught.value.where == str(tmp_path / "train")


def test_the_process_that_starts_the_workers_of_a_trial_looks_for_the_probe_too(tmp_path, monkeypatch):
    sweep, started, said = small_sweep(tmp_path), [], []
    monkeypatch.setattr(sharded_trial, "read_record", lambda file: SimpleNamespace(id="a", status="success", curves=[]))
    monkeypatch.setattr(sharded_trial, "run_sharded", lambda *arguments, **settings: started.append(settings))
    monkeypatch.setattr(tune, "report", said.append)
    own = begun(sweep, tmp_path)
    with checkpoints.probed_place(sweep, own) as probe:
        sharded_trial.run_sharded_trial(told(sweep, own, ".probe-1"))
        assert "does not see" in said[-1][REFUSED]["what"]
        assert started == []
        sharded_trial.run_sharded_trial(told(sweep, own, probe))
    assert said[-1] == {"record": "a", "status": "success"}
    assert [settings["probe"] for settings in started] == [probe]


def test_the_workers_of_a_teacher_are_told_of_the_probe(tmp_path, monkeypatch):
    def run_sharded(*arguments, **settings):
        given.update(settings)
        raise Launched

    given, sweep = {}, small_sweep(tmp_path)
    own = job.Job(sweep, RunDirectory(tmp_path / "run"), tmp_path / "cache")
    resources = SimpleNamespace(sweep=sweep, run=own.run, data=SimpleNamespace(hash="datahash"))
    monkeypatch.setattr(job, "prepared_teacher", lambda resources, identity: None)
    monkeypatch.setattr(sharded, "run_sharded", run_sharded)
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 2.0}])
    with pytest.raises(Launched):
        own._prepared(resources, 1, ".probe-1", SimpleNamespace(phase=print))
    assert given["probe"] == ".probe-1"
    assert given["storage"] == checkpoints.place_of(sweep, own.run)


NO_ROOM = ControllerError(WorkerGroupStartupTimeoutError(2))


def trainer_that(*ends):
    """Return a trainer each of whose runs ends with the next of these."""
    left = list(ends)

    class Trainer(sharded.InterruptibleTrainer):
        def fit(self):
            end = left.pop(0)
            if isinstance(end, Exception):
                raise end
            return SimpleNamespace(return_value=end)

    return Trainer


def run(folder, trainer, asked=None):
    """Run what a teacher's training is, or, with workers of its own, a trial."""
    waits, asked = asked is not None, asked or sharded.teacher_workers(small_sweep(folder))
    storage = str(folder / "train")
    return sharded.run_sharded(print, {}, asked, name="a", storage=storage, waits=waits, trainer=trainer)


def test_a_teacher_without_room_says_what_it_asked_for_and_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr(sharded, "shortage", lambda workers, nodes: f"{workers.cpus:g} CPU, and {nodes}")

    class Trainer(sharded.InterruptibleTrainer):
        def fit(self):
            monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 4.0}])  # the other is lost
            raise NO_ROOM

    with pytest.raises(NoRoomError, match=r"in about 10 minutes: 8 CPU, and \[\{'CPU': 4\.0\}\]\n") as caught:
        run(tmp_path, Trainer)
    assert "run the same command again" in caught.value.mend


def test_a_teacher_whose_room_others_hold_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 2.0}])
    with pytest.raises(NoRoomError, match=r"1 fit on the nodes there are \(2 CPU 0 GPU\), but something else holds"):
        run(tmp_path, trainer_that(NO_ROOM))


def test_a_trial_waits_for_others_as_long_as_it_fits_at_all(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 4.0}])
    asked = Workers(2, 2.0, 0.0)
    assert run(tmp_path, trainer_that(NO_ROOM, NO_ROOM, "identity"), asked) == "identity"
    assert caplog.text.count("others have the room") == 2
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 3.0}])
    with pytest.raises(NoRoomError, match=r"2 worker.* of 2 CPU each are asked for, 1 fit"):
        run(tmp_path, trainer_that(NO_ROOM), asked)


def test_what_a_worker_raised_is_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "node_resources", lambda: [{"CPU": 4.0}])
    raised = RaydistillError("the disk is full", where="there", mend="make room")
    with pytest.raises(RaydistillError) as caught:
        run(tmp_path, trainer_that(WorkerGroupError("rank 0", {0: raised})))
    assert caught.value is raised
    with pytest.raises(RaydistillError, match="the training workers failed: lost"):
        run(tmp_path, trainer_that(WorkerGroupError("rank 0", {0: OSError("lost")})))


class Launched(Exception):
    pass


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Start a run up to where Ray would start processes; returns what Ray's trainer was given."""
    given = []

    class Trainer(sharded.InterruptibleTrainer):
        def fit(self):
            given.append(self)
            raise Launched

    def launch(probe=None):
        with pytest.raises(Launched):
            sharded.run_sharded(
                print, {}, Workers(2, 1.0, 0.0), name="teacher-a", storage=str(tmp_path / "train"),
                probe=probe, trainer=Trainer,
            )  # fmt: skip
        return given[-1]

    return launch


@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")  # Ray's own, of its own settings
def test_no_process_is_started_for_data_sets_of_rays_own(launch):
    kinds = [type(each) for each in launch()._create_default_callbacks()]
    assert BackendSetupCallback in kinds
    assert DatasetsCallback not in kinds


def manager(folder):
    return CheckpointManager(CheckpointConfig(num_to_keep=2), StorageContext(str(folder), "teacher-a"))


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a run of three checkpoints, as Ray itself writes it."""

    async def write():
        own = manager(tmp_path / "train")
        for number in range(3):
            folder = tmp_path / "train" / "teacher-a" / f"checkpoint_{number}"
            folder.mkdir(parents=True)
            own.register_checkpoint(_TrainingReport(metrics={}, checkpoint=Checkpoint(str(folder)), validation=False))

    asyncio.run(write())
    return tmp_path / "train" / "teacher-a"


def cut(run):
    path = run / "checkpoint_manager_snapshot.json"
    path.write_text(path.read_text()[:40])


def lose_the_folders(run):
    for path in run.glob("checkpoint_?"):
        path.rmdir()


def name_a_folder_elsewhere(run):
    (run.parents[1] / "checkpoint_home").mkdir()
    path = run / "checkpoint_manager_snapshot.json"
    path.write_text(path.read_text().replace("checkpoint_1", "../../checkpoint_home"))


def another_layout(run):
    path = run / "checkpoint_manager_snapshot.json"
    content = json.loads(path.read_text())
    del content["current_report_index"]
    path.write_text(json.dumps(content | {"ray_version": "2.0.0"}))


@pytest.mark.parametrize("damage", [cut, lose_the_folders, another_layout])
def test_checkpoints_that_ray_refuses_are_removed_and_said(tmp_path, interrupted, launch, caplog, damage):
    damage(interrupted)
    with pytest.raises(CheckpointManagerInitializationError):
        manager(tmp_path / "train")
    launch()
    assert "begins anew" in caplog.text
    assert not list(interrupted.glob("checkpoint*"))
    manager(tmp_path / "train")


def test_a_list_that_names_a_folder_elsewhere_is_not_followed(tmp_path, interrupted, launch, caplog):
    name_a_folder_elsewhere(interrupted)
    manager(tmp_path / "train")  # Ray would take it, and delete that folder in time
    launch()
    assert "checkpoint_home is none of them" in caplog.text
    assert not list(interrupted.glob("checkpoint*"))
    assert (tmp_path / "checkpoint_home").is_dir()


def test_workers_wait_longer_for_the_first_than_any_evidence_takes(tmp_path, launch):
    backend = launch().backend_config
    assert isinstance(backend, TorchConfig)
    assert TorchConfig().timeout_s < 3600 < 12 * 3600 < backend.timeout_s


def test_workers_are_not_waited_for_for_ever(tmp_path, launch):
    limit = launch().run_config.failure_config.controller_failure_limit
    assert FailureConfig().controller_failure_limit == -1 < limit == sharded.MAX_STARTS


def checkpoint_of(folder, epoch):
    save_checkpoint(folder, {"weight": torch.full((4,), float(epoch))}, {"epoch": epoch})
    return folder


@pytest.mark.parametrize(("damaged", "epoch"), [((), 3), ((3,), 2), ((2, 3), 1), ((1, 2), 3), ((1, 2, 3), None)])
def test_training_continues_from_the_newest_checkpoint_that_is_whole(tmp_path, caplog, damaged, epoch):
    run = tmp_path / "teacher-a"
    for number in (1, 2, 3, 4):  # Ray has not heard of the last
        checkpoint_of(run / f"checkpoint_2026-11-25_0{number}", number)
    (run / "checkpoint_manager_snapshot.json").write_text("{}")
    for number in damaged:
        path = run / f"checkpoint_2026-11-25_0{number}" / (TENSORS if number % 2 else STATE)
        path.write_bytes(path.read_bytes()[:-3])
    found = sharded._newest_whole(Checkpoint(str(run / "checkpoint_2026-11-25_03")), tmp_path / "resume")
    assert (found and load_checkpoint(found)[1]["epoch"]) == epoch
    assert caplog.text.count("the one before it is tried") == (3 - epoch if epoch else 3)


def test_training_begins_anew_where_there_is_no_checkpoint(tmp_path):
    assert sharded._newest_whole(None, tmp_path / "resume") is None


def test_a_whole_snapshot_stays_and_two_checkpoints_with_it(tmp_path, interrupted, launch, caplog):
    trainer = launch()
    assert "begins anew" not in caplog.text
    assert sorted(path.name for path in interrupted.glob("checkpoint_?")) == ["checkpoint_1", "checkpoint_2"]
    assert trainer.run_config.checkpoint_config.num_to_keep == 2
