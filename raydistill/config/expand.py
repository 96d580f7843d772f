"""What a sweep consists of: its arms and its strata, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from raydistill.config.schema import COSTS, Selector, Sweep
from raydistill.errors import ConfigError


@dataclass(frozen=True)
class Arm:
    """What the sweep compares.

    Attributes:
        name: The label, or the name of the selector or control.
        kind: ``selector`` or ``control``.
        selector: Name in the table of selectors; None for a control.
        params: The selector's frozen params dataclass; None for a control.
        draws: Layer sets that confirm trains, where there are so many; 1 where nothing is drawn.
        has_study: Whether it is searched; the others run in confirm only.
        in_strata: Whether it has a student at every keep-ratio; ``teacher`` and ``popularity`` have none.
    """

    name: str
    kind: str
    selector: str | None = None
    params: Any = None
    draws: int = 1
    has_study: bool = False
    in_strata: bool = True

    def n_draws(self, n_student_layers: int, n_teacher_layers: int) -> int:
        """Return the layer sets that confirm trains at a depth: ``draws``, or all that there are."""
        return min(self.draws, comb(n_teacher_layers, n_student_layers))


_CONTROLS: dict[str, dict[str, bool]] = {
    "teacher": {"has_study": False, "in_strata": False},
    "popularity": {"has_study": False, "in_strata": False},
    "scratch": {"has_study": False, "in_strata": True},
    "scratch_kd": {"has_study": True, "in_strata": True},
    "no_kd": {"has_study": False, "in_strata": True},
}


def quality_metric(sweep: Sweep) -> str:
    """Return the validation metric that decides which epoch is kept: the first objective that is no cost."""
    return next(name for name in sweep.search.objectives if name not in COSTS)


def wants_hidden(sweep: Sweep) -> bool:
    """Return whether hidden states are distilled, so that the teacher's must be kept."""
    return sweep.distillation.alpha_hidden > 0 or sweep.search.space.alpha_hidden is not None


def arm_names(selectors: Sequence[Selector], controls: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all arms, selectors first, in the order of the file."""
    return (*(selector.arm for selector in selectors), *controls)


def arms(sweep: Sweep) -> list[Arm]:
    """Return the arms of a sweep, selectors first, in the order of the file."""
    selectors = [
        Arm(entry.arm, "selector", entry.name, entry.params, draws=getattr(entry.params, "draws", 1), has_study=True)
        for entry in sweep.selectors
    ]
    return selectors + [Arm(name, "control", **_CONTROLS[name]) for name in sweep.controls]


def n_student_layers(keep_ratio: float, n_teacher_layers: int) -> int:
    """Return ``max(1, round(keep_ratio * n_teacher_layers))``, halves rounded to the even number."""
    return max(1, round(keep_ratio * n_teacher_layers))


def keep_ratio_problem(keep_ratio: float, n_teacher_layers: int) -> str | None:
    """Return the rule that a keep-ratio breaks because it keeps less than half a layer, or None."""
    if keep_ratio * n_teacher_layers >= 0.5:
        return None
    return (
        f"keeps nothing: {keep_ratio:g} x {n_teacher_layers} layers is less than half a layer; "
        f"{1 / n_teacher_layers:.3g} keeps one"
    )


def strata(sweep: Sweep, n_teacher_layers: int) -> list[tuple[int, float]]:
    """Return the strata as ``(n_student_layers, keep_ratio)``, shallowest first.

    A choice gives its own keep-ratios; a range gives every depth that it can produce, each with the
    keep-ratio inside the range that is nearest to ``n_student_layers / n_teacher_layers``.

    Raises:
        ConfigError: A keep-ratio keeps nothing of a teacher this deep, or two keep the same number of layers.
    """
    dimension = sweep.search.space.keep_ratio
    for ratio in dimension.values:
        problem = keep_ratio_problem(ratio, n_teacher_layers)
        if problem:
            raise ConfigError(f"the keep-ratio {ratio:g} {problem}", where="search.space.keep_ratio")
    if dimension.kind != "choice":
        low, high = dimension.values
        depths = range(n_student_layers(low, n_teacher_layers), n_student_layers(high, n_teacher_layers) + 1)
        return [(depth, min(max(depth / n_teacher_layers, low), high)) for depth in depths]
    found: dict[int, float] = {}
    for ratio in dimension.values:
        depth = n_student_layers(ratio, n_teacher_layers)
        if depth in found:
            raise ConfigError(
                f"the keep-ratios {found[depth]:g} and {ratio:g} both keep {depth} of {n_teacher_layers} layers",
                where="search.space.keep_ratio",
                mend="leave one of them out",
            )
        found[depth] = ratio
    return sorted(found.items())
