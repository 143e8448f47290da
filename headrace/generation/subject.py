"""A campaign as the subject of its rollout: its models, reviewed rows, mirrored rows, and bad sets' rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from headrace.engines.roles import newest_versions
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.campaign import WRITER, Campaign
from headrace.generation.claims import Claims
from headrace.generation.mirroring import mirrored_differences
from headrace.generation.rolled_back import bad_versions, void_unsealed
from headrace.handoff.versions import HandoffStore
from headrace.registry.bases import registered_bases
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import Candidates, ModelCandidates, NewestCandidates
from headrace.rollout.evidence import evidence_for, review_metrics
from headrace.rollout.gates import MIRRORED_PASS_RATE, Evidence
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.rollout.subject import Subject
from headrace.store.small_objects import Damaged
from headrace.version_sets.sets import VersionSets


@dataclass(frozen=True, kw_only=True)
class CampaignSubject(Subject):
    campaign: Campaign
    handoffs: HandoffStore

    @classmethod
    def of(cls, campaign: Campaign, handoffs: HandoffStore) -> "CampaignSubject":
        return cls(
            name=campaign.name,
            plan=campaign.plan,
            # Only the run that ticks prepares a set.
            is_prepared_here=True,
            replicas=campaign.replicas,
            roles=campaign.parts,
            campaign=campaign,
            handoffs=handoffs,
        )

    def candidates(self, models: Sequence[ModelVersion]) -> Candidates:
        """The versions of one writer's model one by one, or the file's wish as a whole (`Campaign.follows_model`)."""
        campaign = self.campaign
        if campaign.follows_model:
            return ModelCandidates(
                model_name=campaign.model, models=models, desired=lambda model: campaign.version_set({WRITER: model})
            )
        whose = f"Campaign {campaign.name!r}"
        bases = registered_bases(self.handoffs, campaign.name, self.roles)
        return NewestCandidates(
            name=campaign.name,
            whose="campaign",
            desired=lambda: campaign.version_set(newest_versions(self.roles, models, whose=whose, bases=bases)),
        )

    def evidence(self, models: Sequence[ModelVersion], state: RolloutState, *, damaged: Damaged) -> Evidence:
        # Counted lazily, since it reads every reviewed partition of some weeks.
        name, num_days = self.name, self.plan.evidence_days
        candidate = state.candidate or state.proposed or ""
        evidence = evidence_for(
            candidate,
            state.stable,
            candidate_weights=state.candidate_weights or state.proposed_weights or "",
            stable_weights=state.stable_weights,
            reviews=review_metrics(
                self.handoffs, name, num_days=num_days, writer=self.campaign.judged_writer, damaged=damaged
            ),
            models=models,
            members=self._members(candidate, state.stable, damaged=damaged),
        )
        found = mirrored_differences(self.handoffs, name, candidate, state.stable, num_days=num_days, damaged=damaged)
        return replace(evidence, paired={MIRRORED_PASS_RATE: found} if found.num else {})

    def _members(self, candidate: str, stable: str, *, damaged: Damaged) -> dict[str, tuple[str, str]]:
        """Each role's weights in both sets; none for a single writer, whose weights are the sets' own, and without a
        candidate."""
        if not (self.campaign.roles and candidate):
            return {}
        sets = VersionSets(self.handoffs.objects)
        try:
            ours, theirs = (
                {member.role: member.weights_digest for member in sets.get(one).members} for one in (candidate, stable)
            )
        except ObjectMissing:  # a set that nobody kept is compared by its rows alone
            return {}
        except HandoffCorrupt as error:
            damaged(error)
            return {}
        return {role: (ours[role], theirs[role]) for role in ours if role in theirs}

    def end_under_way(self, candidate: str, *, damaged: Damaged) -> None:
        end_under_way(self.handoffs, self.name, candidate, damaged=damaged)

    def bad_rows(self, version_sets: Collection[str], *, damaged: Damaged) -> list[BadRows]:
        return bad_rows_of(self.handoffs, self.name, version_sets, damaged=damaged)


def end_under_way(handoffs: HandoffStore, name: str, candidate: str, *, damaged: Damaged) -> None:
    """Ends every attempt of a campaign on a set that is about to be rolled back."""
    journal = Journal(handoffs.objects, name, handoffs.clock)
    claims = Claims(objects=handoffs.objects, journal=journal, clock=handoffs.clock)
    void_unsealed(claims, name, about_to_abort=candidate, damaged=damaged)


def bad_rows_of(
    handoffs: HandoffStore, name: str, version_sets: Collection[str], *, damaged: Damaged | None = None
) -> list[BadRows]:
    """The rows that these sets published in a campaign's partitions, version by version; reads one manifest each."""
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
