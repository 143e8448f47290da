"""The subject of a rollout: a campaign or a live service. Rollouts know no other difference between them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from headrace.engines.roles import Role
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import Candidates
from headrace.rollout.gates import Evidence
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.store.small_objects import Damaged


class Subject(Protocol):
    """What a rollout asks its subject. `damaged` is called for unreadable objects, which are left out."""

    @property
    def name(self) -> str: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def is_prepared_here(self) -> bool:
        """Whether the ticking process prepares a proposed set; otherwise the subject's servers do."""
        ...

    @property
    def replicas(self) -> Mapping[str, tuple[str, ...]]:
        """Base URL in a version set → the servers that serve the same model."""
        ...

    def candidates(self, models: Sequence[ModelVersion]) -> Candidates: ...

    def evidence(self, models: Sequence[ModelVersion], state: RolloutState, *, damaged: Damaged) -> Evidence:
        """The evidence on the stable set and the candidate, or the proposal, which may have been stable before."""
        ...

    def end_under_way(self, candidate: str, *, damaged: Damaged) -> None:
        """Ends running work on a set right before its rollback, so that it is not sealed afterwards."""
        ...

    def bad_rows(self, version_sets: Collection[str], *, damaged: Damaged) -> list[BadRows]:
        """The rows that these sets published, version by version."""
        ...

    @property
    def roles(self) -> Mapping[str, Role]:
        """The parts of its file, by name."""
        ...
