"""What expected run times are worth: learned from the runs that ended, by how long they were expected to take.

Estimates are too long in the mean, and the runs that are left waiting when the short ones go first are those whose
estimates are too long by most. So a backlog of estimates says little until it is corrected.
"""

import math
from dataclasses import dataclass

import numpy as np

# One for each power of two of seconds, to beyond any run.
_NUM_BUCKETS = 40
# The correction of all runs weighs as much as so many runs of the bucket.
_PRIOR_RUNS = 3.0
# When so many have been counted, all are halved: code, data and machines change.
_NUM_RUNS_MAX = 4_096


@dataclass(frozen=True, kw_only=True)
class StatedTimes:
    """What was learned: sums and counts by bucket, GPU-seconds in all, and the longest run."""

    seconds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    real: float = 0.0
    expected: float = 0.0
    longest: float = 0.0


class RunTimes:
    def __init__(self, stated: StatedTimes = StatedTimes()) -> None:
        self._seconds, self._counts = np.zeros(_NUM_BUCKETS), np.zeros(_NUM_BUCKETS)
        for buckets, values in ((self._seconds, stated.seconds), (self._counts, stated.counts)):
            buckets[: len(values)] = values[:_NUM_BUCKETS]
        self._real, self._expected, self._longest = stated.real, stated.expected, stated.longest

    def stated(self) -> StatedTimes:
        return StatedTimes(
            seconds=tuple(self._seconds.round(1).tolist()),
            counts=tuple(self._counts.round(1).tolist()),
            real=self._real,
            expected=self._expected,
            longest=self._longest,
        )

    def learn(self, expected_seconds: float, real_seconds: float, gpus: float) -> None:
        bucket = _bucket_of(np.array([expected_seconds]))[0]
        self._seconds[bucket] += real_seconds
        self._counts[bucket] += 1
        self._real += gpus * real_seconds
        self._expected += gpus * expected_seconds
        self._longest = max(self._longest, real_seconds)
        if self._counts.sum() > _NUM_RUNS_MAX:
            self._seconds /= 2
            self._counts /= 2
            self._real /= 2
            self._expected /= 2

    def corrected(self, expected_seconds: np.ndarray) -> np.ndarray:
        """How long runs that are expected to take so long really take, in the mean."""
        bucket = _bucket_of(expected_seconds)
        ratio = self._real / self._expected if self._expected else 1.0
        prior = np.minimum(ratio * expected_seconds, self._longest or math.inf)
        return (self._seconds[bucket] + _PRIOR_RUNS * prior) / (self._counts[bucket] + _PRIOR_RUNS)


def _bucket_of(seconds: np.ndarray) -> np.ndarray:
    # The exponent of a float is its logarithm, rounded.
    return np.clip(np.frexp(seconds)[1], 0, _NUM_BUCKETS - 1)
