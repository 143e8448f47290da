"""Assets of bulk generation, for any project: from a day's prompts to reviewed content, and one report a day."""

from collections.abc import Sequence

import dagster as dg
import pyarrow as pa
from pydantic import Field

from headrace.clock import SystemClock
from headrace.generation.campaign import Campaign
from headrace.generation.campaign_windows import newest_besides, partitions_of_days
from headrace.generation.claims import Claims, check_regenerate
from headrace.generation.clips import CLIPS_CODE_VERSION, seal_clips
from headrace.generation.day_status import NUM_KEPT
from headrace.generation.day_summary import shown_digest, summarize_day
from headrace.generation.freshness import shown_mark
from headrace.generation.listing import KEPT_FIGURES, list_prompts
from headrace.generation.partition_summary import review_summary
from headrace.generation.report import BYTES_MAX, render_report, report_markdown, write_report
from headrace.generation.review_content import review_content
from headrace.generation.rolled_back import seal_rolled_back_rows
from headrace.generation.under_way import claims_under_way, makers_of
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT, REVIEWED
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSets
from headrace_dagster.assets.asset_site import Body, Site
from headrace_dagster.assets.making import Making, made_media
from headrace_dagster.assets.media_metadata import NUM_ITEMS, media_metadata
from headrace_dagster.assets.stages import GENERATION
from headrace_dagster.handoff_io import ALLOW_MISSING_PARTITIONS, ATTRIBUTES, SUMMARY, StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource

# A model of 135M parameters with its cache needs 2 GiB in bfloat16, 0.3 more in float32; one of 7B must state its own.
GPU_MEMORY_MIB = 4096
# What a row may have beside its text; made after it.
MEDIA_ASSETS = ("generated_images", "generated_speech")


class GenerationConfig(dg.Config):
    """Whether a sealed partition is made again."""

    regenerate: str = Field(
        default="",
        description="Empty: a sealed partition with unchanged inputs is returned as it is. keep_set: make its rows "
        "again on the version set they were made on. current_set: on the one that the rollout assigns now. "
        "rolled_back: the same, but only where the sealed rows are of a set that was rolled back. A re-execution "
        "counts as the same run's retry: launch a new run to make the rows once more.",
    )


def prompts(
    context: dg.AssetExecutionContext, store: StoreResource, campaigns: CampaignsResource
) -> dg.MaterializeResult[pa.Table]:
    """The prompts of one campaign shard on one day, or of one sealed window of its inbox, each with its id, in order.

    Drawn from the campaign's prompt files by the partition's key, so a second run makes the same list. Where each of
    them stands there is sealed beside it, as prompt_places. Read by generated_content. As old as its last run: the
    check `shards_are_of_one_list` reports if files changed between two shards' runs. A window never changes; its events
    that hold no prompt are sealed beside the others, as refused_events.
    """
    partition = ContentPartition.parse(context.partition_key)
    campaign, home = campaigns.campaign(partition.campaign), campaigns.home_directory()
    listed = list_prompts(campaign, partition, home, store.handoffs(), SystemClock())
    listed.seal_beside(context.run.run_id)
    return dg.MaterializeResult(value=listed.prompts, metadata=listed.figures)


def generated_content(
    context: dg.AssetExecutionContext,
    config: GenerationConfig,
    prompts: Handoff,
    store: StoreResource,
    campaigns: CampaignsResource,
    engines: EnginesResource,
    site: Site,
) -> dg.MaterializeResult:
    """An output for each variation of every prompt of one campaign shard's day, all from one version set.

    The first run pins prompts and version set; a run that was killed is resumed, row for row. Materializing a sealed
    partition again returns it (`reused`), unless its prompts changed or `regenerate` is set. The rollout decides which
    version set a partition gets; this asset reads its journal, without an asset dependency. Where a campaign also
    paints or speaks, the texts are published with the last of a row's parts. Read by reviewed_content.
    """
    making = Making(context, prompts, store, campaigns, engines, site)
    outcome = making.run("text", regenerate=check_regenerate(config.regenerate))
    if outcome.sealed is None:
        waiting = making.figures(outcome, "text")
        return dg.MaterializeResult(metadata=waiting, data_version=dg.DataVersion(outcome.texts))
    shown = {**making.texts_shown(outcome), **making.figures(outcome, "text")}
    return dg.MaterializeResult(value=outcome.content, metadata=shown)


