"""What a campaign's rollout is decided on: its models, its reviewed rows, and its mirrored ones."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from headrace.engines.roles import newest_versions
from headrace.generation.campaign import WRITER, Campaign
from headrace.generation.claims import Claims
from headrace.generation.mirroring import mirrored_differences
from headrace.generation.rolled_back import bad_versions, void_unsealed
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import Candidates, ModelCandidates, NewestCandidates
from headrace.rollout.controller import Facts, preparation_reader
from headrace.rollout.evidence import evidence_for, review_counts
from headrace.rollout.gates import Evidence
from headrace.rollout.journal import Journal
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.store.small_objects import Damaged, PassedOver
from headrace.version_sets.sets import VersionSet


def campaign_candidates(campaign: Campaign, models: Sequence[ModelVersion]) -> Candidates:
    """Of one writer, the model's versions one by one; of several roles, what the file asks for as a whole."""
    if campaign.model:
        return ModelCandidates(
            model_name=campaign.model, models=models, desired=lambda model: campaign.version_set({WRITER: model})
        )
    whose = f"Campaign {campaign.name!r}"
    return NewestCandidates(
        name=campaign.name,
        whose="campaign",
        desired=lambda: campaign.version_set(newest_versions(campaign.parts, models, whose=whose)),
    )


def campaign_facts(
    campaign: Campaign,
    handoffs: HandoffStore,
    models: Sequence[ModelVersion],
    *,
    now: float,
    node: str | None,
    refusal: Callable[[VersionSet], str | None] = lambda _: None,
) -> Facts:
    """Facts for `headrace.rollout.controller`.

    Args:
        node: who prepares a proposed set; the run that ticks does, and no other process.
    """
    damaged = PassedOver()
    return Facts(
        candidates=campaign_candidates(campaign, models),
        now=now,
        evidence=partial(campaign_evidence, campaign, handoffs, models, damaged=damaged),
        preparations=preparation_reader(handoffs.objects, campaign.name),
        node=node,
        refusal=refusal,
        before_abort=partial(end_under_way, handoffs, campaign.name, damaged=damaged),
        damaged=damaged,
    )


def end_under_way(handoffs: HandoffStore, name: str, candidate: str, *, damaged: Damaged) -> None:
    """End every attempt on a set that is rolled back in the next moment; a service has none.

    Args:
        damaged: told of what could not be read, which stops no rollback.
    """
    journal = Journal(handoffs.objects, name, handoffs.clock)
    claims = Claims(objects=handoffs.objects, journal=journal, clock=handoffs.clock)
    void_unsealed(claims, name, about_to_abort=candidate, damaged=damaged)


def campaign_evidence(
    campaign: Campaign,
    handoffs: HandoffStore,
    models: Sequence[ModelVersion],
    state: RolloutState,
    *,
    damaged: Damaged | None = None,
) -> Evidence:
    """What is known of a candidate (or of a proposed set, which may have been stable before) and the stable set.

    Args:
        damaged: told of partitions that cannot be read, which are left out.
    """
    # Counted here, and not before: the count reads every reviewed partition of some weeks.
    num_days = campaign.plan.evidence_days
    reviews = review_counts(handoffs, campaign.name, num_days=num_days, damaged=damaged)
    candidate = state.candidate or state.proposed or ""
    found = mirrored_differences(handoffs, campaign.name, candidate, state.stable, num_days=num_days, damaged=damaged)
    evidence = evidence_for(
        candidate,
        state.stable,
        candidate_weights=state.candidate_weights or state.proposed_weights or "",
        stable_weights=state.stable_weights,
        reviews=reviews,
        models=models,
    )
    if not found.num:
        return evidence
    mirrored = Sample(num=found.num, total=found.total, total_squares=found.total_squares)
    return replace(evidence, mirrored=mirrored)


def bad_rows_of(
    handoffs: HandoffStore, name: str, version_sets: Collection[str], *, damaged: Damaged | None = None
) -> list[BadRows]:
    """What these sets published in a campaign's partitions, version by version; reads one manifest each.

    Args:
        damaged: told of manifests that cannot be read, which are left out.
    """
    return [
        BadRows(
            version_set=bad.version_set,
            partition=bad.partition,
            version=bad.version,
            num_rows=bad.num_rows,
            is_published=not bad.superseded,
        )
        for bad in bad_versions(handoffs, version_sets, campaign=name, damaged=damaged)
    ]
