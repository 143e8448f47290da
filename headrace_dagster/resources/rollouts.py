"""The rollouts of this deployment, of campaigns and of live services, as a Dagster resource."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from headrace.clock import SystemClock
from headrace.errors import InvalidInput
from headrace.generation.mirror_pairs import trial_pairs
from headrace.generation.report import write_report
from headrace.generation.subject import CampaignSubject
from headrace.handoff.versions import HandoffStore
from headrace.registry.bases import register_bases
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.registered import registered_models
from headrace.rollout.controller import Action
from headrace.rollout.journal import Entry
from headrace.rollout.page import page_markdown, render_page
from headrace.rollout.states import RolloutState
from headrace.rollout.status import RolloutStatus
from headrace.rollout.subject import Subject
from headrace.rollout.tables import journal_markdown, state_table
from headrace.rollout.ticking import Intervention, Rollout
from headrace.serving.service import Service, load_services
from headrace.serving.subject import ServiceSubject
from headrace.settings import Settings
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.user_files.directory import BrokenFile, Described
from headrace.version_sets.sets import VersionSet
from headrace_dagster.resources.campaigns import CampaignsResource, campaigns_resource
from headrace_dagster.resources.engines import EnginesResource


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """The actions of one tick, and the rollout's present standing."""

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
    """The subjects in campaign and service files, by name, and why some files describe none, a text each."""

    by_name: Mapping[str, Subject]
    problems: tuple[str, ...]
    broken: tuple[BrokenFile, ...] = ()

    def find(self, name: str) -> Subject:
        """Raises: InvalidInput: no readable file describes a campaign or service of this name, or both kinds do."""
        if name in self.by_name:
            return self.by_name[name]
        own = dict.fromkeys(one.faults for one in self.broken if one.would_describe(name))
        there = "; ".join(own or self.problems) or f"there are {', '.join(self.by_name)}."
        raise InvalidInput(f"No file describes a campaign or service {name!r}; {there}")


class RolloutsResource(dg.ConfigurableResource):
    """Every campaign and every service of this deployment has a rollout with its name."""

    campaigns: CampaignsResource
    engines: EnginesResource
    services: str = Field(description="Directory of service files (*.yaml): an absolute path; it may be missing.")

    def served(self) -> Described[Service]:
        """All services that can be read, and the files that cannot."""
        return load_services(Path(self.services))

    def subjects(self, handoffs: HandoffStore) -> Subjects:
        """All readable subjects: a broken file stops its own rollout alone."""
        described, served = self.campaigns.campaigns(), self.served()
        campaigns: dict[str, Subject] = {
            name: CampaignSubject.of(one, handoffs) for name, one in described.by_name.items()
        }
        services: dict[str, Subject] = {
            name: ServiceSubject.of(one, handoffs.objects) for name, one in served.by_name.items()
        }
        problems = [*described.problems, *served.problems]
        # They would share a journal.
        both = sorted(campaigns.keys() & services.keys())
        problems += [f"A campaign and a service are both named {name!r}: rename one of them." for name in both]
        by_name = {name: subject for name, subject in {**campaigns, **services}.items() if name not in both}
        return Subjects(by_name=by_name, problems=tuple(problems), broken=(*described.broken, *served.broken))

    def tick(
        self,
        name: str,
        handoffs: HandoffStore,
        registry: ModelRegistry,
        *,
        run_id: str,
        intervention: Intervention | None = None,
    ) -> Ticked:
        """Takes one rollout as far as its evidence allows, after a person's `intervention`, if given.

        Registers the weights that its file names first.
        """
        objects, subject = handoffs.objects, self.subjects(handoffs).find(name)
        if intervention is None:
            # A person's act must not wait for weights.
            register_bases(handoffs, registry, name, subject.roles, self.campaigns.home_directory(), run_id=run_id)
        rollout, damaged = Rollout(objects, name, SystemClock()), PassedOver()
        models = registered_models(handoffs, damaged=damaged)
        actions = rollout.tick(
            subject,
            models,
            prepare=partial(self._prepare, objects, subject),
            catalogue=registry,
            intervention=intervention,
            damaged=damaged,
        )
        aliases = rollout.project(registry, subject.plan)
        status = rollout.status(subject, models, with_rows=True, damaged=damaged)
        page = render_page(status, trial_pairs(handoffs, name, status.trial))
        return Ticked(
            status=status,
            page=write_report(page, Path(self.campaigns.reports) / "rollouts" / f"{name}.html"),
            state=status.state,
            entries=status.entries,
            actions=actions,
            aliases=aliases,
            table=state_table(name, status.state, rollout.version_sets),
        )

    def _prepare(self, objects: ObjectStore, subject: Subject, version_set: VersionSet) -> None:
        """Fetches, verifies, loads and tries every member in this process."""
        for member in version_set.members:
            self.engines.try_member(member, version_set, objects, replicas=subject.replicas)


def rollouts_resource(
    settings: Settings, campaigns: CampaignsResource | None = None, engines: EnginesResource | None = None
) -> RolloutsResource:
    """Args:
    campaigns: as the assets see them; None: all of the settings' directory.
    engines: the assets' engines, with their keys; a sensor, which only reads, needs none.
    """
    return RolloutsResource(
        campaigns=campaigns or campaigns_resource(settings),
        engines=engines or EnginesResource(),
        services=str(settings.services),
    )
