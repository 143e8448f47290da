"""One test a rollout, looked at after every few rows: ours, and what is done without one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr

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


def naive_z(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Two shares compared by a pooled z-test, as if this were the only look."""
    pooled = (bad_candidate + bad_stable) / (num_candidate + num_stable)
    spread = (pooled * (1 - pooled) * (1 / num_candidate + 1 / num_stable)) ** 0.5
    score = (bad_candidate / num_candidate - bad_stable / num_stable) / spread if spread else 0.0
    if 1 - ndtr(score) < ALPHA:
        return "harmful"
    return "not_inferior" if is_last else "undecided"


def mann_whitney(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Mann-Whitney's U over 0/1 rows, normal approximation with ties and continuity, as canary judges use it.

    In closed form of the counts; `tests/rollout/test_sequential.py` holds it against `scipy.stats.mannwhitneyu`.
    """
    good_candidate, good_stable = num_candidate - bad_candidate, num_stable - bad_stable
    statistic = bad_candidate * good_stable + 0.5 * (bad_candidate * bad_stable + good_candidate * good_stable)
    num, bad = num_candidate + num_stable, bad_candidate + bad_stable
    ties = ((bad**3 - bad) + ((num - bad) ** 3 - (num - bad))) / (num * (num - 1))
    spread = (num_candidate * num_stable / 12 * (num + 1 - ties)) ** 0.5
    score = (statistic - num_candidate * num_stable / 2 - 0.5) / spread if spread else 0.0
    # A canary judge's "98%" confidence, one-sided.
    if 1 - ndtr(score) < 0.02:
        return "harmful"
    return "not_inferior" if is_last else "undecided"


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
