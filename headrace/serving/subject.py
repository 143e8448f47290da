"""A service as the subject of its rollout: the models that its file asks for, and its gateways' measurements."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.engines.roles import newest_versions
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import NewestCandidates
from headrace.rollout.gates import METRICS, Evidence
from headrace.rollout.live_evidence import read_drawn, totals
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.strata import ClientUnits, Stratum
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.rollout.subject import Subject
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged


@dataclass(frozen=True, kw_only=True)
class ServiceSubject(Subject):
    service: Service
    store: ObjectStore

    @classmethod
    def of(cls, service: Service, store: ObjectStore) -> "ServiceSubject":
        return cls(
            name=service.name,
            plan=service.plan,
            # Gateways prepare proposals themselves.
            is_prepared_here=False,
            replicas=service.replicas,
            roles=service.roles,
            service=service,
            store=store,
        )

    def candidates(self, models: Sequence[ModelVersion]) -> NewestCandidates:
        service, whose = self.service, f"Service {self.service.name!r}"
        bases = self._bases()
        return NewestCandidates(
            name=service.name,
            whose="service",
            desired=lambda: service.version_set(newest_versions(service.roles, models, whose=whose, bases=bases)),
        )

    def _bases(self) -> dict[str, str]:
        if not any(role.weights for role in self.service.roles.values()):
            return {}
        # Imported here: a gateway starts without Arrow.
        from headrace.handoff.versions import HandoffStore
        from headrace.registry.bases import registered_bases

        return registered_bases(HandoffStore(self.store), self.service.name, self.service.roles)

    def evidence(self, models: Sequence[ModelVersion], state: RolloutState, *, damaged: Damaged) -> Evidence:
        found = live_evidence(self.store, self.name, state, damaged=damaged)
        candidate = state.candidate or state.proposed
        if candidate is None or not self.plan.mirror_partitions:
            return found
        # Imported here: a gateway starts without Arrow.
        from headrace.handoff.versions import HandoffStore
        from headrace.voice.mirroring import mirrored_evidence

        handoffs, num_days = HandoffStore(self.store), self.plan.evidence_days
        paired = mirrored_evidence(handoffs, self.name, candidate, state.stable, damaged=damaged, num_days=num_days)
        return replace(found, paired=paired)

    def end_under_way(self, candidate: str, *, damaged: Damaged) -> None:
        """Does nothing: a running unit ends on its set, as its client was told."""

    def bad_rows(self, version_sets: Collection[str], *, damaged: Damaged) -> list[BadRows]:
        """Returns nothing: the store does not keep answers."""
        return []


def live_evidence(store: ObjectStore, name: str, state: RolloutState, *, damaged: Damaged | None = None) -> Evidence:
    """All gateways' measurements of both sets since the candidate's trial began."""
    if state.candidate is None:
        return Evidence()
    drawn = read_drawn(store, name, state.trial, damaged=damaged)
    arms = totals(drawn)
    candidate, stable = arms.get(state.candidate, {}), arms.get(state.stable, {})
    metrics = [metric for metric in METRICS if metric in candidate or metric in stable]
    return Evidence(
        metrics={metric: (candidate.get(metric, Sample()), stable.get(metric, Sample())) for metric in metrics},
        clients={metric: _by_client(drawn, metric, state.candidate, state.stable) for metric in metrics},
    )


def _by_client(
    drawn: Mapping[tuple[str, int], Mapping[str, Mapping[str, Sample]]], metric: str, candidate: str, stable: str
) -> tuple[ClientUnits, ...]:
    strata: dict[str, list[Stratum]] = {}
    for (client, _), arms in sorted(drawn.items()):
        samples = [arms.get(version_set, {}).get(metric, Sample()) for version_set in (candidate, stable)]
        strata.setdefault(client, []).append(Stratum(candidate=samples[0], stable=samples[1]))
    return tuple(ClientUnits(client=client, strata=tuple(found)) for client, found in strata.items())
