"""A count of every test that was run, so that a reader can judge how much was searched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from analysis.stats.correction import benjamini_hochberg, holm


@dataclass(frozen=True)
class LedgerEntry:
    """One test.

    Attributes:
        family: The family that it was corrected in.
        test: What was tested.
        planned: Whether it was planned in the sweep file, otherwise exploratory.
        p_value: Raw p-value; NaN where it could not be run.
        adjusted: Corrected p-value.
        correction: "Holm", "Benjamini-Hochberg" or "none".
    """

    family: str
    test: str
    planned: bool
    p_value: float
    adjusted: float
    correction: str


class Ledger:
    """The tests of one report. Families are entered whole, because a correction needs all of its tests."""

    def __init__(self) -> None:
        self._entries: list[LedgerEntry] = []

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return every test in the order of entry."""
        return tuple(self._entries)

    def enter(self, family: str, p_values: Mapping[str, float], *, planned: bool) -> dict[str, float]:
        """Return the corrected p-values of a family after counting its tests.

        Planned families are corrected with Holm, exploratory ones with Benjamini-Hochberg.

        Args:
            family: Name of the family, new to this ledger.
            p_values: Test to raw p-value; NaN where it could not be run: counted, not corrected.
            planned: Whether the family was planned.

        Raises:
            ValueError: A family that was entered before, or a p-value outside 0 to 1.
        """
        if any(entry.family == family for entry in self._entries):
            raise ValueError(f"family {family!r} was entered before; a correction needs all of its tests at once")
        adjust, correction = (holm, "Holm") if planned else (benjamini_hochberg, "Benjamini-Hochberg")
        adjusted = adjust(list(p_values.values()))
        for (test, p_value), corrected in zip(p_values.items(), adjusted, strict=True):
            name = "none" if np.isnan(p_value) else correction
            self._entries.append(LedgerEntry(family, test, planned, float(p_value), float(corrected), name))
        return {test: float(corrected) for test, corrected in zip(p_values, adjusted, strict=True)}

    def counts(self) -> dict[str, int]:
        """Return how many tests are planned, exploratory, not run for want of data, and all together."""
        missing = sum(bool(np.isnan(entry.p_value)) for entry in self._entries)
        planned = sum(entry.planned for entry in self._entries)
        total = len(self._entries)
        return {"planned": planned, "exploratory": total - planned, "not_run": missing, "total": total}

    def rows(self) -> list[dict[str, object]]:
        """Return one dictionary a test, ready for a data frame."""
        return [asdict(entry) for entry in self._entries]

    def sentence(self) -> str:
        """Return the ledger in one sentence."""
        counts = self.counts()
        families = {(entry.family, entry.planned) for entry in self._entries}
        planned = sum(is_planned for _, is_planned in families)
        text = (
            f"{counts['total']} tests: {counts['planned']} planned in {planned} families (Holm), "
            f"{counts['exploratory']} exploratory in {len(families) - planned} families (Benjamini-Hochberg)"
        )
        return f"{text}; {counts['not_run']} could not be run" if counts["not_run"] else text
