"""The rollouts of this deployment, of campaigns and of live services, as a Dagster resource."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from headrace.clock import SystemClock
from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.report import write_report
from headrace.generation.rollout_facts import bad_rows_of, campaign_facts, end_under_way
from headrace.handoff.versions import HandoffStore
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.aliases import project_if_possible
from headrace.rollout.catalogue import refusal_of
from headrace.rollout.controller import Action, Facts, tick, verdict_on
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.page import page_markdown, render_page
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.status import RolloutStatus, last_trial, read_status
from headrace.rollout.tables import journal_markdown, state_table
from headrace.serving.rollout_facts import service_facts
from headrace.serving.service import Service, load_services
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSet, VersionSets
from resources.campaigns_resource import CampaignsResource, campaigns_resource
from resources.engines import EnginesResource
from resources.settings import Settings

# A person's event, appended to a journal before the rollout goes on by itself; the last argument ends what is under way
# on a set that is rolled back.
Intervention = Callable[[Journal, Plan, Callable[[str], None]], Entry]


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """What one tick did, and where the rollout stands now."""

    state: RolloutState | None
    entries: tuple[Entry, ...]
    actions: Sequence[Action]
    aliases: str
    table: pa.Table
    status: RolloutStatus
    page: Path

    def metadata(self) -> dict[str, Any]:
        verdict = self.status.verdict if self.state and self.state.candidate else None
        return {
            "head": len(self.entries),
            "num_entries_added": sum(action.kind not in {"none", "prepare"} for action in self.actions),
            "weight": self.state.weight if self.state else 0.0,
            "reason": self.actions[-1].reason,
            "verdict": f"{verdict.action}: {verdict.reason}" if verdict else "nothing is on trial",
            "status": dg.MetadataValue.md(page_markdown(self.status)),
            "journal": dg.MetadataValue.md(journal_markdown(self.entries)),
            "page": dg.MetadataValue.url(self.page.as_uri()),
            "path": dg.MetadataValue.path(self.page),
            "aliases": self.aliases,
            "damaged_objects": "\n".join(self.status.damaged) or "none",
        }


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """What campaign and service files describe, by name, and why some of them describe nothing, a sentence each."""

    by_name: Mapping[str, Campaign | Service]
    problems: tuple[str, ...]


class RolloutsResource(dg.ConfigurableResource):
    """Every campaign and every service of this deployment has a rollout of its name."""

    campaigns: CampaignsResource
    engines: EnginesResource
    services: str = Field(description="Directory of service files (*.yaml): an absolute path; it may be missing.")

    def subjects(self) -> Subjects:
        """Whatever can be read: a broken service file stops no campaign's rollout, and the other way round."""
        problems: list[str] = []
        campaigns: dict[str, Campaign] = {}
        services: dict[str, Service] = {}
        try:
            campaigns = {campaign.name: campaign for campaign in self.campaigns.campaigns()}
        except InvalidInput as error:
            problems.append(str(error))
        try:
            services = {service.name: service for service in load_services(Path(self.services))}
        except InvalidInput as error:
            problems.append(str(error))
        # They would share a journal.
        both = sorted(campaigns.keys() & services.keys())
        problems += [f"A campaign and a service are both named {name!r}: rename one of them." for name in both]
        by_name = {name: subject for name, subject in {**campaigns, **services}.items() if name not in both}
        return Subjects(by_name=by_name, problems=tuple(problems))

    def names(self) -> list[str]:
        return list(self.subjects().by_name)

    def subject(self, name: str) -> Campaign | Service:
        """Raises: InvalidInput: no file that can be read describes a campaign or service of this name alone."""
        found = self.subjects()
        if name in found.by_name:
            return found.by_name[name]
        there = "; ".join(found.problems) or f"there are {', '.join(found.by_name)}."
        raise InvalidInput(f"No file describes a campaign or service {name!r}; {there}")

    def facts(
        self,
        subject: Campaign | Service,
        handoffs: HandoffStore,
        models: Sequence[ModelVersion],
        *,
        refusal: Callable[[VersionSet], str | None] = lambda _: None,
    ) -> Facts:
        now = time.time()
        if isinstance(subject, Service):
            return service_facts(subject, handoffs.objects, models, now=now, refusal=refusal)
        return campaign_facts(subject, handoffs, models, now=now, node=socket.gethostname(), refusal=refusal)

    def tick(
        self,
        name: str,
        handoffs: HandoffStore,
        models: Sequence[ModelVersion],
        registry: ModelRegistry,
        *,
        passed_over: PassedOver,
        intervention: Intervention | None = None,
    ) -> Ticked:
        """Take one rollout as far as its evidence allows, after a person's `intervention`, if there is one.

        Args:
            passed_over: damaged objects that `models` was read without.
        """
        objects, subject = handoffs.objects, self.subject(name)
        journal, version_sets = Journal(objects, name, SystemClock()), VersionSets(objects)
        facts = self.facts(subject, handoffs, models, refusal=partial(refusal_of, registry))
        facts.damaged.with_those_of(passed_over)
        if intervention is not None:
            intervention(journal, subject.plan, partial(end_under_way, handoffs, name, damaged=facts.damaged))
        actions = tick(
            journal,
            version_sets,
            subject.plan,
            facts,
            store=objects,
            clock=SystemClock(),
            prepare=partial(self._prepare, objects),
        )
        aliases = project_if_possible(journal, version_sets, objects, registry, prefix=subject.plan.alias_prefix)
        entries = journal.entries()
        state = fold(entries)
        status = self.status(name, handoffs, models, damaged=facts.damaged)
        return Ticked(
            status=status,
            page=write_report(render_page(status), Path(self.campaigns.reports) / "rollouts" / f"{name}.html"),
            state=state,
            entries=entries,
            actions=actions,
            aliases=aliases,
            table=state_table(name, state, version_sets),
        )

    def status(
        self,
        name: str,
        handoffs: HandoffStore,
        models: Sequence[ModelVersion],
        *,
        damaged: PassedOver | None = None,
    ) -> RolloutStatus:
        """Where a rollout stands: evidence and verdict of its last trial, and what bad sets had published.

        Args:
            damaged: what was passed over before.
        """
        objects, subject = handoffs.objects, self.subject(name)
        entries = Journal(objects, name, SystemClock()).entries()
        state, trial = fold(entries), last_trial(entries)
        facts = self.facts(subject, handoffs, models)
        damaged = damaged or PassedOver()
        evidence = facts.evidence(trial) if trial else None
        verdict = verdict_on(trial, subject.plan, evidence, now=facts.now) if trial and evidence else None
        return read_status(
            objects,
            name,
            SystemClock(),
            plan=subject.plan,
            evidence=evidence,
            verdict=verdict,
            bad_rows=bad_rows_of(handoffs, name, state.aborted, damaged=damaged) if state else None,
            damaged=damaged.with_those_of(facts.damaged),
        )

    def _prepare(self, objects: ObjectStore, version_set: VersionSet) -> None:
        """Fetch, verify, load and try every member in this process."""
        for member in version_set.members:
            self.engines.try_member(member, version_set, objects)


def rollouts_resource(settings: Settings, engines: EnginesResource | None = None) -> RolloutsResource:
    """Args:
    engines: those that the assets use, with their keys; a sensor, which only looks, needs none.
    """
    return RolloutsResource(
        campaigns=campaigns_resource(settings), engines=engines or EnginesResource(), services=str(settings.services)
    )
