"""What a sweep of prompts cannot be, found out as its data are prepared and not after an epoch."""

from __future__ import annotations

import math

from raydistill.config import COSTS, Sweep
from raydistill.data.preference import PreferenceData
from raydistill.errors import ConfigError, DataError
from raydistill.models.classifier import checked_checkpoint
from raydistill.models.families import FAMILIES
from raydistill.models.pooling import checked_pooling
from raydistill.records import REPORTED_SCORES, score_metrics
from raydistill.records.scores import is_mean_over_users
from raydistill.training.scoring import score_lists_by_popularity


def check_tuning(sweep: Sweep) -> None:
    """Refuse adapters on a teacher that starts at random: its blocks would stay as they were drawn.

    Raises:
        ConfigError: The sweep asks for them.
    """
    if sweep.sections.tuning.teacher == "lora" and sweep.teacher.pretrained is None:
        raise ConfigError(
            "a teacher that is built from a family starts from random weights, and lora would leave them random",
            where="tuning.teacher",
            mend="set tuning.teacher to full, or name a checkpoint in teacher.pretrained",
        )


def check_classifier(sweep: Sweep) -> None:
    """Refuse prompts longer than the teacher can read, and a pooling that does not fit it, by its configuration alone.

    Raises:
        ModelError: One of them, or the checkpoint's configuration cannot be read.
    """
    pooling, pretrained = sweep.sections.classifier.pooling, sweep.teacher.pretrained
    if pretrained is None:
        checked_pooling(FAMILIES[sweep.teacher.family], pooling)  # its positions are made for the prompts
    else:
        checked_checkpoint(pretrained, pooling=pooling, max_tokens=sweep.sections.prompt.max_tokens)


def check_metrics(sweep: Sweep, data: PreferenceData) -> None:
    """Refuse a metric that the search or the claim needs where no user's list has what it is computed from.

    For which users a metric is defined follows from the lists alone, so any ranking of them tells; popularity needs
    no model. Objectives are asked of validation, the metric of the claim of validation and test.

    Raises:
        DataError: With the part, and the metrics that are defined there.
    """
    claim = sweep.analysis.metric
    objectives = [name for name in sweep.search.objectives if name not in COSTS]
    needed = {"validation": list(dict.fromkeys([*objectives, claim])), "test": [claim]}
    for part, names in needed.items():
        values = score_metrics((*REPORTED_SCORES, *names), score_lists_by_popularity(data, part))
        for name in names:
            if not math.isfinite(values[name]):
                raise _undefined(
                    sweep, name, "search.objectives" if name in objectives else "analysis.metric", part, values
                )


def _undefined(sweep: Sweep, name: str, key: str, part: str, values: dict[str, float]) -> DataError:
    possible = [other for other, value in values.items() if math.isfinite(value)]
    if key == "analysis.metric":
        possible = [other for other in possible if is_mean_over_users(other)]
    what = "both a relevant and an irrelevant labelled item" if name == "user_auc" else "what it is computed from"
    return DataError(
        f"{name} is defined for no user: under the split {sweep.data.split} no list of {part} has {what}",
        where=key,
        mend="give users several rated items in a period, by a split such as user_time or by data.time_cuts further "
        f"apart, or choose a metric that is defined: {', '.join(possible)}",
    )
