"""Checks of bulk generation: columns, one row for every prompt, no row twice, one version set a partition.

Each checks the newest sealed version of one partition. The code that makes the rows keeps these promises; a check that
fails means that a promise is broken, not that the content is poor (the review decides that).

`no_rows_of_rolled_back_sets` covers all partitions of all campaigns: it runs after a rollback, and fails until the last
of the bad set's partitions was made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from headrace.clock import SystemClock
from headrace.errors import HandoffCorrupt, HandoffMissing, HeadraceError, InvalidInput, Transient
from headrace.generation.content_checks import Finding, check_content, check_one_list
from headrace.generation.rolled_back import aborted_sets, rows_still_published
from headrace.generation.under_way import claims_under_way, makers_of
from headrace.handoff.schemas import check_schema
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.text.markdown import inline
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource

_CONTENT_CHECKS = {
    "rows_match_prompts": "Every prompt that was read has exactly one row for each of its variations, with what the "
    "prompt carries, and no row has another prompt.",
    "row_ids_unique": "No row id occurs twice.",
    "one_version_set": "All rows are of one version set: the one that the partition's claim pinned.",
}


# A run that makes them, too, seals the texts with the last of them: only then there is anything to examine.
_SEALED_WITH = {"generated_content": ("generated_images", "generated_speech")}


def _sealed_with(site: Site, asset: str) -> list[dg.AssetKey]:
    return [site.key(one) for one in _SEALED_WITH.get(asset, ())]


def _too_early(store: StoreResource, asset: str, partition: str) -> str:
    """Why there is nothing of texts to examine yet, where `paint` and `speak` are runs of their own; else empty."""
    objects, campaign = store.objects(), ContentPartition.parse(partition).campaign
    claim = claims_under_way(objects, campaign).get(partition) if asset in _SEALED_WITH else None
    makers = makers_of(objects, claim.version_set) if claim else ()
    if not makers:
        return ""
    return (
        f"Not examined: nothing is sealed before {' and '.join(makers)} made all parts; the job that makes the last "
        "one examines the texts, too."
    )


def _schema_check(site: Site, asset: str) -> dg.AssetChecksDefinition:
    def schema(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        try:
            handoff = store.handoffs().open(asset, context.partition_key)
            check_schema(asset, handoff.table())
        except (HandoffMissing, HandoffCorrupt, InvalidInput) as error:
            early = _too_early(store, asset, context.partition_key) if isinstance(error, HandoffMissing) else ""
            return dg.AssetCheckResult(passed=bool(early), description=inline(early or str(error)))
        return dg.AssetCheckResult(passed=True, metadata={"num_rows": handoff.num_rows, "version": handoff.version})

    said = f"The newest {asset} has the columns that its readers expect, and its own digests."
    return site.check(
        schema, asset, description=said, partitions_def=site.content, additional_deps=_sealed_with(site, asset)
    )


def shards_are_of_one_list(
    context: dg.AssetCheckExecutionContext, store: StoreResource, campaigns: CampaignsResource
) -> dg.AssetCheckResult:
    partition = ContentPartition.parse(context.partition_key)
    campaign = campaigns.campaign(partition.campaign)
    try:
        finding = check_one_list(store.handoffs(), campaign, partition, campaigns.home_directory())
    except (HandoffCorrupt, HandoffMissing, InvalidInput) as error:
        return dg.AssetCheckResult(passed=False, description=inline(str(error)))
    return dg.AssetCheckResult(passed=finding.passed, description=inline(finding.description), metadata=finding.figures)


def generated_content_rows(
    context: dg.AssetCheckExecutionContext, store: StoreResource, site: Site
) -> Iterator[dg.AssetCheckResult]:
    """One step for all three, since they read the same two tables."""
    try:
        findings = check_content(store.handoffs(), context.partition_key)
    except (HandoffMissing, HandoffCorrupt) as error:
        early = ""
        if isinstance(error, HandoffMissing):
            early = _too_early(store, "generated_content", context.partition_key)
        findings = {name: Finding(passed=bool(early), description=early or str(error)) for name in _CONTENT_CHECKS}
    for name, finding in findings.items():
        yield dg.AssetCheckResult(
            asset_key=site.key("generated_content"),
            check_name=name,
            passed=finding.passed,
            description=inline(finding.description),
            metadata=finding.figures,
        )


def _rolled_back_check(site: Site, asset: str) -> dg.AssetChecksDefinition:
    def no_rows_of_rolled_back_sets(
        context: dg.AssetCheckExecutionContext, store: StoreResource, campaigns: CampaignsResource
    ) -> dg.AssetCheckResult:
        objects, handoffs, found = store.objects(), store.handoffs(), dict[str, int]()
        described = campaigns.campaigns()
        try:
            for campaign in described:
                aborted = aborted_sets(fold(Journal(objects, campaign.name, SystemClock()).entries()))
                found |= rows_still_published(handoffs, asset, aborted, campaign=campaign.name)
        except Transient:
            raise
        except HeadraceError as error:
            return dg.AssetCheckResult(passed=False, description=inline(str(error)))
        num_rows, named = sum(found.values()), ", ".join(found)
        said = [f"{num_rows} rows in {named}: launch regenerate_rolled_back on these."] if found else []
        # Rows of a campaign that cannot be read were not looked at.
        said += [f"Not examined: {inline(problem)}" for problem in described.problems]
        return dg.AssetCheckResult(
            passed=not said,
            description=" ".join(said) or None,
            metadata={"num_rows": num_rows, "num_partitions": len(found), "partitions": named},
        )

    said = f"The newest {asset} of no partition has rows of a version set that was rolled back."
    return site.check(no_rows_of_rolled_back_sets, asset, description=said)


@dataclass(frozen=True, kw_only=True)
class GenerationChecks:
    """The checks above as a project's own. `of_all_partitions`: they cover every partition, so run them apart."""

    of_a_partition: tuple[dg.AssetChecksDefinition, ...]
    of_all_partitions: tuple[dg.AssetChecksDefinition, ...]


def generation_checks(site: Site) -> GenerationChecks:
    content = site.key("generated_content")
    one_list = site.check(
        shards_are_of_one_list,
        "prompts",
        description="The sealed shards of this day were cut from one list of prompts, the one that its files hold now; "
        "the prompts of a window are those of its events.",
        partitions_def=site.content,
    )
    content_rows = site.checks(
        generated_content_rows,
        name=f"{content.to_python_identifier()}_rows",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=content,
                description=description,
                partitions_def=site.content,
                additional_deps=_sealed_with(site, "generated_content"),
            )
            for name, description in _CONTENT_CHECKS.items()
        ],
    )
    schemas = [_schema_check(site, asset) for asset in ("prompts", "generated_content", "reviewed_content")]
    return GenerationChecks(
        of_a_partition=(*schemas, one_list, content_rows),
        of_all_partitions=tuple(_rolled_back_check(site, asset) for asset in ("generated_content", "reviewed_content")),
    )
