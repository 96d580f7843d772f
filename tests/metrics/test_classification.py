"""Columns of a classifier's logits against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from raydistill.errors import TrialDivergedError
from raydistill.metrics import classify


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 2.0, 3.0, 4.0, 5.0)])
def test_columns_are_those_of_the_softmax(values):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(40, len(values))).astype(np.float32)
    labels = rng.integers(-1, len(values), 40).astype(np.int8)
    found = classify(torch.from_numpy(logits), labels, values)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(found["score"], probabilities @ np.array(values), rtol=1e-6)
    np.testing.assert_array_equal(found["predicted"], logits.argmax(axis=1))
    np.testing.assert_allclose(found["confidence"], probabilities.max(axis=1), rtol=1e-6)
    for row, label in enumerate(labels.tolist()):
        expected = log_softmax(logits[row].astype(np.float64))[label] if label >= 0 else np.nan
        np.testing.assert_allclose(found["log_probability"][row], expected, rtol=1e-6)
    assert {name: str(column.dtype) for name, column in found.items()} == {
        "score": "float32",
        "log_probability": "float32",
        "predicted": "int8",
        "confidence": "float32",
    }


def test_half_precision_is_widened_and_what_is_not_finite_refused():
    found = classify(torch.tensor([[60.0, -60.0]], dtype=torch.bfloat16), np.array([1]), (0.0, 1.0))
    np.testing.assert_allclose(found["log_probability"], [-120.0])
    with pytest.raises(TrialDivergedError, match="not finite"):
        classify(torch.tensor([[0.0, np.nan]]), np.array([1]), (0.0, 1.0))
