"""Which way a metric is better."""

from __future__ import annotations

LOWER_IS_BETTER = ("log_loss", "user_log_loss", "calibration_error")
"""Metrics of which less is better; of all others, more."""


def gain(metric: str, value: float) -> float:
    """Return a value such that more of it is better: of a loss, its negative."""
    return -value if metric in LOWER_IS_BETTER else value
