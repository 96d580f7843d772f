"""Rules from intervals and corrected tests to words, never stronger than the data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from analysis.stats import ArmComparison


class Word(StrEnum):
    """What can be said of an arm against its reference."""

    BETTER = "better"
    WORSE = "worse"
    INFERIOR = "inferior"
    SAME = "same students"
    EQUIVALENT = "equivalent"
    NON_INFERIOR = "non-inferior"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """What the data say about one arm against its reference.

    Attributes:
        arm: The arm.
        reference: The reference.
        word: The claim about the method; always "undecided" where only one replicate was trained.
        models_word: The same rules read as a claim about the trained models; equals `word` where that is a claim.
        sentence: The verdict in one sentence without a full stop, with the numbers behind it.
        method_claim: Whether `word` is a claim about a method.
    """

    arm: str
    reference: str
    word: Word
    models_word: Word
    sentence: str
    method_claim: bool


def judge(comparison: ArmComparison) -> Verdict:
    """Return the verdict on one comparison.

    Where both arms are the same students under two names, that is the verdict. Otherwise, in this order, with
    improvement counted in the metric's own direction and every p-value corrected over its family:

    - better: the interval lies above no difference and the corrected test rejects;
    - inferior: the same below, and the corrected one-sided test says: by more than the margin;
    - worse: the same below;
    - equivalent: the two one-sided tests hold inside the margin on both sides;
    - non-inferior: the one-sided test holds against the margin;
    - undecided: none of these.

    A single replicate supports no claim about the method, whatever its users say, and some random layer sets support
    none about choosing at random: where a selector stands among them is asked elsewhere.
    """
    models_word = _word(comparison)
    word = models_word if comparison.method_claim or comparison.same else Word.UNDECIDED
    sentence = _sentence(comparison, models_word)
    if comparison.same:
        return Verdict(comparison.arm, comparison.reference, word, models_word, sentence, comparison.method_claim)
    if not comparison.difference.method_claim:
        sentence = (
            "no claim about the method can be made from one seed; "
            f"these trained models, over {comparison.difference.n_users:,} users: {sentence}"
        )
    elif comparison.drawn:
        sets = "layer set" if comparison.drawn == 1 else f"{comparison.drawn} layer sets"
        sentence = f"no claim about random layers in general is made; the {sets} drawn: {sentence}"
    return Verdict(comparison.arm, comparison.reference, word, models_word, sentence, comparison.method_claim)


def improvement(comparison: ArmComparison) -> tuple[float, float, float]:
    """Return the improvement over the reference and the ends of its interval, positive where the arm is better.

    As a share of the reference's mean (with that mean's uncertainty) where it has a ratio, otherwise in the metric's
    unit.
    """
    found = comparison.ratio or comparison.difference
    null = 1.0 if comparison.ratio else 0.0
    low, middle, high = (end - null for end in (found.low, found.estimate, found.high))
    return (middle, low, high) if comparison.direction == "max" else (-middle, -high, -low)


def _word(comparison: ArmComparison) -> Word:
    if comparison.same:
        return Word.SAME
    difference, level = comparison.difference, comparison.level
    low, high = difference.low, difference.high
    if comparison.direction == "min":
        low, high = -high, -low
    rejected = comparison.adjusted_p <= level
    if rejected and low > 0:
        return Word.BETTER
    if rejected and high < 0:
        return Word.INFERIOR if comparison.inferiority_p <= level else Word.WORSE
    if comparison.equivalence_p <= level:
        return Word.EQUIVALENT
    if comparison.non_inferiority_p <= level:
        return Word.NON_INFERIOR
    return Word.UNDECIDED


def _sentence(comparison: ArmComparison, word: Word) -> str:
    numbers = _numbers(comparison)
    against, margin = comparison.reference, _percent(comparison.margin)
    small = f", by less than the margin of {margin}" if comparison.equivalence_p <= comparison.level else ""
    return {
        Word.SAME: f"the same students as {against}, under another name: there is nothing to test",
        Word.BETTER: f"better than {against}{small} ({numbers})",
        Word.WORSE: f"worse than {against}{small} ({numbers})",
        Word.INFERIOR: f"inferior to {against} by more than {margin} ({numbers})",
        Word.EQUIVALENT: f"equivalent to {against} within {margin} ({numbers})",
        Word.NON_INFERIOR: f"not worse than {against} by more than {margin} ({numbers})",
        Word.UNDECIDED: f"undecided at this budget{_remedy(comparison)} ({numbers})",
    }[word]


def _remedy(comparison: ArmComparison) -> str:
    """Return what would resolve the effect that was asked about."""
    power, target = comparison.power, _percent(comparison.resolve)
    if power is None or not comparison.method_claim:
        return ""
    unit = "teacher" if comparison.difference.unit == "teachers" else "seed"
    low, high = power.more_range
    if low is None:
        return f"; no number of {unit}s would resolve {target} with these users"
    if not power.is_known:
        return (
            f"; how much {unit}s vary is barely known from {power.n_replicates}, "
            f"so it is not said how many more would resolve {target}"
        )
    if high == 0:
        return f"; a true difference of {target} would probably have been seen"
    # A range, because the replicates tell their own variance as one only.
    if high is None:
        return f"; {low:,} or more {unit}s beyond these would resolve {target}"
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"; {number} more {unit}{'' if high == 1 else 's'} would resolve {target}"


def _numbers(comparison: ArmComparison) -> str:
    middle, low, high = improvement(comparison)
    covered = f"{100 * (1 - comparison.level):g} % interval"
    if comparison.ratio:
        return f"{_percent(middle, sign=True)}, {covered} {_percent(low, sign=True)} to {_percent(high, sign=True)}"
    return f"{middle:+.4g}, {covered} {low:+.4g} to {high:+.4g}"


def _percent(share: float, *, sign: bool = False) -> str:
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:g} %"
