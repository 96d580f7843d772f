"""What every selector is made of: the kinds of evidence, the checks, and the rules that turn scores into layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from raydistill.errors import EvidenceError

# Evidence of shape [replicates, layers]; for every one of them higher means more important.
LAYER_KINDS = (
    "fisher",
    "fisher_mean",
    "fisher_empirical",
    "fisher_empirical_mean",
    "attention",
    "gradient",
    "taylor",
    "taylor_group",
    "taylor_block",
    "block_influence",
    "leave_one_out",
    "greedy",
    "greedy_loss",
)
# Evidence of shape [replicates, layers, layers]; entry [i, j] belongs to the run of blocks i..j.
RUN_KINDS = ("contiguous",)
KINDS = LAYER_KINDS + RUN_KINDS

Choice = Literal["top_k", "stratified", "top_k_ends"]

# Read by pydantic where a sweep file becomes params; a plain dict, so that selectors need no pydantic.
STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Selector:
    """One rule that ranks or picks layers; pure functions of evidence, no state.

    Attributes:
        name: Name in sweep files and tables.
        params_type: Frozen dataclass of its parameters, each with a default.
        needs_rule: Evidence kinds needed under given params.
        scores_rule: Scores, ``Float64[replicates, layers]``, from checked evidence and params; None where the
            selector has no score for a single layer.
        layers_rule: Layers to keep from checked evidence, n_student, n_teacher, params and generator.
        stochastic: Whether the layer map depends on the generator; every set of layers must then be possible.
    """

    name: str
    params_type: type
    needs_rule: Callable[[Any], tuple[str, ...]]
    scores_rule: Callable[[Mapping[str, np.ndarray], Any], np.ndarray | None]
    layers_rule: Callable[[Mapping[str, np.ndarray], int, int, Any, np.random.Generator], Iterable[int]]
    stochastic: bool = False

    def needs(self, params: Any) -> tuple[str, ...]:
        """Return the evidence kinds that the selector needs under ``params``."""
        return self.needs_rule(params)

    def scores(self, evidence: Mapping[str, np.ndarray], params: Any) -> np.ndarray | None:
        """Return the scores that the selector ranks by, ``Float64[replicates, layers]``, or None where it has none.

        Raises:
            EvidenceError: Evidence is missing, misshapen or not finite.
        """
        return self.scores_rule(checked(evidence, self.needs(params), self.name), params)

    def select(
        self,
        evidence: Mapping[str, np.ndarray],
        n_student: int,
        *,
        n_teacher: int,
        params: Any,
        generator: np.random.Generator,
    ) -> tuple[int, ...]:
        """Return the layer map: ``n_student`` of the layers 0..n_teacher - 1, ascending.

        Raises:
            EvidenceError: Evidence is missing, misshapen or not finite, or n_student is not in 1..n_teacher.
        """
        if not 1 <= n_student <= n_teacher:
            raise EvidenceError(
                f"a student of {n_student} layers cannot be built from a teacher of {n_teacher}",
                where=f"selector {self.name}",
                mend=f"choose a keep-ratio that keeps between 1 and {n_teacher} layers",
            )
        evidence = checked(evidence, self.needs(params), self.name, n_teacher)
        layers = self.layers_rule(evidence, n_student, n_teacher, params, generator)
        return tuple(sorted(int(layer) for layer in layers))


def checked(
    evidence: Mapping[str, np.ndarray], needs: tuple[str, ...], name: str, n_teacher: int | None = None
) -> dict[str, np.ndarray]:
    """Return the needed evidence as float64 arrays, after checks of presence, shape and finiteness.

    Raises:
        EvidenceError: A check failed.
    """
    arrays = {}
    for kind in needs:
        where = f"selector {name}, evidence {kind}"
        if kind not in evidence:
            raise EvidenceError(
                f"evidence {kind!r} was not measured",
                where=where,
                mend=f"measure the kinds of needs(params); there is: {', '.join(sorted(evidence)) or 'none'}",
            )
        array = np.asarray(evidence[kind], dtype=np.float64)
        _check_shape(array, 3 if kind in RUN_KINDS else 2, n_teacher, where)
        if not np.isfinite(array).all():
            layers = sorted({int(index[1]) for index in np.argwhere(~np.isfinite(array))})
            raise EvidenceError(
                f"evidence {kind!r} is not finite in layers {layers}",
                where=where,
                mend="measure it in float32 or float64 on a teacher whose loss is finite, or leave this selector out",
            )
        arrays[kind] = array
    return arrays


def _check_shape(array: np.ndarray, n_axes: int, n_teacher: int | None, where: str) -> None:
    axes = "[replicates, layers]" if n_axes == 2 else "[replicates, layers, layers]"
    fits = array.ndim == n_axes and array.size > 0
    if fits and n_teacher is not None:
        fits = all(length == n_teacher for length in array.shape[1:])
    if not fits:
        asked = "" if n_teacher is None else f" with {n_teacher} layers"
        raise EvidenceError(
            f"evidence has the shape {list(array.shape)}, not {axes}{asked}",
            where=where,
            mend="measure the evidence on the very teacher that the student is built from",
        )


def ranked(scores_rule: Callable) -> Callable:
    """Return a layers rule: average the scores over the replicates, then apply ``params.choose``."""

    def layers_rule(evidence, n_student, n_teacher, params, generator):
        return choose_layers(scores_rule(evidence, params).mean(axis=0), n_student, params.choose)

    return layers_rule


def choose_layers(scores: np.ndarray, n_student: int, choose: Choice) -> tuple[int, ...]:
    """Return ``n_student`` layers by their scores, ascending; of equal scores the shallower layer wins.

    - ``top_k``: the highest scores.
    - ``stratified``: lower, middle and upper third (``numpy.array_split``, so lower thirds are the larger ones)
      take turns: each next layer is the best one among the thirds that have the fewest layers so far and still
      have some left.
    - ``top_k_ends``: the first and the last block, then the highest scores. With one layer: the better end.

    Args:
        scores: ``Float64[layers]``, higher is more important.
        n_student: How many layers to keep.
        choose: The rule.

    Raises:
        EvidenceError: The rule is unknown.
    """
    n_teacher = len(scores)
    order = sorted(range(n_teacher), key=lambda layer: (-scores[layer], layer))
    if choose == "top_k":
        kept = order[:n_student]
    elif choose == "stratified":
        kept = _take_turns(order, n_student)
    elif choose == "top_k_ends":
        ends = [layer for layer in order if layer in (0, n_teacher - 1)]
        kept = (ends + [layer for layer in order if layer not in ends])[:n_student]
    else:
        raise EvidenceError(
            f"unknown rule {choose!r} for choosing layers", mend=f"one of {', '.join(get_args(Choice))}"
        )
    return tuple(sorted(kept))


def _take_turns(order: list[int], n_student: int) -> list[int]:
    thirds = np.array_split(np.arange(len(order)), 3)
    third_of = {int(layer): number for number, third in enumerate(thirds) for layer in third}
    kept: list[int] = []
    while len(kept) < n_student:
        left = [layer for layer in order if layer not in kept]
        taken = [sum(third_of[layer] == number for layer in kept) for number in range(3)]
        fewest = min(taken[third_of[layer]] for layer in left)
        kept.append(next(layer for layer in left if taken[third_of[layer]] == fewest))
    return kept
