"""Bulk generation: a day's prompts become reviewed content, one campaign shard a run, and one report a day."""

import socket
from functools import partial

import dagster as dg
import pyarrow as pa
from pydantic import Field

from assets.partitions import campaigns as campaign_partitions
from assets.partitions import content, days
from assets.stages import Stage
from headrace.clock import SystemClock
from headrace.generation.bulk import Worker, generate_partition
from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.generation.claims import Claims, check_regenerate
from headrace.generation.day_status import NUM_KEPT
from headrace.generation.day_summary import shown_digest, summarize_day
from headrace.generation.report import render_report, report_markdown, write_report
from headrace.generation.requests import prompts_for
from headrace.generation.review import review_rows
from headrace.generation.rolled_back import seal_rolled_back_rows
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace.version_sets.sets import VersionSets
from headrace_dagster.handoff_io import ALLOW_MISSING_PARTITIONS, ATTRIBUTES, StoreResource
from resources.campaigns_resource import CampaignsResource
from resources.engines import EnginesResource

STAGE = Stage("generation")
# A model of 135M parameters with its cache needs 2 GiB in bfloat16, 0.3 more in float32; one of 7B must state its own.
GPU_MEMORY_MIB = 4096

# A day's report reads that day's partitions of all campaign shards.
_DAY_OF_CONTENT = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="day")


class GenerationConfig(dg.Config):
    """Whether a sealed partition is made again."""

    regenerate: str = Field(
        default="",
        description="Empty: a sealed partition with unchanged inputs is returned as it is. keep_set: make its rows "
        "again on the version set they were made on. current_set: on the one that the rollout assigns now. "
        "rolled_back: the same, but only where the sealed rows are of a set that was rolled back. A re-execution "
        "counts as the same run's retry: launch a new run to make the rows once more.",
    )


@STAGE.asset(content, code_version="1")
def prompts(context: dg.AssetExecutionContext, campaigns: CampaignsResource) -> dg.MaterializeResult[pa.Table]:
    """The prompts of one campaign shard on one day, each with its id, in order.

    Drawn from the campaign's prompt files by the partition's key, so a second run makes the same list. Read by
    generated_content. As old as its last run: the check `shards_are_of_one_list` reports if files changed between two
    shards' runs.
    """
    partition = ContentPartition.parse(context.partition_key)
    table = prompts_for(campaigns.campaign(partition.campaign), partition, campaigns.home_directory())
    return dg.MaterializeResult(value=table)


@STAGE.asset(content, code_version=GENERATION_CODE_VERSION, gpus=1, gpu_memory_mib=GPU_MEMORY_MIB)
def generated_content(
    context: dg.AssetExecutionContext,
    config: GenerationConfig,
    prompts: Handoff,
    store: StoreResource,
    campaigns: CampaignsResource,
    engines: EnginesResource,
) -> dg.MaterializeResult[Handoff]:
    """One output for every prompt of one campaign shard's day, all from one version set.

    The first run pins prompts and version set; a run that was killed is resumed, row for row. Materializing a sealed
    partition again returns it (`reused`), unless its prompts changed or `regenerate` is set. The rollout decides which
    version set a partition gets; this asset reads its journal, without an asset dependency. Read by reviewed_content.
    """
    partition = ContentPartition.parse(context.partition_key)
    objects, handoffs = store.objects(), store.handoffs()
    campaign = campaigns.campaign(partition.campaign)
    journal = Journal(objects, campaign.name, SystemClock())
    claims = Claims(objects=objects, journal=journal, clock=SystemClock())
    claim = claims.open(
        campaign,
        partition,
        prompts,
        root_run_id=context.run.root_run_id or context.run.run_id,
        regenerate=check_regenerate(config.regenerate),
    )
    context.log.info(f"Attempt {claim.attempt} ({claim.reason}) on version set {claim.version_set[:12]}.")
    outcome = generate_partition(
        claim,
        campaign=campaign,
        claims=claims,
        handoffs=handoffs,
        open_engine=partial(engines.open_rows, objects=objects, replicas=campaign.replicas),
        worker=Worker(run_id=context.run.run_id, host=socket.gethostname()),
        progress=lambda done, total, speed: context.log.info(f"{done} of {total} rows, {speed:.0f} tokens/s"),
    )
    return dg.MaterializeResult(value=outcome.content, metadata=outcome.figures())


@STAGE.asset(content, code_version="2", metadata={ATTRIBUTES: [NUM_KEPT]})
def reviewed_content(
    context: dg.AssetExecutionContext, generated_content: Handoff, campaigns: CampaignsResource
) -> dg.MaterializeResult[pa.Table]:
    """Every generated row of one campaign shard's day, kept or rejected, with the rules that it breaks.

    Read by whoever publishes the content, by the rollout's gate and by the day's report. Follows the newest
    generated_content; the campaign's file has the rules' limits.
    """
    partition = ContentPartition.parse(context.partition_key)
    review = review_rows(generated_content.table(), campaigns.campaign(partition.campaign).review)
    return dg.MaterializeResult(value=review.table, metadata=review.figures())


@STAGE.asset(campaign_partitions, code_version="1")
def rolled_back_rows(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[Handoff]:
    """Every published row of one campaign from a version set that was rolled back later, with partition and version.

    For people who read those rows, and for the run that makes their partitions again. Rows stay in it after that,
    marked as superseded. Made after a rollback and after the last of its partitions; as old as its last run.
    """
    objects, name = store.objects(), context.partition_key
    claims = Claims(objects=objects, journal=Journal(objects, name, SystemClock()), clock=SystemClock())
    rolled_back = seal_rolled_back_rows(store.handoffs(), claims, name, run_id=context.run.run_id)
    return dg.MaterializeResult(value=rolled_back.table, metadata=rolled_back.figures())


@STAGE.asset(
    days,
    code_version="1",
    ins={
        name: dg.AssetIn(partition_mapping=_DAY_OF_CONTENT, metadata={ALLOW_MISSING_PARTITIONS: True})
        for name in ("generated_content", "reviewed_content")
    },
)
def campaign_report(
    context: dg.AssetExecutionContext,
    generated_content: dict[str, Handoff],
    reviewed_content: dict[str, Handoff],
    store: StoreResource,
    campaigns: CampaignsResource,
) -> dg.MaterializeResult:
    """One page a day over all campaigns and shards: samples, pass rates, lengths, speed, version sets.

    A self-contained HTML file (`report`), for people. It shows what is sealed at that time, so a day can be reported on
    while it runs, and again later.
    """
    day = context.partition_key
    version_sets, described = VersionSets(store.objects()), campaigns.campaigns()
    summaries = [
        summarize_day(
            campaign.name,
            day,
            partition_keys=campaign.partition_keys(day),
            content=generated_content,
            reviewed=reviewed_content,
            handoffs=store.handoffs(),
            set_label=version_sets.label,
        )
        for campaign in described
    ]
    file = write_report(render_report(day, summaries), campaigns.report_file(day))
    sealed = [*generated_content.values(), *reviewed_content.values()]
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.url(file.as_uri()),
            "path": dg.MetadataValue.path(file),
            "summary": dg.MetadataValue.md(report_markdown(summaries)),
            "num_rows": sum(summary.total.num_rows for summary in summaries),
            "num_kept": sum(summary.total.num_kept for summary in summaries),
            "num_partitions": sum(summary.num_sealed for summary in summaries),
            "left_out": "\n".join(described.problems) or "nothing",
        },
        data_version=dg.DataVersion(shown_digest(sealed)),
    )
