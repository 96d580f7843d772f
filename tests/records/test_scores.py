"""Metrics of scores against scikit-learn and against loops over Python lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, ndcg_score, roc_auc_score

from raydistill.errors import CorruptArtifactError
from raydistill.records import LOWER_IS_BETTER
from raydistill.records.scores import (
    BINS,
    REPORTED_SCORES,
    SCORE_COLUMNS,
    is_mean_over_users,
    read_scores,
    score_metric,
    score_metric_per_user,
    score_metrics,
    write_scores,
)

LIST_METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@1", "hr@3", "mrr")


@st.composite
def tables(draw):
    """Rows of a few users, not in order of the user, with many ties."""
    n = draw(st.integers(1, 40))

    def column(values):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    label = column(st.integers(-1, 1))
    probability = column(st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 0.6, 0.8, 1.0]))
    with np.errstate(divide="ignore"):
        of_label = np.log(np.clip(np.where(label == 1, probability, 1 - probability), 1e-6, None))
    return {
        "user": column(st.sampled_from([0, 2, 3, 7])).astype(np.int32),
        "label": label.astype(np.int8),
        "relevant": label == 1,
        "score": probability.astype(np.float32),
        "log_probability": np.where(label >= 0, of_label, np.nan).astype(np.float32),
        "predicted": (probability > 0.5).astype(np.int8),
        "confidence": np.maximum(probability, 1 - probability).astype(np.float32),
    }


def labelled(columns):
    return {name: values[columns["label"] >= 0] for name, values in columns.items()}


def of_users(columns):
    for user in sorted(set(columns["user"].tolist())):
        yield user, {name: values[columns["user"] == user] for name, values in columns.items()}


def same(found: float, expected: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9, equal_nan=True)


@given(tables())
@settings(max_examples=200, deadline=None)
def test_pooled_metrics_are_those_of_scikit_learn(columns):
    rows = labelled(columns)
    found = score_metrics(["accuracy", "log_loss", "auc", "pr_auc"], columns)
    if not rows["label"].size:
        assert all(math.isnan(value) for value in found.values())
        return
    same(found["accuracy"], accuracy_score(rows["label"], rows["predicted"]))
    one = np.exp(rows["log_probability"].astype(np.float64))
    one = np.where(rows["label"] == 1, one, 1 - one)
    same(found["log_loss"], log_loss(rows["label"], np.stack([1 - one, one], axis=1), labels=[0, 1]))
    both = len(set(rows["label"].tolist())) == 2
    same(found["auc"], roc_auc_score(rows["relevant"], rows["score"]) if both else math.nan)
    some = rows["relevant"].any()
    same(found["pr_auc"], average_precision_score(rows["relevant"], rows["score"]) if some else math.nan)


@given(tables())
@settings(max_examples=100, deadline=None)
def test_calibration_error_by_loops_over_bins(columns):
    rows = labelled(columns)
    total, size = 0.0, rows["label"].size
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        # The confidence itself is rounded to float32, and 1/3 lies on the edge of two bins.
        inside = [
            (bool(p == y), float(c))
            for p, y, c in zip(rows["predicted"], rows["label"], rows["confidence"], strict=True)
            if low < float(c) <= high
        ]
        if inside:
            hits, confidences = zip(*inside, strict=True)
            total += len(inside) / size * abs(sum(hits) / len(inside) - sum(confidences) / len(inside))
    same(score_metric("calibration_error", columns), total if size else math.nan)


@given(tables())
@settings(max_examples=150, deadline=None)
def test_means_over_users_by_loops(columns):
    expected = {"user_auc": {}, "user_accuracy": {}, "user_log_loss": {}}
    for user, rows in of_users(labelled(columns)):
        expected["user_accuracy"][user] = float(np.mean(rows["predicted"] == rows["label"]))
        expected["user_log_loss"][user] = float(-rows["log_probability"].mean(dtype=np.float64))
        if len(set(rows["relevant"].tolist())) == 2:
            expected["user_auc"][user] = roc_auc_score(rows["relevant"], rows["score"])
    for name, values in expected.items():
        users, found = score_metric_per_user(name, columns)
        assert users.tolist() == list(values)
        same(found, list(values.values()))
        same(score_metric(name, columns), float(np.mean(list(values.values()))) if values else math.nan)


@given(tables())
@settings(max_examples=150, deadline=None)
def test_metrics_of_lists_by_loops_with_ties_against_the_model(columns):
    expected = {name: {} for name in LIST_METRICS}
    for user, rows in of_users(columns):
        pairs = sorted(zip(-rows["score"], rows["relevant"], strict=True))  # of equal scores, False comes first
        relevant = [bool(flag) for _, flag in pairs]
        if not any(relevant):
            continue
        first = relevant.index(True) + 1
        expected["mrr"][user] = 1 / first
        for name in LIST_METRICS[:-1]:
            kind, cut = name.split("@")
            if kind == "hr":
                expected[name][user] = float(first <= int(cut))
            elif len(relevant) == 1:
                expected[name][user] = 1.0
            else:
                # scikit-learn averages over ties; distinct scores in the order by hand leave it none.
                order = np.arange(len(relevant), 0, -1)
                expected[name][user] = ndcg_score([relevant], [order], k=int(cut))
    for name, values in expected.items():
        users, found = score_metric_per_user(name, columns)
        assert users.tolist() == list(values)
        same(found, list(values.values()))
        same(score_metric(name, columns), float(np.mean(list(values.values()))) if values else math.nan)


def test_a_model_that_gives_all_items_one_score_is_last_and_not_first():
    columns = {
        "user": np.zeros(5, np.int32),
        "score": np.ones(5, np.float32),
        "relevant": np.array([True, False, False, False, False]),
        "label": np.array([1, -1, -1, 0, 0], np.int8),
    }
    assert score_metric("mrr", columns) == 1 / 5
    assert score_metric("hr@4", columns) == 0
    assert score_metric("auc", columns) == 0.5


def test_many_users_at_once_are_each_as_alone():
    rng = np.random.default_rng(0)
    n_users, size = 100_000, 12
    columns = {
        "user": rng.permutation(np.repeat(np.arange(n_users, dtype=np.int32), size)),
        "score": rng.integers(0, 9, n_users * size).astype(np.float32),
        "label": rng.integers(-1, 2, n_users * size).astype(np.int8),
    }
    columns["relevant"] = columns["label"] == 1
    found = {name: dict(zip(*score_metric_per_user(name, columns), strict=True)) for name in ("user_auc", "ndcg@10")}
    for user in range(0, n_users, 10_007):
        alone = {name: values[columns["user"] == user] for name, values in columns.items()}
        for name, values in found.items():
            users, value = score_metric_per_user(name, alone)
            assert (user in values) == (users.size == 1)
            assert users.size == 0 or values[user] == value[0]


def test_names_of_metrics():
    with pytest.raises(ValueError, match=r"unknown metric 'map'.*user_auc"):
        score_metric("map", {"user": np.zeros(0, np.int32)})
    with pytest.raises(ValueError, match="unknown metric 'auc'"):
        score_metric_per_user("auc", {})
    claims = [name for name in REPORTED_SCORES if is_mean_over_users(name)]
    assert claims == ["user_auc", "user_accuracy", "user_log_loss", "ndcg@5", "ndcg@10", "hr@5", "hr@10", "mrr"]
    assert set(REPORTED_SCORES) > set(LOWER_IS_BETTER)
    assert not is_mean_over_users("ndcg@0")


def test_files_come_back_whole_or_not_at_all(tmp_path):
    rng = np.random.default_rng(1)
    columns = {
        name: rng.integers(0, 2, 50).astype(bool) if str(kind) == "bool" else rng.integers(0, 5, 50)
        for name, kind in SCORE_COLUMNS.items()
    }
    columns["log_probability"] = np.where(columns["label"] > 2, np.nan, -0.5)
    path = tmp_path / "scores.parquet"
    sha256 = write_scores(path, columns)
    found = read_scores(path, sha256=sha256)
    for name, kind in SCORE_COLUMNS.items():
        assert found[name].dtype == np.dtype(kind.to_pandas_dtype())
        np.testing.assert_array_equal(found[name], columns[name])
    assert list(read_scores(path, columns=["user", "score"])) == ["user", "score"]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CorruptArtifactError, match="not the one"):
        read_scores(path, sha256=sha256)
    with pytest.raises(CorruptArtifactError, match="cannot be read"):
        read_scores(path)
