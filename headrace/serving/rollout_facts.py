"""What a service's rollout is decided on: the models that its file asks for, and what its gateways have seen."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from headrace.engines.roles import newest_versions
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import NewestCandidates
from headrace.rollout.controller import Facts, preparation_reader
from headrace.rollout.gates import METRICS, Evidence
from headrace.rollout.live_evidence import read_drawn, totals
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.strata import ClientUnits, Stratum
from headrace.rollout.states import RolloutState
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, PassedOver
from headrace.version_sets.sets import VersionSet


def service_candidates(service: Service, models: Sequence[ModelVersion]) -> NewestCandidates:
    whose = f"Service {service.name!r}"
    return NewestCandidates(
        name=service.name,
        whose="service",
        desired=lambda: service.version_set(newest_versions(service.roles, models, whose=whose)),
    )


def service_facts(
    service: Service,
    store: ObjectStore,
    models: Sequence[ModelVersion],
    *,
    now: float,
    refusal: Callable[[VersionSet], str | None] = lambda _: None,
) -> Facts:
    """Facts for `headrace.rollout.controller`. Gateways prepare proposals by themselves, so no node is named here."""
    damaged = PassedOver()
    return Facts(
        candidates=service_candidates(service, models),
        now=now,
        evidence=partial(service_evidence, store, service.name, damaged=damaged),
        preparations=preparation_reader(store, service.name),
        refusal=refusal,
        damaged=damaged,
    )


def service_evidence(store: ObjectStore, name: str, state: RolloutState, *, damaged: Damaged | None = None) -> Evidence:
    """What all gateways have seen of both sets since the candidate's trial began.

    Args:
        damaged: told of what cannot be read, which is left out.
    """
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
