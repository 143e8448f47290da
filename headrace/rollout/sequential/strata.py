"""Units of both arms, told apart by how they were drawn and by whose they were."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace.rollout.sequential.samples import Sample

# A client with this share of the units is the service: without it there is nothing to judge.
MAJORITY = 0.6


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Units of both arms that were drawn in one way: with one chance for the candidate, from one client."""

    candidate: Sample
    stable: Sample

    @cached_property
    def information(self) -> float:
        """As many units of each arm, compared with an arm that is known exactly, would tell as much."""
        num = self.candidate.num + self.stable.num
        return self.candidate.num * self.stable.num / num if num else 0.0


@dataclass(frozen=True, kw_only=True)
class ClientUnits:
    """What one client's units were like, in strata of one chance for the candidate each."""

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
    """Units of the candidate without those of its largest client, unless that one makes most of all."""
    nums = [one.arms[0].num for one in clients]
    largest, total = max(nums, default=0), sum(nums)
    return total if largest >= MAJORITY * total else total - largest
