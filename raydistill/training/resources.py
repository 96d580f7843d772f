"""What every trial of a sweep reads, opened once a process and shared by its trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from raydistill.config import Sweep, cache_identity
from raydistill.errors import CorruptArtifactError
from raydistill.records import RunDirectory, write_json
from raydistill.training import build
from raydistill.training.tasks import Task, task_of

PREPARED = "prepared.json"


def note_prepared(run: RunDirectory, task: Task, data: Any) -> None:
    """Write where the prepared data of a run lie, for :meth:`Resources.attach`."""
    folders = [str(folder) for folder in task.folders_of(data)]
    write_json(run.data / PREPARED, {"folders": folders, "hash": data.hash})


def read_prepared(run: RunDirectory) -> dict[str, Any]:
    """Return what :func:`note_prepared` wrote.

    Raises:
        CorruptArtifactError: It is not there, or cannot be read.
    """
    path = run.data / PREPARED
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"where the data lie cannot be read: {error}", where=str(path)) from error


class Resources:
    """The sweep, its data, its teachers and their cached outputs.

    Args:
        sweep: The sweep.
        run: Its run directory.
        cache: Folder of raw and prepared data, shared by the sweeps of one storage place.
    """

    def __init__(self, sweep: Sweep, run: RunDirectory, cache: Path) -> None:
        self.sweep = sweep
        self.run = run
        self.cache = cache
        self._teachers: dict[str, nn.Module] = {}
        self._caches: dict[str, Any] = {}

    @classmethod
    def load(cls, file: Path | str, overrides: Sequence[str] = (), run_dir: Path | str | None = None) -> Resources:
        """Return the resources of a sweep file; nothing but the file is read yet, and nothing is written.

        Args:
            file: The sweep's YAML file.
            overrides: ``KEY=VALUE`` with dotted keys.
            run_dir: The run directory; ``<execution.storage>/<name>`` where None.

        Raises:
            ConfigError: With every mistake in the file.
        """
        sweep = build.load_sweep(file, tuple(overrides))
        storage = Path(sweep.execution.storage)
        root = Path(run_dir) if run_dir is not None else storage / sweep.name
        return cls(sweep, RunDirectory(root.resolve()), (storage / ".cache").resolve())

    @classmethod
    def attach(cls, run: RunDirectory, cache: Path) -> Resources:
        """Return the resources of a sweep that is under way, for one of its workers.

        Its data are those that the driver has prepared: another machine may not have the files that they were made of,
        and reading them again in every process would take as long as reading them once.

        Raises:
            CorruptArtifactError: They are not there, or are others by now.
        """
        resources = cls(build.load_sweep(run.sweep_file), run, cache)
        kept = read_prepared(run)
        data = resources.task.open_data([Path(folder) for folder in kept["folders"]])
        if data.hash != kept["hash"]:
            raise CorruptArtifactError(
                "the prepared data are not those that the sweep began with",
                where=kept["folders"][0],
                mend="was a data file changed meanwhile? bring the old one back, and run the same command again",
            )
        resources.__dict__["data"] = data  # what the cached property below would read
        return resources

    @property
    def task(self) -> Task:
        """What is recommended from what."""
        return task_of(self.sweep)

    @cached_property
    def data(self) -> Any:
        """The prepared data of the task, memory-mapped."""
        return self.task.prepared_data(self.sweep, self.cache)

    def teacher(self, identity: str) -> nn.Module:
        """Return a teacher that was trained for this run, in eval mode; never changed by its students.

        A process may see several in its time, and holds one: the last.
        """
        if identity not in self._teachers:
            self._teachers = {identity: self.task.load(self.run.teacher(identity))}
        return self._teachers[identity]

    def teacher_cache(self, identity: str) -> Any:
        """Return the cached outputs of a teacher, memory-mapped."""
        if identity not in self._caches:
            self._caches[identity] = self.task.open_cache(self.run.cache(cache_identity(self.sweep, identity)))
        return self._caches[identity]

    def profile(self, teacher: str) -> dict[str, Any]:
        """Return what models of each depth cost, as :func:`raydistill.training.profile.profile` measured it."""
        return json.loads((self.run.teacher(teacher) / "profile.json").read_text())
