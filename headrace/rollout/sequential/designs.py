"""A sequential test, fixed before its first look: what counts as worse, by how much, and how often it may be wrong."""

from dataclasses import dataclass
from typing import Literal

from headrace.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Design:
    """One metric's test of a candidate against the stable set.

    `group_sequential` knows the most values that there will be and spends its error until then; `confidence_sequence`
    knows no end and is valid beyond `num_max`, at the price of more values before it decides.
    """

    method: Literal["group_sequential", "confidence_sequence"]
    kind: Literal["proportion", "mean"]
    worse: Literal["higher", "lower"]
    # How much worse the candidate may be, in the metric's unit.
    margin: float
    # A difference up to which nothing is called harmful: 0 where any loss is harm (bad rows), the margin where a small
    # one does not matter (milliseconds).
    tolerated: float = 0.0
    # Chance that a candidate that is worse by no more than `tolerated` is ever called harmful.
    alpha_harm: float = 0.05
    # Chance that a candidate worse by `margin` or more is ever called not inferior.
    alpha_advance: float = 0.05
    # Values a side before the first look, and at the last one.
    num_min: int
    num_max: int

    def __post_init__(self) -> None:
        if not 0 < self.margin < float("inf"):
            raise InvalidInput(f"A test's margin must be above 0, got {self.margin!r}.")
        if not 0 <= self.tolerated <= self.margin:
            raise InvalidInput(f"A test's tolerated must be between 0 and its margin, got {self.tolerated!r}.")
        for name in ("alpha_harm", "alpha_advance"):
            if not 0 < getattr(self, name) < 0.5:
                raise InvalidInput(f"A test's {name} must be above 0 and below 0.5, got {getattr(self, name)!r}.")
        if not 1 <= self.num_min <= self.num_max:
            raise InvalidInput(
                f"A test needs 1 <= num_min <= num_max, got num_min={self.num_min!r}, num_max={self.num_max!r}."
            )

    @property
    def sign(self) -> float:
        """Turns a difference of means into one where positive is worse."""
        return 1.0 if self.worse == "higher" else -1.0
