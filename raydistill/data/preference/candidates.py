"""The list of items that are ranked for a user."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.data.preference.negatives import DRAWS


@dataclass(frozen=True)
class Candidates:
    """How a user's list is made: every item of the period, and unseen items that are drawn once.

    Drawn items are such as the user never interacts with, before, in or after the period: none of them is a positive
    that the split only hides. They are drawn for every user with a list, whichever users are then evaluated.

    Attributes:
        negatives: Drawn items a list.
        draw: ``popularity`` (in the training part) or ``uniform``, of the items that occur in training.
        seed: Seed of the draw.
    """

    negatives: int = 20
    draw: str = "popularity"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ValueError(f"unknown draw {self.draw!r}: {', '.join(DRAWS)} are known")
        if self.negatives < 0:
            raise ValueError(f"negatives must be 0 or more, not {self.negatives}")

    def describe(self) -> str:
        """Return the protocol in words, for the signature of every number measured on such lists."""
        if not self.negatives:
            return "period"
        how = "by popularity" if self.draw == "popularity" else "uniformly"
        return f"period+{self.negatives} drawn {how}, seed {self.seed}"