def _media_body(kind: MemberKind, name: str, told: str) -> Body:
    """The body of the asset `name`, which is told of as `told`: pictures and recordings differ in nothing else."""

    def body(
        context: dg.AssetExecutionContext,
        prompts: Handoff,
        store: StoreResource,
        campaigns: CampaignsResource,
        engines: EnginesResource,
        site: Site,
    ) -> dg.MaterializeResult:
        return made_media(kind, Making(context, prompts, store, campaigns, engines, site))

    # A site reads the key's last part and the description from these.
    body.__name__ = body.__qualname__ = name
    body.__doc__ = told
    return body


generated_images = _media_body(
    "image",
    "generated_images",
    """A picture for each row of one campaign shard's day, of the version set that made its text.

    The index of packed media; `row_id` and the attribute `role` say whose picture an item is, and media_execution has
    the rows that got none. Nothing of a row is published before all of its parts are made. Empty where the campaign
    paints nothing. Read by reviewed_content.
    """,
)
generated_speech = _media_body(
    "speech",
    "generated_speech",
    """A recording for each row of one campaign shard's day, of the version set that made its text.

    As generated_images, with recordings. Read by reviewed_content.
    """,
)


def reviewed_content(
    context: dg.AssetExecutionContext,
    generated_content: dict[str, Handoff],
    store: StoreResource,
    campaigns: CampaignsResource,
    site: Site,
) -> dg.MaterializeResult:
    """Every generated row of one campaign shard's day, kept or rejected, with the rules that it breaks.

    Read by whoever publishes the content, by the rollout's gate and by the day's report. Follows the newest
    generated_content; the campaign's file has the rules' limits.
    """
    partition = ContentPartition.parse(context.partition_key)
    campaign = campaigns.campaign(partition.campaign)
    if not generated_content and (makers := _under_way(store, campaign, partition)):
        # Asked for as soon as the texts are made.
        return dg.MaterializeResult(metadata={"waits_for": _waits_for(makers)})
    content = generated_content.get(partition.key) or store.handoffs().open("generated_content", partition.key)
    review = review_content(content, store.handoffs(), campaign, campaigns.home_directory())
    report_key = site.key("campaign_report").to_user_string()
    summary = review_summary(partition, review, store.handoffs(), report_key=report_key)
    return dg.MaterializeResult(
        value=review.table, metadata={SUMMARY: dg.MetadataValue.md(summary), **review.figures()}
    )


def _under_way(store: StoreResource, campaign: Campaign, partition: ContentPartition) -> tuple[str, ...]:
    """The roles that paint or speak in the attempt under way at a partition; none: it makes texts alone, or is over."""
    claim = claims_under_way(store.objects(), campaign.name).get(partition.key)
    return makers_of(store.objects(), claim.version_set) if claim else ()


def clips(
    context: dg.AssetExecutionContext,
    generated_content: dict[str, Handoff],
    store: StoreResource,
    campaigns: CampaignsResource,
) -> dg.MaterializeResult:
    """A film for each row of one campaign shard's day that has a picture and a recording, where its campaign asks so.

    The picture for as long as the recording lasts, and what is spoken as a text track: WebM with VP9, Opus and WebVTT.
    The index of packed media; `row_id` says whose film an item is, and its attributes of which parts it is made. Of all
    rows, kept or not. Follows the newest generated_content; read by whoever publishes or exports films.
    """
    partition = ContentPartition.parse(context.partition_key)
    campaign = campaigns.campaign(partition.campaign)
    if campaign.clips is None:
        told = f"{campaign.name} asks for no films: its file has no clips."
        return dg.MaterializeResult(metadata={NUM_ITEMS: 0, "left_out": told}, data_version=dg.DataVersion("none"))
    if not generated_content:
        return dg.MaterializeResult(metadata={"waits_for": _waits_for(campaign.makers)})
    [content] = generated_content.values()
    sealed = seal_clips(content, store.handoffs(), campaign.clips, run_id=context.run.run_id)
    return dg.MaterializeResult(value=sealed, metadata=media_metadata(MediaSet.open(sealed)))


def _waits_for(makers: Sequence[str]) -> str:
    return f"{' and '.join(makers)}: nothing of a row is published before all of its parts are made."


