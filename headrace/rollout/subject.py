"""What has a rollout: a campaign or a live service, each as its own room sees it. Rollouts know no other difference."""

from collections.abc import Collection, Sequence
from typing import Protocol

from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import Candidates
from headrace.rollout.gates import Evidence
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.store.small_objects import Damaged


class Subject(Protocol):
    """What a rollout asks of what it is for. `damaged` is told of what cannot be read, which is left out."""

    @property
    def name(self) -> str: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def is_prepared_here(self) -> bool:
        """Whether the process that ticks prepares a proposed set; else whoever serves it does so by itself."""
        ...

    def candidates(self, models: Sequence[ModelVersion]) -> Candidates: ...

    def evidence(self, models: Sequence[ModelVersion], state: RolloutState, *, damaged: Damaged) -> Evidence:
        """What is known of the stable set and of the candidate, or the proposal, which may have been stable before."""
        ...

    def end_under_way(self, candidate: str, *, damaged: Damaged) -> None:
        """End what is under way on a set that is rolled back in the next moment, so that it is not sealed after it."""
        ...

    def bad_rows(self, version_sets: Collection[str], *, damaged: Damaged) -> list[BadRows]:
        """What these sets published, version by version."""
        ...
