"""What a classifier says of each example, as the columns that every metric follows from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raydistill.errors import TrialDivergedError


def classify(
    logits: Float[Tensor, "rows classes"], labels: np.ndarray, class_values: Sequence[float]
) -> dict[str, np.ndarray]:
    """Return ``score``, ``log_probability``, ``predicted`` and ``confidence`` of each row, float32 and int8.

    The score is the mean of the class values under the predicted probabilities: with values (0, 1) the probability of
    class 1, with 1 to 5 the expected stars. It is computed in float64, so that few scores tie for want of digits.

    Args:
        logits: One row an example.
        labels: Classes, -1 where unlabelled (``log_probability`` is NaN there).
        class_values: One a class.

    Raises:
        TrialDivergedError: A logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise TrialDivergedError("a class logit is not finite")
    log_probabilities = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
    probabilities = np.exp(log_probabilities)
    predicted = log_probabilities.argmax(axis=1)
    rows = np.arange(predicted.size)
    of_label = log_probabilities[rows, np.maximum(labels, 0)]
    return {
        "score": (probabilities @ np.asarray(class_values, dtype=np.float64)).astype(np.float32),
        "log_probability": np.where(labels >= 0, of_label, np.nan).astype(np.float32),
        "predicted": predicted.astype(np.int8),
        "confidence": probabilities[rows, predicted].astype(np.float32),
    }
