"""Rules that hold between sections of a sweep.

Each rule is one generator over the sections that were valid so far; a rule whose sections were not is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from raydistill.config.expand import arm_names, keep_ratio_problem, n_student_layers
from raydistill.config.mistakes import NO_SUCH_KEY, Mistake
from raydistill.config.schema import COSTS, Analysis, Confirm, Execution, Search
from raydistill.config.tables import Tables
from raydistill.records import LOWER_IS_BETTER


def between_sections(sections: Mapping[str, Any], tables: Tables) -> Iterator[Mistake]:
    """Yield what is wrong between the valid sections, by name as in the sweep file."""
    if {"selectors", "controls"} <= set(sections):
        yield from _arms(sections)
        if "analysis" in sections:
            yield from _reference(sections)
    if {"search", "teacher"} <= set(sections) and sections["teacher"].layers is not None:
        yield from _keep_ratios(sections["search"], sections["teacher"].layers)
    if "execution" in sections:
        yield from _execution(sections["execution"])
    if {"search", "confirm"} <= set(sections):
        yield from _configurations(sections["search"], sections["confirm"])
    if "task" in sections:
        known = tables.metrics.get(sections["task"], ())
        if "search" in sections:
            yield from _objectives(sections["search"], known)
        if "analysis" in sections:
            yield from _metric(sections["analysis"], tables.claims.get(sections["task"], known))


def is_metric(name: str, known: tuple[str, ...]) -> bool:
    """Return whether a metric is one of ``known``, where ``ndcg@K`` stands for every cutoff."""
    return any(re.fullmatch(re.escape(entry).replace("@K", "@[1-9][0-9]*"), name) for entry in known)


def _arms(sections: Mapping[str, Any]) -> Iterator[Mistake]:
    seen: set[str] = set()
    controls = sections["controls"]
    for index, control in enumerate(controls):
        if control in controls[:index]:
            yield Mistake(("controls", index), "every control is named once", control)
    for index, selector in enumerate(sections["selectors"]):
        path = ("selectors", index)
        if selector.arm in seen:
            yield Mistake(
                path, f"another arm is called {selector.arm!r}; give this one a label of its own", selector.arm
            )
        elif selector.arm in controls:
            yield Mistake((*path, "label"), "a control has this name; choose another label", selector.arm)
        seen.add(selector.arm)


def _reference(sections: Mapping[str, Any]) -> Iterator[Mistake]:
    arms = arm_names(sections["selectors"], sections["controls"])
    reference = sections["analysis"].reference
    if reference is None:
        if "uniform" not in arms:
            rule = "required where uniform is not an arm, but not given"
            yield Mistake(("analysis", "reference"), rule, allowed=arms)
    elif reference not in arms:
        yield Mistake(("analysis", "reference"), "must be an arm of this sweep", reference, arms)


def _configurations(search: Search, confirm: Confirm) -> Iterator[Mistake]:
    if confirm.configurations > search.trials:
        rule = f"must be at most search.trials, which is {search.trials}"
        yield Mistake(("confirm", "configurations"), rule, confirm.configurations)


def _execution(execution: Execution) -> Iterator[Mistake]:
    """Yield settings that would be accepted and could not do what they say."""
    gpus = execution.gpus_per_worker
    if gpus > 1:
        rule = "must be at most 1: a worker uses one GPU; for several, set workers to their number"
        yield Mistake(("execution", "gpus_per_worker"), rule, gpus)
    elif execution.workers > 1 and 0 < gpus < 1:
        rule = "must be 0 or 1 with several workers: NCCL does not connect two of them on one GPU"
        yield Mistake(("execution", "gpus_per_worker"), rule, gpus)
    of_trial = execution.gpus_per_trial
    if execution.workers > 1 and of_trial not in (0, execution.workers * gpus):
        rule = f"is workers times gpus_per_worker with several workers, {execution.workers * gpus:g}: leave it out"
        yield Mistake(("execution", "gpus_per_trial"), rule, of_trial)
    if execution.strategy == "fsdp" and execution.workers == 1:
        rule = "needs workers of at least 2: one process, as trains the teacher, has nobody to share the model with"
        yield Mistake(("execution", "strategy"), rule, execution.strategy, ("ddp",))


def _keep_ratios(search: Search, n_layers: int) -> Iterator[Mistake]:
    path = ("search", "space", "keep_ratio", search.space.keep_ratio.kind)
    chosen: dict[int, float] = {}
    for index, ratio in enumerate(search.space.keep_ratio.values):
        problem = keep_ratio_problem(ratio, n_layers)
        depth = n_student_layers(ratio, n_layers)
        if problem:
            yield Mistake((*path, index), problem, ratio)
        elif depth in chosen and search.space.keep_ratio.kind == "choice":
            rule = f"{chosen[depth]:g} and {ratio:g} both keep {depth} of {n_layers} layers; leave one out"
            yield Mistake((*path, index), rule, ratio)
        chosen.setdefault(depth, ratio)


def _objectives(search: Search, known: tuple[str, ...]) -> Iterator[Mistake]:
    path = ("search", "objectives")
    for name, direction in search.objectives.items():
        if name not in COSTS and not is_metric(name, known):
            yield Mistake((*path, name), NO_SUCH_KEY, direction, (*known, *COSTS))
            continue
        right = "min" if name in (*COSTS, *LOWER_IS_BETTER) else "max"
        if direction != right:
            yield Mistake(
                (*path, name), f"must be {right}: {'less' if right == 'min' else 'more'} is better", direction
            )
    if all(name in COSTS for name in search.objectives):
        yield Mistake(
            path, "one objective must be a quality, or nothing keeps the students from shrinking", allowed=known
        )


def _metric(analysis: Analysis, known: tuple[str, ...]) -> Iterator[Mistake]:
    if not is_metric(analysis.metric, known):
        rule = "must be a metric of the task that is a mean over users"
        yield Mistake(("analysis", "metric"), rule, analysis.metric, known)
