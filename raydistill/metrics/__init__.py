"""What is measured of a model: its rankings, and what it costs."""

from raydistill.metrics.classification import classify
from raydistill.metrics.cost import PeakMemory, count_parameters, forward_flops, latency_ms
from raydistill.metrics.ranking import REPORTED, mean_metrics, rank_scores

__all__ = [
    "REPORTED",
    "PeakMemory",
    "classify",
    "count_parameters",
    "forward_flops",
    "latency_ms",
    "mean_metrics",
    "rank_scores",
]
