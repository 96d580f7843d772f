"""The search space: which settings are searched, and over which values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A mapping of the sweep file: frozen, strict, no unknown keys, finite numbers only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False, protected_namespaces=()
    )


def broken(rule: str, *, at: tuple[str | int, ...] = (), allowed: tuple[str, ...] = ()) -> PydanticCustomError:
    """Return the error for a rule that pydantic does not know.

    Args:
        rule: What holds instead, without the key's name.
        at: Keys below the validated value to which it applies.
        allowed: Values that would do.
    """
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "at": at, "allowed": allowed})


KINDS = ("uniform", "log_uniform", "int", "choice")


class Dimension(Section):
    """The values of one searched setting; exactly one of the four is given.

    Attributes:
        uniform: ``[low, high]``, real numbers, every value alike.
        log_uniform: ``[low, high]``, real numbers, every order of magnitude alike.
        integer: ``[low, high]``, whole numbers, both ends included (``int`` in YAML).
        choice: The listed values.
    """

    uniform: tuple[float, ...] | None = None
    log_uniform: tuple[float, ...] | None = None
    integer: tuple[int, ...] | None = Field(default=None, alias="int")
    choice: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_valid_kind(self) -> Dimension:
        given = [kind for kind, values in self._all().items() if values is not None]
        if len(given) != 1:
            raise broken("exactly one of the allowed keys is given", allowed=KINDS)
        kind, values = given[0], self.values
        if kind == "choice":
            if not values:
                raise broken("at least one value is needed", at=("choice",))
            if len(set(values)) < len(values):
                raise broken("every value is given once", at=("choice",))
        elif len(values) != 2:
            raise broken(f"two numbers are needed: {kind}: [low, high]", at=(kind,))
        elif kind == "log_uniform" and values[0] <= 0:
            raise broken("both bounds must be greater than 0: the logarithm is drawn", at=(kind,))
        elif values[0] >= values[1]:
            raise broken("low must be less than high; for one fixed value write choice: [value]", at=(kind,))
        return self

    def _all(self) -> dict[str, tuple[float, ...] | None]:
        return dict(zip(KINDS, (self.uniform, self.log_uniform, self.integer, self.choice), strict=True))

    @property
    def kind(self) -> str:
        """Which of ``uniform``, ``log_uniform``, ``int`` and ``choice`` is given."""
        return next(kind for kind, values in self._all().items() if values is not None)

    @property
    def values(self) -> tuple[float, ...]:
        """The bounds ``(low, high)``, or the listed values of a choice."""
        return next(values for values in self._all().values() if values is not None)


def _within(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[Dimension], Dimension]:
    def check(dimension: Dimension) -> Dimension:
        for value in dimension.values:
            if value < low or (open_low and value == low) or value > high:
                lower = f"greater than {low:g}" if open_low else f"at least {low:g}"
                upper = f" and at most {high:g}" if high < math.inf else ""
                raise broken(f"every value must be {lower}{upper}, and {value:g} is not", at=(dimension.kind,))
        return dimension

    return check


_Positive = Annotated[Dimension, AfterValidator(_within(0, open_low=True))]
_NonNegative = Annotated[Dimension, AfterValidator(_within(0))]


class Space(Section):
    """What is searched; a setting that is not named keeps its fixed value."""

    keep_ratio: Annotated[Dimension, AfterValidator(_within(0, 1, open_low=True))]
    temperature: _Positive | None = None
    alpha_dist: Annotated[Dimension, AfterValidator(_within(0, 1))] | None = None
    alpha_task: _NonNegative | None = None
    alpha_hidden: _NonNegative | None = None
    lr: _Positive | None = None
    weight_decay: _NonNegative | None = None

    def dimensions(self) -> dict[str, Dimension]:
        """Return the searched settings by name, always in the same order."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: dimension for name, dimension in values.items() if dimension is not None}
