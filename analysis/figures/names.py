"""Names for people, for figures and tables alike."""

from __future__ import annotations

NAMES = {
    "fisher": "Fisher",
    "attention": "attention",
    "gradient": "gradient",
    "hybrid": "hybrid",
    "block_influence": "block influence",
    "taylor": "Taylor",
    "dynamic": "dynamic",
    "uniform": "uniform",
    "head_tail": "head and tail",
    "tail": "drop the last",
    "random": "random",
    "teacher": "teacher",
    "popularity": "popularity",
    "scratch": "from scratch",
    "scratch_kd": "from scratch, distilled",
    "no_kd": "not distilled",
}


def arm_name(arm: str) -> str:
    """Return an arm's name for people."""
    return NAMES.get(arm, arm.replace("_", " "))


def metric_name(metric: str) -> str:
    """Return a metric's name for people: ``ndcg@10`` is ``NDCG@10``."""
    return metric.upper() if metric.split("@")[0] in ("ndcg", "hr", "mrr", "auc") else metric


def keep_name(keep_ratio: float | None) -> str:
    """Return a stratum's name for people."""
    return "all strata" if keep_ratio is None else f"{100 * keep_ratio:g} % of layers kept"
