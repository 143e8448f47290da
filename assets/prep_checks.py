"""Checks of data prep: columns, row counts that add up, nothing on both sides of the split, labels that agree.

Schema and counts are checked per corpus shard, beside the run that made it; leaks and agreement over all shards that
are sealed at that time, since a leak between two shards shows in neither alone.
"""

from collections.abc import Mapping

import dagster as dg
import pyarrow.compute as pc

from assets.partitions import corpus_shards
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.handoff.schemas import check_schema
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.labels import agreement
from headrace.prep.leaks import COLUMNS, find_leaks
from headrace_dagster.handoff_io import StoreResource
from resources.corpus_resource import CorpusResource

_ASSETS = ("raw_documents", "quarantine", "labels", "clean_documents", "training_examples")


def _schema_check(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name="schema",
        description=f"The newest {asset} of the shard has the columns that its readers expect, and its own digests.",
        partitions_def=corpus_shards,
    )
    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        try:
            handoff = store.handoffs().open(asset, context.partition_key)
            check_schema(asset, handoff.table())
        except (HandoffMissing, HandoffCorrupt, InvalidInput) as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        return dg.AssetCheckResult(passed=True, metadata={"num_rows": handoff.num_rows, "version": handoff.version})

    return check


schema_checks = [_schema_check(asset) for asset in _ASSETS]


@dg.asset_check(asset="raw_documents", name="rows_add_up", partitions_def=corpus_shards)
def raw_rows_add_up(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Every record of the shard's files is a document or stands in quarantine."""
    counts = _counts(context, "raw_documents")
    num_documents = store.handoffs().open("raw_documents", context.partition_key).num_rows
    num_quarantined = store.handoffs().open("quarantine", context.partition_key).num_rows
    return _add_up(counts["num_rows_in"], {"documents": num_documents, "quarantined": num_quarantined})


@dg.asset_check(asset="clean_documents", name="rows_add_up", partitions_def=corpus_shards)
def clean_rows_add_up(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Every raw document of the shard was kept, or dropped by a named rule."""
    counts = _counts(context, "clean_documents")
    num_kept = store.handoffs().open("clean_documents", context.partition_key).num_rows
    return _add_up(counts["num_rows_in"], {"kept": num_kept, **_drops(counts)})


@dg.asset_check(asset="training_examples", name="rows_add_up", partitions_def=corpus_shards)
def example_rows_add_up(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Every clean document of the shard is one example of one sequence, or was dropped by a named rule."""
    counts = _counts(context, "training_examples")
    sequences = store.handoffs().open("training_examples", context.partition_key).table(["num_examples"])
    num_packed = pc.sum(sequences.column("num_examples")).as_py() or 0
    return _add_up(counts["num_rows_in"], {"packed": num_packed, **_drops(counts)})


@dg.asset_check(asset="clean_documents")
def no_leak(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Of all sealed shards together, no term and no text is in train and in held-out."""
    shards = _newest_of_all_shards(store.handoffs(), "clean_documents")
    leaks = find_leaks(corpus.corpus(), [handoff.table(COLUMNS) for handoff in shards])
    return dg.AssetCheckResult(
        passed=not leaks.found,
        description=f"On both sides, for example: {'; '.join(leaks.samples)}" if leaks.found else None,
        metadata={
            "num_shards": len(shards),
            "num_rows": leaks.num_documents,
            "num_terms_on_both_sides": leaks.num_terms,
            "num_texts_on_both_sides": leaks.num_texts,
        },
    )


@dg.asset_check(asset="labels")
def labels_agree(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Of all sealed shards together, people's labels and the judge's agree beyond chance (Cohen's kappa)."""
    settings = corpus.corpus().labels
    if not (settings and settings.file and settings.judge):
        return dg.AssetCheckResult(passed=True, description="Fewer than two sources of labels: nothing to compare.")
    shards = _newest_of_all_shards(store.handoffs(), "labels")
    found = agreement([handoff.table() for handoff in shards], settings.file.source, settings.judge.source)
    return dg.AssetCheckResult(
        passed=found.kappa >= settings.kappa_min,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"Kappa is {found.kappa:.2f} over {found.num_both:,} documents that both sources labelled, "
            f"labels.kappa_min wants {settings.kappa_min:.2f}."
        ),
        metadata={"kappa": found.kappa, "equal_share": found.equal_share, "num_rows": found.num_both},
    )


def _newest_of_all_shards(handoffs: HandoffStore, asset: str) -> list[Handoff]:
    newest = (handoffs.newest(asset, shard) for shard in corpus_shards.get_partition_keys())
    return [handoff for handoff in newest if handoff]


def _counts(context: dg.AssetCheckExecutionContext, asset: str) -> dict[str, int]:
    """The whole numbers in the metadata of the shard's latest materialization."""
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[context.partition_key]), limit=1
    ).records
    materialization = records[0].asset_materialization if records else None
    metadata = materialization.metadata if materialization else {}
    return {name: value.value for name, value in metadata.items() if isinstance(value.value, int)}


def _drops(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if name.startswith("dropped/")}


def _add_up(num_rows_in: int, parts: Mapping[str, int]) -> dg.AssetCheckResult:
    num_accounted = sum(parts.values())
    return dg.AssetCheckResult(
        passed=num_accounted == num_rows_in,
        description=f"{num_rows_in:,} rows in, {num_accounted:,} accounted for.",
        metadata={"num_rows_in": num_rows_in, **parts},
    )


CHECKS = [*schema_checks, raw_rows_add_up, clean_rows_add_up, example_rows_add_up, no_leak, labels_agree]
