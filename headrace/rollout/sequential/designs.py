"""A sequential test, fixed before its first look: what counts as worse, by how much, and its error rates."""

from dataclasses import dataclass
from typing import Literal

from headrace.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Design:
    """One metric's test of a candidate against the stable set.

    `group_sequential` has a greatest number of values and spends its error until then; `confidence_sequence` has no end
    and is valid beyond `num_max`, but needs more values to decide.
    """

    method: Literal["group_sequential", "confidence_sequence"]
    kind: Literal["proportion", "mean"]
    worse: Literal["higher", "lower"]
    # How much worse the candidate may be, in the metric's unit.
    margin: float
    # Up to this difference nothing is harmful: 0 if any loss is harm (bad rows), the margin if a small loss does not
    # matter (milliseconds).
    tolerated: float = 0.0
    # Probability that a candidate that is worse by at most `tolerated` is ever called harmful.
    alpha_harm: float = 0.05
    # Probability that a candidate worse by `margin` or more is ever called not inferior.
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
        """The sign that makes a positive difference of means the worse one."""
        return 1.0 if self.worse == "higher" else -1.0
