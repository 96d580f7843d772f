"""Where everything in a run directory lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydistill.errors import CorruptArtifactError
from raydistill.records.record import Record, read_record
from raydistill.records.scores import SCORES

RECORD, RANKS, MODEL = "record.json", "ranks.parquet", "model"
"""Names inside the folder of a trial."""


class RunDirectory:
    """Paths and readers of one run directory, ``runs/<sweep>/``.

    ::

        sweep.yaml              resolved configuration, every default spelled out
        signature.json          data, protocol, versions, hardware: what numbers may be compared with
        plan.json               arms, budgets and confirm jobs that the sweep is made of
        data/                   items.parquet (item, title, attributes, popularity), statistics.json
        teacher/<id>/           Hugging Face folder (with tokenizer, of a text model), history.json (curve, popularity)
        evidence/<id>/          scores.parquet (selector, replicate, layer, score), evidence.json
        cache/<id>/             the teacher's outputs, memory-mapped
        studies/                Optuna journals, one study an arm
        trials/<id>/            record.json, ranks.parquet or scores.parquet (confirm), model/ (if kept)
        computations/           which trial did a computation, by its name
        superseded/             trials that the sweep does not consist of any more
        report/                 what `python -m analysis` writes
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def sweep_file(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def signature_file(self) -> Path:
        return self.root / "signature.json"

    @property
    def plan_file(self) -> Path:
        return self.root / "plan.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def teacher(self, identity: str) -> Path:
        return self.root / "teacher" / identity

    def evidence(self, identity: str) -> Path:
        return self.root / "evidence" / identity

    def cache(self, identity: str) -> Path:
        return self.root / "cache" / identity

    def trial(self, identity: str) -> Path:
        return self.root / "trials" / identity

    def record_file(self, identity: str) -> Path:
        return self.trial(identity) / RECORD

    def ranks_file(self, identity: str) -> Path:
        return self.trial(identity) / RANKS

    def scores_file(self, record: Record) -> Path | None:
        """Return where a record's answers lie, ranks or scores as its task has them; None where it has none."""
        if record.ranks_sha256 is None:
            return None
        folder = self.trial(record.id)
        return folder / (SCORES if (folder / SCORES).is_file() else RANKS)

    def signature(self) -> dict[str, Any]:
        """Return ``signature.json``.

        Raises:
            CorruptArtifactError: It is absent or unreadable.
        """
        return _read_json(self.signature_file)

    def plan(self) -> dict[str, Any]:
        """Return ``plan.json``; raises as :meth:`signature` does."""
        return _read_json(self.plan_file)

    def records(self) -> Iterator[tuple[Path, Record | CorruptArtifactError]]:
        """Yield every record with its path, in order of path; a broken one as the error that says why."""
        for path in sorted(self.root.glob("trials/*/record.json")):
            try:
                yield path, read_record(path)
            except CorruptArtifactError as error:
                yield path, error


def protocol_signature(signature: dict[str, Any]) -> str:
    """Return the one-line signature that goes with every number, after sacreBLEU (Post 2018).

    Args:
        signature: The content of ``signature.json``.
    """
    protocol = signature["protocol"]
    parts = [f"data:{signature['data']['source']}.{signature['data']['hash'][:8]}"]
    parts += [f"{key}:{protocol[key]}" for key in sorted(protocol)]
    parts.append(f"raydistill:{signature['versions']['raydistill']}")
    return "|".join(parts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CorruptArtifactError(f"{path.name} is missing", where=str(path)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(f"{path.name} cannot be read: {error}", where=str(path)) from error
