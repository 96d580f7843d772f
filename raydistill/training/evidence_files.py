"""Evidence on disk: the scores, what they cost, what each selector makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import CorruptArtifactError
from raydistill.records import atomic_write, content_hash, sha256_file, write_json
from raydistill.seeding import stream
from raydistill.selectors import RUN_KINDS, Selector
from raydistill.selectors.agreement import depth_concentration, kendall, map_stability, overlap, score_stability
from raydistill.training.evidence import Evidence

SCORES, SUMMARY = "scores.parquet", "evidence.json"
# Raw kinds stand in the column `selector` of scores.parquet behind this, so that no arm's name can meet them.
KIND = "kind:"

Selections = Mapping[str, tuple[Selector, Any]]


def write_evidence(
    folder: Path, evidence: Evidence, selections: Selections, n_students: Sequence[int], *, teacher: str, n_teacher: int
) -> dict[str, Any]:
    """Write ``scores.parquet``, then ``evidence.json``, each atomically, and return the content of the latter.

    Args:
        folder: ``evidence/<id>/`` of a run directory.
        evidence: What was measured.
        selections: By arm, the selector and its params.
        n_students: Depths of the students.
        teacher: Identity of the teacher.
        n_teacher: Its number of blocks.

    Raises:
        EvidenceError: A selector cannot use the evidence.
        RunDirectoryError: The folder cannot be written.
    """
    content = summary(evidence, selections, n_students, n_teacher=n_teacher)
    with atomic_write(folder / SCORES) as path:
        pq.write_table(_table(evidence, selections), path)
    content |= {"teacher": teacher, "scores_sha256": sha256_file(folder / SCORES)}
    content["hash"] = content_hash(content)
    write_json(folder / SUMMARY, content)
    return content


def read_evidence(folder: Path) -> tuple[Evidence, dict[str, Any]]:
    """Return the evidence in a folder and the content of its ``evidence.json``.

    Raises:
        CorruptArtifactError: A file is missing, unreadable or not what was written.
    """
    content = _read_summary(folder / SUMMARY)
    path = folder / SCORES
    if not path.is_file() or sha256_file(path) != content["scores_sha256"]:
        raise CorruptArtifactError(f"{SCORES} is missing or not what was written", where=str(path))
    rows = pq.read_table(path).to_pydict()
    scores: dict[str, dict[tuple[int, int], float]] = {}
    for name, replicate, layer, score in zip(*(rows[column] for column in rows), strict=True):
        scores.setdefault(name, {})[replicate, layer] = score
    values = {}
    for kind in content["kinds"]:
        if kind in RUN_KINDS:
            ends = [_array(scores[f"{KIND}{kind}/{end}"]) for end in range(content["layers"])]
            values[kind] = np.stack(ends, axis=2)
        else:
            values[kind] = _array(scores[f"{KIND}{kind}"])
    passes = content["passes"]
    evidence = Evidence(
        values=values,
        pass_seconds={name: cost["seconds"] for name, cost in passes.items()},
        pass_peak_bytes={name: cost["peak_memory_bytes"] for name, cost in passes.items()},
        samples=content["samples"],
        attention=content["attention"],
    )
    return evidence, content


def summary(evidence: Evidence, selections: Selections, n_students: Sequence[int], *, n_teacher: int) -> dict[str, Any]:
    """Return what ``evidence.json`` says of the evidence and of each selector; a number that does not exist is None.

    ``stability`` is the mean of Kendall's tau over pairs of calibration samples, ``map_stability`` the mean share of
    common layers, by depth of the student. Stochastic selectors have no layer map here: each of their trials draws.
    """
    scores = {arm: selector.scores(evidence.values, params) for arm, (selector, params) in selections.items()}
    scores = {arm: array for arm, array in scores.items() if array is not None}
    fixed = {arm: one for arm, one in selections.items() if not one[0].stochastic}
    maps = {arm: {n: _select(one, evidence.values, n, n_teacher) for n in n_students} for arm, one in fixed.items()}
    return _plain(
        {
            "samples": evidence.samples,
            "replicates": evidence.replicates if evidence.values else 0,
            "layers": n_teacher,
            "attention": evidence.attention,
            "passes": {
                name: _cost(seconds, evidence.pass_peak_bytes[name]) for name, seconds in evidence.pass_seconds.items()
            },
            "kinds": {
                kind: _cost(evidence.seconds(kind), evidence.peak_memory_bytes(kind)) | _mean_and_error(array)
                for kind, array in evidence.values.items()
            },
            "selectors": {
                arm: _of_selector(evidence, one, scores.get(arm), n_students, n_teacher)
                for arm, one in selections.items()
            },
            "layer_maps": maps,
            "kendall": kendall(scores),
            "overlap": {n: overlap({arm: by_depth[n] for arm, by_depth in maps.items()}) for n in n_students},
        }
    )


def _of_selector(evidence: Evidence, one: tuple[Selector, Any], scores, n_students, n_teacher: int) -> dict[str, Any]:
    selector, params = one
    needs = selector.needs(params)
    ratio, error = (math.nan, math.nan) if scores is None else depth_concentration(scores)
    content = {
        **_cost(evidence.seconds(*needs), evidence.peak_memory_bytes(*needs)),
        "depth_concentration": {"mean": ratio, "standard_error": error},
        "scores": None if scores is None else _mean_and_error(scores),
        "stability": math.nan if scores is None else score_stability(scores),
        "map_stability": {},
    }
    if needs:
        alone = [{kind: evidence.values[kind][[r]] for kind in needs} for r in range(evidence.replicates)]
        for n in n_students:
            content["map_stability"][n] = map_stability([_select(one, values, n, n_teacher) for values in alone])
    return content


def _select(one: tuple[Selector, Any], values: Mapping[str, np.ndarray], n_student: int, n_teacher: int) -> list[int]:
    selector, params = one
    generator = stream(0, "selector")  # only selectors that are not stochastic come here
    return list(selector.select(values, n_student, n_teacher=n_teacher, params=params, generator=generator))


def _mean_and_error(scores: np.ndarray) -> dict[str, list]:
    """Return mean and standard error of each entry over the replicates; the error of one replicate does not exist."""
    n = len(scores)
    error = scores.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(scores.shape[1:], math.nan)
    return {"mean": scores.mean(axis=0).tolist(), "standard_error": error.tolist()}


def _cost(seconds: float, peak_memory_bytes: int) -> dict[str, float]:
    return {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes}


def _table(evidence: Evidence, selections: Selections) -> pa.Table:
    arrays: dict[str, np.ndarray] = {}
    for arm, (selector, params) in selections.items():
        scores = selector.scores(evidence.values, params)
        if scores is not None:
            arrays[arm] = scores
    for kind, array in evidence.values.items():
        if kind in RUN_KINDS:
            arrays |= {f"{KIND}{kind}/{end}": array[:, :, end] for end in range(array.shape[2])}
        else:
            arrays[f"{KIND}{kind}"] = array
    columns: dict[str, list] = {"selector": [], "replicate": [], "layer": [], "score": []}
    for name, array in arrays.items():
        for (replicate, layer), score in np.ndenumerate(array):
            for column, value in zip(columns.values(), (name, replicate, layer, float(score)), strict=True):
                column.append(value)
    types = {"selector": pa.string(), "replicate": pa.int32(), "layer": pa.int32(), "score": pa.float64()}
    return pa.table(columns, schema=pa.schema(types.items()))


def _array(scores: Mapping[tuple[int, int], float]) -> np.ndarray:
    replicates, layers = (max(place[axis] for place in scores) + 1 for axis in (0, 1))
    return np.array([[scores[replicate, layer] for layer in range(layers)] for replicate in range(replicates)])


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"{SUMMARY} is missing or cannot be read: {error}", where=str(path)) from error
    if not isinstance(content, dict) or content_hash({k: v for k, v in content.items() if k != "hash"}) != content.get(
        "hash"
    ):
        raise CorruptArtifactError(f"{SUMMARY} is not what was written", where=str(path))
    return content


def _plain(content: Any) -> Any:
    """Return content as JSON keeps it: text keys, and None for NaN."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
