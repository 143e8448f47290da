"""One test a rollout, looked at after every few rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import look
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.simulated import run_trial

ALPHA = 0.05
MARGIN = 0.02
CASES = {"equal": (0.05, 0.05), "worse": (0.05, 0.08), "margin": (0.05, 0.07), "better": (0.05, 0.03)}

End = Literal["harmful", "not_inferior", "undecided"]
# Bad rows and rows of candidate and stable set → what the test says at this look.
Test = Callable[[int, int, int, int, bool], End]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of runs by how they ended; rows a side at the end, of those rolled back for harm and of all."""

    harmful: float
    advanced: float
    undecided: float
    median_harmful: float
    median: float


def ours(method: Literal["group_sequential", "confidence_sequence"], num_rows: int, every: int) -> Test:
    design = Design(
        method=method,
        kind="proportion",
        worse="higher",
        margin=MARGIN,
        alpha_harm=ALPHA,
        alpha_advance=ALPHA,
        num_min=min(every, 50),
        num_max=num_rows,
    )

    def test(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
        candidate = Sample.of_counts(num_candidate, bad_candidate)
        return look(design, candidate, Sample.of_counts(num_stable, bad_stable)).verdict

    return test


class _Every:
    """A trial with a look after every `every` rows of the candidate."""

    def __init__(self, test: Test, *, num_rows: int, every: int, ratio: int) -> None:
        self._test, self._every, self._ratio = test, every, ratio
        self._num_looks, self._index = num_rows // every, 0

    def next_rows(self) -> tuple[int, int] | None:
        if self._index == self._num_looks:
            return None
        self._index += 1
        return self._every, self._every * self._ratio

    def look(self, candidate: Sample, stable: Sample) -> tuple[End, int] | None:
        is_last = self._index == self._num_looks
        end = self._test(round(candidate.total), candidate.num, round(stable.total), stable.num, is_last)
        return (end, candidate.num) if end != "undecided" or is_last else None


def simulate(
    test: Test, rates: tuple[float, float], *, runs: int, num_rows: int, every: int, ratio: int, seed: int
) -> Outcome:
    """Run one test on `runs` rollouts; `ratio`: rows of the stable set for each of the candidate."""
    stable_rate, candidate_rate = rates
    draws = np.random.default_rng([seed, *(round(1e4 * rate) for rate in rates)])
    found: list[tuple[End, int]] = []
    for _ in range(runs):
        trial = _Every(test, num_rows=num_rows, every=every, ratio=ratio)
        found.append(run_trial(trial, (candidate_rate, stable_rate), draws) or ("undecided", 0))
    ends, rows = np.array([end for end, _ in found]), np.array([num for _, num in found])
    harmful = ends == "harmful"
    return Outcome(
        harmful=float(harmful.mean()),
        advanced=float((ends == "not_inferior").mean()),
        undecided=float((ends == "undecided").mean()),
        median_harmful=float(np.median(rows[harmful])) if harmful.any() else float("nan"),
        median=float(np.median(rows)),
    )
