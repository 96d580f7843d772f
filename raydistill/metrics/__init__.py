"""What is measured of a model: its rankings, and what it costs."""

from raydistill.metrics.classification import classify
from raydistill.metrics.cost import PeakMemory, call_ms, count_parameters, forward_flops, latency_ms, percentiles
from raydistill.metrics.ranking import REPORTED, mean_metrics, rank_scores

__all__ = [
    "REPORTED",
    "PeakMemory",
    "call_ms",
    "classify",
    "count_parameters",
    "forward_flops",
    "latency_ms",
    "mean_metrics",
    "percentiles",
    "rank_scores",
]
