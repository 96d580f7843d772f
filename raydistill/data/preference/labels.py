"""What a user thought of an item, as a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.data.preference.negatives import DRAWS
from raydistill.errors import DataError

CLASS_NAMES = {"like": ("dislike", "like"), "stars": ("1", "2", "3", "4", "5"), "click": ("skip", "click")}

UNLABELLED = -1
"""Label of a row of which nobody knows what the user thinks: a drawn item, unless drawn ones are the class ``skip``."""


@dataclass(frozen=True)
class Labels:
    """How an interaction becomes a class.

    Attributes:
        kind: ``like``: two classes, by the rating; ``stars``: five classes, the rating in whole stars (halves go up, so
            0.5 and 1 are one star); ``click``: every interaction is class 1, unseen items that are drawn are class 0.
        threshold: Smallest rating that is liked; with ``stars``, smallest number of whole stars that counts as relevant
            in rankings. Unused with ``click``.
        negatives: Items drawn for each interaction of the training part with ``click``, all different; none else.
        draw: ``popularity`` (in the training part) or ``uniform``, of the items that occur in training and that the
            user's training part does not hold.
        seed: Seed of the draw.
    """

    kind: str = "like"
    threshold: float = 4.0
    negatives: int = 4
    draw: str = "popularity"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in CLASS_NAMES:
            raise ValueError(f"unknown kind of labels {self.kind!r}: {', '.join(CLASS_NAMES)} are known")
        if self.draw not in DRAWS:
            raise ValueError(f"unknown draw {self.draw!r}: {', '.join(DRAWS)} are known")
        if self.kind == "click" and self.negatives < 1:
            raise ValueError("labels of kind click need at least one negative an interaction: there is no class 0 else")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, class 0 first."""
        return CLASS_NAMES[self.kind]

    @property
    def class_values(self) -> np.ndarray:
        """Float64 ``[classes]``; a score is their mean under the predicted probabilities: P(class 1), or stars."""
        return np.arange(1.0, 6.0) if self.kind == "stars" else np.array([0.0, 1.0])

    @property
    def drawn_label(self) -> int:
        """The label of a drawn item."""
        return 0 if self.kind == "click" else UNLABELLED

    def of_ratings(self, ratings: np.ndarray) -> np.ndarray:
        """Return int8 labels of interactions.

        Args:
            ratings: float32, NaN where there is none.

        Raises:
            DataError: A rating is missing where one is needed, or is no number of stars from 0.5 to 5.
        """
        if self.kind == "click":
            return np.ones(len(ratings), dtype=np.int8)
        missing = int(np.count_nonzero(np.isnan(ratings)))
        if missing:
            raise DataError(
                f"labels of kind {self.kind} need ratings, and {missing:,} of {len(ratings):,} interactions have none",
                where="labels.kind",
                mend="use labels: {kind: click}, or a source with a rating for every interaction",
            )
        if self.kind == "like":
            return (ratings >= np.float32(self.threshold)).astype(np.int8)
        outside = (ratings < 0.5) | (ratings >= 5.5)
        if outside.any():
            raise DataError(
                f"{int(outside.sum()):,} ratings are no stars from 0.5 to 5, such as {float(ratings[outside][0]):g}",
                where="labels.kind",
                mend="use labels: {kind: like, threshold: ...} for another scale",
            )
        return (np.floor(ratings + np.float32(0.5)) - 1).astype(np.int8)

    def relevant(self, labels: np.ndarray) -> np.ndarray:
        """Return which labels are of liked or clicked items, or of ``threshold`` stars or more; unlabelled: no."""
        return labels + 1 >= self.threshold if self.kind == "stars" else labels == 1

    def check(self, part: str, labels: np.ndarray) -> None:
        """Refuse a part whose labelled rows are none, all of one class, or all relevant or all irrelevant.

        Raises:
            DataError: Nothing could be learnt or measured of such a part.
        """
        labelled = labels[labels != UNLABELLED]
        rule = "drawn items are the other" if self.kind == "click" else f"threshold {self.threshold:g}"
        if not labelled.size:
            raise DataError(
                f"the {part} part has no labelled rows", where="examples", mend="use more users or more interactions"
            )
        classes = np.unique(labelled)
        mends = {
            "like": "choose a threshold inside the range of the ratings, check data.min_rating, or use more users",
            "stars": "check data.min_rating, or use more users",
            "click": "give candidates.negatives at least 1",
        }
        if classes.size == 1:
            raise DataError(
                f"all {labelled.size:,} labelled rows of the {part} part are of one class, "
                f"{self.class_names[int(classes[0])]!r} (kind {self.kind}, {rule})",
                where="labels.threshold" if self.kind == "like" else "labels.kind",
                mend=mends[self.kind],
            )
        if np.unique(self.relevant(labelled)).size == 1:
            raise DataError(
                f"the labelled rows of the {part} part are all on one side of {rule}: none or all would be relevant",
                where="labels.threshold",
                mend="choose a threshold between 2 and 5 that the part's ratings lie on both sides of",
            )
