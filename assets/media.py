"""Media made from generated content: pictures for people who learn the terms."""

import dagster as dg

from assets.partitions import content
from headrace.generation.cards import CARDS_CODE_VERSION, COLUMNS, flash_cards
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition
from headrace_dagster.assets.media_metadata import media_metadata
from headrace_dagster.assets.stages import GENERATION
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_lineage import lineage_of
from headrace_dagster.resources.campaigns import CampaignsResource


@GENERATION.asset(content, code_version=CARDS_CODE_VERSION)
def cards(
    context: dg.AssetExecutionContext, reviewed_content: Handoff, store: StoreResource, campaigns: CampaignsResource
) -> dg.MaterializeResult[Handoff]:
    """One flash card, a PNG, for each row of one campaign shard's day that the review kept: term and definition.

    Packed in shards; this table is their index, and `row_id` and `version_set` show the origin of each. Read by whoever
    publishes the cards (`headrace handoff export`). Follows the newest reviewed_content.
    """
    partition = ContentPartition.parse(context.partition_key)
    prompts = campaigns.campaign(partition.campaign).prompts
    handoff = publish_media(
        store.handoffs(),
        "cards",
        context.partition_key,
        flash_cards(reviewed_content.batches(COLUMNS), prompts),
        code_version=CARDS_CODE_VERSION,
        run_id=context.run.run_id,
        input_versions=lineage_of(context.get_step_execution_context()).input_versions(),
    )
    return dg.MaterializeResult(value=handoff, metadata=media_metadata(MediaSet.open(handoff)))
