"""Units of both arms, grouped by how they were drawn and by client."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace.rollout.sequential.samples import Sample

# A client with this share of the units is the service: nothing can be judged without it.
MAJORITY = 0.6


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Units of both arms from one client, drawn with the same chance for the candidate."""

    candidate: Sample
    stable: Sample

    @cached_property
    def information(self) -> float:
        """The number of units for each arm that would tell as much against a perfectly known arm."""
        num = self.candidate.num + self.stable.num
        return self.candidate.num * self.stable.num / num if num else 0.0


@dataclass(frozen=True, kw_only=True)
class ClientUnits:
    """One client's units, in strata of one chance for the candidate each."""

    client: str
    strata: tuple[Stratum, ...]

    @cached_property
    def information(self) -> float:
        return sum(stratum.information for stratum in self.strata)

    @cached_property
    def arms(self) -> tuple[Sample, Sample]:
        samples = ((stratum.candidate, stratum.stable) for stratum in self.strata)
        candidates, stables = zip(*samples, strict=True)
        return sum(candidates, Sample()), sum(stables, Sample())


def num_without_largest(clients: Sequence[ClientUnits]) -> int:
    """The candidate's units without its largest client's, unless that client made most of them."""
    nums = [one.arms[0].num for one in clients]
    largest, total = max(nums, default=0), sum(nums)
    return total if largest >= MAJORITY * total else total - largest
