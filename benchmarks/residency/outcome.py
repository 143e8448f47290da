"""When jobs began and ended, and what is said of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.residency.image_trace import Job


@dataclass(frozen=True, kw_only=True)
class Done:
    """`begun`: its work, after what had to be brought for it."""

    job: Job
    begun: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Seconds. `wait`: until a request's work begins; the others: until its end. `num_brought`: models and parts."""

    mean: float
    p99: float
    wait_mean: float
    wait_p99: float
    wait_max: float
    num_brought: int


def figures_of(done: Sequence[Done], num_brought: int) -> Figures:
    """Raises: AssertionError: a job was lost, or done twice."""
    assert len({one.job.number for one in done}) == len(done)
    lasted = sorted(one.ended - one.job.arrives for one in done)
    waited = sorted(one.begun - one.job.arrives for one in done)
    at = int(0.99 * (len(done) - 1))
    return Figures(
        mean=fmean(lasted),
        p99=lasted[at],
        wait_mean=fmean(waited),
        wait_p99=waited[at],
        wait_max=waited[-1],
        num_brought=num_brought,
    )
