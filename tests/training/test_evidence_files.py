"""Evidence on disk: whole or detected as broken, and what it says of selectors."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau, sem

from raydistill.errors import CorruptArtifactError
from raydistill.selectors import KINDS, RUN_KINDS, SELECTORS
from raydistill.training.evidence import Evidence, passes_of
from raydistill.training.evidence_files import read_evidence, write_evidence

LAYERS, REPLICATES, DEPTHS = 5, 3, [1, 2, 4]


def evidence(kinds=KINDS, replicates=REPLICATES):
    rng = np.random.default_rng(0)
    return Evidence(
        values={
            kind: rng.random((replicates, LAYERS, LAYERS) if kind in RUN_KINDS else (replicates, LAYERS))
            for kind in kinds
        },
        pass_seconds={name: float(i + 1) for i, name in enumerate(passes_of(*kinds))},
        pass_peak_bytes={name: 10 * i for i, name in enumerate(passes_of(*kinds))},
        samples=64,
        attention="eager",
    )


def selections(*names):
    return {name: (SELECTORS[name], SELECTORS[name].params_type()) for name in names or SELECTORS}


def write(folder, found=None, arms=None):
    return write_evidence(folder, found or evidence(), arms or selections(), DEPTHS, teacher="abc", n_teacher=LAYERS)


def test_round_trip_is_exact(tmp_path):
    content = write(tmp_path)
    found, again = read_evidence(tmp_path)
    assert again == json.loads(json.dumps(content))
    expected = evidence()
    assert set(found.values) == set(KINDS)
    for kind in KINDS:
        np.testing.assert_array_equal(found.values[kind], expected.values[kind])
    assert (found.pass_seconds, found.pass_peak_bytes, found.samples, found.attention) == (
        expected.pass_seconds, expected.pass_peak_bytes, 64, "eager",
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence.json", "scores.parquet"]


def test_scores_table_has_what_each_arm_ranks_by(tmp_path):
    write(tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    assert list(table.columns) == ["selector", "replicate", "layer", "score"]
    for arm, (selector, params) in selections().items():
        scores = selector.scores(evidence().values, params)
        rows = table[table.selector == arm]
        if scores is None:
            assert rows.empty
        else:
            np.testing.assert_array_equal(rows.pivot(index="replicate", columns="layer", values="score"), scores)


def test_summary_says_costs_agreement_and_maps(tmp_path):
    content = write(tmp_path)
    found = evidence()
    means = {kind: array.mean(0) for kind, array in found.values.items()}
    assert content["kendall"]["fisher"]["gradient"] == pytest.approx(
        kendalltau(means["fisher"], means["gradient"]).statistic
    )
    for n in DEPTHS:
        assert content["layer_maps"]["tail"][str(n)] == list(range(n))
        assert content["layer_maps"]["fisher"][str(n)] == sorted(np.argsort(-means["fisher"])[:n].tolist())
        shared = set(content["layer_maps"]["fisher"][str(n)]) & set(range(n))
        assert content["overlap"][str(n)]["fisher"]["tail"] == len(shared) / n
    assert "random" not in content["layer_maps"]
    of = content["selectors"]
    assert set(of) == set(SELECTORS)
    assert of["hybrid"]["seconds"] == sum(found.pass_seconds[p] for p in passes_of("fisher", "attention", "gradient"))
    assert of["uniform"]["seconds"] == 0
    assert of["uniform"]["stability"] is None
    ratios = found.values["fisher"][:, -1] / found.values["fisher"][:, 0]
    assert of["fisher"]["depth_concentration"]["mean"] == pytest.approx(ratios.mean())
    assert of["fisher"]["depth_concentration"]["standard_error"] == pytest.approx(ratios.std(ddof=1) / np.sqrt(3))
    assert content["kinds"]["fisher"]["seconds"] == found.seconds("fisher")
    for place in (of["gradient"]["scores"], content["kinds"]["gradient"]):
        np.testing.assert_allclose(place["mean"], means["gradient"])
        np.testing.assert_allclose(place["standard_error"], sem(found.values["gradient"], axis=0))
    assert of["uniform"]["scores"] is None
    assert np.shape(content["kinds"]["contiguous"]["standard_error"]) == (LAYERS, LAYERS)


def test_one_replicate_and_no_evidence_at_all_are_written_without_nan(tmp_path):
    content = write(tmp_path / "one", evidence(replicates=1))
    assert content["selectors"]["fisher"]["stability"] is None
    assert content["selectors"]["fisher"]["scores"]["standard_error"] == [None] * LAYERS
    write(tmp_path / "none", evidence(kinds=()), selections("uniform", "random"))
    assert read_evidence(tmp_path / "none")[1]["replicates"] == 0


@pytest.mark.parametrize("name", ["evidence.json", "scores.parquet"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_broken_files_are_detected(tmp_path, name, harm):
    write(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.index(b"64") if name == "evidence.json" else len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CorruptArtifactError, match=name.split(".")[0]):
        read_evidence(tmp_path)
