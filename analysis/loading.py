"""Records of run directories as tidy tables, one row a trial."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.run import DEFAULTS, Run
from analysis.tasks import Task, task_of
from raydistill.errors import CorruptArtifactError, RunDirectoryError
from raydistill.records import (
    SCHEMA_VERSION,
    Record,
    RunDirectory,
    atomic_write,
    content_hash,
    sha256_file,
)

NESTED = ("configuration", "validation", "test", "cost")
PLAIN = [f.name for f in fields(Record) if f.name not in (*NESTED, "curves", "schema")]
NUMBERS = (
    *("number", "seed", "draw", "teacher_seed", "n_teacher_layers", "n_student_layers"),
    *("keep_ratio", "epochs", "started", "finished"),
)
FRAMES = ("trials", "curves", "refused")
CACHE_VERSION = 1


def load(*roots: Path | str, cache: bool = True) -> Run:
    """Return one table of the trials of one or several run directories of the same data and protocol.

    Args:
        roots: Run directories.
        cache: Keep the table as Parquet in ``report/cache``, named by the content of all records.

    Raises:
        RunDirectoryError: A folder is no run directory, or the protocols of several differ.
    """
    runs = _load_all(roots, cache)
    if not runs:
        raise RunDirectoryError("no run directory was given", mend="python -m analysis runs/NAME")
    same_protocol(runs, with_data=True)
    if len(runs) == 1:
        return runs[0]
    frames = [pd.concat([getattr(run, name) for run in runs], ignore_index=True) for name in FRAMES]
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    return replace(runs[0], **dict(zip(FRAMES, frames, strict=True)), notes=notes)


def load_each(*roots: Path | str, cache: bool = True) -> list[Run]:
    """Return every run directory on its own; the rules of evaluation must agree, the data may differ.

    Raises:
        RunDirectoryError: As :func:`load`.
    """
    runs = _load_all(roots, cache)
    same_protocol(runs, with_data=False)
    return runs


def _load_all(roots: Sequence[Path | str], cache: bool) -> list[Run]:
    seen: set[Path] = set()
    for path in (Path(root).resolve() for root in roots):
        if path in seen:
            raise RunDirectoryError("a run directory is given twice", where=str(path), mend="name it once")
        seen.add(path)
    return [_load_one(Path(root), cache) for root in roots]


def same_protocol(runs: list[Run], *, with_data: bool) -> None:
    """Raise unless all runs were evaluated in the same way; the message names every key that differs."""
    described = [(run, _protocol(run, with_data)) for run in runs if run.signature]
    for run, keys in described[1:]:
        first, expected = described[0]
        wrong = sorted(k for k in {*keys, *expected} if keys.get(k) != expected.get(k))
        if wrong:
            differences = ", ".join(f"{k} ({expected.get(k)!r} against {keys.get(k)!r})" for k in wrong)
            raise RunDirectoryError(
                f"these runs cannot stand in one table: they differ in {differences}",
                where=f"{first.root} and {run.root}",
                mend="analyse them apart, or run one of the sweeps again under the protocol of the other",
            )


def _protocol(run: Run, with_data: bool) -> dict[str, Any]:
    protocol = {"task": run.task.name, **run.signature.get("protocol", {})}
    if with_data:
        data = run.signature.get("data", {})
        return {**protocol, "data": data.get("source"), "data hash": data.get("hash")}
    # Length and filtering belong to a data set; how a rank is counted must agree everywhere.
    return {k: v for k, v in protocol.items() if k not in ("max_length", "min_interactions")}


def _load_one(root: Path, cache: bool) -> Run:
    run = RunDirectory(root)
    if not root.is_dir():
        raise RunDirectoryError("there is no such run directory", where=str(root))
    if not (run.signature_file.exists() or run.plan_file.exists() or (root / "trials").is_dir()):
        raise RunDirectoryError(
            "this folder is no run directory: it has no signature.json, no plan.json and no trials/",
            where=str(root),
            mend="give the folder that `python -m raydistill.sweep` wrote, such as runs/NAME",
        )
    notes: list[str] = []
    signature = _optional(run.signature, "the protocol of the numbers is unknown", notes)
    plan = _optional(run.plan, f"what was planned is unknown; assumed: {DEFAULTS}", notes)
    trials, curves, refused = _frames(run, cache, notes)
    trials, refused = _whole(run, task_of(signature, plan), trials, refused)
    trials["run"], trials["root"] = root.resolve().name, str(root)
    return Run(root, signature, plan, trials, curves, refused, notes=notes)


def _whole(
    run: RunDirectory, task: Task, trials: pd.DataFrame, refused: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the trials whose ranks or scores are those that their record names, and the others in ``refused``."""
    rows = []
    for identity, digest in trials.loc[trials["ranks_sha256"].notna(), ["id", "ranks_sha256"]].itertuples(index=False):
        path = run.trial(identity) / task.file
        if not path.is_file():
            rows.append((identity, path, f"{task.file}, which the record names by its hash, is missing"))
        elif sha256_file(path) != digest:
            rows.append((identity, path, f"{task.file} is not the one that its record names"))
    if not rows:
        return trials, refused
    new = pd.DataFrame([{"path": str(path.relative_to(run.root)), "reason": reason} for _, path, reason in rows])
    whole = trials[~trials["id"].isin([identity for identity, _, _ in rows])].reset_index(drop=True)
    return whole, pd.concat([refused, new], ignore_index=True)


