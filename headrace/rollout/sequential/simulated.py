"""Simulates trials row by row: what a test would have said, look by look, at known rates.

For the question how much a test can tell with so many rows, before a candidate spends them; and for benchmarks of the
tests. Rows are independent, as the tests assume.
"""

from typing import TYPE_CHECKING, Protocol, TypeVar

from headrace.rollout.sequential.samples import Sample

if TYPE_CHECKING:
    import numpy as np

End = TypeVar("End", covariant=True)


class Trial(Protocol[End]):
    """One trial: how many rows come before each look, and what the look decides."""

    def next_rows(self) -> tuple[int, int] | None:
        """The candidate's and the stable set's rows up to the next look; None: there is no further look."""
        ...

    def look(self, candidate: Sample, stable: Sample) -> End | None:
        """The end of the trial, or None: it goes on.

        Args:
            candidate: all rows so far; an event is what the rates count.
        """
        ...


def run_trial(trial: Trial[End], rates: tuple[float, float], draws: "np.random.Generator") -> End | None:
    """Draws rows until the trial ends.

    Args:
        rates: the share of rows with an event, of the candidate and of the stable set.

    Returns:
        None: no look decided.
    """
    totals, events = [0, 0], [0, 0]
    while rows := trial.next_rows():
        for arm in (0, 1):
            totals[arm] += rows[arm]
            events[arm] += int(draws.binomial(rows[arm], rates[arm])) if rows[arm] else 0
        samples = [Sample.of_counts(num, num_events) for num, num_events in zip(totals, events, strict=True)]
        if (end := trial.look(*samples)) is not None:
            return end
    return None
