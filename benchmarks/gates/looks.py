"""One test a rollout, looked at after every few rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import look
from headrace.rollout.sequential.samples import Sample

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


def simulate(
    test: Test, rates: tuple[float, float], *, runs: int, num_rows: int, every: int, ratio: int, seed: int
) -> Outcome:
    """Run one test on `runs` rollouts; `ratio`: rows of the stable set for each of the candidate."""
    stable_rate, candidate_rate = rates
    draws = np.random.default_rng([seed, *(round(1e4 * rate) for rate in rates)])
    num_looks = num_rows // every
    candidate = draws.binomial(every, candidate_rate, (runs, num_looks)).cumsum(axis=1)
    stable = draws.binomial(every * ratio, stable_rate, (runs, num_looks)).cumsum(axis=1)
    ends: list[End] = []
    rows: list[int] = []
    for run in range(runs):
        end: End = "undecided"
        at = 0
        for index in range(num_looks):
            at = (index + 1) * every
            bad = int(candidate[run, index]), int(stable[run, index])
            end = test(bad[0], at, bad[1], at * ratio, index == num_looks - 1)
            if end != "undecided":
                break
        ends.append(end)
        rows.append(at)
    found, at_rows = np.array(ends), np.array(rows)
    harmful = found == "harmful"
    return Outcome(
        harmful=float(harmful.mean()),
        advanced=float((found == "not_inferior").mean()),
        undecided=float((found == "undecided").mean()),
        median_harmful=float(np.median(at_rows[harmful])) if harmful.any() else float("nan"),
        median=float(np.median(at_rows)),
    )
