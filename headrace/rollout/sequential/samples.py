"""The data of one arm that a test needs: the number of values, their sum and the sum of their squares."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sufficient statistics of one arm on one metric. Counts are the special case of values 0 and 1."""

    num: int = 0
    total: float = 0.0
    total_squares: float = 0.0

    @classmethod
    def of_counts(cls, num: int, num_events: int) -> "Sample":
        return cls(num=num, total=float(num_events), total_squares=float(num_events))

    @classmethod
    def of_values(cls, values: Iterable[float]) -> "Sample":
        listed = list(values)
        return cls(num=len(listed), total=sum(listed), total_squares=sum(value * value for value in listed))

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0

    @property
    def variance(self) -> float:
        """Variance of one value; 0 for fewer than two."""
        if self.num < 2:
            return 0.0
        return max(0.0, (self.total_squares - self.total * self.mean) / (self.num - 1))

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(
            num=self.num + other.num,
            total=self.total + other.total,
            total_squares=self.total_squares + other.total_squares,
        )
