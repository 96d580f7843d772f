"""Opening a run directory: one sweep, one process at a time, and what an earlier run left in it."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence, Set
from typing import Any

from raydistill.config import Sweep, dump_sweep, plain_sweep, quality_metric
from raydistill.errors import CorruptArtifactError, RunDirectoryError
from raydistill.records import Record, RunDirectory, atomic_write, read_record, sha256_file, write_json
from raydistill.training import build
from raydistill.training.tasks import task_of
from raydistill.tuning import checkpoints
from raydistill.tuning.signature import signature

LOCK = ".lock"


@contextlib.contextmanager
def open_run_directory(run: RunDirectory, sweep: Sweep, *, fresh: bool) -> Iterator[None]:
    """Hold a run directory for one sweep, with the resolved ``sweep.yaml`` in it.

    Args:
        run: The directory, made where it is missing.
        sweep: The sweep that it is to hold.
        fresh: Delete what is there first.

    Raises:
        RunDirectoryError: It cannot be written, holds something else, or another process works in it.
    """
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        lock = open(run.root / LOCK, "w")  # noqa: SIM115 - held until the sweep ends
    except OSError as error:
        raise RunDirectoryError(
            f"the run directory cannot be written: {error.strerror}",
            where=str(run.root),
            mend="choose a place that you may write to, with --run-dir or execution.storage",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(
                "another process is running a sweep in this directory",
                where=str(run.root),
                mend="wait for it to end, or choose another directory with --run-dir",
            ) from error
        except OSError as error:  # a network file system without locks
            raise RunDirectoryError(
                f"the run directory cannot be locked against other processes: {error.strerror}",
                where=str(run.root),
                mend="choose a file system with locks (NFS: version 4), with --run-dir or execution.storage",
            ) from error
        _claim(run, sweep, fresh=fresh)
        yield


def _claim(run: RunDirectory, sweep: Sweep, *, fresh: bool) -> None:
    content = [path for path in run.root.iterdir() if path.name != LOCK]
    if fresh and (not content or run.sweep_file.is_file()):
        checkpoints.remove_all(run)
        for path in content:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif run.sweep_file.is_file():
        differences = _differences(build.load_sweep(run.sweep_file), sweep)
        if differences:
            raise RunDirectoryError(
                f"this run directory belongs to another sweep; different are: {', '.join(differences)}",
                where=str(run.root),
                mend="choose another with --run-dir, or delete this one's results with --fresh",
            )
    elif content:
        raise RunDirectoryError(
            f"this folder holds {content[0].name!r} and is no run directory",
            where=str(run.root),
            mend="choose an empty folder, or one that a sweep has written, with --run-dir",
        )
    with atomic_write(run.sweep_file) as temporary:
        temporary.write_text(dump_sweep(sweep))


_PLACES = ("data.path", "data.items", "data.time_unit")
"""Keys that say where the data lie, or how times are shown: what is in them is compared by its hash."""


def _differences(earlier: Sweep, now: Sweep) -> list[str]:
    """Return the keys that differ and may not; ``execution`` may, and seeds may be added to ``confirm``."""
    before, after = (dict(_leaves(plain_sweep(sweep))) for sweep in (earlier, now))
    keys = [key for key in before | after if before.get(key) != after.get(key) and not key.startswith("execution.")]
    keys = [key for key in keys if key not in _PLACES]
    if now.confirm.seeds >= earlier.confirm.seeds:
        keys = [key for key in keys if key != "confirm.seeds"]
    found = [f"{key} ({before.get(key)} there, {after.get(key)} now)" for key in sorted(keys)]
    first, other = quality_metric(earlier), quality_metric(now)
    if first != other and not found:  # their order alone
        found.append(f"search.objectives (the first is {first} there, {other} now)")
    return found


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield path, value
        return
    for key, inner in pairs:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def describe_run(run: RunDirectory, sweep: Sweep, data: Any) -> None:
    """Write what the run's numbers may be compared with: signature, items, statistics.

    Raises:
        RunDirectoryError: The directory was made from other data, or of a checkpoint that has changed since.
    """
    content = signature(sweep, data)
    if run.signature_file.is_file():
        _refuse_changes(run, sweep, run.signature(), content)
    write_json(run.signature_file, content)
    task_of(sweep).write_items(data, run.data / "items.parquet")
    write_json(run.data / "statistics.json", data.statistics)


def _refuse_changes(run: RunDirectory, sweep: Sweep, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse data and checkpoints with other content: neither the sweep nor a teacher's identity tells them apart."""
    changes = [("the data have", "data files", earlier["data"]["hash"], now["data"]["hash"])]
    for key, name in task_of(sweep).checkpoints(sweep).items():
        # Older run directories do not say it.
        before = earlier["teacher"].get(key, now["teacher"][key])
        changes.append((f"the checkpoint {name} has", "checkpoint", before, now["teacher"][key]))
    for what, files, before, after in changes:
        if before != after:
            raise RunDirectoryError(
                f"{what} changed since this run directory was made ({before[:16]} then, {after[:16]} now)",
                where=str(run.root),
                mend=f"bring the old {files} back, choose another place with --run-dir, or start anew with --fresh",
            )


def kept_records(run: RunDirectory) -> list[Record]:
    """Return the whole records of an earlier run; a damaged one is named and removed, so that its trial runs again."""
    records = []
    for path, record in run.records():
        problem = str(record) if isinstance(record, CorruptArtifactError) else _scores_problem(run, record)
        if problem:
            print(f"WARNING: {problem}\n  the trial runs again", file=sys.stderr)
            shutil.rmtree(path.parent)
        else:
            records.append(record)
    return records


def search_failures(run: RunDirectory, records: Sequence[Record]) -> list[Record]:
    """Move search trials that failed to ``superseded/``, and return all that were ever moved there.

    They run again, and what was suggested after one may follow from its failure: a sweep that is killed when it has
    been mended must still know of it.
    """
    for record in records:
        if (record.phase, record.status) == ("search", "failed"):
            _move_aside(run, record.id)
    found = []
    for path in sorted(run.root.glob("superseded/*/record.json")):
        with contextlib.suppress(CorruptArtifactError):
            found.append(read_record(path))
    return [record for record in found if (record.phase, record.status) == ("search", "failed")]


def set_aside(run: RunDirectory, identities: Set[str]) -> list[str]:
    """Move trials that the sweep does not consist of any more to ``superseded/``, and return their identities.

    There are such where a trial that had failed succeeded when the sweep continued: later trials then follow from
    its result, and what followed from its failure must not stand among them.
    """
    moved = sorted(path.name for path in run.root.glob("trials/*") if path.is_dir() and path.name not in identities)
    for name in moved:
        _move_aside(run, name)
    return moved


def _move_aside(run: RunDirectory, identity: str) -> None:
    place = run.root / "superseded" / identity
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    run.trial(identity).rename(place)


def _scores_problem(run: RunDirectory, record: Record) -> str | None:
    path = run.scores_file(record)
    if path is None or (path.is_file() and sha256_file(path) == record.ranks_sha256):
        return None
    return f"the {path.stem} of {record.name} are missing or not those that were recorded ({path})"
