"""The subject of a rollout: a campaign or a live service. Rollouts know no other difference between them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from headrace.engines.roles import Role
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import Candidates
from headrace.rollout.gates import Evidence
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.store.small_objects import Damaged


@dataclass(frozen=True, kw_only=True)
class Subject(ABC):
    """What a rollout asks its subject. `damaged` is called for unreadable objects, which are left out.

    Attributes:
        is_prepared_here: whether the ticking process prepares a proposed set; otherwise the subject's servers do.
        replicas: base URL in a version set → the servers that serve the same model.
        roles: the parts of its file, by name.
    """

    name: str
    plan: Plan
    is_prepared_here: bool
    replicas: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, Role]

    @abstractmethod
    def candidates(self, models: Sequence[ModelVersion]) -> Candidates: ...

    @abstractmethod
    def evidence(self, models: Sequence[ModelVersion], state: RolloutState, *, damaged: Damaged) -> Evidence:
        """The evidence on the stable set and the candidate, or the proposal, which may have been stable before."""
        ...

    @abstractmethod
    def end_under_way(self, candidate: str, *, damaged: Damaged) -> None:
        """Ends running work on a set right before its rollback, so that it is not sealed afterwards."""
        ...

    @abstractmethod
    def bad_rows(self, version_sets: Collection[str], *, damaged: Damaged) -> list[BadRows]:
        """The rows that these sets published, version by version."""
        ...
