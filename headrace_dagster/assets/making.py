"""How a run makes one kind of part of a partition, whichever asset asks for it: texts, pictures or recordings.

A run has what its asset's parameters give it. It opens the partition's attempt, makes what is missing up to its kind,
and seals all of it if that was the last part; then the pages of the parts that waited for it get what they show.
"""

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import dagster as dg

from headrace.clock import SystemClock
from headrace.errors import InvalidInput
from headrace.generation.askers import asker_of
from headrace.generation.bulk import Outcome, Worker, generate_partition, progress_text
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims, Regenerate
from headrace.generation.partition_summary import content_summary
from headrace.generation.steps import Step, media_kinds, steps_of
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition
from headrace.placement.gpu_turns import turn_on
from headrace.rollout.journal import Journal
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSets
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.assets.media_metadata import NUM_ITEMS, media_metadata
from headrace_dagster.engine_log import engines_tell
from headrace_dagster.handoff_io import SUMMARY, StoreResource
from headrace_dagster.launchers.device_environment import visible_devices
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource

# The table of this node's engine host, in the metadata of what its models made.
MODELS_IN_MEMORY = "models_in_memory"


@dataclass(frozen=True)
class Making:
    """One run's work on a partition: what it has from its asset's parameters."""

    context: dg.AssetExecutionContext
    prompts: Handoff
    store: StoreResource
    campaigns: CampaignsResource
    engines: EnginesResource
    site: Site

    @cached_property
    def partition(self) -> ContentPartition:
        return ContentPartition.parse(self.context.partition_key)

    @cached_property
    def campaign(self) -> Campaign:
        return self.campaigns.campaign(self.partition.campaign)

    def texts_shown(self, outcome: Outcome) -> dict[str, dg.MarkdownMetadataValue]:
        """What people see first of the sealed texts."""
        label = VersionSets(self.store.objects()).label(outcome.claim.version_set)
        report_key = self.site.key("campaign_report").to_user_string()
        summary = content_summary(self.partition, outcome.content, self.store.handoffs(), label, report_key=report_key)
        return {SUMMARY: dg.MetadataValue.md(summary)}

    def figures(self, outcome: Outcome, kind: MemberKind) -> dict[str, Any]:
        """What every page of a generating asset shows of its run: also what this node's engine host holds as the run
        ends, if runs ask one."""
        shown = self.engines.models_in_memory(self.store.objects())
        return {**({MODELS_IN_MEMORY: dg.MetadataValue.md(shown)} if shown else {}), **outcome.figures(kind)}

    def show_others(self, outcome: Outcome, last: MemberKind) -> None:
        """Gives the pages of the parts that waited for the `last` one what they could not show when they were made."""
        assert outcome.sealed, "it had its last part made"
        shown: dict[str, dict[str, Any]] = {"generated_content": self.texts_shown(outcome)}
        for kind, sealed in outcome.sealed.media.items():
            if kind != last:
                shown[sealed.asset] = media_metadata(MediaSet.open(sealed))
        for asset, metadata in shown.items():
            # An observation: a second materialization would tell everything that follows the asset to run again.
            self.context.log_event(
                dg.AssetObservation(self.site.key(asset), partition=self.partition.key, metadata=metadata)
            )

    @cached_property
    def claims(self) -> Claims:
        objects = self.store.objects()
        return Claims(objects=objects, journal=Journal(objects, self.campaign.name, SystemClock()), clock=SystemClock())

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Those of the version set that the claim pins, whatever the campaign's file says by now."""
        return steps_of(VersionSets(self.store.objects()).get(self.claim.version_set))

    @cached_property
    def claim(self) -> Claim:
        return self.open_claim(None)

    def open_claim(self, regenerate: Regenerate | None) -> Claim:
        """Raises: as `Claims.open`. InvalidInput: nothing was rolled out."""
        context, campaign = self.context, self.campaign
        if not self.claims.journal.head():
            raise InvalidInput(
                f"Campaign {campaign.name!r} has no version set yet: nothing was rolled out. Call this first: "
                f"{self.site.launch_of_rollout(campaign.name)}"
            )
        claim = self.claims.open(
            campaign,
            self.partition,
            self.prompts,
            root_run_id=context.run.root_run_id or context.run.run_id,
            regenerate=regenerate,
        )
        context.log.info(f"Attempt {claim.attempt} ({claim.reason}) on version set {claim.version_set[:12]}.")
        return claim

    def turn(self, kind: MemberKind) -> AbstractContextManager[None]:
        """On the GPU that this run shares, where the campaign's file asks for turns."""
        asked, device = (self.campaign.apart or {}).get(kind), visible_devices(os.environ)
        if asked is None or not asked.turns or not device:
            return nullcontext()
        return turn_on(device, self.campaigns.home_directory() / "gpu_turns")

    def run(self, up_to: MemberKind, regenerate: Regenerate | None = None) -> Outcome:
        """Makes one kind of part, and seals the partition if that was the last one. Raises: as `generate_partition`."""
        context, campaign = self.context, self.campaign
        claim = self.open_claim(regenerate) if regenerate else self.claim
        objects = self.store.objects()
        asker = asker_of(campaign, self.partition, objects)
        opening = {"objects": objects, "replicas": campaign.replicas, "asker": asker}
        with engines_tell(context.log):
            return generate_partition(
                claim,
                campaign=campaign,
                claims=self.claims,
                handoffs=self.store.handoffs(),
                open_engine=partial(self.engines.open_rows, **opening),
                open_media=partial(self.engines.open_media, **opening),
                up_to=up_to,
                turn=self.turn,
                worker=Worker(run_id=context.run.run_id, host=socket.gethostname()),
                progress=lambda *made: context.log.info(progress_text(*made)),
            )


def made_media(kind: MemberKind, making: Making) -> dg.MaterializeResult:
    if kind not in media_kinds(making.steps):
        told = f"version set {making.claim.version_set[:12]} of {making.campaign.name} makes no {kind}."
        return dg.MaterializeResult(metadata={NUM_ITEMS: 0, "left_out": told}, data_version=dg.DataVersion("none"))
    outcome = making.run(kind)
    if outcome.sealed is None:
        making_of = dg.DataVersion(f"{outcome.claim.id} {kind}")
        return dg.MaterializeResult(metadata=making.figures(outcome, kind), data_version=making_of)
    sealed = outcome.sealed.media[kind]
    if not outcome.reused:
        making.show_others(outcome, kind)
    shown = media_metadata(MediaSet.open(sealed))
    return dg.MaterializeResult(value=sealed, metadata={**shown, **making.figures(outcome, kind)})
