"""Names for people, for figures and tables alike."""

from __future__ import annotations

from collections.abc import Iterable

from raydistill.records import LOWER_IS_BETTER

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


def same_name(arms: Iterable[str]) -> str:
    """Return the names of arms that are the same students: ``drop the last = Fisher``."""
    return " = ".join(arm_name(arm) for arm in arms)


def the(arm: str) -> str:
    """Return an arm's name inside a sentence: ``the teacher``, but ``uniform``."""
    return f"the {arm_name(arm)}" if arm == "teacher" else arm_name(arm)


METRICS = {
    "auc": "ROC-AUC",
    "user_auc": "user ROC-AUC",
    "pr_auc": "PR-AUC",
    "accuracy": "accuracy",
    "user_accuracy": "user accuracy",
    "log_loss": "log loss",
    "user_log_loss": "user log loss",
    "calibration_error": "calibration error",
}


def metric_name(metric: str) -> str:
    """Return a metric's name for people: ``ndcg@10`` is ``NDCG@10``."""
    return METRICS.get(metric, metric.upper() if metric.split("@")[0] in ("ndcg", "hr", "mrr") else metric)


def metric_axis(metric: str) -> str:
    """Return a metric's name for an axis, which says so where smaller values are better."""
    return metric_name(metric) + (" (smaller is better)" if metric in LOWER_IS_BETTER else "")


def keep_name(keep_ratio: float | None) -> str:
    """Return a stratum's name for people."""
    return "all strata" if keep_ratio is None else f"{100 * keep_ratio:g} % of layers kept"


PARAMETERS = {
    "temperature": "temperature",
    "alpha_dist": "weight of the teacher's distribution (alpha)",
    "alpha_task": "weight of the labels",
    "alpha_hidden": "weight of the hidden states",
    "lr": "learning rate",
    "keep_ratio": "share of layers kept",
}


def parameter_name(name: str) -> str:
    """Return a hyper-parameter's name for people."""
    return PARAMETERS.get(name, name.replace("_", " "))