def _optional(reader, consequence: str, notes: list[str]) -> dict[str, Any]:
    try:
        return reader()
    except CorruptArtifactError as error:
        notes.append(f"{error.what}: {consequence}")
        return {}


def _frames(run: RunDirectory, cache: bool, notes: list[str]) -> list[pd.DataFrame]:
    if not cache:
        return _read_records(run)
    folder = run.report / "cache"
    key = _content_key(run)
    paths = [folder / f"{name}-{key}.parquet" for name in FRAMES]
    with contextlib.suppress(FileNotFoundError, pa.ArrowInvalid):  # absent or cut off: it is made anew
        return [pd.read_parquet(path) for path in paths]
    frames = _read_records(run)
    try:
        for old in folder.glob("*.parquet"):
            old.unlink()
        for path, frame in zip(paths, frames, strict=True):
            with atomic_write(path) as temporary:
                pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), temporary)
    except (RunDirectoryError, OSError):
        notes.append("the run directory cannot be written, so the table of trials was not cached")
    return frames


def _content_key(run: RunDirectory) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION}.{SCHEMA_VERSION}".encode())
    for path in sorted(run.root.glob("trials/*/record.json")):
        digest.update(path.parent.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _read_records(run: RunDirectory) -> list[pd.DataFrame]:
    rows, curves, refused = [], [], []
    for path, record in run.records():
        if isinstance(record, CorruptArtifactError):
            refused.append({"path": str(path.relative_to(run.root)), "reason": record.what})
        elif record.id != path.parent.name:
            reason = f"the record says that its id is {record.id}: it was moved or copied"
            refused.append({"path": str(path.relative_to(run.root)), "reason": reason})
        else:
            rows.append(_row(record))
            curves += [{"id": record.id, **epoch} for epoch in record.curves]
    trials = pd.DataFrame(rows, columns=None if rows else [*PLAIN, "configuration"])
    for column in NUMBERS:
        trials[column] = pd.to_numeric(trials[column]).astype(float)
    for column in trials.columns:
        if column.startswith("configuration.") and trials[column].dtype == object:
            numeric = pd.to_numeric(trials[column], errors="coerce")
            whole = numeric.notna() | trials[column].isna()
            trials[column] = numeric if whole.all() else trials[column].map(lambda v: None if v is None else str(v))
    return [
        trials,
        pd.DataFrame(curves, columns=None if curves else ["id", "epoch", "loss", "seconds"]),
        pd.DataFrame(refused, columns=["path", "reason"]),
    ]


def _row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in PLAIN}
    row["layer_map"] = None if record.layer_map is None else list(record.layer_map)
    row["configuration"] = content_hash(record.configuration, digits=8)
    for prefix in NESTED:
        row |= _flat(prefix, getattr(record, prefix) or {})
    return row


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= _flat(name, value) if isinstance(value, dict) else {name: value}
    return flat
