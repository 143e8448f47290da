"""Checks of bulk generation: columns, one row for every prompt, no row twice, one version set a partition.

Each checks the newest sealed version of one partition. The promises are kept where the rows are made; a check that
fails here means that a promise is broken, not that the content is poor (that is the review's word).
"""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import content
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.generation.content_checks import Finding, check_content
from headrace.handoff.schemas import check_schema
from headrace_dagster.handoff_io import StoreResource

_CONTENT_CHECKS = {
    "rows_match_prompts": "Every prompt that was read has exactly one row, and no row has another prompt.",
    "row_ids_unique": "No row id occurs twice.",
    "one_version_set": "All rows are of one version set: the one that the partition's claim pinned.",
}


def _schema_check(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name="schema",
        description=f"The newest {asset} has the columns that its readers expect, and its own digests.",
        partitions_def=content,
    )
    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        try:
            handoff = store.handoffs().open(asset, context.partition_key)
            check_schema(asset, handoff.table())
        except (HandoffMissing, HandoffCorrupt, InvalidInput) as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        return dg.AssetCheckResult(passed=True, metadata={"num_rows": handoff.num_rows, "version": handoff.version})

    return check


schema_checks = [_schema_check(asset) for asset in ("prompts", "generated_content", "reviewed_content")]


@dg.multi_asset_check(
    name="generated_content_rows",
    specs=[
        dg.AssetCheckSpec(name, asset="generated_content", description=description, partitions_def=content)
        for name, description in _CONTENT_CHECKS.items()
    ],
)
def content_rows_checks(context: dg.AssetCheckExecutionContext, store: StoreResource) -> Iterator[dg.AssetCheckResult]:
    """One step for all three: they read the same two tables."""
    try:
        findings = check_content(store.handoffs(), context.partition_key)
    except (HandoffMissing, HandoffCorrupt) as error:
        findings = {name: Finding(passed=False, description=str(error)) for name in _CONTENT_CHECKS}
    for name, finding in findings.items():
        yield dg.AssetCheckResult(
            check_name=name, passed=finding.passed, description=finding.description, metadata=finding.figures
        )
