"""Calibration and ROC curves of scored candidates: scikit-learn, the records' own metric, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.metrics import roc_auc_score

from analysis.stats import calibration_curve, roc_from_scores
from raydistill.records import score_metric


def predictions(rng, n=600, *, bias=0.0):
    confidence = rng.uniform(0.5, 1.0, n)
    return confidence, rng.random(n) < np.clip(confidence + bias, 0, 1)


def test_the_curve_is_scikit_learns():
    confidence, correct = predictions(np.random.default_rng(0))
    found = calibration_curve(confidence, correct, np.arange(600), bins=10, n_resamples=50)
    accuracy, mean = sklearn_curve(correct, confidence, n_bins=10)
    assert found.confidence == pytest.approx(mean)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.share.sum() == pytest.approx(1)


def test_the_error_is_that_of_the_records():
    rng = np.random.default_rng(1)
    confidence, correct = predictions(rng, bias=-0.1)
    confidence = confidence.astype(np.float32)
    columns = {"label": np.ones(600), "predicted": correct.astype(np.int8), "confidence": confidence}
    found = calibration_curve(confidence, correct, np.arange(600))
    assert found.error == pytest.approx(score_metric("calibration_error", columns))
    assert found.error_low <= found.error <= found.error_high


def test_seeds_are_averaged_and_not_mixed():
    rng = np.random.default_rng(2)
    runs = [predictions(rng, bias=bias) for bias in (-0.2, 0.2)]
    both = calibration_curve(*(np.stack(rows) for rows in zip(*runs, strict=True)), np.arange(600), n_resamples=50)
    alone = [calibration_curve(*run, np.arange(600), n_resamples=50).error for run in runs]
    # Mixed, the two mistakes would cancel.
    assert both.error == pytest.approx(np.mean(alone))
    assert both.error > 0.08


def test_bands_resample_users_and_not_examples():
    rng = np.random.default_rng(3)
    confidence, correct = predictions(rng, 40)
    copies = np.repeat(np.arange(40), 25)
    by_user = calibration_curve(confidence[copies], correct[copies], copies, bins=2)
    by_example = calibration_curve(confidence[copies], correct[copies], np.arange(1000), bins=2)
    assert by_user.n_users == 40
    assert (by_user.high - by_user.low)[-1] > 3 * (by_example.high - by_example.low)[-1]


def test_bands_cover_at_their_level():
    rng = np.random.default_rng(4)
    n, missed = 300, 0
    for _ in range(n):
        user = np.repeat(np.arange(100), 5)
        shift = 0.15 * rng.standard_normal(100)[user]
        correct = rng.random(500) < np.clip(0.7 + shift, 0, 1)
        found = calibration_curve(np.full(500, 0.7), correct, user, n_resamples=200)
        missed += not found.low[0] <= 0.7 <= found.high[0]
    assert stats.binomtest(missed, n).proportion_ci(0.99, method="exact").low <= 0.06


def test_unusable_predictions_are_refused():
    with pytest.raises(ValueError, match="outside 0 to 1"):
        calibration_curve([0.5, 1.5], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="differ in length"):
        calibration_curve([0.5, 0.6], [0, 1], [0])


def test_roc_of_several_seeds_is_the_mean_of_their_curves():
    rng = np.random.default_rng(5)
    labels, users = rng.integers(0, 2, 120), np.repeat(np.arange(24), 5)
    # The second model's scores are on another scale: mixed with the first they would spoil the order.
    scores = np.stack([labels + rng.standard_normal(120), 100 + labels + rng.standard_normal(120)])
    found = roc_from_scores(labels, scores, users, n_resamples=50)
    assert found.auc == pytest.approx(np.mean([roc_auc_score(labels, row) for row in scores]))
    alone = [roc_from_scores(labels, row, users, n_resamples=50).true_positive_rate for row in scores]
    assert found.true_positive_rate == pytest.approx(np.mean(alone, axis=0))
