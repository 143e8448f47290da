"""Mirrored bulk: past partitions on another version set, compared row by row with the published ones."""

import socket
from functools import partial

import dagster as dg
from pydantic import Field

from assets.partitions import content
from headrace.clock import SystemClock
from headrace.generation.bulk import Worker, progress_text
from headrace.generation.claims import Claims
from headrace.generation.mirroring import mirror_partition
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace_dagster.assets.generation import GPU_MEMORY_MIB
from headrace_dagster.assets.stages import GENERATION
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource


class MirrorConfig(dg.Config):
    """The version set on which a sealed partition is mirrored."""

    version_set: str = Field(
        default="candidate",
        description="candidate: the set on trial, or proposed. stable: the stable set. Otherwise a version set's id, "
        "or at least the first 6 characters of it. A retry mirrors what its run began with.",
    )


@GENERATION.asset(
    content,
    code_version="1",
    gpus=1,
    gpu_memory_mib=GPU_MEMORY_MIB,
    deps=["generated_content"],
)
def mirrored_content(
    context: dg.AssetExecutionContext,
    config: MirrorConfig,
    store: StoreResource,
    campaigns: CampaignsResource,
    engines: EnginesResource,
) -> dg.MaterializeResult[Handoff]:
    """One campaign shard's day made again on another version set; nothing of it is published.

    Answers the prompts of the newest generated_content, as old as its last run. Its comparison, row by row and judged
    by the campaign's review rules, is sealed beside it as mirror_comparison, for the rollout's gate. Stops and seals
    nothing when the version set is rolled back.
    """
    partition = ContentPartition.parse(context.partition_key)
    objects = store.objects()
    campaign = campaigns.campaign(partition.campaign)
    mirror = mirror_partition(
        partition,
        config.version_set,
        root_run_id=context.run.root_run_id or context.run.run_id,
        campaign=campaign,
        claims=Claims(objects=objects, journal=Journal(objects, campaign.name, SystemClock()), clock=SystemClock()),
        handoffs=store.handoffs(),
        open_engine=partial(engines.open_rows, objects=objects, replicas=campaign.replicas),
        open_media=partial(engines.open_media, objects=objects, replicas=campaign.replicas),
        home=campaigns.home_directory(),
        worker=Worker(run_id=context.run.run_id, host=socket.gethostname()),
        progress=lambda *made: context.log.info(progress_text(*made)),
    )
    return dg.MaterializeResult(value=mirror.content, metadata=mirror.figures())