def rolled_back_rows(
    context: dg.AssetExecutionContext, store: StoreResource, site: Site
) -> dg.MaterializeResult[Handoff]:
    """Every published row of one campaign from a version set that was rolled back later, with partition and version.

    For people who read those rows, and for the run that makes their partitions again. Rows stay in it after that,
    marked as superseded. Made after a rollback and after the last of its partitions; as old as its last run.
    """
    objects, name = store.objects(), site.campaign_of(context)
    claims = Claims(objects=objects, journal=Journal(objects, name, SystemClock()), clock=SystemClock())
    rolled_back = seal_rolled_back_rows(store.handoffs(), claims, name, run_id=context.run.run_id)
    return dg.MaterializeResult(value=rolled_back.table, metadata=rolled_back.figures())


def campaign_report(
    context: dg.AssetExecutionContext,
    generated_content: dict[str, Handoff],
    reviewed_content: dict[str, Handoff],
    store: StoreResource,
    campaigns: CampaignsResource,
    site: Site,
) -> dg.MaterializeResult:
    """One page a day over all campaigns and shards: samples, pass rates, lengths, speed, version sets.

    A self-contained HTML file (`report`), for people. It shows what is sealed at that time, so a day can be reported on
    while it runs, and again later.
    """
    day = context.partition_key
    version_sets, described = VersionSets(store.objects()), campaigns.campaigns()
    summaries = []
    for campaign in described:
        keys = partitions_of_days(campaign, [day], store.objects())[day]
        # Dagster knows no key of an old window any more, and so loads nothing of it.
        generated_content |= newest_besides(store.handoffs(), CONTENT, keys, generated_content)
        reviewed_content |= newest_besides(store.handoffs(), REVIEWED, keys, reviewed_content)
        summary = summarize_day(
            campaign.name,
            day,
            partition_keys=keys,
            content=generated_content,
            reviewed=reviewed_content,
            handoffs=store.handoffs(),
            set_label=version_sets.label,
        )
        summaries.append(summary)
    content_key = site.key("generated_content").to_user_string()
    sealed = [*generated_content.values(), *reviewed_content.values()]
    mark = shown_mark(one.manifest for one in sealed)
    page = render_report(
        day, summaries, ui_url=campaigns.ui_url, content_key=content_key, bytes_max=BYTES_MAX - len(mark)
    )
    file = write_report(page + mark, campaigns.report_file(day))
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


def generation_assets(site: Site) -> dict[str, dg.AssetsDefinition]:
    """The assets above as a project's own, by name."""
    # A day's report reads that day's partitions of all campaign shards.
    mapping = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="day")
    of_day = {"partition_mapping": mapping, "metadata": {ALLOW_MISSING_PARTITIONS: True}}
    made = [
        site.asset(prompts, GENERATION, site.content, code_version="1", metadata={ATTRIBUTES: KEPT_FIGURES}),
        site.asset(
            generated_content,
            GENERATION,
            site.content,
            reads={"prompts": {}},
            # A later generation code makes no sealed partition stale.
            code_version="1",
            gpus=1,
            gpu_memory_mib=GPU_MEMORY_MIB,
            demand_from="campaign_writer",
        ),
        *(
            site.asset(
                body,
                GENERATION,
                site.content,
                reads={"prompts": {}},
                # Its texts are in the attempt's commits: nothing is published yet that could be loaded.
                deps=[site.key("generated_content")],
                code_version="1",
                gpus=1,
                gpu_memory_mib=GPU_MEMORY_MIB,
                demand_from=source,
            )
            for body, source in ((generated_images, "campaign_painter"), (generated_speech, "campaign_speaker"))
        ),
        site.asset(
            reviewed_content,
            GENERATION,
            site.content,
            reads={"generated_content": {"metadata": {ALLOW_MISSING_PARTITIONS: True}}},
            deps=[site.key(name) for name in MEDIA_ASSETS],
            code_version="2",
            metadata={ATTRIBUTES: [NUM_KEPT]},
        ),
        site.asset(
            clips,
            GENERATION,
            site.content,
            reads={"generated_content": {"metadata": {ALLOW_MISSING_PARTITIONS: True}}},
            deps=[site.key(name) for name in MEDIA_ASSETS],
            code_version=CLIPS_CODE_VERSION,
        ),
        site.asset(rolled_back_rows, GENERATION, site.campaigns, code_version="1"),
        site.asset(
            campaign_report,
            GENERATION,
            site.days,
            reads={"generated_content": of_day, "reviewed_content": of_day},
            code_version="1",
        ),
    ]
    return {one.key.path[-1]: one for one in made}
